"""Products on NVIDIA's tensor cores: float16, bfloat16, int8 and, where the compile allows it, float32 as tfloat32.

Constant right operands are packed as (N, K), K rounded up to whole vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.template import Candidate, Config, Space
from ....compiler.schedule.traits import Traits
from ..spec import GpuSpec
from .gemm_problem import Access
from .gemm_template import Found, GemmTemplate
from .tensor_core_costs import Product, at_once, fills_warpgroups, tensor_space, tensor_traits
from .tensor_core_gemm import RASTER_ROWS, TensorNest
from .tensor_core_operands import MultiplyOf, Operands, read_operands
from .tensor_core_piece import passes_registers
from .tensor_core_ptx import multiply_of
from .tensor_core_tile import TensorTile
from .tensor_core_wgmma import warpgroup_multiply_of


class TensorCoreTemplate(GemmTemplate):
    """Products by mma.sync, with copies by cp.async where the GPU has them."""

    multiply: ClassVar[MultiplyOf] = staticmethod(multiply_of)

    def unit(self, op: OpSpec, spec: GpuSpec) -> Operands | None:
        """How tensor cores multiply the operands' types."""
        return read_operands(op, spec, self.multiply)

    def space(self, found: Found) -> Space | None:
        """See GemmTemplate."""
        return tensor_space(found.problem.sizes, found.spec, _product(found))

    def candidate(self, found: Found, config: Config) -> Candidate:
        """See GemmTemplate."""
        operands, tile = found.unit, TensorTile.of(config)
        access = found.problem.access(True, bm=tile.bm, bn=tile.bn)
        result = found.problem.op.anchor_type.dtype
        grid = replace(
            access.grid(tile, tile.bk, operands.how.accumulator, result, operands.store_lanes),
            band=RASTER_ROWS,
            at_once=at_once(tile, found.spec, _product(found)),
        )
        nest = TensorNest(tile, grid, operands.dtypes, operands.how, found.spec.async_copy)
        kernel = nest.kernel(access.operands)
        return kernel.candidate(access.function(kernel.body), access.packers)

    def traits_of(self, found: Found, configs: Sequence[Config]) -> Traits:
        """See GemmTemplate."""
        return tensor_traits(found.problem.sizes, found.spec, _product(found), configs)


class WarpgroupTemplate(TensorCoreTemplate):
    """The same by Hopper's wgmma, which reads both operands from shared memory."""

    multiply: ClassVar[MultiplyOf] = staticmethod(warpgroup_multiply_of)

    def accepts(self, found: Found) -> bool:
        """Not worth while for results of less than half a warpgroup's rows, or fewer columns."""
        return fills_warpgroups(found.problem.sizes)


def _product(found: Found) -> Product:
    operands: Operands = found.unit
    access: Access = found.problem.access(True)
    size = operands.how.size
    matrices: tuple[Any, Any] = access.operands(0)[:2]
    held = tuple(passes_registers(matrix, size, found.spec.async_copy) for matrix in matrices)
    return Product(operands.how, operands.rate, (held[0], held[1]), access.lanes, found.problem.window)
