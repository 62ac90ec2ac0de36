"""Matmul on NVIDIA's tensor cores: float16, bfloat16, int8 and, where the compile allows it, float32 as tfloat32.

Any shape, broadcast batches and permuted operands; sizes may be symbolic. A constant right operand is packed as (N, K)
with K rounded up to whole vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.matmul_problem import MatmulProblem, read_matrices
from ..spec import GpuSpec
from .gemm_index import Held
from .gemm_matmul import MatmulMemory, is_thin, packing_of, sizes_of
from .tensor_core_costs import Product, fills_warpgroups, tensor_space, tensor_traits
from .tensor_core_gemm import TensorNest
from .tensor_core_operands import MultiplyOf, Operands, read_operands
from .tensor_core_piece import passes_registers
from .tensor_core_ptx import multiply_of
from .tensor_core_tile import tile_of
from .tensor_core_wgmma import warpgroup_multiply_of
from .vectors import VECTOR_BYTES

_Found = tuple[MatmulProblem, Operands, GpuSpec]


class TensorCoreMatmul(Template):
    """Matmul by mma.sync, with copies by cp.async where the GPU has them."""

    name = "matmul_tensor_core"
    multiply: ClassVar[MultiplyOf] = staticmethod(multiply_of)

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """Operands that the tensor cores multiply; thin matrices are left to the generic reductions."""
        found = self._read(op, target)
        if found is None or is_thin(found[0]):
            return None
        problem, _, spec = found
        return tensor_space(sizes_of(problem), spec, _product(op, found))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel; a constant right operand is packed."""
        found = self._read(op, target)
        assert found is not None, "match accepts only such operators"
        problem, operands, spec = found
        memory = _memory(op, problem, operands)
        packing = memory.packing
        nest = TensorNest(
            tile=tile_of(config),
            m=memory.buffers.m,
            n=memory.buffers.n,
            k=memory.buffers.k,
            dtypes=operands.dtypes,
            how=operands.how,
            result=op.anchor_type.dtype,
            lanes=operands.store_lanes,
            async_copy=spec.async_copy,
            indices=memory.indices,
        )
        packers = {1: packing.packer(problem.op.ints("rhs_perm"))} if packing is not None else {}
        return Candidate(memory.function(nest.kernel(memory.batches, memory.operands)), packers)

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        found = self._read(op, target)
        assert found is not None, "match accepts only such operators"
        problem, _, spec = found
        return tensor_traits(sizes_of(problem), spec, _product(op, found), configs)

    def _read(self, op: OpSpec, target: TargetSpec) -> _Found | None:
        operands = read_operands(op, target, self.multiply)
        problem = read_matrices(op) if operands is not None else None
        if problem is None or operands is None or not isinstance(target, GpuSpec):
            return None
        return problem, operands, target


class WarpgroupMatmul(TensorCoreMatmul):
    """The same by Hopper's wgmma, which reads both operands from shared memory; not worth while for few rows."""

    name = "matmul_warpgroup"
    multiply: ClassVar[MultiplyOf] = staticmethod(warpgroup_multiply_of)

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """As the other template, but for results of less than half a warpgroup's rows, or fewer columns."""
        found = self._read(op, target)
        if found is None or not fills_warpgroups(sizes_of(found[0])):
            return None
        return super().match(op, target)


def _memory(op: OpSpec, problem: MatmulProblem, operands: Operands) -> MatmulMemory:
    packing = packing_of(problem, VECTOR_BYTES // operands.how.size, turned=True)
    return MatmulMemory(op, problem, packing, Held.of(op))


def _product(op: OpSpec, found: _Found) -> Product:
    problem, operands, spec = found
    memory = _memory(op, problem, operands)
    left, right, _ = memory.operands(0)
    size = operands.how.size
    held = tuple(passes_registers(matrix, size, spec.async_copy) for matrix in (left, right))
    return Product(operands.how, operands.rate, (held[0], held[1]), (left.lanes, right.lanes))
