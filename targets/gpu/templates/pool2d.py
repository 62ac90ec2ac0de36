"""Maximum and average pooling over NHWC: each thread a few pixels of a vector of channels (see windows.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import tirx

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_operands import Operands
from ..spec import GpuSpec
from .window_traits import window_traits
from .windows import Window, WindowNest, takes, window_space

# Larger windows are reductions, which teams of threads share out.
_LARGEST = 256


class Pool2D(Template):
    """Pooling with a fused epilogue."""

    name = "pool2d"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """float32 or float16 NHWC without ceil_mode (the frontend has made that padding); channels must be static."""
        if op.kind != "pool2d" or not isinstance(target, GpuSpec) or op.attr("ceil_mode"):
            return None
        channels = op.anchor_type.shape[3]
        if not takes(op, 1) or not isinstance(channels, int) or 0 in (*op.inputs[0].shape, *op.anchor_type.shape):
            return None
        if min(op.ints("padding")) < 0 or math.prod(op.ints("pool_size")) > _LARGEST:
            return None
        return window_space(_window(op), op.anchor_type.shape, target)

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel; nothing is packed."""
        operands = Operands(op, {})
        size = [operands.size(d) for d in op.inputs[0].shape]
        largest = op.attr("mode") == "max"
        whole = bool(op.attr("count_include_pad")) or not any(op.ints("padding"))

        def tap(acc: tirx.Expr, value: tirx.Expr, weight: tirx.Expr) -> tirx.Expr:
            return tirx.max(acc, value) if largest else acc + value

        nest = WindowNest(
            op=op,
            operands=operands,
            window=_window(op),
            size=(size[1], size[2]),
            outputs=[operands.size(d) for d in op.anchor_type.shape[:3]],
            pixels=config.int("pixels"),
            start=-math.inf if largest else 0.0,
            tap=tap,
            counted=not largest and not whole,
            scale=1.0 / math.prod(op.ints("pool_size")) if not largest and whole else None,
        )
        return Candidate(operands.function(nest.kernel()))

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        assert isinstance(target, GpuSpec)
        return window_traits(_window(op), op.anchor_type.shape, target, configs)


def _window(op: OpSpec) -> Window:
    top, left, bottom, right = op.ints("padding")
    kernel, stride, dilation = (op.ints(name)[:2] for name in ("pool_size", "strides", "dilation"))
    return Window(
        channels=int(op.anchor_type.shape[3]),
        kernel=(kernel[0], kernel[1]),
        stride=(stride[0], stride[1]),
        dilation=(dilation[0], dilation[1]),
        pad=(top, left),
        padded=(top + bottom > 0, left + right > 0),
        dtype=op.inputs[0].dtype,
    )
