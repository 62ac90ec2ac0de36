"""Vectors of 16 bytes for what a team reads of its row: which loads can be such, and which stay in registers.

m = max_j x[i, j]; e[j] = exp(x[i, j] - m)
  -> thread t has the elements of vectors t, t + size, ... of the row; x is loaded once and kept for both stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad

from ...shared.access import analyzer_for, stride
from ...shared.groups import Group
from ...shared.loops import Index, i64, static
from ...shared.program import Stage, is_conditional, loads, substitute
from ..launch import registers
from ..spec import GpuSpec
from ..templates.vectors import VECTOR_BYTES, dtype_bytes
from .teams import Team, is_unit, own_axes

# Registers of a thread that addresses and what is computed need besides.
_BESIDES = 24
# Registers of a thread for elements kept between stages, at most.
_MOST = 96
_REFUSED = ("bool", "bfloat16")


@dataclass(frozen=True, eq=False)
class Read:
    """A load that runs along the row from a multiple of the vector's length; equal keys read the same elements."""

    load: TensorLoad
    key: int

    @property
    def dtype(self) -> str:
        """Of the elements."""
        return str(self.load.ty.dtype)


# Where the element of a load is to be found in registers, by the load's structural hash.
Known = dict[int, tuple[tirx.Buffer, Index]]


@dataclass(frozen=True, eq=False)
class Element:
    """One element of a row, as a thread comes by it.

    `step` counts the thread's elements, `number` is the place in the row, `lane` that in its vector, `at` gives the
    coordinates.
    """

    step: Index
    number: Index
    lane: int
    at: dict[tirx.Var, tirx.Expr]
    known: Known


