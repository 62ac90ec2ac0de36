"""Functions made of perfect loop nests: stages are inlined, grouped, and each group gets its own kind of loops."""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx

from ....compiler.schedule.target_spec import CpuSpec
from ...shared.access import Views
from ...shared.groups import group_stages, private_buffers
from ...shared.inline import inline_maps
from ...shared.loops import seq
from ...shared.program import cost, hoist_divisions, read_program
from ...shared.rules import finished, rule_name
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
    inner = {g: private_buffers(g, program) for g in groups}
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
    return finished(func, body), rule_name(program)
