"""CumSum and CumProd: sums and products of the elements up to each one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...loop_marks import INDEPENDENT
from ..node import Node
from .registry import converter
from .scatter import size_of
from .shape_ops import required_dims

# What combines a total with the next element, and the total of no elements.
_SUM = (lambda total, new: total + new, 0)
_PRODUCT = (lambda total, new: total * new, 1)


@converter("CumSum", since=11)
def cumsum(node: Node) -> relax.Expr:
    return _accumulated(node, *_SUM)


@converter("CumProd", since=26)
def cumprod(node: Node) -> relax.Expr:
    return _accumulated(node, *_PRODUCT)


def _accumulated(node: Node, combine: Callable[[Any, Any], Any], start: int) -> relax.Expr:
    """The total up to each element, or from behind it with `reverse`; without the element itself if `exclusive`."""
    (given,) = required_dims(node, 1, "the axis")
    if not isinstance(given, int):
        raise node.error("the axis must be a fixed number")
    axis = node.axis(given, node.rank(0))
    reverse, exclusive = bool(node.attr("reverse", 0)), bool(node.attr("exclusive", 0))
    first = tirx.const(start, node.dtype(0))

    def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
        """Row by row: relax.op.cumsum has no code of its own on every target."""
        shape = ins[0].shape
        data, total = (T.buffer_proxy(b) for b in (*ins, *outs))
        size, inner = shape[axis], size_of(shape[axis + 1 :])
        step = -inner if reverse else inner
        with IRBuilder() as builder:
            with T.serial(0, size_of(shape[:axis]) * inner, annotations=INDEPENDENT) as row:
                begin = tirx.floordiv(row, inner) * size * inner + tirx.floormod(row, inner)
                begin = begin + (size - 1) * inner if reverse else begin
                with T.serial(0, size) as i:
                    at = begin + i * step
                    with T.If(i < 1), T.Then():
                        total[at] = first if exclusive else data[at]
                    with T.If(i > 0), T.Then():
                        total[at] = combine(total[at - step], data[at - step if exclusive else at])
            return builder.get()

    def compute(x: te.Tensor) -> te.Tensor:
        out = tirx.decl_buffer(x.shape, x.dtype, "totals", layout=None)
        return te.extern([x.shape], [x], body, dtype=x.dtype, out_buffers=[out], name="scan")

    return node.te(compute, node.inputs[0], name=node.op_type.lower())
