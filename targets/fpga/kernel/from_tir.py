"""Scheduled TIR as a loop kernel.

What is taken: a function of static shapes whose body is one or more perfect nests, one after the other, each around one
block that stores one element; loops from 0, serial ones to run over and unrolled or vectorized ones for lanes; indices
and predicates affine in the loops; integers of 1 to 64 bits, float16 and float32; the operations of `_BINARY`, casts
between integers, select. A block that reduces adds, or takes the maximum or minimum; the serial loops it is reduced
over stand together, with loops inside of them only where sums are interleaved on purpose. Everything else is refused by
name.

Parameters that are stored to become outputs, others inputs ("p_" before their names); banks follow from the lanes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tvm import tirx
from tvm.ir import TensorLoad, prim
from tvm.s_tir import SBlock, SBlockRealize

from ....compiler.errors import KompiloError
from ...shared.program import loads
from .affine import Affine, var
from .builder import NestBuilder, both, const, equals, kernel, op, reduce
from .ir import Array, Expr, Kernel, Load, Loop, Nest, Op, Position, walk
from .types import BOOL, scalar

_BINARY = {
    prim.Add: "add", prim.Sub: "sub", prim.Mul: "mul", prim.Max: "max", prim.Min: "min",
    prim.LT: "lt", prim.LE: "le", prim.EQ: "eq", prim.And: "and", prim.Or: "or",
}  # fmt: skip
# Comparisons that are others with their operands the other way round.
_SWAPPED = {prim.GT: "lt", prim.GE: "le"}
_COMBINERS = {prim.Add: "add", prim.Max: "max", prim.Min: "min"}
_LANES = (tirx.ForKind.UNROLLED, tirx.ForKind.VECTORIZED)


def kernel_of_tir(func: tirx.PrimFunc, name: str = "kernel") -> Kernel:
    """The kernel of a scheduled function; KompiloError says what it cannot take."""
    return _Reader(func, name).read()


@dataclass
class _Nest:
    """A nest of TIR: loops with whether each is unrolled, and its block's bindings."""

    loops: list[tuple[Loop, bool]]
    block: SBlock
    env: dict[tirx.Var, Affine]
    reduced: set[str] = field(default_factory=set)
    predicate: tirx.Expr | None = None

    def serial(self) -> list[Loop]:
        return [loop for loop, lanes in self.loops if not lanes]

    def lanes(self) -> list[Loop]:
        return [loop for loop, lanes in self.loops if lanes]


