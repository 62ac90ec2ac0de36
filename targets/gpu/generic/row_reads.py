"""Vectors of 16 bytes for what a team reads of its row: which loads can be such, and which stay in registers.

m = max_j x[i, j]; e[j] = exp(x[i, j] - m)
  -> thread t has the elements of vectors t, t + size, ... of the row; x is loaded once and kept for both stages.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    def kept(self, team: Team, steps: int, used: int, spec: GpuSpec) -> dict[int, tirx.Buffer]:
        """Registers for what several stages read, by key, as far as they last; `used` are taken by results."""
        threads = team.size * team.rows
        left = min(_MOST, spec.registers // threads - _BESIDES, spec.registers_per_thread - _BESIDES) - used
        count: dict[int, list[Read]] = {}
        for reads in self.reads:
            for read in reads:
                count.setdefault(read.key, []).append(read)
        result: dict[int, tirx.Buffer] = {}
        for key, reads in count.items():
            size = -(-steps * dtype_bytes(reads[0].dtype) // 4)
            if len(reads) > 1 and size <= left:
                result[key] = registers(steps, reads[0].dtype, "kept")
                left -= size
        return result


def moved(known: Known, by: int) -> Known:
    """Where the loads of the element `by` places behind the first of a vector are."""
    return {name: (buffer, first + by) for name, (buffer, first) in known.items()}
