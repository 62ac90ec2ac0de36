"""Functions made of perfect loop nests: stages are inlined, grouped, and each group gets its own kind of loops."""

from __future__ import annotations

from tvm import tirx

from ....compiler.schedule.target_spec import CpuSpec
from .access import Views
from .inline import inline_maps
from .loops import seq
from .maps import emit_map
from .program import read_program


def schedule_program(func: tirx.PrimFunc, spec: CpuSpec) -> tuple[tirx.PrimFunc, str] | None:
    """Loops for a function of stages, or None if `func` is not one."""
    program = read_program(func)
    if program is None:
        return None
    program = inline_maps(program)
    if any(stage.reduce for stage in program.stages):
        return None
    views = Views()
    whole = [s.buffer for s in program.stages if s.buffer in program.temporaries]
    allocations = [views.allocate(b) for b in whole]
    statements = [emit_map(stage, views, spec) for stage in program.stages]
    body = seq([*allocations, *views.declarations, *statements])
    return finished(func, body), "map"


def finished(func: tirx.PrimFunc, body: tirx.Stmt) -> tirx.PrimFunc:
    """`func` with `body` instead of its blocks."""
    return func.with_body(body).with_attr("tirx.is_scheduled", True)
