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
from .split import blocks_of, parts, split


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
        whole = all(self._parts(s, blocks_of(group, self.spec)) == 1 for s in group.stages)
        kernel = emit_group(group, inner, self.views, self.spec) if whole else None
        if kernel is not None:
            self.kernels.append(kernel)
            return
        self._allocate(group, frozenset(s.buffer for s in group.stages if s.buffer not in inner))
        for stage in group.stages:
            self._alone(stage)

    def _allocate(self, group: Group, besides: frozenset[tirx.Buffer]) -> None:
        """Memory for the temporaries that `group` writes, but for those in `besides`."""
        written = [s.buffer for s in group.stages if s.buffer in self.program.temporaries]
        self.between += [self.views.allocate(b) for b in written if b not in besides]

    def _parts(self, stage: Stage, blocks: int) -> int:
        return parts(stage, blocks, self.spec) if stage.reduce else 1

    def _alone(self, stage: Stage) -> None:
        """A kernel for `stage`, or two where it is a reduction that one leaves most of the GPU idle with."""
        if not stage.reduce:
            self.kernels.append(emit_map(stage, self.views, self.spec))
            return
        count = self._parts(stage, blocks_of(_lone(stage), self.spec))
        pieces = split(stage, count) if count > 1 else (stage,)
        if count > 1:
            self.between.append(self.views.allocate(pieces[0].buffer))
        for piece in pieces:
            kernel = emit_group(_lone(piece), frozenset(), self.views, self.spec)
            assert kernel is not None, "a reduction by itself always fits"
            self.kernels.append(kernel)


def _lone(stage: Stage) -> Group:
    return Group((stage,), stage.axes, (tuple(range(len(stage.axes))),))
