"""Relax operators with loops of our own, by name. All others take TVM's legalisation and the generic rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, te, tirx
from tvm.ir import Call

from ...compiler.reductions import extreme
from ..shared.loops import as_int
from ..shared.normalization import instance_norm

Legalization = Callable[[relax.BlockBuilder, Call], relax.Expr]


def _position(largest: bool) -> Legalization:
    def legalize(bb: relax.BlockBuilder, call: Call) -> relax.Expr:
        axis = int(call.attrs.axis) % len(call.args[0].ty.shape)
        keepdims = bool(call.attrs.keepdims)
        hint = "argmax" if largest else "argmin"
        return bb.call_te(lambda x: first_position(x, axis, keepdims, largest), call.args[0], primfunc_name_hint=hint)

    return legalize


def first_position(x: te.Tensor, axis: int, keepdims: bool, largest: bool) -> te.Tensor:
    """int64 position along `axis` of the first largest or least element of `x`, as two reductions that teams share out.

    TVM's reduction of pairs is one that no rule knows. Rows of NaN alone give their last position.
    """
    size = as_int(x.shape[axis])
    dtype = "int32" if isinstance(size, int) and size < 1 << 31 else "int64"
    none = tirx.max_value(dtype)
    best = extreme(x, [axis], False, largest)
    loop = te.reduce_axis((0, x.shape[axis]), "k")
    smallest = te.comm_reducer(lambda a, b: tirx.Min(a, b), lambda _: none)
    kept = [d for a, d in enumerate(x.shape) if a != axis]

    def first(*at: tirx.Var) -> tirx.Expr:
        here = x(*at[:axis], loop.var, *at[axis:])
        return smallest(tirx.Select(tirx.EQ(here, best(*at)), loop.var.astype(dtype), none), axis=loop)

    found = te.compute(kept, first, name="first")
    last = tirx.const(size - 1, dtype) if isinstance(size, int) else size - 1
    shape = [*kept[:axis], tirx.const(1, "int64"), *kept[axis:]] if keepdims else kept

    def position(*at: tirx.Var) -> tirx.Expr:
        own = (*at[:axis], *at[axis + 1 :]) if keepdims else at
        return tirx.Min(found(*own), last).astype("int64")

    return te.compute(shape, position, name="position")


LEGALIZATIONS: dict[str, Callable[..., Any]] = {
    "relax.nn.instance_norm": instance_norm,
    "relax.argmax": _position(largest=True),
    "relax.argmin": _position(largest=False),
}
