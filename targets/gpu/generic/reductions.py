"""Kernels for groups of stages with reductions: softmax, LayerNorm, means, sums.

    m[i] = max_j x[i, j];  e[i, j] = exp(x[i, j] - m[i]);  s[i] = sum_j e[i, j];  y[i, j] = e[i, j] / s[i]
      -> a row i belongs to a team of threads, which share out j among themselves and combine what they have with warp
         shuffles. What a stage computes for a whole row stays with the thread that computed it, in registers, where
         later stages read it in the same order; otherwise it goes to shared memory.
Neighbouring threads are along j if reads are contiguous there (`across` is False), along i otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import Stmt

from ...shared.access import Views, analyzer_for, flat_index, flatten_group_stage, stride
from ...shared.groups import Group
from ...shared.loops import Index, ceildiv, i64, loop, minimum, product, seq, static, unravel, unrolled, when
from ...shared.program import COMBINERS, Axis, Stage, loads, map_loads, substitute
from ..launch import allocated, allreduce, barrier, launch_rows, registers, shared
from ..spec import GpuSpec

# What an unknown extent is taken for when teams are chosen.
_UNKNOWN = 1024
# Most elements of a row that one thread keeps in registers.
_SLICE = 32
# Threads of a block, where teams are small.
_BLOCK = 256
# Elements that each thread of a team should have before the team grows.
_SHARE = 4
# Shared memory that a group may take for whole rows, bytes.
_SCRATCH = 32 * 1024
# Shared memory that a block may have without asking for more, on all GPUs.
_SHARED = 48 * 1024


@dataclass(frozen=True)
class Team:
    """`size` threads work on a row; a block has `rows` of them. `across`: neighbouring threads have different rows."""

    size: int
    rows: int
    across: bool


def choose_team(group: Group, flat: Sequence[Stage], spec: GpuSpec) -> Team:
    """Threads for each row of `group`; `flat` are its stages with loads through flat views."""
    lengths = [_estimate(_own_axes(s, group, k)) for k, s in enumerate(flat)]
    longest = max(lengths, default=1)
    rows = _estimate(group.shared)
    across = _runs_across(group, flat)
    limit = min(spec.threads_per_block, 1024)
    size = 1
    while size * _SHARE < longest and size < limit // (spec.warp if across else 1):
        if size >= spec.warp and size * rows >= 2048 * spec.sms and size * 32 >= longest:
            break  # the rows alone fill the GPU
        size *= 2
    if across:
        return Team(size, max(spec.warp, _BLOCK // size), across=True)
    if longest > 8:
        size = max(size, min(spec.warp, _power(longest)))
    return Team(size, max(1, _BLOCK // size), across=False)


def _power(value: int) -> int:
    return 1 << max(0, (value - 1).bit_length())


def _estimate(axes: Sequence[Axis]) -> int:
    return math.prod(a.extent if static(a.extent) else _UNKNOWN for a in axes)


def _own_axes(stage: Stage, group: Group, number: int) -> tuple[Axis, ...]:
    """The axes of stage `number` that a row runs over: those that are not shared, and those reduced."""
    kept = tuple(a for k, a in enumerate(stage.axes) if k not in group.places[number])
    return (*kept, *stage.reduce)


def _runs_across(group: Group, flat: Sequence[Stage]) -> bool:
    """Whether more reads are contiguous along the last shared axis than along what a row runs over."""
    score = 0
    for number, stage in enumerate(flat):
        own = _own_axes(stage, group, number)
        if not own or not group.shared:
            continue
        analyzer = analyzer_for(stage.all_axes)
        last = stage.axes[group.places[number][-1]]
        for load in loads(stage.value):
            if len(load.indices) == 1:
                score += _is_one(stride(load.indices[0], last, analyzer))
                score -= _is_one(stride(load.indices[0], own[-1], analyzer))
    return score > 0


def _is_one(step: Index | None) -> bool:
    return static(step) and step == 1


def emit_group(group: Group, inner: frozenset[tirx.Buffer], views: Views, spec: GpuSpec) -> Stmt | None:
    """The kernel of `group`, or None if a stage has a form that teams cannot share out.

    Buffers in `inner` are needed by nobody else and kept by the team.
    """
    flat = [flatten_group_stage(s, inner, views) for s in group.stages]
    for number, stage in enumerate(flat):
        if stage.flat_copy or (stage.reduce and len(stage.axes) != len(group.shared)):
            return None
        if stage.buffer in inner and len(stage.axes) != len(group.shared) and not _fits(stage, group, number):
            return None
    emitter = _Emitter(group, flat, inner, views, choose_team(group, flat, spec))
    return emitter.emit() if emitter.shared_bytes <= min(_SHARED, spec.shared_bytes) else None


def _fits(stage: Stage, group: Group, number: int) -> bool:
    """Whether a row of what `stage` computes may be kept in shared memory."""
    length = product([a.extent for a in _own_axes(stage, group, number)])
    return static(length) and length * 8 <= _SCRATCH


class _Emitter:
    """Writes the stages of a group one after the other, for the team of one row."""

    def __init__(
        self, group: Group, flat: Sequence[Stage], inner: frozenset[tirx.Buffer], views: Views, team: Team
    ) -> None:
        self.group, self.flat, self.inner, self.views = group, list(flat), inner, views
        self.number = {s.buffer: k for k, s in enumerate(flat)}
        self.own = [_own_axes(s, group, k) for k, s in enumerate(flat)]
        self.lengths = [product([a.extent for a in own]) for own in self.own]
        widest = max([n for n in self.lengths if static(n)], default=1)
        rows = team.rows
        while rows > 1 and not team.across and self._scratch_bytes(rows) > _SCRATCH:
            rows //= 2
        self.team = replace(team, rows=rows)
        self.sliced = widest <= _SLICE * team.size
        self.scratch = {s.buffer: self._scratch(k) for k, s in enumerate(flat) if s.buffer in inner or s.reduce}

    def _scratch_bytes(self, rows: int) -> int:
        kept = [n for n, s in zip(self.lengths, self.flat, strict=True) if s.buffer in self.inner and not s.reduce]
        return sum(8 * rows * n for n in kept if static(n))

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
            return allocated(list(self.scratch.values()), *(self._stage(k) for k in range(len(self.flat))))

        return launch_rows(ceildiv(total, self.team.rows), columns, lines, body)

    # Where results are kept.

    def _scratch(self, number: int) -> tirx.Buffer:
        """A register for one value of a row; a slice of it in registers, or the whole row in shared memory."""
        stage, length = self.flat[number], self.lengths[number]
        dtype, name = str(stage.buffer.dtype), stage.buffer.name
        if stage.reduce or (static(length) and length == 1):
            return registers(1, dtype, name)
        if self._in_slices(stage.buffer):
            return registers(-(-length // self.team.size), dtype, name)
        return shared(length * self.team.rows, dtype, name)

    def _in_slices(self, buffer: tirx.Buffer) -> bool:
        """Whether every reader walks through a row of `buffer` just as its maker does."""
        maker = self.number[buffer]
        length = self.lengths[maker]
        if not static(length) or -(-length // self.team.size) > _SLICE or not self.sliced:
            return False
        for number, stage in enumerate(self.flat):
            for load in loads(stage.value):
                if load.source.same_as(buffer) and not self._same_walk(maker, load, number):
                    return False
        return True

    def _same_walk(self, maker: int, load: TensorLoad, reader: int) -> bool:
        indices = [i for k, i in enumerate(load.indices) if k not in self.group.places[maker]]
        own = self.own[reader]
        if len(indices) != len(own):
            return False
        extents = zip(self.own[maker], own, strict=True)
        return all(i.same_as(a.var) for i, a in zip(indices, own, strict=True)) and all(
            static(a.extent) and a.extent == b.extent for a, b in extents
        )

    # Stages.

    def _coordinates(self, number: int) -> dict[tirx.Var, tirx.Expr]:
        """The shared axes of stage `number` at this team's row."""
        axes = self.flat[number].axes
        return {axes[k].var: i64(p) for k, p in zip(self.group.places[number], self.place, strict=True)}

    def _stage(self, number: int) -> Stmt:
        stage = self.flat[number]
        if stage.reduce:
            return self._reduction(number)
        if not self.own[number]:
            return self._single(number)
        return self._row(number)

    def _single(self, number: int) -> Stmt:
        """One value for the row: each thread computes it for itself, the first one stores it."""
        value = self._value(number, {}, 0)
        buffer = self.flat[number].buffer
        if buffer in self.inner:
            return tirx.BufferStore(self.scratch[buffer], value, [i64(0)])
        return self._guarded(self._store(number, {}, value))

    def _row(self, number: int) -> Stmt:
        """A value for each element of the row."""
        buffer = self.flat[number].buffer
        length = self.lengths[number]

        def one(step: Index, element: Index, at: dict[tirx.Var, tirx.Expr]) -> Stmt:
            value = self._value(number, at, step)
            if buffer not in self.inner:
                return self._outside_only(self._store(number, at, value))
            kept = self.scratch[buffer]
            place = step if kept.scope() == "local" else self.row * length + element
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
        neutral = stage.init if stage.init is not None else _neutral(stage.combine, dtype)
        share = registers(1, dtype, f"{stage.buffer.name}_share")

        def one(step: Index, element: Index, at: dict[tirx.Var, tirx.Expr]) -> Stmt:
            known = tirx.BufferLoad(share, [i64(0)])
            return tirx.BufferStore(share, combine(known, self._value(number, at, step)), [i64(0)])

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

    def _walk(self, number: int, one: object) -> Stmt:
        """`one(step, element, coordinates)` for each of this thread's elements of the row."""
        axes, length, size = self.own[number], self.lengths[number], self.team.size
        extents = [a.extent for a in axes]

        def visit(step: Index) -> Stmt:
            element = step * size + self.lane if size > 1 else step
            at = {a.var: i64(p) for a, p in zip(axes, unravel(element, extents), strict=True)}
            exact = static(length) and length % size == 0
            return when(True if exact else element < length, one(step, element, at))

        steps = ceildiv(length, size)
        if static(steps) and steps <= _SLICE and self.sliced:
            return unrolled(steps, visit)
        return loop(steps, visit)

    # Reading and writing.

    def _value(self, number: int, at: dict[tirx.Var, tirx.Expr], step: Index) -> tirx.Expr:
        """The value of stage `number` at `at`, this thread's element number `step` of the row."""

        def own(load: TensorLoad) -> tirx.Expr:
            kept = self.scratch.get(load.source) if load.source in self.inner else None
            if kept is None:
                return load
            maker = self.number[load.source]
            indices = [i for k, i in enumerate(load.indices) if k not in self.group.places[maker]]
            if not indices:
                return tirx.BufferLoad(kept, [i64(0)])
            if kept.scope() == "local":
                return tirx.BufferLoad(
                    kept, [i64(0 if static(self.lengths[maker]) and self.lengths[maker] == 1 else step)]
                )
            element: Index = i64(0)
            for index, axis in zip(indices, self.own[maker], strict=True):
                element = element * axis.extent + index
            return tirx.BufferLoad(kept, [i64(self.row * self.lengths[maker]) + element])

        value = map_loads(self.flat[number].value, own)
        return substitute(value, {**self._coordinates(number), **at})

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


def _neutral(combine: str, dtype: str) -> tirx.Expr:
    values = {"Add": 0, "Mul": 1, "And": True, "Or": False}
    if combine in values:
        return tirx.const(values[combine], dtype)
    return tirx.min_value(dtype) if combine == "Max" else tirx.max_value(dtype)
