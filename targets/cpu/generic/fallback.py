"""Any function at all: threads over the outermost spatial loop of each block, where that is provably legal."""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.schedule import ScheduleError

from ....compiler.schedule.target_spec import CpuSpec
from ...shared.loops import as_int
from ...shared.program import fast_calls
from .maps import PARALLEL_WORK, estimate


def schedule_anything(func: tirx.PrimFunc, spec: CpuSpec) -> tirx.PrimFunc:
    """`func` with parallel outer loops where that is known to be legal.

    LLVM vectorises what it can, for which functions that it can look into stand in the place of libm's.
    """
    func = func.with_body(tvm_ffi.structural_map(fast_calls(func.body), (tirx.AttrStmt, _unmarked), order="post"))
    if not isinstance(func.body, s_tir.SBlockRealize) or spec.cores == 1:
        return func
    schedule = s_tir.Schedule(func)
    # A function of one external block has that one for a root.
    root = schedule.get_sblock(func.body.block.name_hint)
    for block in schedule.get_child_blocks(root):
        try:
            _parallelise(schedule, block)
        except (ScheduleError, RuntimeError):
            # The block writes what another iteration reads, or is no loop nest: it stays serial.
            continue
    return schedule.mod["main"]


def _unmarked(statement: tirx.AttrStmt) -> tirx.Stmt:
    """What TVM's operators mark as a sequence, without the mark, which its code generator warns of."""
    return statement.body if statement.attr_key == "pragma_scope" else statement


def _parallelise(schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    loops = schedule.get_loops(block)
    iterations = [(schedule.get(x), v) for x, v in zip(loops, schedule.get(block).iter_vars, strict=False)]
    work = estimate([as_int(node.extent) for node, _ in iterations])
    if not loops or 4 * work < PARALLEL_WORK:
        return
    for rv, (node, variable) in zip(loops, iterations, strict=False):
        extent = as_int(node.extent)
        if variable.iter_type == tirx.IterVar.DataPar and not (isinstance(extent, int) and extent < 2):
            schedule.parallel(rv)
            return
