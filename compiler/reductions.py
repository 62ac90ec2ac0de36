"""Tensor expressions of maximum, minimum and their positions that are right for every value of the dtype.

topi starts from the least finite number and from position -1: the maximum of a row of -inf comes out as -3.4e38, and
the position of the maximum of a row of zeros in uint8 as -1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import te, tirx

_FLOATS = ("float", "bfloat")
# Larger than every position, so that the first element wins against the identity.
_NO_POSITION = 2**63 - 1


def extreme(x: te.Tensor, axes: Sequence[int], keepdims: bool, largest: bool) -> te.Tensor:
    """The largest or least element of `x` over `axes` (counted from the front); the identity where there is none."""
    combine = tirx.Max if largest else tirx.Min
    reducer = te.comm_reducer(lambda a, b: combine(a, b), lambda dtype: _identity(dtype, largest))
    name = "max" if largest else "min"
    return _reduce(x, axes, keepdims, name, lambda value, _, loops: reducer(value, axis=loops))


def extreme_position(x: te.Tensor, axis: int, keepdims: bool, largest: bool, last: bool = False) -> te.Tensor:
    """int64 position along `axis` of the largest or least element of `x`: of the first such, or of the last."""

    def better(a: Sequence[tirx.Expr], b: Sequence[tirx.Expr]) -> tirx.Expr:
        ahead = a[1] > b[1] if largest else a[1] < b[1]
        sooner = a[0] > b[0] if last else a[0] < b[0]
        return tirx.Or(ahead, tirx.And(tirx.EQ(a[1], b[1]), sooner))

    def combine(a: Sequence[tirx.Expr], b: Sequence[tirx.Expr]) -> tuple[tirx.Expr, tirx.Expr]:
        chosen = better(a, b)
        return tirx.Select(chosen, a[0], b[0]), tirx.Select(chosen, a[1], b[1])

    def identity(position: str, dtype: str) -> tuple[tirx.Expr, tirx.Expr]:
        return tirx.const(-1 if last else _NO_POSITION, position), _identity(dtype, largest)

    reducer = te.comm_reducer(combine, identity)
    name = ("last_" if last else "") + ("argmax" if largest else "argmin")
    found = _reduce(
        x, [axis], keepdims, name, lambda value, at, loops: reducer((tirx.Cast("int64", at[0]), value), axis=loops)
    )
    return found[0]


def _identity(dtype: str, largest: bool) -> tirx.Expr:
    if str(dtype).startswith(_FLOATS):
        return tirx.const(-math.inf if largest else math.inf, dtype)
    return tirx.min_value(dtype) if largest else tirx.max_value(dtype)


def _reduce(x: te.Tensor, axes: Sequence[int], keepdims: bool, name: str, body: Callable[..., tirx.Expr]) -> te.Tensor:
    """`body(element, reduction loop variables, loops)` for each element of the result."""
    loops = {a: te.reduce_axis((0, x.shape[a]), f"k{a}") for a in axes}
    kept = [a for a in range(len(x.shape)) if a not in loops]

    def element(*outer: tirx.Var) -> tirx.Expr:
        free = iter(o for k, o in enumerate(outer) if not (keepdims and k in loops))
        index = [loops[a] if a in loops else next(free) for a in range(len(x.shape))]
        return body(x(*index), [loops[a].var for a in sorted(loops)], list(loops.values()))

    one = tirx.const(1, "int64")  # of the type of all other sizes: rules for loops want axes of one type
    shape = [one if a in loops else d for a, d in enumerate(x.shape)] if keepdims else [x.shape[a] for a in kept]
    return te.compute(shape, element, name=name)
