"""The CPU's templates in the order they are asked; the last one that matters always matches."""

from __future__ import annotations

from ....compiler.schedule.template import Template


def templates() -> tuple[Template, ...]:
    """Instances of all CPU templates, most specific first."""
    from .conv2d_depthwise import DepthwiseConv2D
    from .conv2d_direct import DirectConv2D
    from .conv2d_int8 import Int8Conv2D
    from .conv2d_int8_depthwise import Int8Depthwise
    from .conv2d_transpose import TransposedConv2D
    from .conv2d_winograd import WinogradConv2D
    from .matmul_int8 import Int8Matmul
    from .matmul_tile import MatmulTile
    from .pool2d import Pool2D

    return (
        DepthwiseConv2D(), WinogradConv2D(), DirectConv2D(), Int8Depthwise(), Int8Conv2D(), TransposedConv2D(),
        MatmulTile(), Int8Matmul(), Pool2D(),
    )  # fmt: skip
