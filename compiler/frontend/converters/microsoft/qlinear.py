"""Operators of ONNX Runtime's domain on 8-bit integers that stand for real numbers, (x - zero point) * scale.

Each gives the integers that ONNX Runtime's kernels give: products and sums are rounded to float32 where these round
them. Its kernels for processors without fused multiply-add round `QLinearAdd` once more, which changes one element in
about a million.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tvm import ir, relax, tirx

from ...narrow_types import limits
from ...values import Value
from ..broadcast import pointwise
from ..quantization import quantized
from ..schemas import typed_converter
from .operands import number, permuted

if TYPE_CHECKING:
    from ...node import Node

BYTES = "uint8 int8"
_UNARY = "X:T X_scale:float32 X_zero_point:T? Y_scale:float32 Y_zero_point:T?"
_BINARY = "A:T A_scale:float32 A_zero_point:T? B:T B_scale:float32 B_zero_point:T? C_scale:float32 C_zero_point:T?"


def single(node: Node, index: int) -> Value | None:
    """Input `index`, a scale or zero point of a whole tensor, with shape (); None where it is left out."""
    if not node.has(index):
        return None
    shape = node.shape(index)
    if shape not in ([], [1]):
        raise node.error(f"input {index} must be a scalar, found shape {shape}")
    known = node.const(index)
    if known is not None:
        return Value(array=known.reshape(()))
    return node.call("Reshape", node.value(index), np.zeros(0, np.int64)) if shape else node.value(index)


def whole(node: Node, index: int) -> Value:
    """`single` of an input that has to be there; its schema, or the caller, has made sure."""
    value = single(node, index)
    if value is None:
        raise node.error(f"input {index} is required and was not found")
    return value


def real(node: Node, index: int) -> Value:
    """The numbers of input `index`, whose scale and zero point are the two inputs behind it."""
    return node.call("DequantizeLinear", node.value(index), single(node, index + 1), single(node, index + 2))


def requantized(node: Node, x: Value, scale: int, dtype: str) -> Value:
    """`x` as integers of `dtype`, whose scale is input `scale`, and whose zero point the one behind it."""
    point = single(node, scale + 1) or Value(array=np.zeros((), dtype))
    return node.call("QuantizeLinear", x, single(node, scale), point)


def _f64(x: ir.Expr) -> ir.Expr:
    return x.astype("float64")


def saturated(x: ir.Expr, dtype: str) -> ir.Expr:
    """`x` rounded, halves to even, and clamped to what `dtype` holds."""
    least, largest = (tirx.const(float(bound), str(x.ty.dtype)) for bound in limits(dtype))
    return tirx.max(tirx.min(tirx.nearbyint(x), largest), least).astype("int32").astype(dtype)


def _scalars(node: Node, *indices: int) -> list[relax.Expr]:
    """Inputs as scalars in float32; 0 for zero points that are left out."""
    values = [single(node, i) or Value(array=np.zeros((), np.float32)) for i in indices]
    return [(v if v.dtype == "float32" else node.call("Cast", v, to=1)).expr(node.bb) for v in values]


@typed_converter("QLinearAdd", _BINARY, T=BYTES)
def qlinear_add(node: Node) -> relax.Expr:
    """Both ratios of scales multiply the integers as they are; what the zero points amount to is added as a whole."""
    dtype = node.dtype(0)

    def added(a: ir.Expr, b: ir.Expr, *scales: ir.Expr) -> ir.Expr:
        a_scale, a_point, b_scale, b_point, c_scale, c_point = scales
        left, right = _f64(a_scale / c_scale), _f64(b_scale / c_scale)
        points = (left * _f64(a_point) + _f64((right * _f64(b_point)).astype("float32"))).astype("float32")
        # In float64 each product is exact: a sum is then rounded once, as a fused multiply-add does.
        partial = (_f64(b) * right + _f64((_f64(c_point) - _f64(points)).astype("float32"))).astype("float32")
        return saturated((_f64(a) * left + _f64(partial)).astype("float32"), dtype)

    return pointwise(node, added, [node.inputs[0], node.inputs[3], *_scalars(node, 1, 2, 4, 5, 6, 7)], "qlinear_add")


@typed_converter("QLinearMul", _BINARY, T=BYTES)
def qlinear_mul(node: Node) -> relax.Expr:
    dtype = node.dtype(0)

    def multiplied(a: ir.Expr, b: ir.Expr, *scales: ir.Expr) -> ir.Expr:
        a_scale, a_point, b_scale, b_point, c_scale, c_point = scales
        product = _f64(a.astype("float32") - a_point) * _f64(b.astype("float32") - b_point)
        # Through float64, so that no compiler makes a fused multiply-add of it.
        scaled = (product * _f64(a_scale * b_scale / c_scale)).astype("float32")
        return saturated(scaled + c_point, dtype)

    operands = [node.inputs[0], node.inputs[3], *_scalars(node, 1, 2, 4, 5, 6, 7)]
    return pointwise(node, multiplied, operands, "qlinear_mul")


@typed_converter("QLinearSigmoid", _UNARY, T=BYTES)
def qlinear_sigmoid(node: Node) -> Value:
    return requantized(node, node.call("Sigmoid", real(node, 0)), 3, node.dtype(0))


@typed_converter("QLinearLeakyRelu", _UNARY, attributes="alpha:float", T=BYTES)
def qlinear_leaky_relu(node: Node) -> Value:
    return requantized(node, node.call("LeakyRelu", real(node, 0), alpha=node.attr("alpha", 0.01)), 3, node.dtype(0))


@typed_converter(
    "QLinearSoftmax",
    "X:T X_scale:float32 X_zero_point:T? Y_scale:float32 Y_zero_point:T",
    attributes="axis:int opset:int",
    T=BYTES,
)
def qlinear_softmax(node: Node) -> Value | relax.Expr:
    """Before opset 13 over all axes from `axis` on. As in ONNX Runtime, 1 over the result's scale is a whole number.

    What lies beyond int8 saturates, where ONNX Runtime's kernel wraps around.
    """
    shape, dtype = node.shape(0), node.dtype(0)
    axis = node.axis(node.attr("axis", -1), len(shape))
    x, axes = node.call("Cast", node.value(0), to=1), [axis]
    if node.required("opset") < 13:
        axes = list(range(axis, len(shape)))
    over = np.array(axes, np.int64)
    below = node.call("Sub", x, node.call("ReduceMax", x, over))
    powers = node.call("Exp", node.call("Mul", below, single(node, 1)))
    steps = node.call("Floor", node.call("Div", number(1.0, "float32"), single(node, 3)))
    total = node.call("ReduceSum", powers, over)
    share = node.call("Div", node.call("Mul", powers, steps), total)
    return quantized(node, share.expr(node.bb), None, whole(node, 4).expr(node.bb), dtype)


_POOL = "auto_pad:string ceil_mode:int channels_last:int count_include_pad:int kernel_shape:ints pads:ints strides:ints"


@typed_converter(
    "QLinearAveragePool",
    "X:T x_scale:float32 x_zero_point:T? y_scale:float32 y_zero_point:T?",
    attributes=_POOL,
    T=BYTES,
)
def qlinear_average_pool(node: Node) -> Value:
    """The mean of the real numbers; the zero point is added before they are rounded."""
    names = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
    attributes = {name: node.attr(name) for name in names if node.attr(name) is not None}
    node.required("kernel_shape")
    if attributes.get("ceil_mode") and attributes.get("count_include_pad"):
        raise node.error("attribute 'ceil_mode' together with 'count_include_pad' is not supported")
    last, dtype = bool(node.attr("channels_last", 0)), node.dtype(0)
    means = node.call("AveragePool", _channels_moved(node, _rounded_real(node), last, first=True), **attributes)

    def rounded(mean: ir.Expr, scale: ir.Expr, point: ir.Expr) -> ir.Expr:
        # Through float64, so that no compiler multiplies by the reciprocal and adds to what is not yet rounded.
        return saturated((_f64(mean) / _f64(scale)).astype("float32") + point, dtype)

    result = pointwise(node, rounded, [means.expr(node.bb), *_scalars(node, 3, 4)], "qlinear_average_pool")
    return _channels_moved(node, Value(expr=result), last, first=False)


def _rounded_real(node: Node) -> Value:
    """The numbers of input 0, each rounded to float32 before anything is added to it."""

    def number(x: ir.Expr, scale: ir.Expr, point: ir.Expr) -> ir.Expr:
        return (_f64(x.astype("float32") - point) * _f64(scale)).astype("float32")

    return Value(expr=pointwise(node, number, [node.inputs[0], *_scalars(node, 1, 2)], "numbers"))


@typed_converter(
    "QLinearGlobalAveragePool",
    "X:T x_scale:float32 x_zero_point:T y_scale:float32 y_zero_point:T",
    attributes="channels_last:int",
    T=BYTES,
)
def qlinear_global_average_pool(node: Node) -> Value:
    """The sum of the integers less their zero point, times one factor: (x scale) / (y scale * elements)."""
    shape, last = node.shape(0), bool(node.attr("channels_last", 0))
    if len(shape) < 3:
        raise node.error(f"input 0 needs at least 3 dimensions, found shape {shape}")
    over = np.arange(1, len(shape) - 1) if last else np.arange(2, len(shape))
    wide = node.call("Sub", node.call("Cast", node.value(0), to=6), node.call("Cast", single(node, 2), to=6))
    total = node.call("Cast", node.call("ReduceSum", wide, over.astype(np.int64)), to=1)
    count = node.call("ReduceProd", node.call("Gather", node.call("Shape", node.value(0)), over.astype(np.int64)))
    steps = node.call("Mul", single(node, 3), node.call("Cast", node.call("Squeeze", count), to=1))
    factor = node.call("Div", single(node, 1), steps)
    scaled = node.call("Mul", total, factor).expr(node.bb)
    return Value(expr=quantized(node, scaled, None, whole(node, 4).expr(node.bb), node.dtype(0)))


def _channels_moved(node: Node, x: Value, last: bool, first: bool) -> Value:
    """`x`, whose channels stand last in the model, with channels behind the batch (`first`), or back again."""
    rank = len(x.shape or ())
    if not last or rank < 3:
        return x
    order = [0, rank - 1, *range(1, rank - 1)] if first else [0, *range(2, rank), 1]
    return permuted(node, x, *order)


@typed_converter(
    "QLinearReduceMean",
    "data:T data_scale:float32 data_zero_point:T? reduced_scale:float32 reduced_zero_point:T?",
    attributes="axes:ints keepdims:int",
    T=BYTES,
)
def qlinear_reduce_mean(node: Node) -> Value:
    axes = np.array(node.required("axes"), np.int64)
    mean = node.call("ReduceMean", real(node, 0), axes, keepdims=node.required("keepdims"))
    return requantized(node, mean, 3, node.dtype(0))


@typed_converter(
    "QLinearConcat", "Y_scale:float32 Y_zero_point:T inputs:V*", attributes="axis:int", T=BYTES, V=f"{BYTES} float32"
)
def qlinear_concat(node: Node) -> Value:
    """Behind the result's scale and zero point three inputs for each tensor: itself, its scale and zero point."""
    count = len(node.values) - 2
    if count % 3:
        raise node.error(
            f"behind the first two inputs each tensor needs a scale and a zero point, found {count} inputs"
        )
    dtype = node.dtype(1)
    for index in range(2, len(node.values), 3):
        for offset, wanted in enumerate((dtype, "float32", dtype)):
            if node.dtype(index + offset) != wanted:
                raise node.error(f"input {index + offset} must hold {wanted}, found {node.dtype(index + offset)}")
    parts = [_moved(node, index, 0, dtype) for index in range(2, len(node.values), 3)]
    return node.call("Concat", *parts, axis=node.required("axis"))


def _moved(node: Node, index: int, scale: int, dtype: str) -> Value:
    """The tensor that is input `index` on the result's scale; as it is where that is known to be its own."""
    pairs = [(node.const(index + 1 + i), node.const(scale + i)) for i in (0, 1)]
    if all(a is not None and b is not None and a.reshape(-1)[0] == b.reshape(-1)[0] for a, b in pairs):
        return node.value(index)
    return requantized(node, real(node, index), scale, dtype)


@typed_converter(
    "QLinearWhere",
    "condition:bool X:T x_scale:float32 x_zero_point:T "
    "Y:T y_scale:float32 y_zero_point:T z_scale:float32 z_zero_point:T",
    T=BYTES,
)
def qlinear_where(node: Node) -> Value:
    dtype = node.dtype(1)
    return node.call("Where", node.value(0), _moved(node, 1, 7, dtype), _moved(node, 4, 7, dtype))
