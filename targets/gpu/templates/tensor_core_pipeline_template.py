"""Products on Hopper by copies of whole tiles and warps that do different work: float16, bfloat16 and int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.template import Candidate, Config, Space
from ....compiler.schedule.traits import Traits
from ..spec import GpuSpec
from .gemm_template import Found, GemmTemplate
from .tensor_core_costs import fills_warpgroups
from .tensor_core_maps import TileMap
from .tensor_core_operands import Operands, read_operands
from .tensor_core_pipeline import PipelineNest
from .tensor_core_pipeline_costs import at_once, band_of, pipeline_space, pipeline_traits
from .tensor_core_pipeline_tile import PipelineTile
from .tensor_core_wgmma import warpgroup_multiply_of


class PipelineTemplate(GemmTemplate):
    """Where both operands lie as the copy engine wants them."""

    def unit(self, op: OpSpec, spec: GpuSpec) -> Operands | None:
        """How warpgroups multiply the operands' types."""
        return read_operands(op, spec, warpgroup_multiply_of) if spec.tma else None

    def accepts(self, found: Found) -> bool:
        """Rows at multiples of 16 bytes; k runs fastest where elements have one byte."""
        if not fills_warpgroups(found.problem.sizes):
            return False
        tiled = found.problem.access(True).tiled
        if tiled is None:
            return False
        return all(t.fits and (t.along_k or found.unit.how.size == 2) for t in tiled)

    def space(self, found: Found) -> Space | None:
        """See GemmTemplate."""
        return pipeline_space(found.problem.sizes, found.spec, found.unit)

    def candidate(self, found: Found, config: Config) -> Candidate:
        """See GemmTemplate."""
        how, tile = found.unit.how, PipelineTile.of(config)
        access = found.problem.access(True, bm=tile.bm, bn=tile.bn)
        assert access.tiled is not None, "match accepts only such operators"
        pairs = zip(access.tiled, (tile.bm, tile.bn), ("a", "b"), strict=True)
        left, right = (TileMap(tiled, extent, how.size, name) for tiled, extent, name in pairs)
        result = found.problem.op.anchor_type.dtype
        grid = replace(
            access.grid(tile, left.bk, how.accumulator, result, found.unit.store_lanes),
            band=band_of(tile, found.spec),
            at_once=at_once(tile, found.spec),
            stay=True,
        )
        nest = PipelineNest(tile, grid, how, (left, right), access.axes)
        kernel = nest.kernel(access.operands)
        return kernel.candidate(access.function(kernel.body), access.packers)

    def traits_of(self, found: Found, configs: Sequence[Config]) -> Traits:
        """See GemmTemplate."""
        return pipeline_traits(found.problem.sizes, found.spec, found.unit, configs)
