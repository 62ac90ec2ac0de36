"""Products of 8-bit integers, exact in int32, with the scales of their operands: QGemm and its relatives."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from ...values import Value
from ..quantization import quantized
from ..schemas import typed_converter
from .operands import cast, number, permuted
from .qlinear import BYTES, single, whole

if TYPE_CHECKING:
    from ...node import Node


def _per_column(node: Node, index: int, columns: int) -> Value | None:
    """Input `index`, a scalar or one number for each column of operand B; None where it is left out."""
    if not node.has(index):
        return None
    shape = node.shape(index)
    if shape in ([], [1]):
        return single(node, index)
    if len(shape) != 1 or node.symbols.equal(shape[0], columns) is False:
        raise node.error(f"input {index} must be a scalar or have {columns} elements, found shape {shape}")
    return node.value(index)


def _scaled(node: Node, sums: Value, *scales: Value | np.ndarray | None) -> Value:
    """`sums`, of int32, in float32 times the product of the scales."""
    factor = reduce(lambda a, b: node.call("Mul", a, b), scales)
    return node.call("Mul", cast(node, sums, "float32"), factor)


@typed_converter(
    "QGemm",
    "A:TA a_scale:float32 a_zero_point:TA B:TB b_scale:float32 b_zero_point:TB C:int32? y_scale:float32? "
    "y_zero_point:TY?",
    attributes="alpha:float transA:int transB:int",
    TA=BYTES,
    TB=BYTES,
    TY=BYTES,
)
def qgemm(node: Node) -> Value:
    """alpha * A' B' + C, where C counts in units of alpha * (a scale) * (b scale); float32 without a scale of Y."""
    for index in (0, 3):
        if node.rank(index) != 2:
            raise node.error(f"input {index} needs 2 dimensions, found shape {node.shape(index)}")
    turned = bool(node.attr("transB", 0))
    columns = node.shape(3)[0 if turned else 1]
    a = permuted(node, node.value(0), *((1, 0) if node.attr("transA", 0) else (0, 1)))
    b = permuted(node, node.value(3), *((1, 0) if turned else (0, 1)))
    sums = node.call("MatMulInteger", a, b, single(node, 2), _per_column(node, 5, columns))
    if node.has(6):
        sums = node.call("Add", sums, node.value(6))
    scales = [number(node.attr("alpha", 1.0), "float32"), single(node, 1), _per_column(node, 4, columns)]
    result = single(node, 7)
    if result is None:
        if node.has(8):
            raise node.error("input 8, a zero point of the result, needs input 7, its scale")
        return _scaled(node, sums, *scales)
    if not node.has(8):
        raise node.error("input 7, a scale of the result, needs input 8, its zero point")
    factor = node.call("Mul", node.call("Mul", scales[0], scales[1]), scales[2])
    factor = node.call("Div", factor, result)
    value = node.call("Mul", cast(node, sums, "float32"), factor)
    point = whole(node, 8)
    return Value(expr=quantized(node, value.expr(node.bb), None, point.expr(node.bb), node.dtype(8)))


@typed_converter(
    "MatMulIntegerToFloat",
    "A:TA B:TB a_scale:T b_scale:T a_zero_point:TA? b_zero_point:TB? bias:T?",
    TA=BYTES,
    TB=BYTES,
    T="float32 float16",
)
def matmul_integer_to_float(node: Node) -> Value:
    columns, dtype = _columns(node), node.dtype(2)
    sums = node.call("MatMulInteger", node.value(0), node.value(1), single(node, 4), _per_column(node, 5, columns))
    scales = [cast(node, s, "float32") for s in (single(node, 2), _per_column(node, 3, columns)) if s is not None]
    return cast(node, _with_bias(node, _scaled(node, sums, *scales), 6, columns), dtype)


@typed_converter("DynamicQuantizeMatMul", "A:float32 B:T b_scale:float32 b_zero_point:T? bias:float32?", T=BYTES)
def dynamic_quantize_matmul(node: Node) -> Value:
    """A is quantized to uint8 over the range that it has in the run."""
    columns = _columns(node)
    a, scale, point = node.call_all("DynamicQuantizeLinear", node.value(0), outputs=3)
    sums = node.call("MatMulInteger", a, node.value(1), point, _per_column(node, 3, columns))
    return _with_bias(node, _scaled(node, sums, scale, _per_column(node, 2, columns)), 4, columns)


def _columns(node: Node) -> int:
    if node.rank(1) < 2:
        raise node.error(f"input 1 needs at least 2 dimensions, found shape {node.shape(1)}")
    return node.shape(1)[-1]


def _with_bias(node: Node, x: Value, index: int, columns: int) -> Value:
    if not node.has(index):
        return x
    bias = node.value(index)
    if len(node.shape(index)) != 1 or node.symbols.equal(node.shape(index)[0], columns) is False:
        raise node.error(f"input {index}, the bias, must have {columns} elements, found shape {node.shape(index)}")
    return node.call("Add", x, cast(node, bias, "float32"))
