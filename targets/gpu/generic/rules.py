"""Functions made of perfect loop nests: stages are inlined and grouped, and each group becomes a kernel."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.access import Views
from ...shared.groups import Group, group_stages, private_buffers
from ...shared.inline import inline_maps
from ...shared.loops import seq
from ...shared.program import Program, Stage, read_program
from ...shared.rules import finished, rule_name
from ..spec import GpuSpec
from .maps import emit_map
from .reductions import emit_group


def schedule_program(func: tirx.PrimFunc, spec: GpuSpec) -> tuple[tirx.PrimFunc, str] | None:
    """Kernels for a function of stages, or None if `func` is not one."""
    program = read_program(func)
    if program is None:
        return None
    program = inline_maps(program)
    emitter = _Emitter(program, spec)
    for group in group_stages(program, 1):
        emitter.add(group)
    views = emitter.views
    return finished(func, seq([*emitter.between, *views.declarations, *emitter.kernels])), rule_name(program)


class _Emitter:
    """Collects kernels, and the allocations of what passes from one to the next through device memory."""

    def __init__(self, program: Program, spec: GpuSpec) -> None:
        self.program, self.spec = program, spec
        self.views = Views()
        self.kernels: list[Stmt] = []
        self.between: list[Stmt] = []

    def add(self, group: Group) -> None:
        """One kernel for `group`, or one for each of its stages."""
        inner = private_buffers(group, self.program)
        self._allocate(group, inner)
        if len(group.stages) == 1 and not group.stages[0].reduce:
            self.kernels.append(emit_map(group.stages[0], self.views, self.spec))
            return
        kernel = emit_group(group, inner, self.views, self.spec)
        if kernel is not None:
            self.kernels.append(kernel)
            return
        self._allocate(group, frozenset(s.buffer for s in group.stages if s.buffer not in inner))
        self.kernels += [self._alone(stage) for stage in group.stages]

    def _allocate(self, group: Group, besides: frozenset[tirx.Buffer]) -> None:
        """Memory for the temporaries that `group` writes, but for those in `besides`."""
        written = [s.buffer for s in group.stages if s.buffer in self.program.temporaries]
        self.between += [self.views.allocate(b) for b in written if b not in besides]

    def _alone(self, stage: Stage) -> Stmt:
        if not stage.reduce:
            return emit_map(stage, self.views, self.spec)
        every = tuple(range(len(stage.axes)))
        kernel = emit_group(Group((stage,), stage.axes, (every,)), frozenset(), self.views, self.spec)
        assert kernel is not None, "a reduction by itself always fits"
        return kernel