class RowReads:
    """The vectors of a group's stages: `lanes` elements each; 1 where rows do not lie in vectors."""

    def __init__(self, group: Group, flat: Sequence[Stage]) -> None:
        self._group, self._flat = group, flat
        self._own = [own_axes(s, group, k) for k, s in enumerate(flat)]
        self._names: dict[str, tirx.Var] = {}
        self.lanes = self._lanes()
        self.reads = [self._of(k) if self.lanes > 1 else [] for k in range(len(flat))]

    def _walking(self) -> list[int]:
        """Numbers of the stages that go through a row."""
        return [k for k, own in enumerate(self._own) if any(not static(a.extent) or a.extent > 1 for a in own)]

    def _lanes(self) -> int:
        walking = self._walking()
        if not walking or any(len(self._own[k]) != 1 or not static(self._own[k][0].extent) for k in walking):
            return 1
        found = [x for k in walking for x in self._external(k)]
        if not found or any(str(x.ty.dtype) in _REFUSED for x in found):
            return 1
        lanes = VECTOR_BYTES // min(dtype_bytes(str(x.ty.dtype)) for x in found)
        while lanes > 1 and not self._fit(walking, lanes):
            lanes //= 2
        return lanes

    def _fit(self, walking: Sequence[int], lanes: int) -> bool:
        """Whether all rows are whole vectors, and some load is one."""
        whole = all(self._own[k][0].extent % lanes == 0 for k in walking)
        return whole and any(self.aligned(k, x.indices[0], lanes) for k in walking for x in self._external(k))

    def _external(self, number: int) -> list[TensorLoad]:
        """Loads of memory that the team does not keep itself, without loads in their indices."""
        if is_conditional(self._flat[number].value):
            return []
        found = [x for x in loads(self._flat[number].value) if len(x.indices) == 1 and x.source.scope() != "local"]
        return [x for x in found if not loads(x.indices[0]) and str(x.indices[0].ty.dtype) == "int64"]

    def aligned(self, number: int, index: tirx.Expr, lanes: int) -> bool:
        """Whether `index` runs along stage `number`'s row, from multiples of `lanes` on."""
        if len(self._own[number]) != 1:
            return False
        axis = self._own[number][0]
        analyzer = analyzer_for(self._flat[number].all_axes)
        step = stride(index, axis, analyzer)
        if not static(step) or step != 1:
            return False
        base = analyzer.modular_set(analyzer.simplify(substitute(index, {axis.var: i64(0)})))
        return base.coeff % lanes == 0 and base.base % lanes == 0

    def _of(self, number: int) -> list[Read]:
        if number not in self._walking():
            return []
        found: dict[int, Read] = {}
        for load in self._external(number):
            if self.aligned(number, load.indices[0], self.lanes):
                read = Read(load, self._key(number, load))
                found.setdefault(read.key, read)
        return list(found.values())

    def _key(self, number: int, load: TensorLoad) -> int:
        """What `load` reads, whatever the names of the stage's axes."""
        stage, places = self._flat[number], self._group.places[number]
        names: dict[tirx.Var, tirx.Expr] = {a.var: i64(0) for a in stage.axes if is_unit(a)}
        for position, place in enumerate(places):
            names[stage.axes[place].var] = self._name(f"shared{position}")
        names[self._own[number][0].var] = self._name("own")
        index = analyzer_for(()).simplify(substitute(load.indices[0], names))
        return hash((load.source, tvm_ffi.structural_hash(index)))

    def _name(self, name: str) -> tirx.Var:
        return self._names.setdefault(name, tirx.Var(name, "int64"))

    def kept(
        self, team: Team, steps: int, scratch: Mapping[tirx.Buffer, tirx.Buffer], spec: GpuSpec
    ) -> dict[int, tirx.Buffer]:
        """Registers for what several stages read, by key, as far as they last; results are kept in `scratch`."""
        threads = team.size * team.rows
        most = min(_MOST, spec.registers // threads - _BESIDES, spec.registers_per_thread - _BESIDES)
        found: dict[int, list[tuple[int, Read]]] = {}
        for number, reads in enumerate(self.reads):
            for read in reads:
                found.setdefault(read.key, []).append((number, read))
        lives = self._results(scratch)
        result: dict[int, tirx.Buffer] = {}
        for key, readers in found.items():
            (first, read), (last, _) = readers[0], readers[-1]
            # All of it is fetched before the first stage begins.
            life = _Life(first - 1, last, _registers_of(steps, read.dtype))
            if len(readers) > 1 and _most_alive([*lives, life]) <= most:
                result[key] = registers(steps, read.dtype, "kept")
                lives.append(life)
        return result

    def _results(self, scratch: Mapping[tirx.Buffer, tirx.Buffer]) -> list[_Life]:
        """Registers of results that wait for later stages."""
        lives = []
        for number, stage in enumerate(self._flat):
            kept = scratch.get(stage.buffer)
            if kept is not None and kept.scope() == "local":
                readers = [
                    k for k, s in enumerate(self._flat) if any(x.source.same_as(stage.buffer) for x in loads(s.value))
                ]
                size = _registers_of(int(kept.shape[0]), str(kept.dtype))
                lives.append(_Life(number, max(readers, default=number), size))
        return lives


@dataclass(frozen=True)
class _Life:
    """`registers` that are taken from stage `first` to stage `last`."""

    first: int
    last: int
    registers: int


def _registers_of(elements: int, dtype: str) -> int:
    return -(-elements * dtype_bytes(dtype) // 4)


def _most_alive(lives: Sequence[_Life]) -> int:
    """Registers that are taken at once, at most.

    A stage works element by element: what it reads for the last time makes room for what it computes. Of softmax over
    32 elements a thread, x and exp(x - m) take 32 registers together.
    """
    stages = {s for life in lives for s in (life.first, life.last)}
    before = [sum(v.registers for v in lives if v.first < s <= v.last) for s in stages]
    behind = [sum(v.registers for v in lives if v.first <= s < v.last) for s in stages]
    return max([*before, *behind], default=0)


def moved(known: Known, by: int) -> Known:
    """Where the loads of the element `by` places behind the first of a vector are."""
    return {name: (buffer, first + by) for name, (buffer, first) in known.items()}
