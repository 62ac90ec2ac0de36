"""float32 NHWC convolution as a matrix product that nobody writes down: tiles of pixels x output channels.

Weights are packed as (groups, K, output channels rounded up to whole vectors); see gemm_conv.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_shape import conv_shape
from ..spec import GpuSpec
from .gemm_conv import ConvMemory, WeightPacking, is_depthwise, sizes_of
from .gemm_costs import gemm_space, gemm_traits, tile_of
from .gemm_tile import QUAD, GemmNest


class ImplicitConv2D(Template):
    """Any 2-D convolution with constant weights, grouped or not, on the vector units."""

    name = "conv2d_implicit"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """NHWC float32 with constant weights; depthwise ones have a template of their own."""
        conv = conv_shape(op)
        if conv is None or not isinstance(target, GpuSpec) or is_depthwise(conv):
            return None
        return gemm_space(sizes_of(conv), target, math.gcd(QUAD, conv.group_in))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, and the packer of the weights."""
        conv = conv_shape(op)
        assert conv is not None, "match accepts only such operators"
        tile, packing = tile_of(config), WeightPacking(conv, QUAD, turned=False)
        memory = ConvMemory(op, packing, tile.bm, tile.bn)
        nest = GemmNest(tile, memory.count, conv.group_out, conv.depth)
        return Candidate(memory.function(nest.kernel(conv.groups, memory.matrices)), {1: packing.pack})

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        conv = conv_shape(op)
        assert conv is not None, "match accepts only such operators"
        assert isinstance(target, GpuSpec)
        return gemm_traits(sizes_of(conv), target, configs)
