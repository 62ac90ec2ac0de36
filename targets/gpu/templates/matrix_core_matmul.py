"""Matmul on AMD's matrix units: any shape, broadcast batches and permuted operands; sizes may be symbolic."""

from __future__ import annotations

from ....compiler.schedule.op_spec import OpSpec
from .gemm_problem import GemmProblem, matmul_products
from .matrix_core_template import MatrixCoreTemplate


class MatrixCoreMatmul(MatrixCoreTemplate):
    """Matmul by MFMA (CDNA) and WMMA (RDNA3); thin matrices are left to the generic reductions."""

    name = "matmul_matrix_core"

    def product(self, op: OpSpec) -> GemmProblem | None:
        """See GemmTemplate."""
        return matmul_products(op)
