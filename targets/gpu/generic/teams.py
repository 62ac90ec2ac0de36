"""How many threads work on a row of a group of stages with reductions, and how rows are dealt out to blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...shared.access import analyzer_for, stride
from ...shared.groups import Group
from ...shared.loops import Index, static
from ...shared.program import Axis, Stage, loads
from ..estimates import estimated
from ..spec import GpuSpec

# Threads of a block, where teams are small.
BLOCK = 256
# Elements that each thread of a team should have before the team grows.
_SHARE = 4
# Most elements of a row that a thread has where the rows alone fill the GPU.
_MOST = 32
# Threads of an SM that are enough to read memory as fast as it goes, with some vectors under way in each.
_FULL = 1024


@dataclass(frozen=True)
class Team:
    """`size` threads work on a row; a block has `rows` of them. `across`: neighbouring threads have different rows."""

    size: int
    rows: int
    across: bool


def choose_team(group: Group, flat: Sequence[Stage], spec: GpuSpec, lanes: int = 1) -> Team:
    """Threads for each row of `group`; `flat` are its stages with loads through flat views.

    `lanes` elements are read at once.
    """
    lengths = [_estimate(own_axes(s, group, k)) for k, s in enumerate(flat)]
    longest = max(lengths, default=1)
    rows = _estimate(group.shared)
    across = runs_across(group, flat)
    limit = min(spec.threads_per_block, 1024)
    size = 1
    while size * max(_SHARE, lanes) < longest and size < limit // (spec.warp if across else 1):
        if size >= spec.warp and size * rows >= _FULL * spec.sms and size * _MOST >= longest:
            break  # the rows alone fill the GPU
        size *= 2
    if across:
        return Team(size, max(spec.warp, BLOCK // size), across=True)
    if longest > 8:
        size = max(size, min(spec.warp, _power(-(-longest // lanes))))
    return Team(size, max(1, BLOCK // size), across=False)


def _power(value: int) -> int:
    return 1 << max(0, (value - 1).bit_length())


def _estimate(axes: Sequence[Axis]) -> int:
    return math.prod(estimated(a.extent) for a in axes)


def own_places(stage: Stage, group: Group, number: int) -> tuple[int, ...]:
    """Positions of the axes of stage `number` that are not shared; those of length 1 (kept by a mean) are none."""
    places = group.places[number]
    return tuple(k for k, a in enumerate(stage.axes) if k not in places and not is_unit(a))


def own_axes(stage: Stage, group: Group, number: int) -> tuple[Axis, ...]:
    """The axes of stage `number` that a row runs over: those that are not shared, and those reduced."""
    return (*(stage.axes[k] for k in own_places(stage, group, number)), *stage.reduce)


def is_unit(axis: Axis) -> bool:
    """Whether the axis is known to have length 1."""
    return static(axis.extent) and axis.extent == 1


def runs_across(group: Group, flat: Sequence[Stage]) -> bool:
    """Whether more reads are contiguous along the last shared axis than along what a row runs over."""
    score = 0
    for number, stage in enumerate(flat):
        own = own_axes(stage, group, number)
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
