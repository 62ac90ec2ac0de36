"""A nest's body with its lanes unrolled, as a graph of values: what the schedule, the resource model and the Verilog
are made from.

Integer nodes carry the range of values they can take, so that hardware is as wide as the numbers are, not as their
types.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from .affine import Affine, banked, flat
from .ir import (
    Accumulate,
    Array,
    Const,
    Expr,
    Kernel,
    Let,
    Load,
    Lookup,
    Loop,
    Nest,
    Pop,
    Position,
    Push,
    Reduce,
    Ref,
    Stack,
    Statement,
    Store,
    Stream,
)
from .ops import OPS
from .types import BOOL, Scalar, Value
from .validate import interleave


@dataclass(frozen=True)
class Node:
    """A value, or an effect ("store", "push") of an iteration.

    `kind`: "const", "position", "load", "lookup", "acc", "pop", "lane" (of a popped token), "store", "push", or an
    operation.
    `args` are numbers of nodes: of "acc" the value, whether it is the first, what to start from; of "store" the
    value and perhaps a guard, of "push" the token's elements and perhaps a guard.
    """

    kind: str
    args: tuple[int, ...]
    dtype: Scalar
    low: int = 0
    high: int = 0
    value: Value = 0
    array: Array | None = None
    bank: tuple[int, ...] = ()
    address: Affine = field(default_factory=Affine)
    stream: Stream | None = None
    lane: int = 0
    op: str = ""
    distance: int = 1
    guarded: bool = False
    table: tuple[int, ...] = ()

    @property
    def port(self) -> tuple[str, tuple[int, ...]]:
        """Array and bank of a load or store."""
        return (self.array.name if self.array else "", self.bank)

    @property
    def width(self) -> int:
        """Bits of a signed (bools: unsigned) wire that holds every value in range; that of a float."""
        return self.dtype.bits if self.dtype.is_float or self.dtype == BOOL else signed_width(self.low, self.high)


def signed_width(low: int, high: int) -> int:
    """Bits of the narrowest signed integer that holds both."""
    return max((~low if low < 0 else low).bit_length(), (~high if high < 0 else high).bit_length()) + 1


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which operands come first."""

    kernel: Kernel
    nest: Nest
    nodes: tuple[Node, ...]

    def of_kind(self, *kinds: str) -> list[int]:
        """Numbers of the nodes of these kinds, in order."""
        return [k for k, node in enumerate(self.nodes) if node.kind in kinds]


def elaborate(kernel: Kernel, nest: Nest) -> Graph:
    """The graph of one nest of a valid kernel."""
    return _Elaboration(kernel, nest).run()