class _Reader:
    def __init__(self, func: tirx.PrimFunc, name: str):
        self.func, self.name = func, name
        self.arrays: dict[tirx.Buffer, Array] = {}

    def fail(self, expected: str, found: object) -> KompiloError:
        """The error to raise."""
        words = " ".join(str(found).split())
        return KompiloError(f"FPGA kernel {self.name}: expected {expected}, found {words[:120]}.")

    def read(self) -> Kernel:
        root = self.func.body
        temporaries: Sequence[tirx.Buffer] = ()
        if isinstance(root, SBlockRealize) and not root.block.iter_vars:
            temporaries, root = list(root.block.alloc_buffers), root.block.body
        statements = list(root.seq) if isinstance(root, tirx.SeqStmt) else [root]
        nests = [self._nest(s, k) for k, s in enumerate(statements)]
        stored = [n.block.body.buffer for n in nests]
        for buffer in (*self.func.params, *temporaries):
            local = any(buffer.same_as(t) for t in temporaries)
            role = "local" if local else "out" if any(buffer.same_as(b) for b in stored) else "in"
            self.arrays[buffer] = self._array(buffer, role, nests)
        made, sums = [], []
        for k, n in enumerate(nests):
            nest, accumulators = self._emit(n, k)
            made.append(nest)
            sums += accumulators
        return kernel(self.name, [*self.arrays.values(), *sums], made)

    # Reading ----------------------------------------------------------------------------------------------------------

    def _nest(self, statement: tirx.Stmt, number: int) -> _Nest:
        loops: list[tuple[Loop, bool]] = []
        variables: dict[tirx.Var, Affine] = {}
        while isinstance(statement, tirx.For):
            if not isinstance(statement.extent, tirx.IntImm) or int(statement.min) != 0:
                raise self.fail("loops from 0 to a constant", f"{statement.min} to {statement.extent}")
            if statement.kind not in (tirx.ForKind.SERIAL, *_LANES):
                raise self.fail("serial, unrolled or vectorized loops", tirx.ForKind(statement.kind).name)
            loop = Loop(f"l{number}_{len(loops)}_{_plain(statement.loop_var.name)}", int(statement.extent))
            loops.append((loop, statement.kind in _LANES))
            variables[statement.loop_var] = var(loop.var)
            statement = statement.body
        if not isinstance(statement, SBlockRealize):
            raise self.fail("a block in a perfect nest of loops", type(statement).__name__)
        block = statement.block
        if not isinstance(block.body, tirx.BufferStore) or block.alloc_buffers or block.match_buffers:
            raise self.fail("a block that stores one element", type(block.body).__name__)
        pairs = zip(block.iter_vars, statement.iter_values, strict=True)
        env = {i.var: self._affine(v, variables) for i, v in pairs}
        reduced = {v for i in block.iter_vars if i.iter_type == tirx.IterVar.CommReduce for v, _ in env[i.var].terms}
        always = isinstance(statement.predicate, tirx.IntImm) and int(statement.predicate) == 1
        return _Nest(loops, block, {**variables, **env}, reduced, None if always else statement.predicate)

    def _affine(self, e: tirx.Expr, env: Mapping[tirx.Var, Affine]) -> Affine:
        if isinstance(e, int | tirx.IntImm):
            return Affine(int(e))
        if isinstance(e, tirx.Var) and e in env:
            return env[e]
        if isinstance(e, prim.Cast):
            return self._affine(e.value, env)
        if isinstance(e, prim.Add | prim.Sub):
            a, b = self._affine(e.a, env), self._affine(e.b, env)
            return a + b if isinstance(e, prim.Add) else a - b
        if isinstance(e, prim.Mul):
            a, b = self._affine(e.a, env), self._affine(e.b, env)
            if a.terms and b.terms:
                raise self.fail("indices affine in the loops", e)
            return a * b.const if a.terms else b * a.const
        raise self.fail("indices affine in the loops", e)

    def _array(self, buffer: tirx.Buffer, role: str, nests: Sequence[_Nest]) -> Array:
        shape = []
        for size in buffer.shape:
            if not isinstance(size, int | tirx.IntImm):
                raise self.fail("buffers of static shapes", f"{buffer.name}{list(buffer.shape)}")
            shape.append(int(size))
        accesses = [
            ([self._affine(i, n.env) for i in access], n.lanes())
            for n in nests
            for access in _accesses(n.block.body, buffer)
        ]
        kept = tuple(_banks([(indices[d], lanes) for indices, lanes in accesses], s) for d, s in enumerate(shape))
        return Array(f"p_{_plain(buffer.name)}", tuple(shape), scalar(str(buffer.dtype)), "bram", kept, role)

    # Writing ----------------------------------------------------------------------------------------------------------

    def _emit(self, n: _Nest, number: int) -> tuple[Nest, list[Array]]:
        nest = NestBuilder(f"nest{number}")
        for loop in n.serial():
            nest.serial(loop.var, loop.extent)
        store = n.block.body
        target = self.arrays[store.buffer]
        indices = [self._affine(i, n.env) for i in store.indices]
        guard = self._expr(n.predicate, n, None) if n.predicate is not None else None
        if n.block.init is None:
            if n.reduced:
                raise self.fail("a reduction with its initial value in the block", n.block.name_hint)
            nest.store(target, indices, self._expr(store.value, n, guard), n.lanes(), guard)
            return nest.nest(), []
        return self._reduction(n, nest, target, indices, guard)

    def _reduction(
        self, n: _Nest, nest: NestBuilder, target: Array, indices: list[Affine], guard: Expr | None
    ) -> tuple[Nest, list[Array]]:
        store, init = n.block.body, n.block.init
        combine = _COMBINERS.get(type(store.value))
        own = isinstance(getattr(store.value, "a", None), TensorLoad) and store.value.a.source.same_as(store.buffer)
        if combine is None or not own or not isinstance(init, tirx.BufferStore):
            raise self.fail("buffer[i] = buffer[i] + term, or max or min of these", store.value)
        serial = [loop for loop in n.serial() if loop.extent > 1]
        reduced = [k for k, loop in enumerate(serial) if loop.var in n.reduced]
        if reduced and reduced != list(range(reduced[0], reduced[-1] + 1)):
            raise self.fail("the loops of a reduction to stand together", [loop.var for loop in serial])
        inside = serial[reduced[-1] + 1 :] if reduced else serial
        over = [lane for lane in n.lanes() if lane.var in n.reduced]
        lanes = [lane for lane in n.lanes() if lane.var not in n.reduced]
        start = self._expr(init.value, n, None)
        if guard is not None and combine != "add":
            raise self.fail("sizes that the loops divide where a maximum or minimum is taken", n.predicate)
        term = self._expr(store.value.b, n, guard)
        if guard is not None:
            term = op("select", guard, term, const(0.0 if target.dtype.is_float else 0, target.dtype))
        if over:
            term = reduce(combine, over, term)
        shape = [loop.extent for loop in (*inside, *lanes)] or [1]
        name = f"sums_{nest.name}"
        sums = Array(name, tuple(shape), target.dtype, "register", tuple(shape), "local")
        where = [var(loop.var) for loop in (*inside, *lanes)] or [Affine()]
        first, last = (self._at_end(serial, reduced, end) for end in (False, True))
        total = nest.accumulate(f"total_{nest.name}", sums, where, term, first, lanes, combine, start)
        lane = tuple(var(x.var) for x in lanes)
        nest.store(target, indices, total[lane], lanes, both(last, self._spatial(n)))
        return nest.nest(), [sums]

    def _at_end(self, serial: list[Loop], reduced: list[int], end: bool) -> Expr:
        """Whether all loops of the reduction are in their first, or last, iteration."""
        return both(*(equals(var(serial[k].var), serial[k].extent - 1 if end else 0) for k in reduced))

    def _spatial(self, n: _Nest) -> Expr | None:
        """The part of the block's predicate that does not depend on loops of the reduction."""
        kept = []
        for condition in _conjuncts(n.predicate):
            made = self._expr(condition, n, None)
            used = {v for e in walk(made) if isinstance(e, Position) for v, _ in e.index.terms}
            if used & n.reduced and used - n.reduced:
                raise self.fail("predicates of either spatial or reduced loops", condition)
            if not used & n.reduced:
                kept.append(made)
        return both(*kept) if kept else None

    def _expr(self, e: tirx.Expr, n: _Nest, guard: Expr | None) -> Expr:
        dtype = scalar(str(e.ty.dtype)) if isinstance(e, tirx.Expr) else BOOL
        if isinstance(e, TensorLoad):
            found = next((a for b, a in self.arrays.items() if b.same_as(e.source)), None)
            if found is None:
                raise self.fail("loads of parameters and temporaries", e)
            return Load(found, tuple(self._affine(i, n.env) for i in e.indices), guard)
        if isinstance(e, tirx.IntImm | tirx.FloatImm):
            return const(e.value, dtype)
        if isinstance(e, prim.Cast):
            inner = self._expr(e.value, n, guard)
            if inner.dtype.is_float or dtype.is_float:
                if inner.dtype != dtype:
                    raise self.fail("casts between integers", e)
                return inner
            return op("cast", inner, dtype=dtype)
        if type(e) in _BINARY or type(e) in _SWAPPED:
            return self._binary(e, n, guard)
        if isinstance(e, prim.Not):
            return op("not", self._expr(e.a, n, guard))
        if isinstance(e, prim.Select):
            parts = [self._expr(x, n, guard) for x in (e.condition, e.true_value, e.false_value)]
            return Op("select", tuple(parts), dtype)
        return Position(self._affine(e, n.env), dtype)

    def _binary(self, e: tirx.Expr, n: _Nest, guard: Expr | None) -> Expr:
        index = _is_index(e)
        if index and not isinstance(e, prim.And | prim.Or) and type(e) not in (prim.Max, prim.Min):
            if type(e) not in _SWAPPED and str(e.ty.dtype) != "bool":
                return Position(self._affine(e, n.env), scalar(str(e.ty.dtype)))
            args: list[Expr] = [Position(self._affine(x, n.env), scalar("int32")) for x in (e.a, e.b)]
        else:
            args = [self._expr(x, n, guard) for x in (e.a, e.b)]
        if type(e) in _SWAPPED:
            return op(_SWAPPED[type(e)], *reversed(args))
        return op(_BINARY[type(e)], *args, dtype=scalar(str(e.ty.dtype)))


