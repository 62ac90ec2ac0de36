"""MatMul, Gemm and Einsum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax, te

from ..dtypes import is_float
from ..values import Dim, constant
from .broadcast import broadcast_operands, scalar
from .convolution import accumulate_wide
from .padding import tidy
from .reduction import reduce
from .registry import converter
from .runtime_checks import with_sizes

if TYPE_CHECKING:
    from ..node import Node

_op = relax.op


def _matmul(node: Node, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    return accumulate_wide(node, _op.matmul, a, b)


@converter("MatMul")
def matmul(node: Node) -> relax.Expr:
    """relax.matmul. Symbolic sizes that have to be equal and are not known to be are checked at run time."""
    return _matmul(node, *matmul_operands(node, 0, 1))


def matmul_operands(node: Node, left: int, right: int) -> tuple[relax.Expr, relax.Expr]:
    """Inputs `left` and `right` in shapes that fit each other, as numpy.matmul has it."""
    a_shape, b_shape = node.shape(left), node.shape(right)
    if not a_shape or not b_shape:
        raise node.error(f"the operands need at least one dimension, found shapes {a_shape} and {b_shape}")
    pairs = [(-1, -2 if len(b_shape) > 1 else -1)]
    pairs += [(-i, -i) for i in range(3, min(len(a_shape), len(b_shape)) + 1)]
    a_wanted, b_wanted = _agreed_shapes(node, pairs, (left, right))
    return node.cast_shape(node.inputs[left], a_wanted), node.cast_shape(node.inputs[right], b_wanted)


def _agreed_shapes(
    node: Node, pairs: list[tuple[int, int]], operands: tuple[int, int] = (0, 1)
) -> tuple[list[Dim], list[Dim]]:
    """Shapes of both inputs, equal on each pair of axes, or 1 on all but the first; fixed where one is fixed."""
    a_shape, b_shape = (node.shape(index) for index in operands)
    a_wanted, b_wanted = list(a_shape), list(b_shape)
    for position, (i, j) in enumerate(pairs):
        a, b = a_shape[i], b_shape[j]
        if position and 1 in [size for size in (a, b) if isinstance(size, int)]:
            continue
        if node.symbols.equal(a, b) is False:
            raise node.error(f"the operands' shapes {a_shape} and {b_shape} do not fit")
        a_wanted[i] = b_wanted[j] = b if isinstance(b, int) else a
    return a_wanted, b_wanted


@converter("Gemm")
def gemm(node: Node) -> relax.Expr:
    """alpha * A' B' + beta * C as matmul and add; constant operands are transposed and scaled here."""
    shapes = [node.shape(0), node.shape(1)]
    if any(len(s) != 2 for s in shapes):
        raise node.error(f"the operands need two dimensions, found shapes {shapes[0]} and {shapes[1]}")
    alpha, beta, dtype = node.attr("alpha", 1.0), node.attr("beta", 1.0), node.dtype(0)
    trans_a, trans_b = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
    a_wanted, b_wanted = _agreed_shapes(node, [(0 if trans_a else 1, 1 if trans_b else 0)])
    a = node.cast_shape(node.inputs[0], a_wanted)
    a = node.emit(_op.permute_dims(a, [1, 0])) if trans_a else a
    weight = node.const(1)
    if weight is not None:
        weight = weight.T if trans_b else weight
        if alpha != 1 and is_float(dtype):
            weight, alpha = ((weight * np.asarray(alpha, weight.dtype)).astype(weight.dtype), 1.0)
        b = constant(np.ascontiguousarray(weight))
    else:
        b = node.cast_shape(node.inputs[1], b_wanted)
        b = node.emit(_op.permute_dims(b, [1, 0])) if trans_b else b
    out = _scaled(node, _matmul(node, a, b), alpha)
    if not node.has(2) or beta == 0:
        return out
    return node.emit(_op.add(*broadcast_operands(node, [out, _gemm_bias(node, beta)])))


def _gemm_bias(node: Node, beta: float) -> relax.Expr:
    bias = node.const(2)
    if bias is None:
        return _scaled(node, node.inputs[2], beta)
    if beta != 1:
        bias = (bias * np.asarray(beta, np.float64)).astype(bias.dtype)
    # A row is a bias of N elements for the passes that look for one.
    return constant(bias.reshape(-1) if bias.ndim == 2 and bias.shape[0] == 1 else bias)


def _scaled(node: Node, x: relax.Expr, factor: float) -> relax.Expr:
    if factor == 1:
        return x
    dtype = str(x.ty.dtype)
    if is_float(dtype):
        return node.emit(_op.multiply(x, scalar(factor, dtype)))
    scaled = _op.multiply(node.emit(_op.astype(x, "float64")), scalar(factor, "float64"))
    return node.emit(_op.astype(node.emit(scaled), dtype))


@converter("Einsum", since=12)
def einsum(node: Node) -> relax.Expr:
    """The operands are contracted from left to right, each pair as one batched matmul."""
    terms, output, sizes = _parse_equation(node)
    operands = [_single(node, _agreed(node, i, term, sizes), term, sizes) for i, term in enumerate(terms)]
    while len(operands) > 1:
        later = {label for _, labels in operands[2:] for label in labels}.union(output)
        operands[:2] = [_contract(node, operands[0], operands[1], later, sizes)]
    x, labels = operands[0]
    dropped = [i for i, label in enumerate(labels) if label not in output]
    x = reduce(node, "sum", x, dropped, keepdims=False)
    labels = [label for label in labels if label in output]
    return _permuted(node, x, [labels.index(label) for label in output])


Labels = list[str]


def _parse_equation(node: Node) -> tuple[list[Labels], Labels, dict[str, Dim]]:
    """Labels of each operand and of the output, and the size of each label. Ellipsis axes get labels "0", "1", ...
    counted from the last one."""
    equation = node.required("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    texts = left.split(",")
    if len(texts) != len(node.values):
        raise node.error(f"the equation {equation!r} has {len(texts)} terms, found {len(node.values)} inputs")
    terms: list[Labels] = []
    sizes: dict[str, Dim] = {}
    widest = 0
    for i, text in enumerate(texts):
        shape = node.shape(i)
        before, dots, after = text.partition("...")
        hidden = len(shape) - len(before) - len(after)
        if hidden < 0 or (hidden and not dots):
            raise node.error(f"term {text!r} of the equation does not fit an input of shape {shape}")
        widest = max(widest, hidden)
        terms.append([*before, *_hidden_labels(hidden), *after])
        for label, size in zip(terms[-1], shape, strict=True):
            known = sizes.get(label, 1)
            if size != 1 and known != 1 and node.symbols.equal(size, known) is False:
                raise node.error(f"label {label!r} of the equation {equation!r} has sizes {known} and {size}")
            # A fixed size holds for the open ones of the same label; a 1 broadcasts.
            sizes[label] = known if _is_one(size) or (isinstance(known, int) and known != 1) else size
            if not isinstance(known, int) and not isinstance(size, int):
                sizes[label] = known
    if arrow:
        before, dots, after = right.partition("...")
        output = [*before, *(_hidden_labels(widest) if dots else []), *after]
    else:
        letters = [label for term in terms for label in term if label.isalpha()]
        output = _hidden_labels(widest) + sorted(label for label in set(letters) if letters.count(label) == 1)
    if any(label not in sizes for label in output):
        raise node.error(f"the output of the equation {equation!r} has a label that no term has")
    return terms, output, sizes


def _agreed(node: Node, index: int, labels: Labels, sizes: dict[str, Dim]) -> relax.Expr:
    """Input `index` with the sizes of its labels; in a run, no size that was left open broadcasts."""
    shape = node.shape(index)
    wanted = {a: sizes[label] for a, label in enumerate(labels) if not _is_one(shape[a])}
    return with_sizes(node, index, wanted)


def _hidden_labels(count: int) -> Labels:
    return [str(i) for i in reversed(range(count))]


def _single(node: Node, x: relax.Expr, labels: Labels, sizes: dict[str, Dim]) -> tuple[relax.Expr, Labels]:
    """Take the diagonal over repeated labels, and drop axes of size 1 that broadcast."""
    unique = list(dict.fromkeys(labels))
    if len(unique) != len(labels):

        def diagonal(data: te.Tensor) -> te.Tensor:
            shape = [data.shape[labels.index(label)] for label in unique]
            return te.compute(shape, lambda *at: data(*[at[unique.index(label)] for label in labels]), name="diagonal")

        x = node.te(diagonal, x, name="diagonal")
    shape = [tidy(d) for d in x.ty.shape.values]
    broadcast = [i for i, label in enumerate(unique) if shape[i] == 1 and not _is_one(sizes[label])]
    if broadcast:
        x = node.emit(_op.squeeze(x, broadcast))
    return x, [label for i, label in enumerate(unique) if i not in broadcast]


def _is_one(size: Dim) -> bool:
    return isinstance(size, int) and size == 1


def _contract(
    node: Node,
    left: tuple[relax.Expr, Labels],
    right: tuple[relax.Expr, Labels],
    later: set[str],
    sizes: dict[str, Dim],
) -> tuple[relax.Expr, Labels]:
    """One pair: labels in both and needed later are the batch, labels only in both are summed by a matmul."""
    (a, a_labels), (b, b_labels) = (
        _drop_unused(node, x, own, set(other) | later) for x, own, other in ((*left, right[1]), (*right, left[1]))
    )
    shared = [label for label in a_labels if label in b_labels]
    batch = [label for label in shared if label in later]
    summed = [label for label in shared if label not in later]
    rows = [label for label in a_labels if label not in b_labels]
    columns = [label for label in b_labels if label not in a_labels]

    def size(labels: Labels) -> Dim:
        return tidy(math.prod(sizes[label] for label in labels))

    a = _permuted(node, a, [a_labels.index(label) for label in batch + rows + summed])
    b = _permuted(node, b, [b_labels.index(label) for label in batch + summed + columns])
    a = node.emit(_op.reshape(a, [size(batch), size(rows), size(summed)]))
    b = node.emit(_op.reshape(b, [size(batch), size(summed), size(columns)]))
    labels = batch + rows + columns
    return node.emit(_op.reshape(_matmul(node, a, b), [sizes[label] for label in labels])), labels


def _drop_unused(node: Node, x: relax.Expr, labels: Labels, used: set[str]) -> tuple[relax.Expr, Labels]:
    unused = [i for i, label in enumerate(labels) if label not in used]
    return reduce(node, "sum", x, unused, keepdims=False), [label for label in labels if label in used]


def _permuted(node: Node, x: relax.Expr, order: list[int]) -> relax.Expr:
    return x if order == sorted(order) else node.emit(_op.permute_dims(x, order))
