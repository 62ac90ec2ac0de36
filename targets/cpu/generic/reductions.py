"""Loops for groups of stages with reductions, tile by tile (see groups.py and tiles.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import Stmt

from ....compiler.schedule.target_spec import CpuSpec
from ...shared.access import Views, analyzer_for, flat_index, flatten_group_stage, stride
from ...shared.groups import Group
from ...shared.loops import (
    Index,
    ceildiv,
    floordiv,
    floormod,
    i64,
    loop,
    minimum,
    nest,
    parallel_nest,
    product,
    seq,
    static,
    strip_mine,
    unrolled,
    vector,
    when,
)
from ...shared.program import COMBINERS, Axis, Stage, cost, loads, map_loads, substitute
from .maps import enough_work, estimate, task_count
from .tiles import Tiling, choose_tiling

# Scratch up to this many bytes lives on the stack.
_STACK_BYTES = 16 * 1024


def emit_group(group: Group, inner: frozenset[tirx.Buffer], views: Views, spec: CpuSpec) -> Stmt:
    """The loops of `group`. Buffers in `inner` are needed by nobody else and kept per tile."""
    flat = [flatten_group_stage(s, inner, views) for s in group.stages]
    tiling = choose_tiling(group, flat, spec)
    largest = max(group.stages, key=lambda s: estimate([a.extent for a in s.all_axes]))
    extents = [a.extent for a in largest.all_axes]
    unit = sum(1 + cost(s.value) for s in group.stages)
    tasks = task_count(estimate(extents) * unit, spec)
    enough = enough_work(extents, unit, spec)

    def all_pieces(count: int) -> Stmt:
        return seq([_TileEmitter(group, flat, inner, views, piece).emit(count) for piece in _pieces(group, tiling)])

    return all_pieces(tasks) if enough is None else when(enough, all_pieces(tasks), all_pieces(1))


@dataclass(frozen=True, eq=False)
class _Piece:
    """The part of a group's tiles that has these block sizes: `counts` tiles per axis from `firsts` on."""

    blocks: tuple[int, ...]
    lanes: int
    counts: tuple[Index, ...]
    firsts: tuple[Index, ...]


def _pieces(group: Group, tiling: Tiling) -> list[_Piece]:
    """One piece if all blocked extents are known; otherwise whole blocks and single elements of each unknown one."""
    pieces = [_Piece((), tiling.lanes, (), ())]
    for k, (axis, block) in enumerate(zip(group.shared, tiling.blocks, strict=True)):
        options: list[tuple[int, Index, Index]] = [(block, ceildiv(axis.extent, block), 0)]
        if block > 1 and not static(axis.extent):
            whole = floordiv(axis.extent, block)
            options = [(block, whole, 0), (1, floormod(axis.extent, block), whole * block)]
        is_strip = tiling.strip and k == len(group.shared) - 1
        pieces = [
            _Piece((*p.blocks, size), 1 if is_strip and size == 1 else p.lanes, (*p.counts, count), (*p.firsts, first))
            for p in pieces
            for size, count, first in options
        ]
    return pieces


