"""Two-dimensional 3x3 convolutions of stride 1 by Winograd's minimal filtering, F(m x m, 3x3)."""

from __future__ import annotations

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec, TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from .conv2d_winograd_nest import WinogradNest, WinogradPlan
from .conv_operands import PARALLEL_FLOPS
from .conv_shape import ConvShape, conv_shape


class WinogradConv2D(Template):
    """3x3 convolutions of stride 1."""

    name = "conv2d_winograd"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        conv = conv_shape(op)
        if conv is None or not isinstance(target, CpuSpec) or not _applies(conv, target):
            return None
        return Space(Config.of(m=4, rows=14, vectors=2, tiles=28, blocks=1, parts=1))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        conv = conv_shape(op)
        plan = WinogradPlan(
            channels=conv.channels, out_channels=conv.out_channels, lanes=target.lanes("float32"),
            **{k: int(v) for k, v in config.knobs},
        )
        nest = WinogradNest(op, conv, plan, conv.flops() >= PARALLEL_FLOPS)
        return Candidate(nest.build(), {1: plan.pack})


def _applies(conv: ConvShape, target: CpuSpec) -> bool:
    sizes = (*conv.size, *conv.out_size)
    plain = conv.kernel == (3, 3) and conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    return plain and all(isinstance(d, int) for d in sizes) and conv.channels >= target.lanes("float32")
