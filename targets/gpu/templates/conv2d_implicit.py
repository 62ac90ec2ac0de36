"""float32 NHWC convolution as a matrix product that nobody writes down: tiles of pixels x output channels.

Weights are packed as (groups, K, output channels rounded up to whole vectors); see gemm_conv.py.
"""

from __future__ import annotations

from ....compiler.schedule.op_spec import OpSpec
from .gemm_problem import GemmProblem, conv_products
from .gemm_simt import SimtTemplate


class ImplicitConv2D(SimtTemplate):
    """Any 2-D convolution with constant weights, grouped or not, on the vector units."""

    name = "conv2d_implicit"

    def product(self, op: OpSpec) -> GemmProblem | None:
        """See GemmTemplate."""
        return conv_products(op)
