"""Kernels for groups of stages with reductions: softmax, LayerNorm, means, sums.

    m[i] = max_j x[i, j];  e[i, j] = exp(x[i, j] - m[i]);  s[i] = sum_j e[i, j];  y[i, j] = e[i, j] / s[i]
      -> a row i belongs to a team of threads, which share out j among themselves and combine what they have with warp
         shuffles. What a stage computes for a whole row stays with the thread that computed it, in registers, where
         later stages read it in the same order; otherwise it goes to shared memory. Rows are read and written by
         vectors of 16 bytes where they lie so, and read once where registers hold them (see row_reads.py).
Neighbouring threads are along j if reads are contiguous there (`across` is False), along i otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import Stmt

from ...shared.access import Views, flat_index, flatten_group_stage
from ...shared.groups import Group
from ...shared.loops import (
    Index,
    ceildiv,
    floordiv,
    i64,
    loop,
    minimum,
    product,
    seq,
    static,
    unravel,
    vector,
    when,
)
from ...shared.program import COMBINERS, Stage, loads, map_loads, substitute
from ..estimates import STATIC_SHARED_BYTES
from ..launch import allocated, allreduce, barrier, launch_rows, registers, shared
from ..spec import GpuSpec
from ..templates.vectors import VECTOR_BYTES, dtype_bytes, load_vector
from .row_reads import Element, Known, Read, RowReads, moved
from .teams import choose_team, is_unit, own_axes, own_places

One = Callable[[Element], Stmt]

# Most elements of a row that one thread keeps in registers.
_SLICE = 32
# Vectors that a thread has under way in rows too long for registers.
_AHEAD = 4
# Shared memory that a group may take for whole rows, bytes.
_SCRATCH = 32 * 1024


def emit_group(group: Group, inner: frozenset[tirx.Buffer], views: Views, spec: GpuSpec) -> Stmt | None:
    """The kernel of `group`, or None if a stage has a form that teams cannot share out.

    Buffers in `inner` are needed by nobody else and kept by the team.
    """
    flat = [flatten_group_stage(s, inner, views) for s in group.stages]
    for number, stage in enumerate(flat):
        if stage.flat_copy or (stage.reduce and own_places(stage, group, number)):
            return None
        if stage.buffer in inner and not all(static(a.extent) for a in own_axes(stage, group, number)):
            return None
    emitter = _Emitter(group, flat, inner, views, spec)
    return emitter.emit() if emitter.shared_bytes <= min(STATIC_SHARED_BYTES, spec.shared_bytes) else None


class _Emitter:
    """Writes the stages of a group one after the other, for the team of one row."""

    def __init__(
        self, group: Group, flat: Sequence[Stage], inner: frozenset[tirx.Buffer], views: Views, spec: GpuSpec
    ) -> None:
        self.group, self.flat, self.inner, self.views = group, list(flat), inner, views
        self.rows_read = RowReads(group, flat)
        team = choose_team(group, flat, spec, self.rows_read.lanes)
        self.lanes = 1 if team.across else self.rows_read.lanes
        self.number = {s.buffer: k for k, s in enumerate(flat)}
        self.own = [own_axes(s, group, k) for k, s in enumerate(flat)]
        self.lengths = [product([a.extent for a in own]) for own in self.own]
        widest = max([n for n in self.lengths if static(n)], default=1)
        self.team = team
        self.sliced = widest <= _SLICE * team.size
        rows = team.rows
        while rows > 1 and not team.across and self._scratch_bytes(rows) > _SCRATCH:
            rows //= 2
        self.team = replace(team, rows=rows)
        self.scratch = {s.buffer: self._scratch(k) for k, s in enumerate(flat) if s.buffer in inner or s.reduce}
        walks = self.lanes > 1 and self.sliced
        self.kept = self.rows_read.kept(self.team, self._steps(widest), self.scratch, spec) if walks else {}
        self.filled: set[int] = set()

    def _scratch_bytes(self, rows: int) -> int:
        """Shared memory for what `rows` rows keep there."""
        inner = [
            (n, s) for n, s in zip(self.lengths, self.flat, strict=True) if s.buffer in self.inner and not s.reduce
        ]
        return sum(8 * rows * n for n, s in inner if static(n) and n > 1 and not self._in_slices(s.buffer))

    @property
    def shared_bytes(self) -> int:
        """Shared memory that the kernel needs, at most."""
        return sum(8 * int(b.shape[0]) for b in self.scratch.values() if b.scope() == "shared")

    def emit(self) -> Stmt:
        """The whole kernel."""
        extents = [a.extent for a in self.group.shared]
        total = product(extents)
        columns, lines = (self.team.rows, self.team.size) if self.team.across else (self.team.size, self.team.rows)

        def body(block: Index, x: Index, y: Index) -> Stmt:
            self.row, self.lane = (x, y) if self.team.across else (y, x)
            number = block * self.team.rows + self.row
            # Rows beyond the last compute it again, so that all threads meet at the barriers; they store nothing.
            exact = static(total) and total % self.team.rows == 0
            self.inside = True if exact else number < total
            self.place = unravel(number if exact else minimum(number, total - 1), extents)
            buffers = [*self.scratch.values(), *self.kept.values()]
            return allocated(buffers, *(self._stage(k) for k in range(len(self.flat))))

        return launch_rows(ceildiv(total, self.team.rows), columns, lines, body)

    # Where results are kept.

    def _scratch(self, number: int) -> tirx.Buffer:
        """A register for one value of a row; a slice of it in registers, or the whole row in shared memory."""
        stage, length = self.flat[number], self.lengths[number]
        dtype, name = str(stage.buffer.dtype), stage.buffer.name
        if stage.reduce or (static(length) and length == 1):
            return registers(1, dtype, name)
        if self._in_slices(stage.buffer):
            return registers(self._steps(length), dtype, name)
        return shared(length * self.team.rows, dtype, name)

    def _steps(self, length: int) -> int:
        """Elements of a row that each thread has, whole vectors of them."""
        return -(-length // (self.team.size * self.lanes)) * self.lanes

    def _in_slices(self, buffer: tirx.Buffer) -> bool:
        """Whether every reader walks through a row of `buffer` just as its maker does."""
        maker = self.number[buffer]
        length = self.lengths[maker]
        if not static(length) or self._steps(length) > _SLICE or not self.sliced:
            return False
        for number, stage in enumerate(self.flat):
            for load in loads(stage.value):
                if load.source.same_as(buffer) and not self._same_walk(maker, load, number):
                    return False
        return True

    def _same_walk(self, maker: int, load: TensorLoad, reader: int) -> bool:
        indices, own = self._own_indices(maker, load), self.own[reader]
        if len(indices) != len(own):
            return False
        extents = zip(self.own[maker], own, strict=True)
        return all(i.same_as(a.var) for i, a in zip(indices, own, strict=True)) and all(
            static(a.extent) and a.extent == b.extent for a, b in extents
        )

    def _own_indices(self, maker: int, load: TensorLoad) -> list[tirx.Expr]:
        """Where within a row of stage `maker` a load of its result reads."""
        return [load.indices[k] for k in own_places(self.flat[maker], self.group, maker)]

    # Stages.

    def _coordinates(self, number: int) -> dict[tirx.Var, tirx.Expr]:
        """The axes of stage `number` that are the same for a whole row: the shared ones at this team's row."""
        axes = self.flat[number].axes
        shared = {axes[k].var: i64(p) for k, p in zip(self.group.places[number], self.place, strict=True)}
        return {a.var: i64(0) for a in axes if is_unit(a)} | shared

    def _stage(self, number: int) -> Stmt:
        stage = self.flat[number]
        if stage.reduce:
            return self._reduction(number)
        if not self.own[number]:
            return self._single(number)
        return self._row(number)

    def _single(self, number: int) -> Stmt:
        """One value for the row: each thread computes it for itself, the first one stores it."""
        value = self._value(number, Element(0, 0, 0, {}, {}))
        buffer = self.flat[number].buffer
        if buffer in self.inner:
            return tirx.BufferStore(self.scratch[buffer], value, [i64(0)])
        return self._guarded(self._store(number, {}, value))

    def _row(self, number: int) -> Stmt:
        """A value for each element of the row."""
        buffer = self.flat[number].buffer
        length = self.lengths[number]

        if buffer not in self.inner and self._stores_vectors(number):
            return self._stored_row(number)

        def one(element: Element) -> Stmt:
            value = self._value(number, element)
            if buffer not in self.inner:
                return self._outside_only(self._store(number, element.at, value))
            kept = self.scratch[buffer]
            place = element.step if kept.scope() == "local" else self.row * length + element.number
            return tirx.BufferStore(kept, value, [i64(place)])

        walk = self._walk(number, one)
        is_shared = buffer in self.inner and self.scratch[buffer].scope() == "shared"
        # The team goes on to read elements that other threads wrote.
        return seq([walk, barrier()]) if is_shared else walk

    def _reduction(self, number: int) -> Stmt:
        """What the elements of a row combine to: each thread's share first, then the team's."""
        stage = self.flat[number]
        assert stage.combine is not None
        combine = COMBINERS[stage.combine]
        result = self.scratch[stage.buffer]
        dtype = str(result.dtype)
        neutral = stage.init
        assert neutral is not None, "reductions start from something"
        share = registers(1, dtype, f"{stage.buffer.name}_share")

        def one(element: Element) -> Stmt:
            before = tirx.BufferLoad(share, [i64(0)])
            return tirx.BufferStore(share, combine(before, self._value(number, element)), [i64(0)])

        start = tirx.BufferStore(share, neutral, [i64(0)])
        mine = tirx.BufferLoad(share, [i64(0)])
        if self.team.size == 1:
            together: Stmt = tirx.BufferStore(result, mine, [i64(0)])
        else:
            together = allreduce(combine, neutral, mine, result, [self.lane])
        keep = None
        if stage.buffer not in self.inner:
            keep = self._guarded(self._store(number, {}, tirx.BufferLoad(result, [i64(0)])))
        return allocated([share], start, self._walk(number, one), together, keep)

    def _walk(self, number: int, one: One, flush: Callable[[dict[tirx.Var, tirx.Expr]], Stmt] | None = None) -> Stmt:
        """`one` for each of this thread's elements of the row, by vectors; `flush` behind each vector."""
        axes, length, size, lanes = self.own[number], self.lengths[number], self.team.size, self.lanes
        extents = [a.extent for a in axes]
        width = size * lanes

        def at(element: Index) -> dict[tirx.Var, tirx.Expr]:
            return {a.var: i64(p) for a, p in zip(axes, unravel(element, extents), strict=True)}

        def start(piece: Index) -> Index:
            return (piece * size + self.lane) * lanes if width > 1 else piece

        def visit(pieces: Sequence[Index], guarded: bool) -> Stmt:
            """Fetch all of `pieces`, then compute."""
            fetches, works = [], []
            for piece in pieces:
                buffers, fetch, known = self._fetched(number, piece, at(start(piece)))
                fetches += [*(tirx.AllocBuffer(b) for b in buffers), *fetch]
                first = start(piece)
                elements = [
                    one(Element(piece * lanes + e, first + e, e, at(first + e), moved(known, e))) for e in range(lanes)
                ]
                works += [*elements, flush(at(first)) if flush else None]
            body = seq([*fetches, *works])
            return when(start(pieces[0]) < length, body) if guarded else body

        exact = static(length) and length % width == 0
        pieces = ceildiv(length, width)
        if static(pieces) and pieces * lanes <= _SLICE and self.sliced:
            fill = self._fill(number, pieces, start, at, exact)
            return seq([fill, *(visit([p], not exact) for p in range(pieces))])
        ahead = _AHEAD if lanes > 1 or not axes else 1
        whole = floordiv(length, width * ahead)
        main = loop(whole, lambda p: visit([p * ahead + u for u in range(ahead)], guarded=False))
        return seq([main, loop(pieces - whole * ahead, lambda p: visit([whole * ahead + p], guarded=True))])

    def _fill(
        self,
        number: int,
        pieces: int,
        start: Callable[[Index], Index],
        at: Callable[[Index], dict[tirx.Var, tirx.Expr]],
        exact: bool,
    ) -> Stmt | None:
        """Load what is kept in registers and not there yet: all vectors of the row at once."""
        fetches: list[Stmt] = []
        for read in self.rows_read.reads[number] if self.kept else ():
            if read.key in self.kept and read.key not in self.filled:
                self.filled.add(read.key)
                for piece in range(pieces):
                    fetch = self._load(read, number, self.kept[read.key], piece * self.lanes, at(start(piece)))
                    fetches.append(fetch if exact else when(start(piece) < self.lengths[number], fetch))
        return seq(fetches) if fetches else None

    def _fetched(
        self, number: int, piece: Index, at: dict[tirx.Var, tirx.Expr]
    ) -> tuple[list[tirx.Buffer], list[Stmt], Known]:
        """Vectors of the stage's loads: buffers to allocate, loads to do, where each load's first element then is."""
        buffers: list[tirx.Buffer] = []
        fetches: list[Stmt] = []
        known: Known = {}
        for read in self.rows_read.reads[number] if self.lanes > 1 else ():
            name = tvm_ffi.structural_hash(read.load)
            if read.key in self.kept:
                known[name] = (self.kept[read.key], piece * self.lanes)
                continue
            held = registers(self.lanes, read.dtype, "held")
            buffers.append(held)
            fetches.append(self._load(read, number, held, 0, at))
            known[name] = (held, 0)
        return buffers, fetches, known

    def _load(self, read: Read, number: int, into: tirx.Buffer, place: int, at: dict[tirx.Var, tirx.Expr]) -> Stmt:
        """The vector of `read` whose first element is `at`, in pieces of 16 bytes."""
        base = substitute(read.load.indices[0], {**self._coordinates(number), **at})
        most = min(self.lanes, VECTOR_BYTES // dtype_bytes(read.dtype))
        pieces = [load_vector(into, place + k, read.load.source, base + k, most) for k in range(0, self.lanes, most)]
        return seq(pieces)

    # Vectors of results.

    def _stores_vectors(self, number: int) -> bool:
        """Whether the row of what stage `number` writes lies in vectors."""
        stage = self.flat[number]
        if self.lanes == 1 or str(stage.buffer.dtype) in ("bool", "bfloat16"):
            return False
        return self.rows_read.aligned(number, flat_index(stage.buffer, [a.var for a in stage.axes]), self.lanes)

    def _stored_row(self, number: int) -> Stmt:
        """A value for each element of the row, stored by vectors."""
        stage = self.flat[number]
        dtype = str(stage.buffer.dtype)
        result = registers(self.lanes, dtype, "result")
        most = min(self.lanes, VECTOR_BYTES // dtype_bytes(dtype))
        target = self.views.view(stage.buffer)

        def one(element: Element) -> Stmt:
            return tirx.BufferStore(result, self._value(number, element), [i64(element.lane)])

        def flush(at: dict[tirx.Var, tirx.Expr]) -> Stmt:
            where = {**self._coordinates(number), **at}
            position = flat_index(stage.buffer, [substitute(a.var, where) for a in stage.axes])
            stores = [
                vector(
                    most,
                    lambda k, c=c: tirx.BufferStore(target, tirx.BufferLoad(result, [i64(c) + k]), [position + c + k]),
                )
                for c in range(0, self.lanes, most)
            ]
            return self._outside_only(seq(stores))

        return allocated([result], self._walk(number, one, flush))

    # Reading and writing.

    def _value(self, number: int, element: Element) -> tirx.Expr:
        """The value of stage `number` at `element`."""

        def own(load: TensorLoad) -> tirx.Expr:
            fetched = element.known.get(tvm_ffi.structural_hash(load))
            if fetched is not None:
                return tirx.BufferLoad(fetched[0], [i64(fetched[1])])
            kept = self.scratch.get(load.source) if load.source in self.inner else None
            if kept is None:
                return load
            maker = self.number[load.source]
            indices = self._own_indices(maker, load)
            if not indices:
                return tirx.BufferLoad(kept, [i64(0)])
            if kept.scope() == "local":
                return tirx.BufferLoad(
                    kept, [i64(0 if static(self.lengths[maker]) and self.lengths[maker] == 1 else element.step)]
                )
            place: Index = i64(0)
            for index, axis in zip(indices, self.own[maker], strict=True):
                place = place * axis.extent + index
            return tirx.BufferLoad(kept, [i64(self.row * self.lengths[maker]) + place])

        value = map_loads(self.flat[number].value, own)
        return substitute(value, {**self._coordinates(number), **element.at})

    def _store(self, number: int, at: dict[tirx.Var, tirx.Expr], value: tirx.Expr) -> Stmt:
        stage = self.flat[number]
        place = {**self._coordinates(number), **at}
        position = flat_index(stage.buffer, [substitute(a.var, place) for a in stage.axes])
        return tirx.BufferStore(self.views.view(stage.buffer), value, [position])

    def _guarded(self, store: Stmt) -> Stmt:
        """By one thread of the team."""
        store = self._outside_only(store)
        return store if self.team.size == 1 else when(self.lane < 1, store)

    def _outside_only(self, store: Stmt) -> Stmt:
        """Not by teams beyond the last row."""
        return when(self.inside, store)
