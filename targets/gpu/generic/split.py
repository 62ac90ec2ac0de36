"""Long reductions of few rows, in two kernels: the GPU's blocks share out the row, then one adds up what they found.

    s[i] = sum_j x[i, j]        # i: 1; j: 16,777,216
      -> part[p, i] = sum_r x[i, p * 65536 + r];  s[i] = sum_p part[p, i]

The order of summation is fixed, so results are the same in every run.
"""

from __future__ import annotations

from tvm import tirx

from ...shared.access import Views, flatten_group_stage
from ...shared.groups import Group
from ...shared.loops import i64, product, static
from ...shared.program import Axis, Stage, substitute
from ..spec import GpuSpec
from .row_reads import RowReads
from .teams import choose_team

# Elements that a block must have to do before it is worth another kernel.
_LONG = 1 << 16
# Least elements of a part.
_SHORTEST = 1 << 12


def blocks_of(group: Group, spec: GpuSpec) -> int:
    """Blocks that `group` takes, where its sizes are known."""
    flat = [flatten_group_stage(s, frozenset(), Views()) for s in group.stages]
    team = choose_team(group, flat, spec, RowReads(group, flat).lanes)
    rows = product([a.extent for a in group.shared])
    return -(-rows // team.rows) if static(rows) else spec.sms


def parts(stage: Stage, blocks: int, spec: GpuSpec) -> int:
    """Pieces to split the reduction `stage` into, given that it would take `blocks` blocks; 1: leave it whole."""
    length = product([a.extent for a in stage.reduce])
    rows = product([a.extent for a in stage.axes])
    if not stage.reduce or not static(length) or not static(rows):
        return 1
    if rows * length // max(1, blocks) < _LONG or blocks * 2 > spec.sms:
        return 1
    wanted = min(-(-2 * spec.sms // blocks), length // max(1, _SHORTEST // max(1, rows // blocks)))
    return max((_divisor(a.extent, wanted) for a in stage.reduce), default=1)


def _divisor(extent: int, most: int) -> int:
    """The largest divisor of `extent` that is at most `most`."""
    return next(d for d in range(max(1, min(most, extent)), 0, -1) if extent % d == 0)


def split(stage: Stage, count: int) -> tuple[Stage, Stage]:
    """`stage` as a stage that finds `count` parts, which lie one after the other, and one that combines them."""
    chosen = next(a for a in stage.reduce if a.extent % count == 0 and a.extent >= count)
    part = Axis(tirx.Var("part", "int64"), count)
    piece = Axis(tirx.Var(f"{chosen.var.name}_piece", "int64"), chosen.extent // count)
    at = {chosen.var: part.var * i64(piece.extent) + piece.var}
    buffer = tirx.decl_buffer([i64(count), *stage.buffer.shape], stage.buffer.dtype, f"{stage.buffer.name}_parts")
    reduce = tuple(piece if a is chosen else a for a in stage.reduce)
    first = Stage(buffer, (part, *stage.axes), substitute(stage.value, at), reduce, stage.combine, stage.init)
    axes = tuple(Axis(tirx.Var(a.var.name, "int64"), a.extent) for a in stage.axes)
    again = Axis(tirx.Var("part", "int64"), count)
    found = tirx.BufferLoad(buffer, [again.var, *(a.var for a in axes)])
    return first, Stage(stage.buffer, axes, found, (again,), stage.combine, stage.init)
