"""What the classifiers and regressors of ai.onnx.ml share: rows of features, labels, and functions of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tvm import ir, tirx

from ...dtypes import dtype_code
from ...values import Value
from ..broadcast import pointwise

if TYPE_CHECKING:
    from ...node import Node

AI_ONNX_ML = "ai.onnx.ml"
# In the order of TreeEnsemble's codes.
POST_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def post_transform(node: Node) -> str:
    """The attribute of that name."""
    name = node.attr("post_transform", "NONE")
    if name not in POST_TRANSFORMS:
        raise node.error(f"attribute 'post_transform' must be one of {', '.join(POST_TRANSFORMS)}, found {name!r}")
    return name


def rows_of(node: Node, dtype: str) -> Value:
    """Input 0 as (rows, features) of `dtype`; a vector is one row."""
    shape, x = node.shape(0), node.value(0)
    if len(shape) not in (1, 2):
        raise node.error(f"the input needs 1 or 2 dimensions, found shape {shape}")
    if len(shape) == 1:
        x = node.call("Unsqueeze", x, np.array([0]))
    return x if x.dtype == dtype else node.call("Cast", x, to=dtype_code(dtype))


def labels(node: Node, integers: str, strings: str) -> np.ndarray:
    """The labels of classes, as int64; ModelError where they are strings, or there are none."""
    if node.attr(strings):
        raise node.error(f"attribute {strings!r}: labels that are strings are not supported")
    names = node.attr(integers)
    if not names:
        raise node.error(f"attribute {integers!r} is required and was not found")
    return np.array(names, np.int64)


def labelled(node: Node, classes: Value, names: np.ndarray) -> Value:
    """The labels of class numbers."""
    return node.call("Gather", names, classes)


def transformed(node: Node, scores: Value, name: str) -> Value:
    """The scores (rows, classes) after one of POST_TRANSFORMS, as ONNX Runtime defines these."""
    if name == "NONE":
        return scores
    if name == "LOGISTIC":
        return node.call("Sigmoid", scores)
    if name == "SOFTMAX":
        return node.call("Softmax", scores, axis=1)
    if name == "PROBIT":
        return Value(expr=pointwise(node, _probit, [scores.expr(node.bb)], "probit"))
    return _softmax_zero(node, scores)


def _probit(x: ir.Expr) -> ir.Expr:
    """sqrt(2) * erfinv(2 x - 1), by the approximation of https://arxiv.org/abs/0810.0098 with a = 0.147."""

    def real(value: float) -> ir.Expr:
        return tirx.const(value, str(x.ty.dtype))

    y = real(2) * x - real(1)
    log = tirx.log((real(1) - y) * (real(1) + y))
    v = real(2 / (3.14159 * 0.147)) + real(0.5) * log
    size = tirx.sqrt(tirx.sqrt(v * v - real(1 / 0.147) * log) - v)
    return real(1.41421356) * tirx.Select(y < real(0), -size, size)


def _softmax_zero(node: Node, scores: Value) -> Value:
    """Softmax over the scores that are not 0; those that are stay 0."""
    dtype, axes = scores.dtype, np.array([1])
    largest = node.call("ReduceMax", scores, axes)
    counts = node.call("Greater", node.call("Abs", scores), np.array(1e-7, dtype))
    powers = node.call("Where", counts, node.call("Exp", node.call("Sub", scores, largest)), np.array(0, dtype))
    small = node.call("Mul", scores, node.call("Exp", node.call("Neg", largest)))
    return node.call("Div", node.call("Where", counts, powers, small), node.call("ReduceSum", powers, axes))


def of_two(node: Node, score: Value, name: str) -> Value:
    """(rows, 2) from the one score (rows, 1) that two classes have: the second class's, and what it leaves to 1.

    As in ONNX Runtime, LOGISTIC is taken of the score and of its negative, and other functions of nothing.
    """
    if name == "PROBIT":
        raise node.error("attribute 'post_transform' is PROBIT, which leaves one of two scores open")
    if name == "LOGISTIC":
        return node.call("Sigmoid", node.call("Concat", node.call("Neg", score), score, axis=1))
    return node.call("Concat", node.call("Sub", np.array(1, np.float32), score), score, axis=1)


def matrix(node: Node, x: Value, values: np.ndarray, rows: int, name: str) -> np.ndarray:
    """Attribute `name` as `rows` of as many numbers as the rows of `x` have features."""
    width = len(values) // rows if rows else 0
    if width * rows != len(values) or not width:
        raise node.error(f"attribute {name!r} must have {rows} rows of numbers, found {len(values)}")
    node.require_equal((x.shape or [0, 0])[1], width, "the number of features")
    return values.reshape(rows, width)
