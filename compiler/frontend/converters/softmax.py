"""Softmax, LogSoftmax and Hardmax. Before opset 13 they see their input as a matrix, flattened at the axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm import ir, relax, te, tirx

from .padding import tidy
from .registry import converter

if TYPE_CHECKING:
    from ..node import Node

Rows = Callable[["Node", relax.Expr, int], relax.Expr]


def _softmax(node: Node, x: relax.Expr, axis: int) -> relax.Expr:
    return node.emit(relax.op.nn.softmax(x, axis))


def _log_softmax(node: Node, x: relax.Expr, axis: int) -> relax.Expr:
    return node.emit(relax.op.nn.log_softmax(x, axis))


def _hardmax(node: Node, x: relax.Expr, axis: int) -> relax.Expr:
    """1 at the first maximum along the axis, 0 elsewhere."""
    first = node.emit(relax.op.argmax(x, axis, keepdims=True))

    def mark(x: te.Tensor, first: te.Tensor) -> te.Tensor:
        def element(*at: tirx.Var) -> ir.Expr:
            place = first(*[0 if i == axis else a for i, a in enumerate(at)])
            return tirx.Select(place == at[axis].astype("int64"), tirx.const(1, x.dtype), tirx.const(0, x.dtype))

        return te.compute(x.shape, element, name="hardmax")

    return node.te(mark, x, first, name="hardmax")


def _along_axis(node: Node, rows: Rows) -> relax.Expr:
    """Opset 13 and later: along one axis."""
    rank = node.rank(0)
    return _wide(node, rows, node.inputs[0], node.axis(node.attr("axis", -1), rank))


def _flattened(node: Node, rows: Rows) -> relax.Expr:
    """Before opset 13: over all axes from `axis` on, together."""
    shape = node.shape(0)
    axis = node.attr("axis", 1)
    axis = len(shape) if axis == len(shape) else node.axis(axis, len(shape))
    if axis == len(shape):
        shape = [*shape, 1]
    inner = shape[axis:]
    if all(isinstance(d, int) and d == 1 for d in inner[1:]) and len(shape) == node.rank(0):
        return _wide(node, rows, node.inputs[0], axis)
    matrix = node.emit(relax.op.reshape(node.inputs[0], [tidy(math.prod(shape[:axis])), tidy(math.prod(inner))]))
    return node.emit(relax.op.reshape(_wide(node, rows, matrix, 1), node.shape(0)))


def _wide(node: Node, rows: Rows, x: relax.Expr, axis: int) -> relax.Expr:
    """16-bit floats are exponentiated and summed in float32."""
    dtype = str(x.ty.dtype)
    if dtype not in ("float16", "bfloat16"):
        return rows(node, x, axis)
    return node.emit(relax.op.astype(rows(node, node.emit(relax.op.astype(x, "float32")), axis), dtype))


def _register(op_type: str, rows: Rows) -> None:
    @converter(op_type, since=13)
    def along_axis(node: Node) -> relax.Expr:
        return _along_axis(node, rows)

    @converter(op_type, since=1)
    def flattened(node: Node) -> relax.Expr:
        return _flattened(node, rows)


for _op_type, _rows in {"Softmax": _softmax, "LogSoftmax": _log_softmax, "Hardmax": _hardmax}.items():
    _register(_op_type, _rows)
