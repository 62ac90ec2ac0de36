"""Matmul on AMD's matrix units: float16, bfloat16 and, on CDNA, float32.

Any shape, broadcast batches and permuted operands; sizes may be symbolic. A constant right operand is packed as (N, K)
with K rounded up to whole vectors. Sums are float32, and so is the epilogue unless the operator's result is narrower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.matmul_problem import MatmulProblem, read_matrices
from ..spec import GpuSpec
from .gemm_matmul import VECTOR_BYTES, MatmulMemory, is_thin, packing_of, sizes_of
from .matrix_core import MatrixInstruction, instructions_for
from .matrix_core_costs import Matrices, matrix_space, matrix_traits
from .matrix_core_gemm import MatrixNest
from .matrix_core_tile import tile_of
from .vectors import dtype_bytes

# Types that sums may be rounded to.
FLOATS = ("float32", "float16", "bfloat16")


class MatrixCoreMatmul(Template):
    """Matmul by MFMA (CDNA) and WMMA (RDNA3)."""

    name = "matmul_matrix_core"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """Operands that the matrix units multiply; thin matrices are left to the generic reductions."""
        found = _read(op, target)
        if found is None or is_thin(found.problem):
            return None
        return matrix_space(sizes_of(found.problem), found.spec, found.matrices)

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel; a constant right operand is packed."""
        found = _read(op, target)
        assert found is not None, "match accepts only such operators"
        memory, buffers = found.memory, found.memory.buffers
        tile = tile_of(config, found.matrices.instructions)
        nest = MatrixNest(tile, buffers.m, buffers.n, buffers.k, op.anchor_type.dtype)
        packing = memory.packing
        packers = {1: packing.packer(found.problem.op.ints("rhs_perm"))} if packing is not None else {}
        return Candidate(memory.function(nest.kernel(memory.batches, memory.operands)), packers)

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        found = _read(op, target)
        assert found is not None, "match accepts only such operators"
        return matrix_traits(sizes_of(found.problem), found.spec, found.matrices, configs)


@dataclass(frozen=True)
class _Found:
    problem: MatmulProblem
    memory: MatmulMemory
    matrices: Matrices
    spec: GpuSpec


def _read(op: OpSpec, target: TargetSpec) -> _Found | None:
    instructions = read_instructions(op, target)
    problem = read_matrices(op) if instructions else None
    if problem is None or not isinstance(target, GpuSpec):
        return None
    packing = packing_of(problem, VECTOR_BYTES // dtype_bytes(instructions[0].dtype), turned=True)
    memory = MatmulMemory(op, problem, packing)
    left, right, _ = memory.operands(0)
    return _Found(problem, memory, Matrices(instructions, (left.lanes, right.lanes)), target)


def read_instructions(op: OpSpec, target: TargetSpec) -> tuple[MatrixInstruction, ...]:
    """The instructions of `target` for `op`, a product of two operands; none where it has none for its types."""
    if not isinstance(target, GpuSpec) or op.kind not in ("matmul", "conv2d"):
        return ()
    if op.anchor_type.dtype not in FLOATS:
        return ()
    return instructions_for(target, op.inputs[0].dtype, op.inputs[1].dtype)