class _TileEmitter:
    """Writes the loops over tiles, and inside them those of each stage."""

    def __init__(
        self, group: Group, flat: Sequence[Stage], inner: frozenset[tirx.Buffer], views: Views, tiling: _Piece
    ) -> None:
        self.group, self.flat, self.views, self.tiling = group, flat, views, tiling
        self.number = {s.buffer: k for k, s in enumerate(group.stages) if s.buffer in inner}
        self.scratch = {b: self._scratch(b, k) for b, k in self.number.items()}

    def emit(self, tasks: int) -> Stmt:
        """Loops over all tiles of the piece."""

        def body(tile: list[Index]) -> Stmt:
            bases = []
            for axis, block, first, t in zip(
                self.group.shared, self.tiling.blocks, self.tiling.firsts, tile, strict=True
            ):
                exact = block == 1 or not static(axis.extent) or axis.extent % block == 0
                # The last tile overlaps the one before.
                bases.append(t * block + first if exact else minimum(t * block, axis.extent - block))
            return seq([self._stage(k, bases) for k in range(len(self.flat))])

        return parallel_nest(self.tiling.counts, tasks, body, self._with_scratch)

    def _with_scratch(self, body: Stmt) -> Stmt:
        return seq([*(tirx.AllocBuffer(b) for b in self.scratch.values()), body])

    def _scratch(self, buffer: tirx.Buffer, number: int) -> tirx.Buffer:
        size = product(self._scratch_shape(number))
        nbytes = size * 8 if static(size) else None
        scope = "local" if nbytes is not None and nbytes <= _STACK_BYTES else "global"
        return tirx.decl_buffer([i64(size)], buffer.dtype, f"{buffer.name}_tile", scope=scope)

    def _order(self, number: int) -> list[tuple[int, Index]]:
        """Axes of a stage inside a tile with their extents there: unshared ones first, then blocks, the strip last."""
        stage, places = self.group.stages[number], self.group.places[number]
        local = [(k, a.extent) for k, a in enumerate(stage.axes) if k not in places]
        return local + [(k, b) for k, b in zip(places, self.tiling.blocks, strict=True) if b != 1]

    def _scratch_shape(self, number: int) -> list[Index]:
        return [extent for _, extent in self._order(number)]

    def _scratch_load(self, load: TensorLoad, at: dict[tirx.Var, Index]) -> tirx.Expr:
        number = self.number[load.source]
        places = self.group.places[number]
        position: Index = 0
        for k, extent in self._order(number):
            index = load.indices[k]
            # A shared axis is read at the reader's own coordinate: inside the tile that is its loop variable.
            here = at[index] if k in places else substitute(index, {v: i64(i) for v, i in at.items()})
            position = position * extent + here
        return tirx.BufferLoad(self.scratch[load.source], [i64(position)])

    def _value(self, number: int, at: dict[tirx.Var, Index], bases: list[Index]) -> tirx.Expr:
        """The value of a stage at tile coordinates `at` (one per axis that has a loop inside the tile)."""
        stage = self.flat[number]
        inside = {a.var: at.get(a.var, 0) for a in stage.all_axes}
        absolute = {a.var: i64(inside[a.var]) for a in stage.all_axes}
        for place, base in zip(self.group.places[number], bases, strict=True):
            var = self.group.stages[number].axes[place].var
            absolute[var] = i64(inside[var] + base)
        tokens: dict[tirx.Var, tirx.Expr] = {}

        def change(load: TensorLoad) -> tirx.Expr:
            if load.source not in self.number:
                return load
            # A stand-in, so that the coordinates inside the tile are not rewritten as absolute ones.
            token = tirx.Var("token", load.ty.dtype)
            tokens[token] = self._scratch_load(load, inside)
            return token

        return substitute(substitute(map_loads(stage.value, change), absolute), tokens)

    def _store(self, number: int, at: dict[tirx.Var, Index], bases: list[Index], value: tirx.Expr) -> Stmt:
        stage = self.group.stages[number]
        if stage.buffer in self.scratch:
            position: Index = 0
            for k, extent in self._order(number):
                position = position * extent + at.get(stage.axes[k].var, 0)
            return tirx.BufferStore(self.scratch[stage.buffer], value, [i64(position)])
        base = dict(zip(self.group.places[number], bases, strict=True))
        indices = [i64(at.get(a.var, 0) + base.get(k, 0)) for k, a in enumerate(stage.axes)]
        return tirx.BufferStore(self.views.view(stage.buffer), value, [flat_index(stage.buffer, indices)])

    def _stage(self, number: int, bases: list[Index]) -> Stmt:
        """All of a stage that belongs to the tile at `bases`."""
        stage = self.group.stages[number]
        axes = [(stage.axes[k], extent) for k, extent in self._order(number)]
        if stage.reduce:
            return self._reduction(number, axes, bases)

        def body(outer: list[Index], loops: Sequence[tuple[Axis, Index]], i: Index) -> Stmt:
            at = dict(zip((a.var for a, _ in loops), [*outer, i], strict=True))
            return self._store(number, at, bases, self._value(number, at, bases))

        if not axes:
            return self._store(number, {}, bases, self._value(number, {}, bases))
        *outer, (inner, extent) = axes
        lanes = self.tiling.lanes if self._contiguous(number, inner) else 1
        return nest(
            [e for _, e in outer],
            lambda at: (
                strip_mine(extent, lanes, lambda i: body(at, axes, i))
                if lanes > 1
                else loop(extent, lambda i: body(at, axes, i))
            ),
        )

    def _contiguous(self, number: int, axis: Axis) -> bool:
        """Whether all external reads of a stage advance by one element or none along `axis`."""
        stage = self.flat[number]
        analyzer = analyzer_for(stage.all_axes)
        steps = [stride(x.indices[0], axis, analyzer) for x in loads(stage.value) if x.source not in self.number]
        return all(static(s) and s in (0, 1) for s in steps)

    def _reduction(self, number: int, axes: Sequence[tuple[Axis, Index]], bases: list[Index]) -> Stmt:
        stage = self.flat[number]
        places = self.group.places[number]
        blocked = sum(1 for b in self.tiling.blocks if b != 1)
        outer, tile = (axes[: len(axes) - blocked], axes[len(axes) - blocked :]) if places else (axes, [])

        def body(index: list[Index]) -> Stmt:
            at = dict(zip((a.var for a, _ in outer), index, strict=True))
            if tile:
                return self._accumulate_strip(number, tile, at, bases)
            if self._reduces_along_vectors(stage):
                return self._accumulate_lanes(number, at, bases)
            return self._accumulate_scalar(number, at, bases)

        return nest([e for _, e in outer], body)

    def _reduces_along_vectors(self, stage: Stage) -> bool:
        inner = stage.reduce[-1]
        if self.tiling.lanes < 2 or (static(inner.extent) and inner.extent < 2 * self.tiling.lanes):
            return False
        analyzer = analyzer_for(stage.all_axes)
        steps = [stride(x.indices[0], inner, analyzer) for x in loads(stage.value) if x.source not in self.number]
        return all(static(s) and s in (0, 1) for s in steps)

    def _accumulate_strip(
        self, number: int, tile: Sequence[tuple[Axis, Index]], at: dict[tirx.Var, Index], bases: list[Index]
    ) -> Stmt:
        """All results of the tile in registers while the reduction runs."""
        stage = self.flat[number]
        extents = [int(e) for _, e in tile]
        registers = _Registers(stage, int(product(extents)))

        def each(body: Callable[[dict[tirx.Var, Index], Index], Stmt]) -> Stmt:
            *rows, width = extents

            def point(row: list[Index], i: Index) -> Stmt:
                flat: Index = 0
                for r, e in zip([*row, i], extents, strict=True):
                    flat = flat * e + r
                return body({**at, **dict(zip((a.var for a, _ in tile), [*row, i], strict=True))}, flat)

            def level(done: list[Index]) -> Stmt:
                if len(done) < len(rows):
                    return unrolled(rows[len(done)], lambda r: level([*done, r]))
                lanes = min(self.tiling.lanes, width)
                return unrolled(width // lanes, lambda u: vector(lanes, lambda k: point(done, u * lanes + k)))

            return level([])

        def step(k: list[Index]) -> Stmt:
            reduce = dict(zip((a.var for a in stage.reduce), k, strict=True))
            return each(lambda p, r: registers.combine(r, self._value(number, {**p, **reduce}, bases)))

        return seq(
            [
                registers.allocate(),
                each(lambda p, r: registers.initialise(r)),
                nest([a.extent for a in stage.reduce], step),
                each(lambda p, r: self._store(number, p, bases, registers.load(r))),
            ]
        )

    def _accumulate_lanes(self, number: int, at: dict[tirx.Var, Index], bases: list[Index]) -> Stmt:
        """One result: partial results in the lanes of up to four vectors, combined at the end."""
        stage, lanes = self.flat[number], self.tiling.lanes
        *outer, inner = stage.reduce
        extent = inner.extent
        vectors = 4 if not static(extent) or extent >= 4 * lanes else 2 if extent >= 2 * lanes else 1
        width = vectors * lanes
        registers = _Registers(stage, width)

        def combine(k: list[Index], i: Index, register: Index) -> Stmt:
            reduce = dict(zip((a.var for a in stage.reduce), [*k, i], strict=True))
            return registers.combine(register, self._value(number, {**at, **reduce}, bases))

        def step(k: list[Index], start: Index, count: int, register: int = 0) -> Stmt:
            return vector(count, lambda i: combine(k, start + i, register + i))

        def row(k: list[Index]) -> Stmt:
            whole = loop(
                floordiv(extent, width),
                lambda j: seq([step(k, j * width + u * lanes, lanes, u * lanes) for u in range(vectors)]),
            )
            done = floordiv(extent, width) * width
            if static(extent):
                rest = [(r, min(lanes, extent - done - r)) for r in range(0, extent - done, lanes)]
                return seq([whole, *(step(k, done + r, count, r) for r, count in rest)])
            left = floormod(extent, width)
            vectors_left = loop(floordiv(left, lanes), lambda j: step(k, done + j * lanes, lanes))
            done = done + floordiv(left, lanes) * lanes
            return seq([whole, vectors_left, loop(floormod(extent, lanes), lambda j: combine(k, done + j, 0))])

        return seq(
            [
                registers.allocate(),
                unrolled(vectors, lambda u: vector(lanes, lambda i: registers.initialise(u * lanes + i))),
                nest([a.extent for a in outer], row),
                *registers.fold(width, lanes),
                self._store(number, at, bases, registers.load(0)),
            ]
        )

    def _accumulate_scalar(self, number: int, at: dict[tirx.Var, Index], bases: list[Index]) -> Stmt:
        stage = self.flat[number]
        registers = _Registers(stage, 1)

        def step(k: list[Index]) -> Stmt:
            reduce = dict(zip((a.var for a in stage.reduce), k, strict=True))
            return registers.combine(0, self._value(number, {**at, **reduce}, bases))

        return seq(
            [
                registers.allocate(),
                registers.initialise(0),
                nest([a.extent for a in stage.reduce], step),
                self._store(number, at, bases, registers.load(0)),
            ]
        )


class _Registers:
    """Accumulators of a reduction: a small array that LLVM keeps in registers."""

    def __init__(self, stage: Stage, size: int) -> None:
        self.stage = stage
        self.merge = COMBINERS[stage.combine or "Add"]
        self.buffer = tirx.decl_buffer((i64(size),), stage.buffer.dtype, "acc", scope="local")

    def allocate(self) -> Stmt:
        return tirx.AllocBuffer(self.buffer)

    def load(self, index: Index) -> tirx.Expr:
        return tirx.BufferLoad(self.buffer, [i64(index)])

    def initialise(self, index: Index) -> Stmt:
        return tirx.BufferStore(self.buffer, self.stage.init, [i64(index)])

    def combine(self, index: Index, value: tirx.Expr) -> Stmt:
        merged = self.merge(self.load(index), value)
        return tirx.BufferStore(self.buffer, merged, [i64(index)])

    def fold(self, size: int, lanes: int) -> list[Stmt]:
        """Combine all `size` accumulators (a power of two) into the first one."""
        steps = []
        while size > 1:
            size //= 2
            width = min(size, lanes)
            for start in range(0, size, width):
                steps.append(self._fold_vector(start, size, width))
        return steps

    def _fold_vector(self, start: int, distance: int, width: int) -> Stmt:
        return vector(width, lambda i: self.combine(start + i, self.load(start + i + distance)))
