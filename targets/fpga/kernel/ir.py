"""The loop-kernel IR: what the cycle model, the HLS C++ and the Verilog of a kernel are made from.

A `Kernel` has arrays (banked, in registers, look-up tables, block RAM or UltraRAM), streams, and nests that run one
after the other or, with `dataflow`, all at once. A `Nest` is a perfect nest of serial loops over one pipelined body:
an iteration starts every II cycles. Statements name the unrolled loops (lanes) that they are repeated over. Meaning,
which all consumers keep: iterations in lexicographic order, statements of one in order, lanes of one at the same time.

In one nest all loads of an array come before all stores to it; what a statement has computed is passed on by name
(`Ref`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from .affine import Affine
from .types import BOOL, Scalar, Value

MEMORIES = ("register", "lutram", "bram", "uram")
ROLES = ("in", "out", "local")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Array:
    """Elements of `dtype` in `memory`, dimension d dealt out cyclically to `factors[d]` banks.

    Each bank has one port to read and one to write. An array in registers has a bank for each element. `role` "in"
    is filled before the kernel starts, "out" is read after it.
    """

    name: str
    shape: Shape
    dtype: Scalar
    memory: str = "bram"
    factors: Shape = ()
    role: str = "local"

    @property
    def banks(self) -> int:
        """How many banks."""
        return math.prod(self.factors)

    @property
    def depth(self) -> int:
        """Elements of one bank."""
        return math.prod(-(-n // f) for n, f in zip(self.shape, self.factors, strict=True))


@dataclass(frozen=True)
class Stream:
    """A FIFO of `depth` tokens between two nests; a token is an array of `shape` elements of `dtype`."""

    name: str
    shape: Shape
    dtype: Scalar
    depth: int = 2


@dataclass(frozen=True)
class Loop:
    """A loop of `extent` iterations; serial in a nest, unrolled in a statement."""

    var: str
    extent: int


# Expressions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Const:
    """A number."""

    value: Value
    dtype: Scalar


@dataclass(frozen=True)
class Position:
    """An affine function of loop variables as an integer value."""

    index: Affine
    dtype: Scalar


@dataclass(frozen=True)
class Load:
    """`array[indices]`, or zero where `guard` is false; only then may the indices lie outside of the array."""

    array: Array
    indices: tuple[Affine, ...]
    guard: Expr | None = None

    @property
    def dtype(self) -> Scalar:
        """That of the array."""
        return self.array.dtype


@dataclass(frozen=True)
class Ref:
    """The value that the statement `name` has computed in this iteration, in the lane `indices`."""

    name: str
    indices: tuple[Affine, ...]
    dtype: Scalar


@dataclass(frozen=True)
class Op:
    """One of ops.OPS on `args`; integers are computed exactly, then wrapped to `dtype`."""

    name: str
    args: tuple[Expr, ...]
    dtype: Scalar


@dataclass(frozen=True)
class Reduce:
    """`value` over all `lanes`, combined by the operation `name` in a balanced tree of neighbours."""

    name: str
    lanes: tuple[Loop, ...]
    value: Expr
    dtype: Scalar


@dataclass(frozen=True)
class Lookup:
    """`table[index]`: constants in look-up tables; an entry for each value of the unsigned index."""

    table: tuple[int, ...]
    index: Expr
    dtype: Scalar


Expr = Const | Position | Load | Ref | Op | Reduce | Lookup


def children(expr: Expr) -> tuple[Expr, ...]:
    """Direct operands."""
    if isinstance(expr, Op):
        return expr.args
    if isinstance(expr, Reduce):
        return (expr.value,)
    if isinstance(expr, Lookup):
        return (expr.index,)
    return (expr.guard,) if isinstance(expr, Load) and expr.guard is not None else ()


def walk(expr: Expr) -> Iterator[Expr]:
    """`expr` and everything in it."""
    yield expr
    for child in children(expr):
        yield from walk(child)


# Statements -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Let:
    """`name[lanes] = value`, for this iteration."""

    name: str
    lanes: tuple[Loop, ...]
    value: Expr


@dataclass(frozen=True)
class Stack:
    """`name`: the values `parts`, each over `lanes`, one beside the other along a new dimension before
    `lanes[axis]`."""

    name: str
    lanes: tuple[Loop, ...]
    axis: int
    parts: tuple[Expr, ...]

    @property
    def shape(self) -> Shape:
        """Of the whole."""
        lanes = [lane.extent for lane in self.lanes]
        return (*lanes[: self.axis], len(self.parts), *lanes[self.axis :])


@dataclass(frozen=True)
class Accumulate:
    """`name = array[indices] = op(init if first else array[indices], value)`.

    `array` is a local array of registers that nothing else touches; its indices are lanes and the serial loops
    inside of the innermost reduction loop: with E such iterations between two updates of one element, an adder of up
    to E cycles is never waited for.
    """

    name: str
    lanes: tuple[Loop, ...]
    array: Array
    indices: tuple[Affine, ...]
    op: str
    value: Expr
    first: Expr
    init: Expr


@dataclass(frozen=True)
class Store:
    """`array[indices] = value` where `guard` holds."""

    lanes: tuple[Loop, ...]
    array: Array
    indices: tuple[Affine, ...]
    value: Expr
    guard: Expr | None = None


@dataclass(frozen=True)
class Pop:
    """`name` = the next token of `stream` where `guard` holds, zeros elsewhere."""

    name: str
    stream: Stream
    guard: Expr | None = None


@dataclass(frozen=True)
class Push:
    """Appends a token to `stream` where `guard` holds; `lanes` run over the token's shape."""

    lanes: tuple[Loop, ...]
    stream: Stream
    value: Expr
    guard: Expr | None = None