class _Elaboration:
    def __init__(self, kernel: Kernel, nest: Nest):
        self.kernel, self.nest = kernel, nest
        self.extents = nest.extents
        self.nodes: list[Node] = []
        self.known: dict[Node, int] = {}
        self.values: dict[tuple[str, tuple[int, ...]], int] = {}

    def run(self) -> Graph:
        for statement in self.nest.body:
            self._statement(statement)
        return Graph(self.kernel, self.nest, tuple(self.nodes))

    def _add(self, node: Node) -> int:
        """The number of `node`; equal values are computed once, effects happen as often as they are stated."""
        effect = node.kind in ("store", "push", "pop", "acc")
        if not effect and node in self.known:
            return self.known[node]
        self.nodes.append(node)
        self.known[node] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def _statement(self, s: Statement) -> None:
        if isinstance(s, Pop):
            self._pop(s)
            return
        points = list(_points(s.lanes))
        if isinstance(s, Stack):
            for k, part in enumerate(s.parts):
                for point, env in points:
                    self.values[s.name, (*point[: s.axis], k, *point[s.axis :])] = self._expr(part, env)
            return
        found = {point: self._value(s, env) for point, env in points}
        if isinstance(s, (Let, Accumulate)):
            self.values |= {(s.name, point): node for point, node in found.items()}
        elif isinstance(s, Push):
            guard = (self._expr(s.guard, {}),) if s.guard is not None else ()
            args = (*found.values(), *guard)
            self._add(Node("push", args, s.stream.dtype, stream=s.stream, guarded=bool(guard)))
        else:
            for point, env in points:
                guard = (self._expr(s.guard, env),) if s.guard is not None else ()
                bank, address = self._bank(s, env)
                node = Node("store", (found[point], *guard), s.array.dtype, array=s.array, bank=bank, address=address)
                self._add(replace(node, guarded=bool(guard)))

    def _value(self, s: Let | Accumulate | Push | Store, env: Mapping[str, int]) -> int:
        value = self._expr(s.value, env)
        if not isinstance(s, Accumulate):
            return value
        args = (value, self._expr(s.first, env), self._expr(s.init, env))
        dtype = s.array.dtype
        lane = flat((i.fix(env).fix(dict.fromkeys(self.extents, 0)) for i in s.indices), s.array.shape).const
        node = Node("acc", args, dtype, *_bounds(dtype), op=s.op, array=s.array, lane=lane)
        return self._add(replace(node, distance=interleave(self.nest, s)))

    def _pop(self, s: Pop) -> None:
        guard = (self._expr(s.guard, {}),) if s.guard is not None else ()
        pop = self._add(Node("pop", guard, s.stream.dtype, stream=s.stream, guarded=bool(guard)))
        for k, point in enumerate(itertools.product(*(range(n) for n in s.stream.shape))):
            lane = Node("lane", (pop,), s.stream.dtype, *_bounds(s.stream.dtype), lane=k)
            self.values[s.name, point] = self._add(lane)

    def _bank(self, access: Load | Store, env: Mapping[str, int]) -> tuple[tuple[int, ...], Affine]:
        found = banked([i.fix(env) for i in access.indices], access.array.shape, access.array.factors)
        assert found is not None, "validate() has checked it"
        return found

    def _expr(self, e: Expr, env: Mapping[str, int]) -> int:
        if isinstance(e, Const):
            low = 0 if e.dtype.is_float else int(e.value)
            return self._add(Node("const", (), e.dtype, low, low, value=e.value))
        if isinstance(e, Position):
            index = e.index.fix(env)
            return self._add(Node("position", (), e.dtype, *index.bounds(self.extents), address=index))
        if isinstance(e, Load):
            return self._load(e, env)
        if isinstance(e, Ref):
            return self.values[e.name, tuple(i.at(env) for i in e.indices)]
        if isinstance(e, Reduce):
            return self._reduce(e, env)
        if isinstance(e, Lookup):
            ends = min(e.table), max(e.table)
            return self._add(Node("lookup", (self._expr(e.index, env),), e.dtype, *ends, table=e.table))
        return self._op(e.name, [self._expr(a, env) for a in e.args], e.dtype)

    def _load(self, e: Load, env: Mapping[str, int]) -> int:
        bank, address = self._bank(e, env)
        load = self._add(Node("load", (), e.dtype, *_bounds(e.dtype), array=e.array, bank=bank, address=address))
        if e.guard is None:
            return load
        zero = self._add(Node("const", (), e.dtype, 0, 0, value=0.0 if e.dtype.is_float else 0))
        return self._op("select", [self._expr(e.guard, env), load, zero], e.dtype)

    def _reduce(self, e: Reduce, env: Mapping[str, int]) -> int:
        terms = [self._expr(e.value, {**env, **point}) for _, point in _points(e.lanes)]
        while len(terms) > 1:
            pairs = [self._op(e.name, terms[k : k + 2], e.dtype) for k in range(0, len(terms) - 1, 2)]
            terms = pairs + terms[len(terms) // 2 * 2 :]
        return terms[0]

    def _op(self, name: str, args: list[int], dtype: Scalar) -> int:
        if dtype.is_float:
            return self._add(Node(name, tuple(args), dtype))
        operands = [self.nodes[a] for a in args]
        if any(o.dtype.is_float for o in operands):
            return self._add(Node(name, tuple(args), dtype, *OPS[name].bounds(*((0, 0) for _ in operands))))
        low, high = OPS[name].bounds(*((o.low, o.high) for o in operands))
        if not dtype.low <= low <= high <= dtype.high:
            low, high = dtype.low, dtype.high
        elif name == "cast":
            return args[0]  # the same number, and as wide
        return self._add(Node(name, tuple(args), dtype, low, high))


def _points(lanes: Iterable[Loop]) -> Iterable[tuple[tuple[int, ...], dict[str, int]]]:
    lanes = tuple(lanes)
    for point in itertools.product(*(range(lane.extent) for lane in lanes)):
        yield point, dict(zip((lane.var for lane in lanes), point, strict=True))


def _bounds(dtype: Scalar) -> tuple[int, int]:
    return (0, 0) if dtype.is_float else (dtype.low, dtype.high)
