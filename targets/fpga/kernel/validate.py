"""Checks of a kernel, with errors that name the nest and the statement; every consumer relies on them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping

from ....compiler.errors import KompiloError
from .affine import Affine, banked
from .ir import (
    MEMORIES,
    ROLES,
    Accumulate,
    Array,
    Expr,
    Kernel,
    Let,
    Load,
    Lookup,
    Loop,
    Nest,
    Op,
    Pop,
    Position,
    Push,
    Reduce,
    Ref,
    Stack,
    Statement,
    Store,
    children,
    statement_exprs,
    walk,
)
from .ops import COMBINERS, OPS, SHIFTS
from .types import BOOL, Scalar

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Words that C++ or Verilog keep for themselves, as far as one would call an array so.
_RESERVED = frozenset(
    [
        "auto",
        "bool",
        "char",
        "class",
        "const",
        "double",
        "else",
        "float",
        "for",
        "if",
        "in",
        "inout",
        "input",
        "int",
        "long",
        "module",
        "new",
        "output",
        "reg",
        "return",
        "short",
        "signed",
        "static",
        "struct",
        "this",
        "unsigned",
        "union",
        "void",
        "wire",
        "case",
        "default",
        "do",
        "while",
        "begin",
        "end",
        "integer",
        "real",
    ]
)


def fail(message: str) -> None:
    """Raises KompiloError."""
    raise KompiloError(f"FPGA kernel {message}")


def expect(condition: bool, message: str) -> None:
    """Raises KompiloError unless `condition`."""
    if not condition:
        fail(message)


def validate(kernel: Kernel) -> None:
    """Raises KompiloError, naming what is unsound, unless every consumer can take `kernel`."""
    where = kernel.name
    names = [kernel.name, *(a.name for a in kernel.arrays), *(s.name for s in kernel.streams)]
    names += [n.name for n in kernel.nests]
    for name in names:
        expect(
            bool(_NAME.fullmatch(name)) and name not in _RESERVED, f"{where}: expected a plain name, found {name!r}."
        )
    expect(len(set(names)) == len(names), f"{where}: expected different names, found {sorted(names)}.")
    for array in kernel.arrays:
        _check_array(array, where)
    expect(bool(kernel.nests), f"{where}: expected at least one nest.")
    for nest in kernel.nests:
        _NestCheck(kernel, nest).run()
    _check_streams(kernel)
    if kernel.dataflow:
        users = [a.name for nest in kernel.nests for a in nest.arrays()]
        shared = {n for n in users if users.count(n) > 1}
        expect(not shared, f"{where}: expected nests that run at once to share streams only, found arrays {shared}.")


def _check_array(a: Array, where: str) -> None:
    expect(
        a.memory in MEMORIES, f"{where}, array {a.name}: expected memory of {', '.join(MEMORIES)}, found {a.memory!r}."
    )
    expect(a.role in ROLES, f"{where}, array {a.name}: expected a role of {', '.join(ROLES)}, found {a.role!r}.")
    expect(bool(a.shape) and min(a.shape) >= 1, f"{where}, array {a.name}: expected sizes above 0, found {a.shape}.")
    fits = len(a.factors) == len(a.shape) and all(1 <= f <= n for f, n in zip(a.factors, a.shape, strict=False))
    expect(
        fits, f"{where}, array {a.name}: expected a factor per dimension in 1..size, found {a.factors} of {a.shape}."
    )
    registers = a.memory != "register" or a.depth == 1
    expect(registers, f"{where}, array {a.name}: expected a bank for each register, found factors {a.factors}.")


def _check_streams(kernel: Kernel) -> None:
    order = {nest.name: k for k, nest in enumerate(kernel.nests)}
    for stream in kernel.streams:
        ends = {
            kind: [n for n in kernel.nests for s in n.body if isinstance(s, kind) and s.stream == stream]
            for kind in (Push, Pop)
        }
        for kind, nests in ends.items():
            found = f"{kernel.name}, stream {stream.name}: expected one {kind.__name__}, found {len(nests)}."
            expect(len(nests) == 1, found)
        forward = order[ends[Push][0].name] < order[ends[Pop][0].name]
        expect(
            forward, f"{kernel.name}, stream {stream.name}: expected to be filled by a nest before that which reads."
        )
        expect(
            stream.depth >= 1, f"{kernel.name}, stream {stream.name}: expected a depth above 0, found {stream.depth}."
        )
    known = set(kernel.streams)
    used = {s.stream for n in kernel.nests for s in n.body if isinstance(s, (Push, Pop))}
    expect(used <= known, f"{kernel.name}: expected streams of the kernel, found {[s.name for s in used - known]}.")


class _NestCheck:
    """Checks of one nest."""

    def __init__(self, kernel: Kernel, nest: Nest):
        self.nest = nest
        self.where = f"{kernel.name}, nest {nest.name}"
        self.arrays = set(kernel.arrays)
        self.streams = {s.name for s in kernel.streams}
        self.values: dict[str, tuple[tuple[int, ...], Scalar]] = {}
        self.lanes: set[str] = set()
        self.stored: set[str] = set()
        self.accumulated: set[str] = set()

    def run(self) -> None:
        """All checks."""
        nest = self.nest
        expect(nest.ii >= 1, f"{self.where}: expected an initiation interval above 0, found {nest.ii}.")
        names = [loop.var for loop in nest.loops]
        expect(len(set(names)) == len(names), f"{self.where}: expected different loop variables, found {names}.")
        expect(all(loop.extent >= 1 for loop in nest.loops), f"{self.where}: expected loops of 1 iteration or more.")
        effects = any(isinstance(s, (Store, Push)) for s in nest.body)
        expect(effects, f"{self.where}: expected a statement that stores or pushes.")
        for number, statement in enumerate(nest.body):
            self._statement(statement, f"{self.where}, statement {number} ({type(statement).__name__})")
        others = {*(a.name for a in self.arrays), *self.streams, *(loop.var for loop in nest.loops)}
        twice = sorted({*others} & {*self.values, *self.lanes} | {*self.lanes} & {*self.values})
        expect(not twice, f"{self.where}: expected names that mean one thing, found {twice}.")
        plain = {a.name for a in nest.arrays()}
        clash = self.accumulated & plain
        expect(not clash, f"{self.where}: expected accumulators that nothing else touches, found {sorted(clash)}.")

    def _statement(self, s: Statement, where: str) -> None:
        lanes = () if isinstance(s, Pop) else s.lanes
        extents = self._extents(lanes, where)
        for expr in statement_exprs(s):
            self._expr(expr, extents, where)
        guard = getattr(s, "guard", None)
        expect(guard is None or guard.dtype == BOOL, f"{where}: expected a bool as guard.")
        if isinstance(s, Store):
            self._store(s, extents, where)
        elif isinstance(s, Accumulate):
            self._accumulate(s, extents, where)
        elif isinstance(s, Push):
            shape = tuple(lane.extent for lane in s.lanes)
            expect(shape == s.stream.shape, f"{where}: expected lanes {s.stream.shape}, found {shape}.")
            expect(s.value.dtype == s.stream.dtype, f"{where}: expected {s.stream.dtype}, found {s.value.dtype}.")
        if isinstance(s, Stack):
            types = {part.dtype for part in s.parts}
            alike = len(types) == 1 and 0 <= s.axis <= len(s.lanes)
            expect(alike, f"{where}: expected parts of one type and an axis of theirs, found {s.axis}, {types}.")
        if not isinstance(s, (Store, Push)):
            shape, dtype = _signature(s)
            fresh = s.name not in self.values and s.name not in {loop.var for loop in self.nest.loops}
            plain = bool(_NAME.fullmatch(s.name)) and s.name not in _RESERVED
            expect(fresh and plain, f"{where}: expected a new plain name, found {s.name!r}.")
            self.values[s.name] = (shape, dtype)

    def _extents(self, lanes: Iterable[Loop], where: str, outer: Mapping[str, int] | None = None) -> dict[str, int]:
        extents = dict(outer if outer is not None else self.nest.extents)
        for lane in lanes:
            expect(lane.var not in extents and lane.extent >= 1, f"{where}: expected a new lane, found {lane}.")
            extents[lane.var] = lane.extent
            self.lanes.add(lane.var)
        return extents

    def _affine(self, index: Affine, extents: Mapping[str, int], where: str) -> None:
        unknown = [v for v, _ in index.terms if v not in extents]
        expect(not unknown, f"{where}: expected variables of loops around, found {unknown}.")

    def _access(
        self, a: Array, indices: tuple[Affine, ...], extents: Mapping[str, int], inside: bool, where: str
    ) -> None:
        expect(a in self.arrays, f"{where}: expected an array of the kernel, found {a.name}.")
        expect(len(indices) == len(a.shape), f"{where}: expected {len(a.shape)} indices of {a.name}.")
        for index, size in zip(indices, a.shape, strict=True):
            self._affine(index, extents, where)
            low, high = index.bounds(extents)
            bad = f"{where}: expected indices of {a.name} in 0..{size - 1}, found {index} in {low}..{high}."
            expect(not inside or (low >= 0 and high < size), bad)

    def _one_bank(self, a: Array, indices: tuple[Affine, ...], extents: Mapping[str, int], where: str) -> None:
        serial = {loop.var for loop in self.nest.loops}
        lane_free = tuple(i.fix({v: 0 for v in extents if v not in serial}) for i in indices)
        text = ", ".join(str(i) for i in indices)
        static = banked(lane_free, a.shape, a.factors) is not None
        expect(
            static, f"{where}: expected one bank of {a.name} by factors {a.factors}, found {a.name}[{text}] in several."
        )

    def _expr(self, e: Expr, extents: Mapping[str, int], where: str) -> None:
        inner = extents
        if isinstance(e, Reduce):
            expect(e.name in COMBINERS, f"{where}: expected a reduction by {', '.join(COMBINERS)}, found {e.name!r}.")
            expect(e.value.dtype.is_float == e.dtype.is_float, f"{where}: expected {e.dtype}, found {e.value.dtype}.")
            expect(e.dtype != BOOL, f"{where}: expected a reduction to numbers, found {e.dtype}.")
            inner = self._extents(e.lanes, where, extents)
        elif isinstance(e, Load):
            self._access(e.array, e.indices, extents, e.guard is None, where)
            self._one_bank(e.array, e.indices, extents, where)
            late = e.array.name in self.stored
            expect(not late, f"{where}: expected loads of {e.array.name} before the stores to it.")
        elif isinstance(e, Ref):
            self._ref(e, extents, where)
        elif isinstance(e, Position):
            self._affine(e.index, extents, where)
        elif isinstance(e, Op):
            _check_op(e, where)
        elif isinstance(e, Lookup):
            _check_lookup(e, where)
        for child in children(e):
            self._expr(child, inner, where)

    def _ref(self, e: Ref, extents: Mapping[str, int], where: str) -> None:
        expect(e.name in self.values, f"{where}: expected a value that was computed before, found {e.name!r}.")
        shape, dtype = self.values[e.name]
        expect(
            len(shape) == len(e.indices), f"{where}: expected {len(shape)} lanes of {e.name}, found {len(e.indices)}."
        )
        expect(dtype == e.dtype, f"{where}: expected {e.name} as {dtype}, found {e.dtype}.")
        serial = {loop.var for loop in self.nest.loops}
        for index, size in zip(e.indices, shape, strict=True):
            self._affine(index, extents, where)
            low, high = index.bounds(extents)
            fixed = not any(v in serial for v, _ in index.terms)
            expect(
                fixed and low >= 0 and high < size,
                f"{where}: expected a lane of {e.name} in 0..{size - 1}, found {index}.",
            )

    def _store(self, s: Store, extents: Mapping[str, int], where: str) -> None:
        self._access(s.array, s.indices, extents, s.guard is None, where)
        self._one_bank(s.array, s.indices, extents, where)
        loads = [e for top in statement_exprs(s) for e in walk(top) if isinstance(e, Load) and e.array == s.array]
        expect(not loads, f"{where}: expected what is loaded of {s.array.name} to be named by an earlier statement.")
        expect(s.array.role != "in", f"{where}: expected an array to write, found the input {s.array.name}.")
        expect(s.value.dtype == s.array.dtype, f"{where}: expected {s.array.dtype}, found {s.value.dtype}.")
        self.stored.add(s.array.name)

    def _accumulate(self, s: Accumulate, extents: Mapping[str, int], where: str) -> None:
        self._access(s.array, s.indices, extents, True, where)
        kind = (s.array.memory, s.array.role)
        expect(kind == ("register", "local"), f"{where}: expected local registers, found {kind[1]} array in {kind[0]}.")
        expect(s.op in COMBINERS, f"{where}: expected one of {', '.join(COMBINERS)}, found {s.op!r}.")
        types = {s.value.dtype.is_float, s.init.dtype.is_float, s.array.dtype.is_float}
        expect(s.array.dtype != BOOL, f"{where}: expected an accumulator of numbers, found {s.array.dtype}.")
        expect(len(types) == 1, f"{where}: expected values of the kind of {s.array.dtype}.")
        expect(s.first.dtype == BOOL, f"{where}: expected a bool that tells the first iteration.")
        expect(s.array.name not in self.accumulated, f"{where}: expected one accumulation into {s.array.name}.")
        self.accumulated.add(s.array.name)
        interleave(self.nest, s)
        inner = {v: e for v, e in extents.items() if any(i.coefficient(v) for i in s.indices)}
        cells = {
            tuple(i.at(dict(zip(inner, point, strict=True))) for i in s.indices)
            for point in itertools.product(*(range(e) for e in inner.values()))
        }
        lanes = math.prod(lane.extent for lane in s.lanes if lane.var not in inner)
        distinct = len(cells) == math.prod(inner.values()) and lanes == 1
        expect(distinct, f"{where}: expected an element of {s.array.name} for each lane and interleaved iteration.")


def interleave(nest: Nest, s: Accumulate) -> int:
    """Iterations between two updates of one element; KompiloError if that is not always the same."""
    used = {v for i in s.indices for v, _ in i.terms}
    outside = [k for k, loop in enumerate(nest.loops) if loop.var not in used and loop.extent > 1]
    last = outside[-1] if outside else -1
    early = [loop.var for loop in nest.loops[: last + 1] if loop.var in used and loop.extent > 1]
    order = f"nest {nest.name}, accumulator {s.array.name}: expected its loops inside of those it is summed over"
    expect(not early, f"{order}, found {early} outside.")
    return math.prod(loop.extent for loop in nest.loops[last + 1 :])


def _signature(s: Let | Stack | Accumulate | Pop) -> tuple[tuple[int, ...], Scalar]:
    """Shape and type of what a statement names."""
    if isinstance(s, Pop):
        return s.stream.shape, s.stream.dtype
    if isinstance(s, Stack):
        return s.shape, s.parts[0].dtype
    return tuple(lane.extent for lane in s.lanes), s.value.dtype if isinstance(s, Let) else s.array.dtype


def _check_op(e: Op, where: str) -> None:
    expect(e.name in OPS, f"{where}: expected an operation of {', '.join(OPS)}, found {e.name!r}.")
    info = OPS[e.name]
    expect(len(e.args) == info.arity, f"{where}: expected {info.arity} operands of {e.name}, found {len(e.args)}.")
    if info.types:
        found = (e.args[0].dtype, e.dtype)
        expect(found == info.types, f"{where}: expected {e.name} from {info.types[0]} to {info.types[1]}.")
        return
    data = e.args[1:] if e.name == "select" else e.args
    kinds = {a.dtype if a.dtype.is_float else None for a in data}
    expect(
        len(kinds) == 1, f"{where}: expected operands of one kind for {e.name}, found {[str(a.dtype) for a in data]}."
    )
    floating = data[0].dtype.is_float
    expect(info.floats or not floating, f"{where}: expected integers for {e.name}, found {data[0].dtype}.")
    if info.compares:
        expect(e.dtype == BOOL, f"{where}: expected {e.name} to give a bool, found {e.dtype}.")
    else:
        same = e.dtype == data[0].dtype if floating else not e.dtype.is_float
        expect(same, f"{where}: expected {e.name} of {data[0].dtype} to give that kind, found {e.dtype}.")
    logical = e.name in ("and", "or", "not")
    expect(not logical or all(a.dtype == BOOL for a in e.args), f"{where}: expected bools for {e.name}.")
    expect(e.name != "select" or e.args[0].dtype == BOOL, f"{where}: expected a bool to select by.")
    fixed = e.name not in SHIFTS or not any(True for a in walk(e.args[1]) if type(a).__name__ != "Const")
    expect(fixed, f"{where}: expected to shift by a constant.")
    amount = e.name != "shrv" or (e.args[1].dtype.kind == "uint" and e.args[1].dtype.bits <= 6)
    expect(amount, f"{where}: expected to shift by uint1 to uint6, found {e.args[-1].dtype}.")


def _check_lookup(e: Lookup, where: str) -> None:
    bits = e.index.dtype.bits
    expect(e.index.dtype.kind == "uint" and bits <= 12, f"{where}: expected an index of uint1 to uint12.")
    expect(len(e.table) == 1 << bits, f"{where}: expected a table of {1 << bits} entries, found {len(e.table)}.")
    fits = not e.dtype.is_float and e.dtype.low <= min(e.table) <= max(e.table) <= e.dtype.high
    expect(fits, f"{where}: expected a table of {e.dtype}, found {min(e.table)}..{max(e.table)}.")
