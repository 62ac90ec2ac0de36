"""The sizes of a convolution, read from its OpSpec, in the terms its templates compute with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ...compiler.schedule.op_spec import OpSpec, TensorType
from ...compiler.tensor_spec import Dim


@dataclass(frozen=True)
class ConvShape:
    """A 2-D convolution of NHWC data with constant weights.

    Pairs are (height, width). Batch and spatial sizes may be names of symbolic dimensions; channels and kernel never
    are. `pad` holds (top, left); bottom and right follow from the output size.
    """

    batch: Dim
    size: tuple[Dim, Dim]
    channels: int
    out_size: tuple[Dim, Dim]
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    padded: tuple[bool, bool]
    dilation: tuple[int, int]
    groups: int

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.channels // self.groups

    @property
    def group_out(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def depth(self) -> int:
        """Multiply-adds of one output element."""
        return self.group_in * prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether output pixel p depends on input pixel p only, so that all pixels form one axis."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not any(self.padded)

    @property
    def is_static(self) -> bool:
        """Whether batch and spatial sizes are known integers."""
        return all(isinstance(d, int) for d in (self.batch, *self.size, *self.out_size))

    def pixels(self, unknown: int) -> int:
        """Output pixels, counting `unknown` for each symbolic size."""
        return prod(d if isinstance(d, int) else unknown for d in (self.batch, *self.out_size))

    def flops(self, unknown: int = 64) -> int:
        """FLOPs of a direct convolution, counting `unknown` for each symbolic size."""
        return 2 * self.pixels(unknown) * self.out_channels * self.group_in * prod(self.kernel)


def conv_shape(op: OpSpec) -> ConvShape | None:
    """The sizes of `op`, or None if it is no NHWC float32 convolution with constant weights of static shape."""
    if any(t.dtype != "float32" for t in (*op.inputs, op.anchor_type, op.output)):
        return None
    return conv_sizes(op)


def conv_sizes(op: OpSpec) -> ConvShape | None:
    """The sizes of `op` whatever the types of its operands, or None as above."""
    if op.kind != "conv2d" or len(op.inputs) < 2 or not op.constant[1]:
        return None
    data, weight = op.inputs[0], op.inputs[1]
    if dict(op.attrs).get("data_layout", "NHWC") != "NHWC" or len(data.shape) != 4 or len(weight.shape) != 4:
        return None
    if not weight.is_static:
        return None
    batch, height, width, channels = data.shape
    _, out_h, out_w, out_channels = op.anchor_type.shape
    if not isinstance(channels, int) or not isinstance(out_channels, int):
        return None
    top, left, bottom, right = op.ints("padding")
    # Negative padding crops; the generic schedules take care of that rarity.
    if min(top, left, bottom, right) < 0 or 0 in (channels, out_channels, *weight.shape, *op.anchor_type.shape):
        return None
    stride, dilation = op.ints("strides"), op.ints("dilation")
    shape = ConvShape(
        batch=batch,
        size=(height, width),
        channels=channels,
        out_size=(out_h, out_w),
        out_channels=out_channels,
        kernel=(int(weight.shape[2]), int(weight.shape[3])),
        stride=(stride[0], stride[1]),
        pad=(top, left),
        padded=(top + bottom > 0, left + right > 0),
        dilation=(dilation[0], dilation[1]),
        groups=op.ints("groups")[0],
    )
    return _lying_down(shape) if is_column(op) else shape


def is_column(op: OpSpec) -> bool:
    """Whether data and result are one pixel wide. In memory such a column is a row, and tiles want long rows."""
    data, weight, result = op.inputs[0].shape, op.inputs[1].shape, op.anchor_type.shape
    wide = (data[2], result[2], weight[3]) != (1, 1, 1) or any(op.ints("padding")[1::2])
    return not wide and data[1] != 1


def _lying_down(shape: ConvShape) -> ConvShape:
    return replace(
        shape,
        size=shape.size[::-1],
        out_size=shape.out_size[::-1],
        kernel=shape.kernel[::-1],
        stride=shape.stride[::-1],
        pad=shape.pad[::-1],
        padded=shape.padded[::-1],
        dilation=shape.dilation[::-1],
    )


def flatten_pixels(conv: ConvShape, op: OpSpec) -> ConvShape | None:
    """A pointwise convolution as a single row of batch * height * width pixels, or None if that is not possible.

    An epilogue operand must then follow the pixels (the anchor's own shape but for channels) or not depend on them at
    all. The sizes of the row are symbolic ("*") where they are not all known.
    """
    if not conv.is_pointwise or not all(follows_pixels(t, op) or ignores_pixels(t) for t in op.inputs[2:]):
        return None
    width: Dim = conv.pixels(0) if conv.is_static else "*"
    return replace(conv, batch=1, size=(1, width), out_size=(1, width))


def follows_pixels(operand: TensorType, op: OpSpec) -> bool:
    """Whether `operand` has the anchor's batch and spatial sizes, and all of the anchor's channels or one."""
    return len(operand.shape) == 4 and operand.shape[:3] == op.anchor_type.shape[:3]


def ignores_pixels(operand: TensorType) -> bool:
    """Whether `operand` is the same at every pixel."""
    return all(d == 1 for d in operand.shape[:-1])
