"""Conv and ConvTranspose of one to three spatial axes, in ONNX's own layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm import relax, te, tirx

from ..values import Dim, constant
from .padding import all_fixed, auto_pad_mode, pad_spatial, read_window, spatial_list, split_same
from .registry import converter
from .runtime_checks import with_sizes

if TYPE_CHECKING:
    from ..node import Node

CONV: dict[int, Callable] = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
_CONV_TRANSPOSE: dict[int, Callable] = {
    1: relax.op.nn.conv1d_transpose,
    2: relax.op.nn.conv2d_transpose,
    3: relax.op.nn.conv3d_transpose,
}
_NARROW_FLOATS = ("float16", "bfloat16")


def accumulate_wide(
    node: Node, operator: Callable[[relax.Expr, relax.Expr], relax.Expr], a: relax.Expr, b: relax.Expr
) -> relax.Expr:
    """Emit `operator(a, b)`; 16-bit floats are multiplied and summed in float32, and the result is cast back."""
    dtype = str(a.ty.dtype)
    if dtype not in _NARROW_FLOATS:
        return node.emit(operator(a, b))
    wide = [node.emit(relax.op.astype(x, "float32")) for x in (a, b)]
    return node.emit(relax.op.astype(node.emit(operator(*wide)), dtype))


def per_channel(node: Node, index: int, rank: int, shape: list[Dim] | None = None) -> relax.Expr:
    """Input `index`, a vector of C elements, as (C, 1, ...) with `rank` trailing axes: it broadcasts over NC...

    `shape` is what the input must have, where that is known.
    """
    shape = node.shape(index) if shape is None else shape
    given = node.shape(index)
    if len(given) != len(shape):
        raise node.error(f"input {index} needs shape {shape}, found {given}")
    sized = with_sizes(node, index, dict(enumerate(shape)))
    vector = node.const(index)
    if vector is not None:
        return constant(vector.reshape(vector.shape + (1,) * rank))
    return node.emit(relax.op.reshape(sized, [*shape, *[1] * rank]))


def _add_bias(node: Node, out: relax.Expr, channels: Dim, rank: int) -> relax.Expr:
    if not node.has(2):
        return out
    if node.rank(2) != 1 or node.symbols.equal(node.shape(2)[0], channels) is False:
        raise node.error(f"the bias needs shape [{channels}], found {node.shape(2)}")
    return node.emit(relax.op.add(out, per_channel(node, 2, rank, [channels])))


def check_operands(node: Node, table: dict[int, Callable], weight_index: int = 1) -> tuple[list[Dim], list[int], int]:
    """Shapes of data (input 0) and weight, and the group count; ModelError when they do not fit."""
    data, weight, group = node.shape(0), node.shape(weight_index), node.attr("group", 1)
    if len(data) - 2 not in table:
        raise node.error(f"the input needs 1 to 3 spatial axes, found shape {data}")
    if len(weight) != len(data) or not all_fixed(weight):
        raise node.error(f"the weight needs {len(data)} fixed dimensions, found shape {weight}")
    kernel = node.attr("kernel_shape")
    if kernel and list(kernel) != weight[2:]:
        raise node.error(f"attribute 'kernel_shape' is {list(kernel)} and the weight has shape {weight}")
    if group < 1 or weight[0] % group:
        raise node.error(f"attribute 'group' must divide {weight[0]}, the weight's first dimension, found {group}")
    return data, weight, group


@converter("Conv")
def conv(node: Node) -> relax.Expr:
    """nn.conv{1,2,3}d with ONNX's padding in its attributes, then the bias as an add of (C, 1, ...)."""
    data_shape, weight_shape, group = check_operands(node, CONV)
    rank = len(data_shape) - 2
    window = read_window(node, weight_shape[2:], data_shape[2:])
    data = with_sizes(node, 0, {1: weight_shape[1] * group}, "channels")
    if not window.fixed_padding:
        data, window = pad_spatial(node, data, window)

    def operator(x: relax.Expr, weight: relax.Expr) -> relax.Expr:
        return CONV[rank](x, weight, window.strides, tuple(window.padding), window.dilations, group)

    return _add_bias(node, accumulate_wide(node, operator, data, node.inputs[1]), weight_shape[0], rank)


