"""Matmul on NVIDIA's tensor cores: any shape, broadcast batches and permuted operands; sizes may be symbolic."""

from __future__ import annotations

from ....compiler.schedule.op_spec import OpSpec
from .gemm_problem import GemmProblem, matmul_products
from .tensor_core_pipeline_template import PipelineTemplate
from .tensor_core_template import TensorCoreTemplate, WarpgroupTemplate


class TensorCoreMatmul(TensorCoreTemplate):
    """By mma.sync, with copies by cp.async where the GPU has them."""

    name = "matmul_tensor_core"

    def product(self, op: OpSpec) -> GemmProblem | None:
        """See GemmTemplate."""
        return matmul_products(op)


class WarpgroupMatmul(WarpgroupTemplate):
    """By Hopper's wgmma, with copies by cp.async or through registers."""

    name = "matmul_warpgroup"

    def product(self, op: OpSpec) -> GemmProblem | None:
        """See GemmTemplate."""
        return matmul_products(op)


class PipelineMatmul(PipelineTemplate):
    """By Hopper's wgmma, with copies of whole tiles by the copy engine, where rows begin at multiples of 16 bytes."""

    name = "matmul_pipeline"

    def product(self, op: OpSpec) -> GemmProblem | None:
        """See GemmTemplate."""
        return matmul_products(op)