def _conjuncts(predicate: tirx.Expr | None) -> list[tirx.Expr]:
    if predicate is None:
        return []
    return [*_conjuncts(predicate.a), *_conjuncts(predicate.b)] if isinstance(predicate, prim.And) else [predicate]


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def _is_index(e: tirx.Expr) -> bool:
    """Whether an expression is made of loop variables and constants, no loads."""
    if isinstance(e, tirx.Var):
        return True
    if isinstance(e, tirx.IntImm):
        return True
    parts = [getattr(e, x) for x in ("a", "b", "value") if hasattr(e, x)]
    return (
        bool(parts) and not isinstance(e, TensorLoad) and all(isinstance(p, tirx.Expr) and _is_index(p) for p in parts)
    )


def _accesses(store: tirx.BufferStore, buffer: tirx.Buffer) -> list[Sequence[tirx.Expr]]:
    """The indices of every access to `buffer`."""
    found = [store.indices] if store.buffer.same_as(buffer) else []
    return [*found, *(load.indices for load in loads(store.value) if load.source.same_as(buffer))]


def _banks(indices: Sequence[tuple[Affine, Sequence[Loop]]], size: int) -> int:
    """Banks of a dimension that suit all accesses; 1 if nothing does: then they take turns."""
    factor = min(size, math.lcm(*(_factor(index, lanes) for index, lanes in indices)))
    serial = (c for index, lanes in indices for v, c in index.terms if v not in {lane.var for lane in lanes})
    return factor if all(c % factor == 0 for c in serial) else 1


def _factor(index: Affine, lanes: Sequence[Loop]) -> int:
    """How many banks a dimension needs so that every lane has its own, if cyclic banks can do that; else 1."""
    own = [(abs(index.coefficient(lane.var)), lane.extent) for lane in lanes if index.coefficient(lane.var)]
    factor = 1
    for step, extent in sorted(own):
        factor = max(factor, step * extent)
    serial = [c for v, c in index.terms if v not in {lane.var for lane in lanes}]
    return factor if all(c % factor == 0 for c in serial) else 1
