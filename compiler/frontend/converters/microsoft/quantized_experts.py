"""QMoE: a mixture of experts of which the weights are integers of 2, 4 or 8 bits, rows or blocks of them with a scale.

The weights, constants, become numbers of the input's type when the model is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...dtypes import numpy_dtype
from ...values import Value
from ..schemas import typed_converter
from .experts import mixture_of_experts
from .operands import given, one_of
from .packed_weights import WIDTHS, unpacked

if TYPE_CHECKING:
    from ...node import Node

_REST = (
    "fc3_experts_weights:W? fc3_scales:S? fc3_experts_bias:T? fc1_zero_points:W? fc2_zero_points:W? fc3_zero_points:W?"
)
_SCALES = "fc1_global_scale:G? fc2_global_scale:G? fc1_act_scale:G? fc2_act_scale:G?"


@typed_converter(
    "QMoE",
    "input:T router_probs:T fc1_experts_weights:W fc1_scales:S? fc1_experts_bias:T? fc2_experts_weights:W "
    f"fc2_scales:S? fc2_experts_bias:T? {_REST} router_weights:T? {_SCALES} "
    "fc1_act_block_scale:S? fc2_act_block_scale:S?",
    attributes="k:int activation_type:string activation_alpha:float activation_beta:float swiglu_fusion:int "
    "swiglu_limit:float normalize_routing_weights:int use_sparse_mixer:int accuracy_level:int block_size:int "
    "expert_weight_bits:int fc1_expert_weight_bits:int fc2_expert_weight_bits:int fc3_expert_weight_bits:int "
    "quant_type:string weights_prepacked:int",
    T="float32 float16 bfloat16",
    W="uint8",
    S="float32 float16 bfloat16",
    G="float32",
)
def quantized_mixture_of_experts(node: Node) -> Value:
    """MoE of the weights' numbers; activations are not rounded, whatever `accuracy_level` allows."""
    one_of(node, "quant_type", ("int",), "int")
    one_of(node, "weights_prepacked", (-1, 0), -1)
    extra = next((i for i in (8, 9, 10, *range(13, 21)) if node.has(i)), None)
    if extra is not None:
        raise node.error(
            f"input {extra}, of a third product or of scales of the router or of activations, is not supported"
        )
    first, second = (_weights(node, i, f"fc{n}_expert_weight_bits", point) for n, i, point in ((1, 2, 11), (2, 5, 12)))
    values = [node.value(0), node.value(1), first, given(node, 4), second, given(node, 7)]
    return mixture_of_experts(node.with_values(values))


def _weights(node: Node, index: int, name: str, point: int) -> Value:
    """The numbers (experts, rows, columns) of input `index`, whose scales are the next input."""
    bits = one_of(node, name, WIDTHS, one_of(node, "expert_weight_bits", WIDTHS, 4))
    packed, scales, points = (node.const(i) for i in (index, index + 1, point))
    if packed is None or scales is None or (node.has(point) and points is None):
        raise node.error(
            f"inputs {index}, {index + 1} and {point}, weights with scales and zero points, must be constants"
        )
    if packed.ndim != 3:
        raise node.error(f"input {index} needs 3 dimensions, found shape {list(packed.shape)}")
    numbers = unpacked(packed, bits)
    experts, rows, columns = numbers.shape
    block = node.attr("block_size", 0) or columns
    if block < 1:
        raise node.error(f"attribute 'block_size' must be positive, found {block}")
    blocks = -(-columns // block)
    if scales.size != experts * rows * blocks or scales.shape[:2] != (experts, rows):
        wanted = [experts, rows, *([blocks] if scales.ndim == 3 or blocks > 1 else [])]
        raise node.error(f"input {index + 1} needs shape {wanted}, found {list(scales.shape)}")
    zeros = _zero_points(node, point, points, (experts, rows, blocks), bits)
    scale = scales.reshape(experts, rows, blocks).astype(np.float32)
    at = np.arange(columns) // block
    weights = (numbers.astype(np.float32) - zeros[..., at]) * scale[..., at]
    return Value(array=weights.astype(numpy_dtype(node.dtype(0))))


def _zero_points(
    node: Node, index: int, packed: np.ndarray | None, shape: tuple[int, int, int], bits: int
) -> np.ndarray:
    """(experts, rows, blocks): packed along the blocks, or, where a row is one block, along the rows."""
    experts, rows, blocks = shape
    if packed is None:
        return np.full(shape, 1 << (bits - 1), np.float32)
    by_rows = packed.ndim == 2
    wanted = [experts, -(-rows * bits // 8)] if by_rows else [experts, rows, -(-blocks * bits // 8)]
    if list(packed.shape) != wanted or (by_rows and blocks > 1):
        raise node.error(f"input {index} needs shape {wanted}, found {list(packed.shape)}")
    numbers = unpacked(packed, bits)
    return (numbers[:, :rows, None] if by_rows else numbers[..., :blocks]).astype(np.float32)
