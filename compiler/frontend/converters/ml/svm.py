"""SVMClassifier and SVMRegressor, of support vectors (as libsvm has them) or of coefficients alone (as liblinear)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ....loop_marks import INDEPENDENT
from ...values import Value
from ..registry import converter
from .forest import numbers
from .scores import AI_ONNX_ML, labelled, labels, matrix, of_two, post_transform, rows_of, transformed

if TYPE_CHECKING:
    from ...node import Node

_KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")
# Degrees of polynomials that are computed by products.
_WHOLE_DEGREES = range(1, 9)
# Rounds of the iteration that makes probabilities of classes from those of pairs of them.
_ROUNDS = 100


def _kernel(node: Node, x: Value, vectors: np.ndarray, name: str) -> Value:
    """(rows, vectors): what the kernel function says of each row and each vector."""
    gamma, offset, degree = numbers(node, "kernel_params", "float32", 3, [0.0, 0.0, 0.0])
    if name == "RBF":
        return node.call("Exp", node.call("Mul", _distances(node, x, vectors), -gamma.reshape(())))
    products = node.call("MatMul", x, np.ascontiguousarray(vectors.T))
    if name == "LINEAR":
        return products
    inner = node.call("Add", node.call("Mul", products, gamma.reshape(())), offset.reshape(()))
    if name == "SIGMOID":
        return node.call("Tanh", inner)
    if degree in _WHOLE_DEGREES:
        return reduce(lambda a, b: node.call("Mul", a, b), [inner] * int(degree))
    return node.call("Pow", inner, degree.reshape(()))


def _distances(node: Node, x: Value, vectors: np.ndarray) -> Value:
    """(rows, vectors): squared distances."""

    def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, b.shape[1]), name="k")

        def element(i: tirx.Var, j: tirx.Var) -> ir.Expr:
            return te.sum((a(i, k) - b(j, k)) * (a(i, k) - b(j, k)), axis=k)

        return te.compute((a.shape[0], b.shape[0]), element, name="distances")

    rows = node.cast_shape(x.expr(node.bb), [(x.shape or [0])[0], vectors.shape[1]])
    return Value(expr=node.te(compute, rows, Value(array=vectors).expr(node.bb), name="distances"))


def _kernel_name(node: Node) -> str:
    name = node.attr("kernel_type", "LINEAR")
    if name not in _KERNELS:
        raise node.error(f"attribute 'kernel_type' must be one of {', '.join(_KERNELS)}, found {name!r}")
    return name


@converter("SVMRegressor", domain=AI_ONNX_ML)
def svm_regressor(node: Node) -> Value:
    """(rows, 1); with `one_class` the sign, 1 or -1."""
    x, count, transform = rows_of(node, "float32"), node.attr("n_supports", 0), post_transform(node)
    name, rho = _kernel_name(node), numbers(node, "rho", "float32", 1)
    if count < 0:
        raise node.error(f"attribute 'n_supports' must not be negative, found {count}")
    if count:
        vectors = matrix(node, x, numbers(node, "support_vectors", "float32"), count, "support_vectors")
        x, weights = _kernel(node, x, vectors, name), numbers(node, "coefficients", "float32", count)
    else:
        weights = matrix(node, x, numbers(node, "coefficients", "float32"), 1, "coefficients")
    sums = node.call("Add", node.call("MatMul", x, weights.reshape(-1, 1)), rho)
    if node.attr("one_class", 0):
        one = np.array(1, np.float32)
        return node.call("Where", node.call("Greater", sums, np.array(0, np.float32)), one, -one)
    return transformed(node, sums, transform if transform == "PROBIT" else "NONE")


@converter("SVMClassifier", domain=AI_ONNX_ML)
def svm_classifier(node: Node) -> tuple[Value, Value]:
    """Labels (int64) by the votes of all pairs of classes; scores of the pairs, or probabilities of the classes."""
    names, transform = labels(node, "classlabels_ints", "classlabels_strings"), post_transform(node)
    kernel = _kernel_name(node)
    x, counts = rows_of(node, "float32"), node.attr("vectors_per_class", [])
    if len(names) < 2:
        raise node.error(f"at least 2 labels are needed, found {len(names)}")
    if not sum(counts):
        return _of_coefficients(node, x, names, transform)
    if len(counts) != len(names) or min(counts) < 0:
        raise node.error(f"attribute 'vectors_per_class' must have {len(names)} numbers, none negative, found {counts}")
    vectors = matrix(node, x, numbers(node, "support_vectors", "float32"), sum(counts), "support_vectors")
    pairs = list(combinations(range(len(names)), 2))
    rho = numbers(node, "rho", "float32", len(pairs))
    weights = _pair_weights(node, counts, pairs)
    scores = node.call("Add", node.call("MatMul", _kernel(node, x, vectors, kernel), weights), rho)
    label = labelled(node, _elected(node, scores, pairs, len(names)), names)
    if node.attr("prob_a"):
        scores = _probabilities(node, scores, pairs, len(names))
    elif len(names) == 2:
        return label, _of_pair(node, scores, transform)
    return label, transformed(node, scores, transform)


def _of_coefficients(node: Node, x: Value, names: np.ndarray, transform: str) -> tuple[Value, Value]:
    """Without support vectors: a row of coefficients for each class, of which the largest sum decides."""
    if len(names) == 2:
        raise node.error("2 classes without support vectors are not supported: which sum decides is left open")
    weights = matrix(node, x, numbers(node, "coefficients", "float32"), len(names), "coefficients")
    rho = numbers(node, "rho", "float32")
    if not len(rho):
        raise node.error("attribute 'rho' must have an element, found none")
    sums = node.call("Add", node.call("MatMul", x, np.ascontiguousarray(weights.T)), rho[:1])
    return labelled(node, node.call("ArgMax", sums, axis=1, keepdims=0), names), transformed(node, sums, transform)


def _pair_weights(node: Node, counts: Sequence[int], pairs: list[tuple[int, int]]) -> np.ndarray:
    """(vectors, pairs): for the pair (i, j) row j - 1 of the coefficients at the vectors of i, row i at those of j."""
    total, classes = sum(counts), len(counts)
    table = numbers(node, "coefficients", "float32", (classes - 1) * total).reshape(classes - 1, total)
    starts = np.concatenate([[0], np.cumsum(counts)])
    weights = np.zeros((total, len(pairs)), np.float32)
    for index, (i, j) in enumerate(pairs):
        for own, row in ((i, j - 1), (j, i)):
            at = slice(starts[own], starts[own + 1])
            weights[at, index] = table[row, at]
    return weights


def _elected(node: Node, scores: Value, pairs: list[tuple[int, int]], classes: int) -> Value:
    """The class with most votes: a pair votes for its first class if its score is above 0, else for its second."""
    first, second = (np.eye(classes, dtype=np.float32)[[pair[side] for pair in pairs]] for side in (0, 1))
    above = node.call("Cast", node.call("Greater", scores, np.array(0, np.float32)), to=1)
    votes = node.call("Add", node.call("MatMul", above, first - second), second.sum(0))
    return node.call("ArgMax", votes, axis=1, keepdims=0)


def _of_pair(node: Node, scores: Value, transform: str) -> Value:
    """The scores of two classes without probabilities."""
    if transform == "NONE":
        return node.call("Concat", node.call("Neg", scores), scores, axis=1)
    return of_two(node, scores, transform)


def _probabilities(node: Node, scores: Value, pairs: list[tuple[int, int]], classes: int) -> Value:
    """(rows, classes), from the probabilities 1 / (1 + exp(a * score + b)) of pairs.

    By the second method of https://www.csie.ntu.edu.tw/~cjlin/papers/svmprob/svmprob.pdf, as libsvm iterates it.
    """
    a, b = (numbers(node, name, "float32", len(pairs)) for name in ("prob_a", "prob_b"))
    logits = node.call("Neg", node.call("Add", node.call("Mul", scores, a), b))
    tiny = np.array(1e-7, np.float32)
    chances = node.call("Clip", node.call("Sigmoid", logits), tiny, np.float32(1) - tiny)

    def compute(chances: te.Tensor) -> list[te.Tensor]:
        rows = chances.shape[0]
        shapes = [[rows, classes], [rows, classes, classes], [rows, classes], [rows, 3]]
        names = ("p", "q", "product", "state")
        outs = [tirx.decl_buffer(s, "float32", n, layout=None) for s, n in zip(shapes, names, strict=True)]

        def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
            return _coupled(ins, outs, rows, pairs, classes)

        return te.extern(shapes, [chances], body, dtype=["float32"] * 4, out_buffers=outs, name="coupled")

    found = node.te(compute, chances.expr(node.bb), name="coupled")
    return Value(expr=node.emit(relax.TupleGetItem(found, 0)))


def _real(value: float) -> ir.Expr:
    return tirx.const(value, "float32")


def _coupled(
    ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer], rows: ir.Expr, pairs: list[tuple[int, int]], classes: int
) -> tirx.Stmt:
    """Row by row: minimise p Q p over probabilities p, one coordinate after the other, until p Q equals p Q p."""
    chances, p, q, product, state = (T.buffer_proxy(b) for b in (*ins, *outs))
    count = len(pairs)
    with IRBuilder() as builder:
        with T.serial(0, rows, annotations=INDEPENDENT) as n:
            own, square = n * classes, n * classes * classes
            with T.serial(0, classes * classes) as i:
                q[square + i] = _real(0)
            for index, (i, j) in enumerate(pairs):
                chance = chances[n * count + index]
                for at, other in ((i, _real(1) - chance), (j, chance)):
                    q[square + at * classes + at] = q[square + at * classes + at] + other * other
                q[square + i * classes + j] = -(_real(1) - chance) * chance
                q[square + j * classes + i] = q[square + i * classes + j]
            with T.serial(0, classes) as i:
                p[own + i] = _real(1 / classes)
            # The state is p Q p, the largest error or a change, and 1 while there is something to do.
            state[n * 3 + 2] = _real(1)
            with T.serial(0, _ROUNDS), T.If(state[n * 3 + 2] > _real(0)), T.Then():
                _measure((p, q, product, state), (n, own, square), classes)
                with T.If(state[n * 3 + 1] < _real(0.005 / classes)), T.Then():
                    state[n * 3 + 2] = _real(0)
                with T.If(state[n * 3 + 2] > _real(0)), T.Then(), T.serial(0, classes) as i:
                    _step((p, q, product, state), (n, own, square), classes, i)
        return builder.get()


def _measure(buffers: tuple, at: tuple, classes: int) -> None:
    """The products Q p, p Q p, and the largest difference of the one from the other."""
    (p, q, product, state), (n, own, square) = buffers, at
    state[n * 3] = _real(0)
    with T.serial(0, classes) as i:
        product[own + i] = _real(0)
        with T.serial(0, classes) as j:
            product[own + i] = product[own + i] + q[square + i * classes + j] * p[own + j]
        state[n * 3] = state[n * 3] + p[own + i] * product[own + i]
    state[n * 3 + 1] = _real(0)
    with T.serial(0, classes) as i:
        state[n * 3 + 1] = tirx.max(state[n * 3 + 1], tirx.abs(product[own + i] - state[n * 3]))


def _step(buffers: tuple, at: tuple, classes: int, i: ir.Expr) -> None:
    """Move probability `i`, and scale all of them to a sum of 1 again. Its change takes the place of the error."""
    (p, q, product, state), (n, own, square) = buffers, at
    diagonal, change = q[square + i * classes + i], state[n * 3 + 1]
    state[n * 3 + 1] = (state[n * 3] - product[own + i]) / diagonal
    scale = _real(1) + change
    p[own + i] = p[own + i] + change
    state[n * 3] = (state[n * 3] + change * (change * diagonal + _real(2) * product[own + i])) / scale / scale
    with T.serial(0, classes) as j:
        product[own + j] = (product[own + j] + change * q[square + i * classes + j]) / scale
        p[own + j] = p[own + j] / scale
