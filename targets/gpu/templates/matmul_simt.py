"""float32 matmul without matrix units: tiles through double-buffered shared memory, the epilogue in registers.

Any shape, broadcast batches and permuted operands; sizes may be symbolic. A constant right operand is packed as (K, N)
with N rounded up to whole vectors, so that every fetch is one.
"""

from __future__ import annotations

from ....compiler.schedule.op_spec import OpSpec
from .gemm_problem import GemmProblem, matmul_products
from .gemm_simt import SimtTemplate


class MatmulSimt(SimtTemplate):
    """Matmul on the vector units; thin matrices are left to the generic reductions."""

    name = "matmul_simt"

    def product(self, op: OpSpec) -> GemmProblem | None:
        """See GemmTemplate."""
        return matmul_products(op)
