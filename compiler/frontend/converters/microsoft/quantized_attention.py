"""QAttention: Attention of an input and weights that are 8-bit integers.

The product of the two is computed in float32, of weights that become floats when the model is compiled if they are
constants: it differs from the sums of integers in the last bits only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...values import Value
from ..schemas import typed_converter
from .attention import attention
from .operands import given, sized
from .qlinear import BYTES, single, whole

if TYPE_CHECKING:
    from ...node import Node


@typed_converter(
    "QAttention",
    "input:TI weight:TW bias:T input_scale:T weight_scale:T mask_index:int32? input_zero_point:TI? "
    "weight_zero_point:TW? past:T?",
    attributes="num_heads:int unidirectional:int do_rotary:int past_present_share_buffer:int mask_filter_value:float "
    "scale:float",
    outputs=2,
    TI=BYTES,
    TW=BYTES,
    T="float32",
)
def qattention(node: Node) -> tuple[Value | None, ...]:
    """The scale and zero point of the input are scalars, those of the weights also one for each column."""
    if node.attr("past_present_share_buffer", 0):
        raise node.error("attribute 'past_present_share_buffer' must be 0, found 1")
    x = node.call("DequantizeLinear", sized(node, 0, None, None, None), whole(node, 3), single(node, 6))
    values = [x, _weights(node), node.value(2), given(node, 5), given(node, 8)]
    return attention(node.with_values(values))


def _weights(node: Node) -> Value:
    if node.rank(1) != 2:
        raise node.error(f"input 1 needs 2 dimensions, found shape {node.shape(1)}")
    columns = node.shape(1)[1]
    for index in (4, 7):
        if node.has(index) and node.shape(index) not in ([], [1], [columns]):
            raise node.error(f"input {index} must be a scalar or have {columns} elements, found {node.shape(index)}")
    weights, scale, point = node.value(1), node.value(4), given(node, 7)
    zero = np.zeros((), np.int32) if point is None else point.array
    if weights.array is None or scale.array is None or zero is None:
        scale = scale if node.shape(4) == [columns] else whole(node, 4)
        point = point if point is None or node.shape(7) == [columns] else single(node, 7)
        if point is not None and point.shape != scale.shape:
            raise node.error(f"inputs 4 and 7 must have one shape, found {node.shape(4)} and {node.shape(7)}")
        return node.call("DequantizeLinear", weights, scale, point, axis=1)
    moved = weights.array.astype(np.int32) - zero.astype(np.int32)
    return Value(array=moved.astype(np.float32) * scale.array)
