"""Depthwise NHWC convolution: each thread a few pixels of a vector of channels (see windows.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape, conv_sizes
from ..spec import GpuSpec
from .window_traits import window_traits
from .windows import Window, WindowNest, takes, window_space


class DepthwiseConv2D(Template):
    """A convolution with one input and one output channel per group, and constant weights, float32 or float16.

    Weights are packed as (KH, KW, C).
    """

    name = "conv2d_depthwise"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """Only where groups == channels == output channels > 1."""
        conv = conv_sizes(op)
        if conv is None or not isinstance(target, GpuSpec) or not takes(op, 2):
            return None
        if conv.groups == 1 or not conv.groups == conv.channels == conv.out_channels:
            return None
        return window_space(_window(op, conv), (conv.batch, *conv.out_size, conv.out_channels), target)

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, and the packer of the weights."""
        conv = conv_sizes(op)
        assert conv is not None, "match accepts only such operators"
        operands = Operands(op, {1: conv.channels * conv.kernel[0] * conv.kernel[1]})

        size = operands.size
        nest = WindowNest(
            op=op,
            operands=operands,
            window=_window(op, conv),
            size=(size(conv.size[0]), size(conv.size[1])),
            outputs=[size(d) for d in (conv.batch, *conv.out_size)],
            pixels=config.int("pixels"),
            start=0.0,
            tap=lambda acc, value, weight: acc + value * weight,
            weights=lambda kh, kw: (kh * conv.kernel[1] + kw) * conv.channels,
        )
        return Candidate(operands.function(nest.kernel()), {1: lambda weight: pack(conv, weight)})

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        conv = conv_sizes(op)
        assert conv is not None, "match accepts only such operators"
        assert isinstance(target, GpuSpec)
        shape = (conv.batch, *conv.out_size, conv.out_channels)
        return window_traits(_window(op, conv), shape, target, configs)


def pack(conv: ConvShape, weight: np.ndarray) -> np.ndarray:
    """(C, 1, KH, KW), for a column standing up or lying down, as (KH, KW, C), flat."""
    return np.ascontiguousarray(weight.reshape(conv.channels, *conv.kernel).transpose(1, 2, 0)).reshape(-1)


def _window(op: OpSpec, conv: ConvShape) -> Window:
    sizes = (conv.channels, conv.kernel, conv.stride, conv.dilation, conv.pad, conv.padded)
    return Window(*sizes, dtype=op.inputs[0].dtype)
