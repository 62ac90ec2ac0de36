"""Keys and values of earlier runs: continued by new ones, or buffers that new ones are written into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm import ir, te, tirx

from ...symbols import as_expr
from ...values import Dim, Value

if TYPE_CHECKING:
    from ...node import Node


def written(node: Node, past: Value | None, new: Value, start: Value, length: Dim, rest: bool = True) -> Value:
    """A buffer (B, M, length, H) with `new` (B, M, S, H) from each sample's place `start` (B), of int64, on.

    Before that it holds what `past` (B, M, P, H) does, and behind that too with `rest`; elsewhere zeros.
    """
    olds = [] if past is None else [past.expr(node.bb)]

    def compute(length: ir.Expr, new: te.Tensor, start: te.Tensor, *olds: te.Tensor) -> te.Tensor:
        batch, groups, count, width = new.shape
        zero = tirx.const(0, "int64")

        def element(b: tirx.Var, m: tirx.Var, t: tirx.Var, h: tirx.Var) -> ir.Expr:
            first = start(b)
            place = t - first
            inside = tirx.max(tirx.min(place, count - 1), zero)
            around = tirx.const(0, new.dtype)
            for old in olds:
                kept = t < old.shape[2] if rest else tirx.all(t < first, t < old.shape[2])
                around = tirx.if_then_else(kept, old(b, m, tirx.min(t, old.shape[2] - 1), h), around)
            return tirx.if_then_else(tirx.all(place >= 0, place < count), new(b, m, inside, h), around)

        return te.compute((batch, groups, length, width), element, name="buffer")

    found = node.te(compute, as_expr(length), new.expr(node.bb), start.expr(node.bb), *olds, name="key_value_cache")
    return Value(expr=found)
