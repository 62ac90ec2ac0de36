"""NHWC convolution on AMD's matrix units, as a matrix product that nobody writes down (see gemm_conv.py).

float16, bfloat16 and, on CDNA, float32. Weights are packed as (groups, output channels, K), K rounded up to whole
vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_shape import ConvShape, conv_sizes
from ..spec import GpuSpec
from .gemm_conv import ConvMemory, WeightPacking, is_depthwise, sizes_of
from .gemm_matmul import VECTOR_BYTES
from .matrix_core_costs import Matrices, matrix_space, matrix_traits
from .matrix_core_gemm import MatrixNest
from .matrix_core_matmul import read_instructions
from .matrix_core_tile import tile_of
from .vectors import dtype_bytes


class MatrixCoreConv2D(Template):
    """Any 2-D convolution with constant weights, grouped or not, by MFMA (CDNA) and WMMA (RDNA3)."""

    name = "conv2d_matrix_core"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """NHWC with constant weights of types that the matrix units multiply; not depthwise."""
        found = _read(op, target)
        if found is None or is_depthwise(found.conv):
            return None
        return matrix_space(sizes_of(found.conv), found.spec, found.matrices)

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, and the packer of the weights."""
        found = _read(op, target)
        assert found is not None, "match accepts only such operators"
        conv, tile = found.conv, tile_of(config, found.matrices.instructions)
        memory = ConvMemory(op, found.packing, tile.bm, tile.bn)
        nest = MatrixNest(tile, memory.count, conv.group_out, conv.depth, op.anchor_type.dtype)
        return Candidate(memory.function(nest.kernel(conv.groups, memory.matrices)), {1: found.packing.pack})

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        found = _read(op, target)
        assert found is not None, "match accepts only such operators"
        return matrix_traits(sizes_of(found.conv), found.spec, found.matrices, configs)


@dataclass(frozen=True)
class _Found:
    conv: ConvShape
    packing: WeightPacking
    matrices: Matrices
    spec: GpuSpec


def _read(op: OpSpec, target: TargetSpec) -> _Found | None:
    instructions = read_instructions(op, target)
    conv = conv_sizes(op) if instructions else None
    if conv is None or not isinstance(target, GpuSpec):
        return None
    packing = WeightPacking(conv, VECTOR_BYTES // dtype_bytes(instructions[0].dtype), turned=True)
    image, weights, _ = ConvMemory(op, packing, 1, 1).matrices(0)
    return _Found(conv, packing, Matrices(instructions, (image.lanes, weights.lanes)), target)