@converter("ConvTranspose")
def conv_transpose(node: Node) -> relax.Expr:
    """nn.conv{1,2,3}d_transpose; what its padding attributes cannot express becomes a crop or zero padding behind."""
    data_shape, weight_shape, group = check_operands(node, _CONV_TRANSPOSE)
    rank = len(data_shape) - 2
    data = with_sizes(node, 0, {1: weight_shape[0]}, "channels")
    strides = spatial_list(node, "strides", rank, 1)
    dilations = spatial_list(node, "dilations", rank, 1)
    extents = [(k - 1) * d + 1 for k, d in zip(weight_shape[2:], dilations, strict=True)]
    axes = [
        _transposed_axis(crop, extra, strides[i], extents[i])
        for i, (crop, extra) in enumerate(_transpose_crops(node, data_shape[2:], strides, extents))
    ]

    def operator(x: relax.Expr, weight: relax.Expr) -> relax.Expr:
        return _CONV_TRANSPOSE[rank](
            x,
            weight,
            strides,
            tuple([a.begin for a in axes] + [a.end for a in axes]),
            tuple(a.output_padding for a in axes),
            dilations,
            group,
        )

    out = accumulate_wide(node, operator, data, node.inputs[1])
    out = _trim(node, out, [a.trim for a in axes])
    return _add_bias(node, out, weight_shape[1] * group, rank)


def _transpose_crops(
    node: Node, spatial: list[Dim], strides: tuple[int, ...], extents: list[int]
) -> list[tuple[int, int]]:
    """(begin, end) elements to cut from the full result, (size - 1) * stride + extent long; negative: zeros to add."""
    rank = len(spatial)
    extra = spatial_list(node, "output_padding", rank, 0)
    mode = auto_pad_mode(node)
    wanted = node.attr("output_shape")
    if wanted:
        wanted = list(wanted)[-rank:]
        if len(wanted) != rank:
            raise node.error(f"attribute 'output_shape' needs {rank} values, found {wanted}")
        if not all_fixed(spatial):
            raise node.error(f"attribute 'output_shape' needs fixed spatial sizes, found {spatial}")
    elif mode.startswith("SAME"):
        # size * stride outputs; the total padding does not depend on the size.
        return [_split(extents[i] - strides[i] + extra[i], mode, extra[i]) for i in range(rank)]
    else:
        pads = list((node.attr("pads") if mode == "NOTSET" else None) or [0] * (2 * rank))
        if len(pads) != 2 * rank:
            raise node.error(f"attribute 'pads' needs {2 * rank} values, found {pads}")
        return [(pads[i], pads[rank + i] - extra[i]) for i in range(rank)]
    totals = [strides[i] * (spatial[i] - 1) + extra[i] + extents[i] - wanted[i] for i in range(rank)]
    return [_split(totals[i], mode, extra[i]) for i in range(rank)]


def _split(total: int, mode: str, extra: int) -> tuple[int, int]:
    """Padding that would be negative lengthens the end, as in ONNX Runtime."""
    begin, end = split_same(max(total, 0), mode)
    return begin, end + min(total, 0) - extra


class _TransposedAxis:
    """Attributes of Relax's transposed convolution on one axis, and what remains to cut afterwards."""

    __slots__ = ("begin", "end", "output_padding", "trim")

    def __init__(self, begin: int, end: int, output_padding: int, trim: tuple[int, int]):
        self.begin, self.end, self.output_padding, self.trim = (begin, end, output_padding, trim)


def _transposed_axis(begin: int, end: int, stride: int, extent: int) -> _TransposedAxis:
    # Relax takes padding in [0, extent - 1] and output_padding below the stride.
    pad_begin, pad_end = (min(max(p, 0), extent - 1) for p in (begin, end))
    output_padding = min(max(-end, 0), stride - 1)
    return _TransposedAxis(pad_begin, pad_end, output_padding, (begin - pad_begin, end - pad_end + output_padding))


def _trim(node: Node, out: relax.Expr, trims: list[tuple[int, int]]) -> relax.Expr:
    """Cut (positive) or zero-pad (negative) the spatial axes of `out`."""
    if any(t < 0 for trim in trims for t in trim):
        widths = [0, 0, 0, 0] + [max(-t, 0) for trim in trims for t in trim]
        out = node.emit(relax.op.nn.pad(out, widths))
    if any(t > 0 for trim in trims for t in trim):
        out = _crop(node, out, trims)
    return out


def _crop(node: Node, out: relax.Expr, trims: list[tuple[int, int]]) -> relax.Expr:
    begin, end = ([max(trim[side], 0) for trim in trims] for side in (0, 1))
    shape = list(out.ty.shape.values)
    axes = list(range(2, len(shape)))
    if all(isinstance(size, tirx.IntImm) for size in shape[2:]):
        return node.emit(
            relax.op.strided_slice(out, axes, begin, [shape[a] - e for a, e in zip(axes, end, strict=True)])
        )

    def crop(x: te.Tensor) -> te.Tensor:
        sizes = [*x.shape[:2], *(x.shape[a] - b - e for a, b, e in zip(axes, begin, end, strict=True))]
        firsts = [0, 0, *begin]
        return te.compute(sizes, lambda *at: x(*(i + b for i, b in zip(at, firsts, strict=True))), name="crop")

    # The size that strided_slice leaves of an unknown one is an expression that no later operator can use.
    return node.te(crop, out, name="crop")
