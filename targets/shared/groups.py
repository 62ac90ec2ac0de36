"""Which stages of a function run inside the same loops.

The axes of the last stage of a group name its dimensions. A dimension is shared if every stage of the group has it and
reads the group's other stages at exactly that coordinate: then one tile of all shared dimensions can be computed from
start to end while it is in cache.

    m[i] = max_j x[i, j];  e[i, j] = exp(x[i, j] - m[i]);  s[i] = sum_j e[i, j];  y[i, j] = e[i, j] / s[i]
      -> one group, shared dimension i: each row is finished before the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad

from .loops import product, static
from .program import Axis, Program, Stage, loads


@dataclass(frozen=True, eq=False)
class Group:
    """Stages that share loops; `shared` are axes of the last stage, `places[k]` the position of shared axis j among the
    axes of stage k, in the order of `shared`."""

    stages: tuple[Stage, ...]
    shared: tuple[Axis, ...]
    places: tuple[tuple[int, ...], ...]

    def is_shared(self, stage: int, axis: int) -> bool:
        """Whether axis `axis` of stage number `stage` is one of the shared ones."""
        return axis in self.places[stage]


def group_stages(program: Program, enough: int) -> list[Group]:
    """The stages of `program` in groups as large as possible, each with at least `enough` independent tiles.

    Where the shared dimensions are fewer (and known), stages are kept apart, so that each finds its own parallel loops.
    """
    groups: list[Group] = []
    stages = list(program.stages)
    while stages:
        first = stages[0]
        own = tuple(range(len(first.axes)))
        taken = Group((first,), first.axes, (own,))
        for count in range(2, len(stages) + 1):
            larger = _group(stages[:count])
            if larger is None or not _connected(stages[: count - 1], stages[count - 1]):
                break
            size = product([a.extent for a in larger.shared])
            if static(size) and size < enough:
                break
            taken = larger
        groups.append(taken)
        stages = stages[len(taken.stages) :]
    return groups


def private_buffers(group: Group, program: Program) -> frozenset[tirx.Buffer]:
    """Temporaries of `group` that no other stage reads."""
    outside = [s for s in program.stages if s not in group.stages]
    read = {load.source for s in outside for load in loads(s.value)}
    return frozenset(s.buffer for s in group.stages if s.buffer in program.temporaries and s.buffer not in read)


def _connected(before: Sequence[Stage], stage: Stage) -> bool:
    """Whether `stage` reads any result of `before`: otherwise nothing is won by sharing loops."""
    return any(load.source.same_as(s.buffer) for load in loads(stage.value) for s in before)


def _group(stages: Sequence[Stage]) -> Group | None:
    """The group of exactly these stages, or None if no dimension is shared by all."""
    last = stages[-1]
    # For each stage: its axis number -> axis number of the last stage, where all its readers agree.
    maps: dict[tirx.Buffer, dict[int, int]] = {last.buffer: {k: k for k in range(len(last.axes))}}
    # Dimensions that some reader uses at another coordinate than its own.
    unshared: set[int] = set()
    for reader in reversed(stages):
        own = maps.get(reader.buffer)
        if own is None:
            return None
        dimension = {reader.axes[k].var: (d, last.axes[d]) for k, d in own.items()}
        for load in loads(reader.value):
            producer = next((s for s in stages if s.buffer.same_as(load.source)), None)
            if producer is not None and not _agree(producer, load, dimension, maps, unshared):
                return None
    return _shared_group(stages, maps, unshared)


def _agree(
    producer: Stage,
    load: TensorLoad,
    dimension: dict[tirx.Var, tuple[int, Axis]],
    maps: dict[tirx.Buffer, dict[int, int]],
    unshared: set[int],
) -> bool:
    """Note how `load` reads `producer`."""
    seen = {
        k: dimension[index][0]
        for k, index in enumerate(load.indices)
        if isinstance(index, tirx.Var) and index in dimension and _same(producer.axes[k], dimension[index][1])
    }
    known = maps.get(producer.buffer)
    if known is None:
        maps[producer.buffer] = seen
        return True
    for k in set(known) | set(seen):
        if known.get(k) != seen.get(k):
            unshared.update(d for d in (known.get(k), seen.get(k)) if d is not None)
    maps[producer.buffer] = {k: d for k, d in known.items() if seen.get(k) == d}
    return True


def _same(first: Axis, second: Axis) -> bool:
    """Whether both axes have the same extent."""
    if static(first.extent) or static(second.extent):
        return static(first.extent) and static(second.extent) and first.extent == second.extent
    return tvm_ffi.structural_equal(first.extent, second.extent)


def _shared_group(stages: Sequence[Stage], maps: dict[tirx.Buffer, dict[int, int]], unshared: set[int]) -> Group | None:
    last = stages[-1]
    inverse = [{d: k for k, d in maps[s.buffer].items()} for s in stages]
    shared = [d for d in range(len(last.axes)) if d not in unshared and all(d in m for m in inverse)]
    if not shared:
        return None
    return Group(
        tuple(stages), tuple(last.axes[d] for d in shared), tuple(tuple(m[d] for d in shared) for m in inverse)
    )
