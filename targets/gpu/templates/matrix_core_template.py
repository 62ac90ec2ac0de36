"""Products on AMD's matrix units: float16, bfloat16, int8 and, on CDNA, float32.

Constant right operands are packed as (N, K), K rounded up to whole vectors. Sums are float32, and so is the epilogue
unless the operator's result is narrower; those of int8 are int32.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.template import Candidate, Config, Space
from ....compiler.schedule.traits import Traits
from ..spec import GpuSpec
from .gemm_template import Found, GemmTemplate
from .matrix_core import MatrixInstruction, instructions_for
from .matrix_core_costs import Matrices, matrix_space, matrix_traits
from .matrix_core_gemm import MatrixNest
from .matrix_core_tile import tile_of

# Type of sums -> those that they may be rounded to.
RESULTS = {"float32": ("float32", "float16", "bfloat16"), "int32": ("int32",)}


class MatrixCoreTemplate(GemmTemplate):
    """Products by MFMA (CDNA) and WMMA (RDNA3)."""

    def unit(self, op: OpSpec, spec: GpuSpec) -> tuple[MatrixInstruction, ...] | None:
        """The instructions for the operands' types; None where there are none."""
        if op.kind not in ("matmul", "conv2d"):
            return None
        known = instructions_for(spec, op.inputs[0].dtype, op.inputs[1].dtype)
        return tuple(i for i in known if op.anchor_type.dtype in RESULTS[i.accumulator]) or None

    def space(self, found: Found) -> Space | None:
        """See GemmTemplate."""
        return matrix_space(found.problem.sizes, found.spec, _matrices(found))

    def candidate(self, found: Found, config: Config) -> Candidate:
        """See GemmTemplate."""
        tile = tile_of(config, found.unit)
        access = found.problem.access(False, bm=tile.bm, bn=tile.bn)
        result = found.problem.op.anchor_type.dtype
        grid = access.grid(tile, tile.bk, tile.how.accumulator, result, tile.how.rows)
        kernel = MatrixNest(tile, grid).kernel(access.operands)
        return kernel.candidate(access.function(kernel.body), access.packers)

    def traits_of(self, found: Found, configs: Sequence[Config]) -> Traits:
        """See GemmTemplate."""
        return matrix_traits(found.problem.sizes, found.spec, _matrices(found), configs)


def _matrices(found: Found) -> Matrices:
    return Matrices(found.unit, found.problem.access(False).lanes)
