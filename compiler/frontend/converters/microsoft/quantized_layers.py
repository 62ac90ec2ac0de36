"""QuantizeLinear and DequantizeLinear of ONNX Runtime's domain, and layers of which the weights are 8-bit integers.

Such weights become floats when the model is compiled, and the layers are computed in float: closer to the exact result
than in ONNX Runtime, which rounds the activations of `DynamicQuantizeLSTM` to 8 bits as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...values import Value
from ..schemas import typed_converter
from .normalization import embed_layer_normalization
from .operands import given, passed_on, permuted, reshaped
from .qlinear import BYTES, single

if TYPE_CHECKING:
    from ...node import Node

_NARROW = "int4 uint4"


def _parameters(node: Node) -> tuple[Value, Value | None, int]:
    """Scale, zero point, and the axis along which they stand; scalars without the attribute `axis`."""
    axis = node.attr("axis")
    if axis is None:
        scale = single(node, 1)
        assert scale is not None, "the schema asks for it"
        return scale, single(node, 2), 0
    axis = node.axis(axis, node.rank(0))
    for index in (1, 2):
        if node.has(index) and node.rank(index) > 1:
            raise node.error(f"input {index} must be a scalar or a vector, found shape {node.shape(index)}")
    return node.value(1), given(node, 2), axis


@typed_converter(
    "QuantizeLinear",
    "x:F y_scale:F y_zero_point:T?",
    attributes="axis:int",
    F="float32 float16",
    T=f"{BYTES} uint16 int16 {_NARROW}",
)
def quantize_linear(node: Node) -> Value:
    """Like ONNX's own, also in opsets in which that has no 16 or 4 bits."""
    scale, point, axis = _parameters(node)
    return node.call("QuantizeLinear", node.value(0), scale, point, axis=axis)


@typed_converter(
    "DequantizeLinear",
    "x:T x_scale:F x_zero_point:T?",
    attributes="axis:int",
    F="float32 float16",
    T=f"{BYTES} uint16 int16 int32 {_NARROW}",
)
def dequantize_linear(node: Node) -> Value:
    scale, point, axis = _parameters(node)
    return node.call("DequantizeLinear", node.value(0), scale, point, axis=axis)


def _real(node: Node, index: int, scale: Value | None, point: Value | None) -> Value:
    """The numbers of input `index`; computed at compile time where all three are constants."""
    x = node.value(index)
    if scale is None:
        raise node.error(f"input {index} needs a scale, which was not found")
    zero = np.zeros((), np.int32) if point is None else point.array
    if x.array is None or scale.array is None or zero is None:
        return node.call("DequantizeLinear", x, scale, point)
    return Value(array=_numbers(x.array, scale.array, zero))


def _numbers(x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    return (x.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale


# Inputs of QEmbedLayerNormalization that are quantized -> their scales, and their zero points.
_TABLES = {2: (8, 13), 3: (9, 14), 4: (10, 15), 5: (11, 16), 6: (12, 17)}


@typed_converter(
    "QEmbedLayerNormalization",
    "input_ids:I segment_ids:I? word:Q position:Q segment:Q? gamma:Q beta:Q mask:I? word_scale:T position_scale:T "
    "segment_scale:T? gamma_scale:T beta_scale:T word_zero:Q position_zero:Q segment_zero:Q? gamma_zero:Q beta_zero:Q",
    attributes="epsilon:float",
    outputs=2,
    I="int32",
    Q=BYTES,
    T="float32",
)
def qembed_layer_normalization(node: Node) -> tuple[Value | None, ...]:
    """EmbedLayerNormalization of tables, scale and shift that are 8-bit integers."""
    values = [given(node, i) for i in range(8)]
    for index, (scale, point) in _TABLES.items():
        if node.has(index):
            values[index] = _real(node, index, single(node, scale), single(node, point))
    return embed_layer_normalization(node.with_values(values))[:2]


@typed_converter(
    "DynamicQuantizeLSTM",
    "X:T W:Q R:Q B:T? sequence_lens:int32? initial_h:T? initial_c:T? P:T? W_scale:T W_zero_point:Q R_scale:T "
    "R_zero_point:Q",
    attributes="activation_alpha:floats activation_beta:floats activations:strings clip:float direction:string "
    "hidden_size:int input_forget:int",
    outputs=3,
    T="float32",
    Q=BYTES,
)
def dynamic_quantize_lstm(node: Node) -> tuple[Value, ...]:
    """LSTM of weights (directions, inputs, 4 * hidden) with a scale for each direction, or for each of its columns."""
    weights = [permuted(node, _lstm_weights(node, i, scale), 0, 2, 1) for i, scale in ((1, 8), (2, 10))]
    names = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget")
    rest = [given(node, i) for i in range(3, 8)]
    return tuple(node.call_all("LSTM", node.value(0), *weights, *rest, outputs=3, **passed_on(node, *names)))


def _lstm_weights(node: Node, index: int, scale: int) -> Value:
    shape = node.shape(index)
    if len(shape) != 3:
        raise node.error(f"input {index} needs 3 dimensions, found shape {shape}")
    parameters = []
    for each in (scale, scale + 1):
        found = node.shape(each)
        if found not in ([shape[0]], [shape[0], shape[2]]):
            raise node.error(f"input {each} needs shape {[shape[0]]} or {[shape[0], shape[2]]}, found {found}")
        wide = [shape[0], 1, shape[2]] if len(found) == 2 else [shape[0], 1, 1]
        known = node.const(each)
        parameters.append(
            Value(array=known.reshape(wide)) if known is not None else reshaped(node, node.value(each), *wide)
        )
    x, by, zero = (v.array for v in (node.value(index), *parameters))
    if x is not None and by is not None and zero is not None:
        return Value(array=_numbers(x, by, zero))
    moved = node.call("Sub", *(node.call("Cast", v, to=6) for v in (node.value(index), parameters[1])))
    return node.call("Mul", node.call("Cast", moved, to=1), parameters[0])
