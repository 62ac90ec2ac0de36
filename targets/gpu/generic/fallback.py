"""Any function at all: threads over the spatial loops of each block where that is provably legal, else one thread."""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir import SBlockRealize
from tvm.s_tir.schedule import ScheduleError
from tvm.tirx import Stmt

from ...shared.loops import seq
from ...shared.rules import finished
from ..launch import launch
from ..spec import GpuSpec

_BLOCK = 128


def schedule_anything(func: tirx.PrimFunc, spec: GpuSpec) -> tirx.PrimFunc:
    """`func` as kernels, one for each statement of its body."""
    bound = _bound_where_legal(func)
    if bound is not None:
        return bound
    root = func.body
    if isinstance(root, SBlockRealize) and not root.block.iter_vars:
        block = root.block
        statements = list(block.body.seq) if isinstance(block.body, tirx.SeqStmt) else [block.body]
        allocations = [tirx.AllocBuffer(b) for b in block.alloc_buffers]
    else:
        statements, allocations = [root], []
    return finished(func, seq([*allocations, *(_serially(s) for s in statements)]))


def _serially(statement: Stmt) -> Stmt:
    """`statement` by one thread."""

    def plain(loop: tirx.For) -> Stmt:
        if loop.kind not in (tirx.ForKind.PARALLEL, tirx.ForKind.VECTORIZED):
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    if isinstance(statement, (tirx.AllocBuffer, tirx.DeclBuffer)):
        return statement
    return launch(1, 1, lambda block, thread: tvm_ffi.structural_map(statement, (tirx.For, plain), order="post"))


def _bound_where_legal(func: tirx.PrimFunc) -> tirx.PrimFunc | None:
    """`func` with each block's spatial loops over blocks and threads; None if that cannot be done for all of them."""
    if not isinstance(func.body, SBlockRealize):
        return None
    schedule = s_tir.Schedule(func)
    root = schedule.get_sblock(func.body.block.name_hint)
    blocks = schedule.get_child_blocks(root)
    if not blocks or func.body.block.iter_vars:
        return None
    try:
        for block in blocks:
            _bind(schedule, block)
    except (ScheduleError, RuntimeError):
        return None
    return schedule.mod["main"].with_attr("tirx.is_scheduled", True)


def _bind(schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    loops = schedule.get_loops(block)
    variables: list[tirx.IterVar] = list(schedule.get(block).iter_vars)
    spatial = []
    for loop, variable in zip(loops, variables, strict=False):
        if variable.iter_type != tirx.IterVar.DataPar:
            break
        spatial.append(loop)
    if not spatial:
        raise RuntimeError("no loop that threads may share out")
    fused = schedule.fuse(*spatial) if len(spatial) > 1 else spatial[0]
    outer, inner = schedule.split(fused, [None, _BLOCK])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(inner, "threadIdx.x")
