"""Index arithmetic for TIR that stays in Python ints as long as its operands are, and loops over computed ranges."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx import For, ForKind, IfThenElse, Stmt

from .tir_loops import Index, i64, seq


def ranged(name: str, begin: Index, extent: Index, body: Callable[[Index], Stmt]) -> Stmt:
    """`for name in range(begin, begin + extent)`; the variable counts from 0, `body` receives begin + variable."""
    if isinstance(extent, int) and extent == 1:
        return body(begin)
    var = tirx.Var(name, "int64")
    zero = isinstance(begin, int) and begin == 0
    return For(var, i64(0), i64(extent), ForKind.SERIAL, body(var if zero else var + begin))


def unrolled(name: str, begin: int, end: int, body: Callable[[Index], Stmt]) -> Stmt:
    """The range [begin, end) unrolled by the compiler: after it `name` is a constant."""
    if end - begin == 1:
        return body(i64(begin))
    var = tirx.Var(name, "int64")
    return For(var, i64(0), i64(end - begin), ForKind.UNROLLED, body(var + begin if begin else var))


def nothing() -> Stmt:
    """The statement that does nothing."""
    return tirx.Evaluate(tirx.const(0, "int32"))


def when(condition: tirx.Expr | bool, body: Stmt | None, otherwise: Stmt | None = None) -> Stmt | None:
    """`if condition: body else: otherwise`; decided now if the condition is a Python bool."""
    if isinstance(condition, bool) or body is None:
        return body if condition else otherwise
    return IfThenElse(condition, body, otherwise)


def bound(name: str, value: Index, body: Callable[[Index], Stmt]) -> Stmt:
    """`name = value; body(name)`: for values with divisions or minima that `body` uses many times."""
    if isinstance(value, int):
        return body(value)
    var = tirx.Var(name, "int64")
    return seq(tirx.Bind(var, value), body(var))


def bound_all(names: list[str], values: list[Index], body: Callable[[list[Index]], Stmt]) -> Stmt:
    """`bound` for several values."""
    if not names:
        return body([])
    return bound(names[0], values[0], lambda v: bound_all(names[1:], values[1:], lambda rest: body([v, *rest])))


def prefetch_l2(buffer: tirx.Buffer, index: Index) -> Stmt:
    """Ask for the cache line of `buffer[index]`, which may lie beyond the end, to be brought into L2."""
    address = tirx.address_of(tirx.BufferLoad(buffer, [i64(index)]))
    read, moderate_locality, data = 0, 2, 1
    return tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, read, moderate_locality, data))


def ramp(base: Index, lanes: int) -> tirx.Expr:
    """The indices base, base + 1, ... of one vector."""
    return tirx.Ramp(i64(base), i64(1), lanes) if lanes > 1 else i64(base)


def splat(value: tirx.Expr, lanes: int) -> tirx.Expr:
    """`value` in every lane."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def minimum(a: Index, b: Index) -> Index:
    """The smaller of both."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.min(i64(a), i64(b))


def maximum(a: Index, b: Index) -> Index:
    """The larger of both."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.max(i64(a), i64(b))


def ceil_div(a: Index, b: int) -> Index:
    """a / b rounded up."""
    return -(-a // b) if isinstance(a, int) else floor_div(a + (b - 1), b)


def floor_div(a: Index, b: Index) -> Index:
    """a / b rounded down, for b > 0."""
    if isinstance(b, int) and b == 1:
        return a
    return a // b if isinstance(a, int) and isinstance(b, int) else tirx.floordiv(i64(a), i64(b))


def floor_mod(a: Index, b: Index) -> Index:
    """The remainder of `floor_div`."""
    if isinstance(b, int) and b == 1:
        return 0
    return a % b if isinstance(a, int) and isinstance(b, int) else tirx.floormod(i64(a), i64(b))


def split_index(item: Index, extents: list[Index]) -> list[Index]:
    """The coordinates of a row-major flat index >= 0, the last axis fastest; an axis of constant extent 1 gives 0.

    Divisions by symbolic extents truncate: rounding down takes sign tests on which, nested, LLVM spends minutes.
    """
    coords: list[Index] = [0] * len(extents)
    long = [axis for axis, extent in enumerate(extents) if not (isinstance(extent, int) and extent == 1)]
    for axis in reversed(long[1:]):
        extent = extents[axis]
        whole = isinstance(extent, int)
        coords[axis] = floor_mod(item, extent) if whole else tirx.truncmod(i64(item), extent)
        item = floor_div(item, extent) if whole else tirx.truncdiv(i64(item), extent)
    if long:
        coords[long[0]] = item
    return coords
