"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear: y = saturate(round(x / scale) + zero point), and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tvm import relax, te, tirx

from ..carried import widened as widened_input
from ..dtypes import dtype_name, is_float
from ..narrow_types import FLOATS, INTEGERS, limits, wide_type
from ..values import Value, constant
from .broadcast import scalar
from .casts import cast_to, narrowed
from .registry import Carried, converter
from .runtime_checks import with_sizes

if TYPE_CHECKING:
    from ..node import Node

_op = relax.op
_INTEGERS = ("uint8", "int8", "uint16", "int16", *INTEGERS)
_FLOATS = (*FLOATS,)
_SOURCES = (*_INTEGERS, "int32", *_FLOATS)


@converter("QuantizeLinear", since=10)
def quantize_linear(node: Node) -> relax.Expr | Carried:
    """One scale, or one for each index of `axis`, or for each block of it."""
    dtype = node.dtype(2) if node.has(2) else _asked_for(node)
    if dtype not in (*_INTEGERS, *_FLOATS):
        raise node.error(f"the result must be one of {', '.join((*_INTEGERS, *_FLOATS))}, found {dtype}")
    node = _widened(node)
    quotient = _quotient(node, _sized(node), along_axis(node, 1))
    moved = node.has(2) and not is_zero(node, 2)
    if dtype in _FLOATS:
        if moved:
            zero_point = node.emit(_op.astype(along_axis(node, 2), str(quotient.ty.dtype)))
            quotient = node.emit(_op.add(quotient, zero_point))
        return narrowed(node, quotient, dtype)
    result = quantized(node, quotient, None, along_axis(node, 2) if moved else None, dtype)
    return narrowed(node, result, dtype) if dtype in INTEGERS else result


def _asked_for(node: Node) -> str:
    code = node.attr("output_dtype", 0)
    return dtype_name(code) or f"type {code}" if code else "uint8"


def _widened(node: Node) -> Node:
    """The node with numbers in place of the inputs that compiled code has as bytes."""

    def wide(index: int, value: Value | None) -> Value | None:
        if value is None or not value.is_carried:
            return value
        if value.array is not None:
            return Value(array=value.array.astype(wide_type(value.dtype)))
        return Value(expr=widened_input(node, index))

    return node.with_values([wide(i, v) for i, v in enumerate(node.values)])


def _quotient(node: Node, x: relax.Expr, scale: relax.Expr) -> relax.Expr:
    """x / scale in float32 or float64; rounded to the attribute `precision` where that has fewer bits."""
    precision = dtype_name(node.attr("precision", 0))
    wide = "float64" if "float64" in (precision, str(x.ty.dtype)) else "float32"

    def rounded(value: relax.Expr) -> relax.Expr:
        source = str(value.ty.dtype)
        if precision in ("float16", "bfloat16"):
            value, source = node.emit(cast_to(node, value, source, precision)), precision
        return value if source == wide else node.emit(_op.astype(value, wide))

    return rounded(node.emit(_op.divide(rounded(x), rounded(scale))))


@converter("DequantizeLinear", since=10)
def dequantize_linear(node: Node) -> relax.Expr:
    """(x - zero point) * scale, of the type `output_dtype`, else of the scale's."""
    if node.dtype(0) not in _SOURCES:
        raise node.error(f"the input must be one of {', '.join(_SOURCES)}, found {node.dtype(0)}")
    asked = node.attr("output_dtype", 0)
    out = dtype_name(asked) if asked else node.dtype(1)
    if out not in ("float32", "float16", "bfloat16"):
        raise node.error(f"the result must be float32, float16 or bfloat16, found {out or asked}")
    node = _widened(node)
    scale, x = along_axis(node, 1), _sized(node)
    wide = "float32" if is_float(node.dtype(0)) else "int32"
    x = node.emit(_op.astype(x, wide)) if node.dtype(0) != wide else x
    if node.has(2) and not is_zero(node, 2):
        x = node.emit(_op.subtract(x, node.emit(_op.astype(along_axis(node, 2), wide))))
    x, scale = (y if str(y.ty.dtype) == out else node.emit(_op.astype(y, out)) for y in (x, scale))
    return _op.multiply(x, scale)


