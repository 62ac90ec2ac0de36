"""How a group with reductions is cut into tiles.

    strip: the innermost shared axis is contiguous in what is read: vectors run along it, and every reduction keeps its
           partial results for the whole strip in registers (mean over H and W in NHWC, matmul, pooling);
    rows:  otherwise each tile is one point of the shared axes, and vectors run along the other loops (softmax,
           LayerNorm, a sum along the last axis).
A block of a second axis joins the strip where a vector that was read serves several of its rows (matmul, convolution).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....compiler.schedule.target_spec import CpuSpec
from ...shared.access import analyzer_for, stride
from ...shared.groups import Group
from ...shared.loops import Index, static
from ...shared.program import Axis, Stage, loads

_MAX_ROWS = 6


@dataclass(frozen=True, eq=False)
class Tiling:
    """Block size per shared axis. `lanes` is the vector length; with `strip` vectors run along the last shared axis."""

    blocks: tuple[int, ...]
    lanes: int
    strip: bool


def choose_tiling(group: Group, flat: Sequence[Stage], spec: CpuSpec) -> Tiling:
    """The tiling of `group`; `flat` are its stages with external loads through flat views."""
    lanes = min(spec.lanes(str(load.ty.dtype)) for s in flat for load in loads(s.value)) if _reads(flat) else 1
    single = tuple(1 for _ in group.shared)
    if not group.shared or lanes < 2 or not _strip_fits(group, flat, lanes):
        return Tiling(single, lanes, strip=False)
    extent = group.shared[-1].extent
    heavy = _row_axis(group, flat)
    if static(extent) and extent < lanes:
        return Tiling((*single[:-1], extent), extent, strip=True)
    vectors = 1
    if static(extent):
        most = min(4 if spec.vector_registers >= 32 or heavy is None else 2, extent // lanes)
        vectors = min(range(1, most + 1), key=lambda u: (-(-extent // (u * lanes)) * u, -u))
    blocks = [*single[:-1], vectors * lanes]
    if heavy is not None:
        budget = (spec.vector_registers - vectors - 2) // vectors
        rows = group.shared[heavy].extent
        most = max(1, min(_MAX_ROWS, budget, rows if static(rows) else budget))
        blocks[heavy] = min(range(1, most + 1), key=lambda r: (-(-rows // r), r)) if static(rows) else most
    return Tiling(tuple(blocks), lanes, strip=True)


def _reads(flat: Sequence[Stage]) -> bool:
    return any(loads(s.value) for s in flat)


def _strip_fits(group: Group, flat: Sequence[Stage], lanes: int) -> bool:
    """Whether vectors along the last shared axis suit the reductions better than vectors along what they reduce."""
    last = group.stages[-1]
    if group.shared[-1] is not last.axes[-1]:
        return False
    extent = group.shared[-1].extent
    if static(extent) and extent < 2:
        return False
    along, across = 0, 0
    for number, stage in enumerate(flat):
        if not stage.reduce:
            continue
        own = group.stages[number].axes[group.places[number][-1]]
        along += _score(stage, own)
        across += _score(stage, stage.reduce[-1])
    if along == across and static(extent) and extent < lanes:
        return False
    return along >= across


def _score(stage: Stage, axis: Axis) -> int:
    """Contiguous reads along `axis` less strided ones; a short axis scores little."""
    analyzer = analyzer_for(stage.all_axes)
    score = 0
    for load in loads(stage.value):
        step = stride(load.indices[-1], axis, analyzer) if len(load.indices) == 1 else _own_step(load.indices, axis)
        if step == 0 if static(step) else False:
            continue
        score += 1 if static(step) and step == 1 else -1
    if static(axis.extent) and axis.extent < 8:
        score -= 1
    return score


def _own_step(indices: Sequence[Index], axis: Axis) -> int:
    """Step of a load from another stage of the group, whose buffer will be laid out to suit: 0 or 1."""
    return int(any(axis.var.same_as(i) for i in indices))


def _row_axis(group: Group, flat: Sequence[Stage]) -> int | None:
    """The shared axis along which most vectors read for the strip can be used again, if any."""
    reductions = [k for k, s in enumerate(flat) if s.reduce]
    if len(reductions) != 1:
        return None
    number = reductions[0]
    stage, places = flat[number], group.places[number]
    analyzer = analyzer_for(stage.all_axes)
    strip = group.stages[number].axes[places[-1]]
    vectors = [x for x in loads(stage.value) if len(x.indices) == 1 and stride(x.indices[0], strip, analyzer) != 0]
    best, most = None, 0
    for j, axis in enumerate(group.shared[:-1]):
        own = group.stages[number].axes[places[j]]
        if static(axis.extent) and axis.extent < 2:
            continue
        reused = sum(_is_zero(stride(x.indices[0], own, analyzer)) for x in vectors)
        if reused >= max(most, 1):
            best, most = j, reused
    return best


def _is_zero(step: Index | None) -> bool:
    return static(step) and step == 0
