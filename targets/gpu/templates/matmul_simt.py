"""float32 matmul without matrix units: tiles through double-buffered shared memory, the epilogue in registers.

Any shape, broadcast batches and permuted operands; sizes may be symbolic. A constant right operand is packed as (K, N)
with N rounded up to whole vectors, so that every fetch is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.matmul_problem import read_problem
from ..spec import GpuSpec
from .gemm_costs import gemm_space, gemm_traits, tile_of
from .gemm_matmul import MatmulMemory, is_thin, packing_of, sizes_of
from .gemm_tile import QUAD, GemmNest


class MatmulSimt(Template):
    """Matmul on the vector units."""

    name = "matmul_simt"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """float32 matrices; thin ones are left to the generic reductions."""
        problem = read_problem(op) if isinstance(target, GpuSpec) else None
        if problem is None or not isinstance(target, GpuSpec) or is_thin(problem):
            return None
        return gemm_space(sizes_of(problem), target)

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel; a constant right operand is packed."""
        problem = read_problem(op)
        assert problem is not None
        packing = packing_of(problem, QUAD, turned=False)
        packers = {1: packing.packer(problem.op.ints("rhs_perm"))} if packing is not None else {}
        memory = MatmulMemory(op, problem, packing)
        nest = GemmNest(tile_of(config), memory.buffers.m, memory.buffers.n, memory.buffers.k)
        return Candidate(memory.function(nest.kernel(memory.batches, memory.operands)), packers)

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        problem = read_problem(op)
        assert problem is not None
        assert isinstance(target, GpuSpec)
        return gemm_traits(sizes_of(problem), target, configs)
