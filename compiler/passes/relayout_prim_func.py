"""Rewrite a PrimFunc so that some of its four-dimensional buffers are stored channels-last."""

from __future__ import annotations

from collections.abc import Collection

import tvm
from tvm import s_tir, tirx


def _last(n: tirx.Var, c: tirx.Var, h: tirx.Var, w: tirx.Var) -> tuple[tirx.Var, ...]:
    return n, h, w, c


def channels_last(func: tirx.PrimFunc, params: Collection[int]) -> tirx.PrimFunc | None:
    """`func` with the buffers of its parameters at `params`, each (N, C, H, W), stored and declared as (N, H, W, C).

    Intermediate buffers of four dimensions and the loops over four spatial axes follow, so that the innermost loop
    runs over neighbouring elements. None if TVM cannot transform it.
    """
    schedule = s_tir.Schedule(func)
    wanted = {func.params[k].name for k in params}
    own = {param.name for param in func.params}
    try:
        blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
        for block in blocks:
            _relayout_buffers(schedule, block, wanted, own)
        for block in blocks:
            _reorder_loops(schedule, block)
    except (s_tir.ScheduleError, tvm.error.InternalError):
        return None
    if wanted:
        return None
    return schedule.mod["main"]


def _relayout_buffers(
    schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV, wanted: set[str], own: set[str]
) -> None:
    """Transform buffers as they are met, striking them from `wanted`; intermediate ones where they are written."""
    for kind in ("read", "write"):
        regions = schedule.get(block).reads if kind == "read" else schedule.get(block).writes
        for index, region in enumerate(regions):
            name = region.source.name
            intermediate = kind == "write" and name not in own and len(region.region) == 4
            if name in wanted or intermediate:
                schedule.transform_layout(block, (kind, index), _last)
                wanted.discard(name)


def _reorder_loops(schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    loops = schedule.get_loops(block)
    kinds = [v.iter_type for v in schedule.get(block).iter_vars]
    if len(loops) == len(kinds) and kinds[:4] == [tirx.IterVar.DataPar] * 4:
        n, c, h, w = loops[:4]
        schedule.reorder(n, h, w, c)
