"""Functions made of perfect loop nests: stages are inlined and grouped, and each group becomes a kernel."""

from __future__ import annotations

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import Stmt

from ...shared.access import Views
from ...shared.groups import Group, group_stages
from ...shared.inline import inline_maps
from ...shared.loops import seq
from ...shared.program import Program, loads, read_program
from ..spec import GpuSpec
from .maps import emit_map
from .reductions import emit_group


def schedule_program(func: tirx.PrimFunc, spec: GpuSpec) -> tuple[tirx.PrimFunc, str] | None:
    """Kernels for a function of stages, or None if `func` is not one."""
    program = read_program(func)
    if program is None:
        return None
    program = inline_maps(program)
    views = Views()
    kernels: list[Stmt] = []
    kept: set[tirx.Buffer] = set()
    for group in group_stages(program, 1):
        kernels += _kernels(group, program, views, spec, kept)
    # What passes from one kernel to the next lies in device memory.
    between = [s.buffer for s in program.stages if s.buffer in program.temporaries and s.buffer not in kept]
    allocations = [views.allocate(b) for b in between]
    body = seq([*allocations, *views.declarations, *kernels])
    return finished(func, body), _name(program)


def _kernels(group: Group, program: Program, views: Views, spec: GpuSpec, kept: set[tirx.Buffer]) -> list[Stmt]:
    """One kernel for `group`, or one for each of its stages; `kept` gets the buffers that never leave a kernel."""
    if len(group.stages) == 1 and not group.stages[0].reduce:
        return [emit_map(group.stages[0], views, spec)]
    inner = _private(group, program)
    kernel = emit_group(group, inner, views, spec)
    if kernel is not None:
        kept.update(inner)
        return [kernel]
    found: list[Stmt] = []
    for stage in group.stages:
        every = tuple(range(len(stage.axes)))
        alone = Group((stage,), stage.axes, (every,))
        one = emit_group(alone, frozenset(), views, spec) if stage.reduce else emit_map(stage, views, spec)
        assert one is not None, "a reduction by itself always fits"
        found.append(one)
    return found


def _private(group: Group, program: Program) -> frozenset[tirx.Buffer]:
    """Temporaries of `group` that no other stage reads."""
    outside = [s for s in program.stages if s not in group.stages]
    read = {load.source for s in outside for load in loads(s.value)}
    return frozenset(s.buffer for s in group.stages if s.buffer in program.temporaries and s.buffer not in read)


def _name(program: Program) -> str:
    """Rule name for reports: "map", "reduction", or "chain" for reductions and maps in turn (softmax, LayerNorm)."""
    reductions = sum(1 for s in program.stages if s.reduce)
    return "map" if not reductions else "reduction" if reductions == 1 else "chain"


def finished(func: tirx.PrimFunc, body: Stmt) -> tirx.PrimFunc:
    """`func` with `body` instead of its blocks. A block remains around it: passes over Relax look for one."""
    root = SBlockRealize([], True, SBlock([], [], [], "root", body))
    return func.with_body(root).with_attr("tirx.is_scheduled", True)
