"""NHWC convolution on NVIDIA's tensor cores, as a matrix product that nobody writes down (see gemm_conv.py).

Any 2-D convolution with constant weights, grouped or not. Weights are packed as (groups, output channels, K).
"""

from __future__ import annotations

from ....compiler.schedule.op_spec import OpSpec
from .gemm_problem import GemmProblem, conv_products
from .tensor_core_pipeline_template import PipelineTemplate
from .tensor_core_template import TensorCoreTemplate, WarpgroupTemplate


class TensorCoreConv2D(TensorCoreTemplate):
    """By mma.sync, with copies by cp.async where the GPU has them."""

    name = "conv2d_tensor_core"

    def product(self, op: OpSpec) -> GemmProblem | None:
        """See GemmTemplate."""
        return conv_products(op)


class WarpgroupConv2D(WarpgroupTemplate):
    """By Hopper's wgmma, with copies by cp.async."""

    name = "conv2d_warpgroup"

    def product(self, op: OpSpec) -> GemmProblem | None:
        """See GemmTemplate."""
        return conv_products(op)


class PipelineConv2D(PipelineTemplate):
    """By Hopper's wgmma, with copies by the copy engine: convolutions of one pixel, whose image is a matrix."""

    name = "conv2d_pipeline"

    def product(self, op: OpSpec) -> GemmProblem | None:
        """See GemmTemplate."""
        return conv_products(op)
