"""NHWC convolution on AMD's matrix units, as a matrix product that nobody writes down (see gemm_conv.py)."""

from __future__ import annotations

from ....compiler.schedule.op_spec import OpSpec
from .gemm_problem import GemmProblem, conv_products
from .matrix_core_template import MatrixCoreTemplate


class MatrixCoreConv2D(MatrixCoreTemplate):
    """Any 2-D convolution with constant weights, grouped or not, by MFMA (CDNA) and WMMA (RDNA3)."""

    name = "conv2d_matrix_core"

    def product(self, op: OpSpec) -> GemmProblem | None:
        """See GemmTemplate."""
        return conv_products(op)