@converter("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(node: Node) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """uint8 over the range of the data, which is widened to hold 0; a range of 0 has scale 1, as in ONNX Runtime."""
    x, zero = node.inputs[0], scalar(0.0, "float32")
    largest = node.emit(_op.maximum(node.emit(_op.max(x)), zero))
    least = node.emit(_op.minimum(node.emit(_op.min(x)), zero))
    span = node.emit(_op.subtract(largest, least))
    exact = node.emit(_op.divide(span, scalar(255.0, "float32")))
    scale = node.emit(_op.where(node.emit(_op.equal(span, zero)), scalar(1.0, "float32"), exact))
    zero_point = quantized(node, node.emit(_op.negative(least)), scale, None, "uint8")
    return quantized(node, x, scale, zero_point, "uint8"), scale, zero_point


def quantized(
    node: Node, x: relax.Expr, scale: relax.Expr | None, zero_point: relax.Expr | None, dtype: str
) -> relax.Expr:
    """`x` (divided by `scale`) rounded, halves to even, moved by the zero point and clamped to what `dtype` holds.

    Types narrower than 8 bits are held by int8 or uint8.
    """
    value = x if is_float(str(x.ty.dtype)) and str(x.ty.dtype) != "float16" else node.emit(_op.astype(x, "float32"))
    if scale is not None:
        wide = str(value.ty.dtype)
        scale = scale if str(scale.ty.dtype) == wide else node.emit(_op.astype(scale, wide))
        value = node.emit(_op.divide(value, scale))
    operands = [value]
    if zero_point is not None:
        operands.append(node.emit(_op.astype(zero_point, str(value.ty.dtype))))
    least, largest = limits(dtype)

    def rounded(v: te.Tensor) -> te.Tensor:
        return te.compute(v.shape, lambda *i: tirx.nearbyint(v(*i)), name="rounded")

    moved = node.te(rounded, operands[0], name="round")
    if len(operands) > 1:
        moved = node.emit(_op.add(moved, operands[1]))
    kind = str(value.ty.dtype)
    limited = node.emit(_op.clip(moved, tirx.const(float(least), kind), tirx.const(float(largest), kind)))
    holding = wide_type(dtype) if dtype in INTEGERS else dtype
    return node.emit(_op.astype(node.emit(_op.astype(limited, "int32")), holding))


def _sized(node: Node) -> relax.Expr:
    """Input 0; where its size along `axis` is open, the number of scales."""
    shape = node.shape(1)
    if len(shape) != 1 or shape == [1]:
        return node.inputs[0]
    return with_sizes(node, 0, {node.axis(node.attr("axis", 1), node.rank(0)): shape[0]})


def along_axis(node: Node, index: int) -> relax.Expr:
    """Input `index`, a scalar or a vector along the attribute `axis` of input 0, as it broadcasts over that."""
    shape, rank = node.shape(index), node.rank(0)
    if not shape or shape == [1]:
        return reshaped(node, index, [])
    block = node.attr("block_size", 0)
    if block and len(shape) == rank:
        return _each_of_a_block(node, index, block)
    if len(shape) != 1 or block:
        raise node.error(f"scales and zero points must be scalars or vectors, found shape {shape} of input {index}")
    axis = node.axis(node.attr("axis", 1), rank)
    if node.symbols.equal(shape[0], node.shape(1)[0]) is False:
        raise node.error(f"input {index} needs {node.shape(1)[0]} elements, as many as scales, found {shape[0]}")
    return reshaped(node, index, [shape[0], *[1] * (rank - axis - 1)])


def _each_of_a_block(node: Node, index: int, block: int) -> relax.Expr:
    """Input `index`, which has an element for each `block` of input 0's along the axis, with one for each of them."""
    axis = node.axis(node.attr("axis", 1), node.rank(0))
    size, blocks = node.shape(0)[axis], node.shape(index)[axis]
    if not isinstance(size, int) or not isinstance(blocks, int) or -(-size // block) != blocks:
        raise node.error(
            f"blocks of {block} need input {index} and a fixed size on axis {axis} that fit, found {blocks}"
        )
    repeated = node.emit(_op.repeat(node.inputs[index], block, axis))
    return node.emit(_op.strided_slice(repeated, [axis], [0], [size])) if blocks * block != size else repeated


def reshaped(node: Node, index: int, shape: list) -> relax.Expr:
    """Input `index` in another shape."""
    known = node.const(index)
    if known is not None:
        return constant(known.reshape(shape))
    return node.emit(_op.reshape(node.inputs[index], shape))


def widened(node: Node, x: relax.Expr) -> relax.Expr:
    """`x` as int32."""
    return node.emit(_op.astype(x, "int32"))


def is_zero(node: Node, index: int) -> bool:
    """Whether the zero point `index` is left out or known to be 0 throughout."""
    known = node.const(index)
    return not node.has(index) or (known is not None and not np.any(known))
