"""Any function at all: threads over the spatial loops of each block where that is provably legal, or over loops that
say that their iterations are independent; else one thread."""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir import SBlockRealize
from tvm.s_tir.schedule import ScheduleError
from tvm.tirx import Stmt

from ....compiler.loop_marks import INDEPENDENT
from ...shared.loops import Index, as_int, ceildiv, seq
from ...shared.rules import finished
from ..launch import launch
from ..spec import GpuSpec

_BLOCK = 128
_DECLARATIONS = (tirx.AllocBuffer, tirx.DeclBuffer)


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
    return finished(func, seq([*allocations, *(kernel for s in statements for kernel in _kernels(s))]))


def _kernels(statement: Stmt) -> list[Stmt]:
    """A kernel for each statement in `statement` that has to wait for the one before it."""
    if isinstance(statement, SBlockRealize) and not statement.block.iter_vars and not statement.block.alloc_buffers:
        return _kernels(statement.block.body)
    if isinstance(statement, tirx.AttrStmt) and statement.attr_key == "pragma_scope":
        return _kernels(statement.body)
    if isinstance(statement, tirx.SeqStmt) and not any(isinstance(s, _DECLARATIONS) for s in statement.seq):
        return [kernel for s in statement.seq for kernel in _kernels(s)]
    if isinstance(statement, tirx.For) and _is_independent(statement):
        return [_shared_out(statement)]
    return [_serially(statement)]


def _is_independent(loop: tirx.For) -> bool:
    """Whether the order of iterations does not matter, and they start at 0."""
    marked = any(name in loop.annotations for name in INDEPENDENT)
    return (marked or loop.kind == tirx.ForKind.PARALLEL) and as_int(loop.min) == 0


def _shared_out(loop: tirx.For) -> Stmt:
    """A thread for each iteration."""
    extent = as_int(loop.extent)

    def thread(block: Index, lane: Index) -> Stmt:
        number = block * _BLOCK + lane
        body = tirx.SeqStmt([tirx.Bind(loop.loop_var, number.astype(loop.loop_var.ty.dtype)), _plain(loop.body)])
        return tirx.IfThenElse(number < extent, body, None)

    return launch(ceildiv(extent, _BLOCK), _BLOCK, thread)


def _serially(statement: Stmt) -> Stmt:
    """`statement` by one thread."""
    if isinstance(statement, _DECLARATIONS):
        return statement
    return launch(1, 1, lambda block, thread: _plain(statement))


def _plain(statement: Stmt) -> Stmt:
    """`statement` without loops that ask for other threads."""

    def plain(loop: tirx.For) -> Stmt:
        if loop.kind not in (tirx.ForKind.PARALLEL, tirx.ForKind.VECTORIZED):
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    return tvm_ffi.structural_map(statement, (tirx.For, plain), order="post")


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
    if any(as_int(schedule.get(loop).extent) == 0 for loop in spatial):
        raise RuntimeError("no iteration for threads to run")
    fused = schedule.fuse(*spatial) if len(spatial) > 1 else spatial[0]
    outer, inner = schedule.split(fused, [None, _BLOCK])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(inner, "threadIdx.x")
