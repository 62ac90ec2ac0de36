"""MatMulInteger, ConvInteger, QLinearMatMul and QLinearConv: products of 8-bit integers, summed in int32.

    sum((a - za) * (b - zb)) = sum(a * b') - za * sum(b')          # b' = b - zb
Constant weights take in their zero point where the difference fits int8, so that the product is one of 8-bit integers,
which matrix units multiply, and the rest an operand of its epilogue. Otherwise both operands become int32 first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tvm import relax

from ..values import constant
from .convolution import CONV, check_operands
from .matmul import matmul_operands
from .padding import pad_spatial, read_window
from .quantization import is_zero, quantized, reshaped, widened
from .registry import converter
from .runtime_checks import with_sizes

if TYPE_CHECKING:
    from ..node import Node

_op = relax.op


@converter("MatMulInteger", since=10)
def matmul_integer(node: Node) -> relax.Expr:
    """int32; zero points are scalars, or one for each row of A and column of B."""
    return _matmul(node, (0, 2), (1, 3))


@converter("QLinearMatMul", since=10)
def qlinear_matmul(node: Node) -> relax.Expr:
    """Scales are scalars, or one for each row of A and column of B."""
    found = _matmul(node, (0, 2), (3, 5))
    left, right, result = _rows(node, 1, 0), _columns(node, 4, 3), reshaped(node, 6, [])
    return _requantized(node, found, [left, right, result], 7)


def _matmul(node: Node, left: tuple[int, int], right: tuple[int, int]) -> relax.Expr:
    """The product of two inputs, each given with its zero point's."""
    a, b = matmul_operands(node, left[0], right[0])
    b, narrow = _without_zero_point(node, b, right[0], _columns(node, right[1], right[0]), right[1])
    if is_zero(node, left[1]) and narrow:
        return node.emit(_op.matmul(a, b, out_dtype="int32"))
    rows = widened(node, _rows(node, left[1], left[0])) if node.has(left[1]) else None
    if not narrow or node.rank(right[0]) < 2:
        wide = widened(node, a)
        wide = node.emit(_op.subtract(wide, rows)) if rows is not None else wide
        return node.emit(_op.matmul(wide, widened(node, b)))
    assert rows is not None, "a left out zero point is 0"
    products = node.emit(_op.matmul(a, b, out_dtype="int32"))
    return node.emit(_op.subtract(products, node.emit(_op.multiply(rows, _column_sums(node, b)))))


def _column_sums(node: Node, b: relax.Expr) -> relax.Expr:
    known = _array(b)
    if known is not None:
        return constant(known.astype(np.int32).sum(axis=-2, keepdims=known.ndim > 2, dtype=np.int32))
    return node.emit(_op.sum(widened(node, b), axis=-2, keepdims=True))


def _rows(node: Node, index: int, operand: int) -> relax.Expr:
    """Input `index` as it broadcasts over the rows of `operand`."""
    return _spread(node, index, operand, rows=True)


def _columns(node: Node, index: int, operand: int) -> relax.Expr | None:
    """Input `index`, if there is one, as it broadcasts over the columns of `operand`."""
    return _spread(node, index, operand, rows=False) if node.has(index) else None


def _spread(node: Node, index: int, operand: int, rows: bool) -> relax.Expr:
    shape = node.shape(index)
    if not shape or shape == [1]:
        return reshaped(node, index, [])
    if len(shape) == 1:
        size = node.shape(operand)[-2 if rows else -1] if node.rank(operand) > 1 else 1
        if node.symbols.equal(shape[0], size) is False:
            raise node.error(f"input {index} needs {size} elements, found {shape[0]}")
        return reshaped(node, index, [shape[0], 1] if rows else shape)
    if len(shape) != node.rank(operand):
        raise node.error(f"input {index} must be a scalar, a vector or have {node.rank(operand)} axes, found {shape}")
    return node.inputs[index]


@converter("ConvInteger", since=10)
def conv_integer(node: Node) -> relax.Expr:
    """int32; the data's zero point is a scalar, the weight's also one for each output channel."""
    return _conv(node, (0, 2), (1, 3))