Statement = Let | Stack | Accumulate | Store | Pop | Push


def statement_exprs(statement: Statement) -> tuple[Expr, ...]:
    """The expressions that a statement evaluates."""
    if isinstance(statement, Let):
        return (statement.value,)
    if isinstance(statement, Stack):
        return statement.parts
    if isinstance(statement, Accumulate):
        return (statement.value, statement.first, statement.init)
    guard = (statement.guard,) if statement.guard is not None else ()
    return guard if isinstance(statement, Pop) else (statement.value, *guard)


@dataclass(frozen=True)
class Nest:
    """Serial `loops`, the first outermost, over a body of which an iteration starts every `ii` cycles, or later."""

    name: str
    loops: tuple[Loop, ...]
    body: tuple[Statement, ...]
    ii: int = 1

    @property
    def trip(self) -> int:
        """Iterations."""
        return math.prod(loop.extent for loop in self.loops)

    @property
    def extents(self) -> dict[str, int]:
        """Extent by variable of the serial loops."""
        return {loop.var: loop.extent for loop in self.loops}

    def streams(self, kind: type) -> list[Stream]:
        """The streams that are popped from (kind Pop) or pushed to (Push), once each."""
        found = [s.stream for s in self.body if isinstance(s, kind) and isinstance(s, (Pop, Push))]
        return list(dict.fromkeys(found))

    def arrays(self) -> list[Array]:
        """The arrays that are touched, accumulators left out, once each."""
        found: list[Array] = []
        for statement in self.body:
            for top in statement_exprs(statement):
                found += [e.array for e in walk(top) if isinstance(e, Load)]
            if isinstance(statement, Store):
                found.append(statement.array)
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Kernel:
    """A kernel: see the module's text."""

    name: str
    arrays: tuple[Array, ...]
    nests: tuple[Nest, ...]
    streams: tuple[Stream, ...] = field(default=())
    dataflow: bool = False

    def role(self, role: str) -> tuple[Array, ...]:
        """The arrays of that role, in order."""
        return tuple(a for a in self.arrays if a.role == role)


def true() -> Const:
    """The condition that always holds."""
    return Const(1, BOOL)
