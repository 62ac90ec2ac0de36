"""NHWC convolution on NVIDIA's tensor cores, as a matrix product that nobody writes down (see gemm_conv.py).

float16, bfloat16, int8 and, where the compile allows it, float32 as tfloat32. Weights are packed as (groups, output
channels, K), K rounded up to whole vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_shape import ConvShape, conv_sizes
from ..spec import GpuSpec
from .gemm_conv import ConvMemory, WeightPacking, is_depthwise, sizes_of
from .gemm_index import Held
from .tensor_core_costs import Product, fills_warpgroups, tensor_space, tensor_traits
from .tensor_core_gemm import TensorNest
from .tensor_core_operands import MultiplyOf, Operands, read_operands
from .tensor_core_piece import passes_registers
from .tensor_core_ptx import multiply_of
from .tensor_core_tile import TensorTile, tile_of
from .tensor_core_wgmma import warpgroup_multiply_of
from .vectors import VECTOR_BYTES

_Found = tuple[ConvShape, Operands, GpuSpec]


class TensorCoreConv2D(Template):
    """Any 2-D convolution with constant weights, grouped or not, by mma.sync, with cp.async where the GPU has it."""

    name = "conv2d_tensor_core"
    multiply: ClassVar[MultiplyOf] = staticmethod(multiply_of)

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """NHWC with constant weights of types that the tensor cores multiply; not depthwise."""
        found = self._read(op, target)
        if found is None or is_depthwise(found[0]):
            return None
        conv, _, spec = found
        return tensor_space(sizes_of(conv), spec, _product(op, found))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, and the packer of the weights."""
        found = self._read(op, target)
        assert found is not None, "match accepts only such operators"
        conv, operands, spec = found
        tile = tile_of(config)
        memory = _memory(op, conv, operands, tile)
        nest = TensorNest(
            tile=tile,
            m=memory.count,
            n=conv.group_out,
            k=conv.depth,
            dtypes=operands.dtypes,
            how=operands.how,
            result=op.anchor_type.dtype,
            lanes=operands.store_lanes,
            async_copy=spec.async_copy,
            indices=memory.indices,
        )
        body = nest.kernel(conv.groups, memory.matrices)
        return Candidate(memory.function(body), {1: memory.packing.pack})

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        found = self._read(op, target)
        assert found is not None, "match accepts only such operators"
        conv, _, spec = found
        return tensor_traits(sizes_of(conv), spec, _product(op, found), configs)

    def _read(self, op: OpSpec, target: TargetSpec) -> _Found | None:
        operands = read_operands(op, target, self.multiply)
        conv = conv_sizes(op) if operands is not None else None
        if conv is None or operands is None or not isinstance(target, GpuSpec):
            return None
        return conv, operands, target


class WarpgroupConv2D(TensorCoreConv2D):
    """The same by Hopper's wgmma, which reads both operands from shared memory; not worth while for few rows."""

    name = "conv2d_warpgroup"
    multiply: ClassVar[MultiplyOf] = staticmethod(warpgroup_multiply_of)

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """As the other template, but for results of less than half a warpgroup's rows, or fewer columns."""
        found = self._read(op, target)
        if found is None or not fills_warpgroups(sizes_of(found[0])):
            return None
        return super().match(op, target)


def _memory(op: OpSpec, conv: ConvShape, operands: Operands, tile: TensorTile) -> ConvMemory:
    packing = WeightPacking(conv, VECTOR_BYTES // operands.how.size, turned=True)
    return ConvMemory(op, packing, tile.bm, tile.bn, Held.of(op))


def _product(op: OpSpec, found: _Found) -> Product:
    conv, operands, spec = found
    memory = _memory(op, conv, operands, TensorTile(16, 16, 1, 1, 1, 2))
    image, weights, _ = memory.matrices(0)
    size = operands.how.size
    held = tuple(passes_registers(matrix, size, spec.async_copy) for matrix in (image, weights))
    lanes = (image.lanes, weights.lanes)
    return Product(operands.how, operands.rate, (held[0], held[1]), lanes, window=not conv.is_pointwise)
