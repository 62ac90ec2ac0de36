"""Functions made of perfect loop nests: stages are inlined, grouped, and each group gets its own kind of loops."""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize

from ....compiler.schedule.target_spec import CpuSpec
from ...shared.access import Views
from ...shared.groups import Group, group_stages
from ...shared.inline import inline_maps
from ...shared.loops import seq
from ...shared.program import Program, cost, hoist_divisions, loads, read_program
from .maps import emit_map, estimate, task_count
from .reductions import emit_group


def schedule_program(func: tirx.PrimFunc, spec: CpuSpec) -> tuple[tirx.PrimFunc, str] | None:
    """Loops for a function of stages, or None if `func` is not one."""
    program = read_program(func)
    if program is None:
        return None
    program = inline_maps(program)
    program = replace(program, stages=tuple(hoist_divisions(s) for s in program.stages))
    work = sum(estimate([a.extent for a in s.all_axes]) * (1 + cost(s.value)) for s in program.stages)
    # Stages are only kept apart for the sake of parallel loops.
    groups = group_stages(program, 4 * spec.cores if task_count(work, spec) > 1 else 1)
    views = Views()
    inner = {g: _private(g, program) for g in groups}
    private = frozenset().union(*inner.values())
    whole = [s.buffer for s in program.stages if s.buffer in program.temporaries and s.buffer not in private]
    allocations = [views.allocate(b) for b in whole]
    statements = []
    for group in groups:
        if len(group.stages) == 1 and not group.stages[0].reduce:
            statements.append(emit_map(group.stages[0], views, spec))
        else:
            statements.append(emit_group(group, inner[group], views, spec))
    body = seq([*allocations, *views.declarations, *statements])
    return finished(func, body), _name(program)


def _private(group: Group, program: Program) -> frozenset[tirx.Buffer]:
    """Temporaries of `group` that no other stage reads."""
    outside = [s for s in program.stages if s not in group.stages]
    read = {load.source for s in outside for load in loads(s.value)}
    return frozenset(s.buffer for s in group.stages if s.buffer in program.temporaries and s.buffer not in read)


def _name(program: Program) -> str:
    """Rule name for reports: "map", "reduction", or "chain" for reductions and maps in turn (softmax, LayerNorm)."""
    reductions = sum(1 for s in program.stages if s.reduce)
    return "map" if not reductions else "reduction" if reductions == 1 else "chain"


def finished(func: tirx.PrimFunc, body: tirx.Stmt) -> tirx.PrimFunc:
    """`func` with `body` instead of its blocks. A block remains around it: passes over Relax look for one."""
    root = SBlockRealize([], True, SBlock([], [], [], "root", body))
    return func.with_body(root).with_attr("tirx.is_scheduled", True)
