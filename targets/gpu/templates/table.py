"""The templates in the order they are asked."""

from __future__ import annotations

from collections.abc import Sequence

from ....compiler.schedule.template import Template
from .attention_matrix_core import MatrixCoreAttention
from .attention_simt import SimtAttention
from .attention_tensor_core import TensorCoreAttention, WarpgroupAttention
from .conv2d_depthwise import DepthwiseConv2D
from .conv2d_implicit import ImplicitConv2D
from .gemv import Gemv
from .matmul_simt import MatmulSimt
from .matrix_core_conv2d import MatrixCoreConv2D
from .matrix_core_matmul import MatrixCoreMatmul
from .pool2d import Pool2D
from .tensor_core_conv2d import PipelineConv2D, TensorCoreConv2D, WarpgroupConv2D
from .tensor_core_matmul import PipelineMatmul, TensorCoreMatmul, WarpgroupMatmul

TEMPLATES: tuple[Template, ...] = (
    DepthwiseConv2D(),
    PipelineConv2D(),
    WarpgroupConv2D(),
    TensorCoreConv2D(),
    MatrixCoreConv2D(),
    ImplicitConv2D(),
    Pool2D(),
    Gemv(),
    PipelineMatmul(),
    WarpgroupMatmul(),
    TensorCoreMatmul(),
    MatrixCoreMatmul(),
    MatmulSimt(),
    WarpgroupAttention(),
    TensorCoreAttention(),
    MatrixCoreAttention(),
    SimtAttention(),
)


def templates() -> Sequence[Template]:
    """All templates of GPU targets; the first that matches an operator offers the default config."""
    return TEMPLATES