@converter("QLinearConv", since=10)
def qlinear_conv(node: Node) -> relax.Expr:
    """The weight's scale is a scalar, or one for each output channel; the bias is int32."""
    found = _conv(node, (0, 2), (3, 5))
    rank, channels = node.rank(0) - 2, node.shape(3)[0]
    if node.has(8):
        found = node.emit(_op.add(found, _per_output(node, 8, channels, rank)))
    scales = [reshaped(node, 1, []), _per_output(node, 4, channels, rank), reshaped(node, 6, [])]
    return _requantized(node, found, scales, 7)


def _conv(node: Node, data: tuple[int, int], weight: tuple[int, int]) -> relax.Expr:
    """The convolution of two inputs, each given with its zero point's; padding counts as the data's zero point."""
    shape, kernel, group = check_operands(node, CONV, weight[0])
    rank = len(shape) - 2
    window = read_window(node, kernel[2:], shape[2:])
    x = with_sizes(node, data[0], {1: kernel[1] * group}, "channels")
    points = reshaped(node, weight[1], _leading(node, weight[1], kernel[0], rank + 1)) if node.has(weight[1]) else None
    w, narrow = _without_zero_point(node, node.inputs[weight[0]], weight[0], points, weight[1])
    zero_point = None if is_zero(node, data[1]) else reshaped(node, data[1], [])
    padded = not window.fixed_padding or any(window.padding)
    if padded and (zero_point is not None or not window.fixed_padding):
        x, window = pad_spatial(node, x, window, zero_point)
    known = _array(w)
    if not narrow or (zero_point is not None and known is None):
        x = widened(node, x)
        x = node.emit(_op.subtract(x, widened(node, zero_point))) if zero_point is not None else x
        w, zero_point = widened(node, w), None
    options = (window.strides, tuple(window.padding), window.dilations, group)
    found = node.emit(CONV[rank](x, w, *options, out_dtype="int32"))
    if zero_point is None or known is None:
        return found
    sums = known.astype(np.int32).reshape(kernel[0], -1).sum(axis=1, dtype=np.int32).reshape(-1, *[1] * rank)
    return node.emit(_op.subtract(found, node.emit(_op.multiply(widened(node, zero_point), constant(sums)))))


def _leading(node: Node, index: int, channels: int, trailing: int) -> list[int]:
    """The shape in which input `index`, a scalar or a vector of channels, broadcasts with so many axes behind."""
    shape = node.shape(index)
    if not shape or shape == [1]:
        return []
    if len(shape) != 1 or shape[0] != channels:
        raise node.error(f"input {index} must be a scalar or have {channels} elements, found shape {shape}")
    return [channels, *[1] * trailing]


def _per_output(node: Node, index: int, channels: int, rank: int) -> relax.Expr:
    return reshaped(node, index, _leading(node, index, channels, rank))


def _without_zero_point(
    node: Node, x: relax.Expr, index: int, points: relax.Expr | None, point_index: int
) -> tuple[relax.Expr, bool]:
    """Operand `x` (input `index`) less its zero point, and whether that is still an 8-bit integer."""
    if points is None or is_zero(node, point_index):
        return x, True
    known, zero = node.const(index), _array(points)
    if known is None or zero is None:
        return node.emit(_op.subtract(widened(node, x), widened(node, points))), False
    moved = known.astype(np.int32) - zero.astype(np.int32)
    if moved.size and (moved.min() < -128 or moved.max() > 127):
        return constant(moved), False
    return constant(moved.astype(np.int8)), True


def _requantized(node: Node, found: relax.Expr, scales: list[relax.Expr | None], point: int) -> relax.Expr:
    """Sums as the result's integers: times the scales of both operands over the result's, as ONNX Runtime rounds."""
    left, right, result = (s for s in scales if s is not None)
    known = [array for array in map(_array, (left, right, result)) if array is not None]
    if len(known) == 3:
        factor: relax.Expr = constant(np.asarray(known[0] * known[1] / known[2], np.float32))
    else:
        wide = [node.emit(_op.astype(x, "float32")) for x in (left, right, result)]
        factor = node.emit(_op.divide(node.emit(_op.multiply(wide[0], wide[1])), wide[2]))
    value = node.emit(_op.multiply(node.emit(_op.astype(found, "float32")), factor))
    dtype = node.dtype(point) if node.has(point) else node.dtype(0)
    zero_point = None if is_zero(node, point) else reshaped(node, point, [])
    return quantized(node, value, None, zero_point, dtype)


def _array(expr: relax.Expr) -> np.ndarray | None:
    value = getattr(expr, "value", None)
    return value.numpy() if value is not None else None
