"""Small builders of loop nests over flat buffers, shared by the generic rules.

An index or extent is a Python int as long as it is known, and an int64 expression otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx import For, ForKind, IfThenElse, SeqStmt, Stmt

Index = Any
Body = Callable[[Index], Stmt]


def i64(value: Index) -> tirx.Expr:
    """`value` as an int64 expression."""
    return tirx.const(value, "int64") if isinstance(value, int) else value


def as_int(value: Index) -> Index:
    """A Python int where the expression is a constant, otherwise the expression."""
    return int(value) if isinstance(value, (int, tirx.IntImm)) else value


def static(value: Index) -> bool:
    """Whether `value` is known at compile time."""
    return isinstance(value, int)


def product(values: Sequence[Index]) -> Index:
    """The product; an int if all factors are."""
    result: Index = 1
    for v in values:
        result = v if static(result) and result == 1 else result if static(v) and v == 1 else result * v
    return result


def minimum(a: Index, b: Index) -> Index:
    """The smaller one."""
    return min(a, b) if static(a) and static(b) else tirx.min(i64(a), i64(b))


def floordiv(a: Index, b: Index) -> Index:
    """a / b rounded down."""
    if static(b) and b == 1:
        return a
    return a // b if static(a) and static(b) else tirx.floordiv(i64(a), i64(b))


def ceildiv(a: Index, b: int) -> Index:
    """a / b rounded up, b > 0."""
    return -(-a // b) if static(a) else tirx.floordiv(a + (b - 1), i64(b))


def floormod(a: Index, b: Index) -> Index:
    """The remainder of `floordiv`."""
    if static(b) and b == 1:
        return 0
    return a % b if static(a) and static(b) else tirx.floormod(i64(a), i64(b))


def loop(extent: Index, body: Body, kind: ForKind = ForKind.SERIAL, name: str = "i") -> Stmt:
    """`for i in range(extent): body(i)`; a loop of one iteration becomes its body, one of none a no-op."""
    if static(extent) and extent <= 0:
        return tirx.Evaluate(tirx.const(0, "int32"))
    if static(extent) and extent == 1 and kind != ForKind.PARALLEL:
        return body(0)
    var = tirx.Var(name, "int64")
    return For(var, i64(0), i64(extent), kind, body(var))


def vector(lanes: int, body: Body) -> Stmt:
    """`body` for `lanes` consecutive indices at once."""
    return loop(lanes, body, ForKind.VECTORIZED, "lane")


def unrolled(extent: int, body: Body) -> Stmt:
    """`body` repeated with constant indices."""
    return loop(extent, body, ForKind.UNROLLED, "u")


def seq(statements: Sequence[Stmt | None]) -> Stmt:
    """The statements one after the other; None is left out."""
    kept = [s for s in statements if s is not None]
    return kept[0] if len(kept) == 1 else SeqStmt(kept)


def nest(extents: Sequence[Index], body: Callable[[list[Index]], Stmt]) -> Stmt:
    """Serial loops over `extents`, the first outermost."""

    def level(done: list[Index]) -> Stmt:
        if len(done) == len(extents):
            return body(done)
        return loop(extents[len(done)], lambda i: level([*done, i]))

    return level([])


def strip_mine(extent: Index, lanes: int, body: Body, unroll: int = 4, *, tail: bool = True) -> Stmt:
    """Vector loops over [0, extent): `body(i)` computes element i of one lane.

    A known extent that is no multiple of `lanes` ends in a vector that overlaps the one before, so `body` must be
    idempotent; an unknown one ends in a scalar loop. With `tail` False only whole vectors are done.
    """
    if not static(extent):
        main = loop(floordiv(extent, lanes), lambda j: vector(lanes, lambda k: body(j * lanes + k)))
        start = floordiv(extent, lanes) * lanes
        return seq([main, loop(floormod(extent, lanes), lambda j: body(start + j))]) if tail else main
    if extent < lanes:
        return vector(extent, body) if tail else seq([tirx.Evaluate(tirx.const(0, "int32"))])
    step = lanes * unroll
    parts: list[Stmt] = []
    if extent >= step:
        parts.append(
            loop(
                extent // step,
                lambda j: unrolled(unroll, lambda u: vector(lanes, lambda k: body(j * step + u * lanes + k))),
            )
        )
    done = extent // step * step
    while extent - done >= lanes:
        parts.append(vector(lanes, partial(_shifted, body, done)))
        done += lanes
    if tail and done < extent:
        parts.append(vector(lanes, lambda k: body(k + (extent - lanes))))
    return seq(parts)


def _shifted(body: Body, base: int, i: Index) -> Stmt:
    return body(i + base)


def when(condition: Any, then: Stmt, otherwise: Stmt | None = None) -> Stmt:
    """`if condition: then else: otherwise`; decided now where the condition is a Python bool."""
    if isinstance(condition, bool):
        return then if condition else otherwise or tirx.Evaluate(tirx.const(0, "int32"))
    return IfThenElse(condition, then, otherwise)


def unravel(index: Index, extents: Sequence[Index]) -> list[Index]:
    """Coordinates of a row-major flat index."""
    coordinates: list[Index] = []
    for extent in reversed(extents[1:]):
        coordinates.append(floormod(index, extent))
        index = floordiv(index, extent)
    return [index, *reversed(coordinates)] if extents else []


def parallel_nest(
    extents: Sequence[Index], tasks: int, body: Callable[[list[Index]], Stmt], setup: Setup = None
) -> Stmt:
    """Loops over `extents` whose outer part is shared by threads in about `tasks` equal pieces (1: no threads).

    `setup` wraps what one thread runs, for instance to allocate its scratch memory once.
    """
    wrap = setup or (lambda inner: inner)
    if tasks <= 1:
        return wrap(nest(extents, body))
    outer: list[Index] = []
    rest = list(extents)
    # Unknown extents do not count: one that is known suffices, or all are needed.
    while rest and product([e for e in outer if static(e)]) < tasks and len(outer) < 3:
        outer.append(rest.pop(0))
    total = product(outer)
    # The division by an extent that turns out to be 0 may be moved to where no element is asked for.
    divisors = [e if static(e) else tirx.max(e, i64(1)) for e in outer]
    if static(total) and total <= tasks:
        return loop(
            total, lambda t: wrap(nest(rest, lambda r: body([*unravel(t, divisors), *r]))), ForKind.PARALLEL, "task"
        )
    chunk = ceildiv(total, tasks)

    def task(t: Index) -> Stmt:
        whole = static(total) and total % chunk == 0
        size = chunk if whole else minimum(chunk, total - t * chunk)
        return wrap(loop(size, lambda i: nest(rest, lambda r: body([*unravel(t * chunk + i, divisors), *r]))))

    return loop(ceildiv(total, chunk) if static(total) else tasks, task, ForKind.PARALLEL, "task")


Setup = Callable[[Stmt], Stmt] | None
