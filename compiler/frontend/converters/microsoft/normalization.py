"""Layer normalisations that ONNX Runtime has fused with a sum before them, or with the embeddings of BERT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...values import Dim, Value
from ..schemas import typed_converter
from .operands import INDICES, reshaped, sized

if TYPE_CHECKING:
    from ...node import Node

_FLOATS = "float16 float32 bfloat16"


def _sum(node: Node, bias_index: int) -> tuple[Value, Dim]:
    """input + skip + bias, and the size of the last axis. The skip has the input's shape, or less in front of it."""
    shape, skip = node.shape(0), node.shape(1)
    if len(shape) not in (2, 3):
        raise node.error(f"input 0 needs 2 or 3 dimensions, found shape {shape}")
    if len(skip) not in (2, 3) or len(skip) > len(shape):
        raise node.error(f"input 'skip' needs {len(shape)} dimensions, or 2, found shape {skip}")
    batch = [1] if len(skip) == 3 and node.symbols.equal(skip[0], 1) else shape[: len(skip) - 2]
    total = node.call("Add", node.value(0), sized(node, 1, *batch, *shape[-2:]))
    return (node.call("Add", total, sized(node, bias_index, shape[-1])) if node.has(bias_index) else total), shape[-1]


@typed_converter(
    "SkipLayerNormalization",
    "input:T skip:T gamma:T beta:T? bias:T?",
    attributes="epsilon:float",
    outputs=4,
    T=_FLOATS,
)
def skip_layer_normalization(node: Node) -> tuple[Value | None, ...]:
    """LayerNormalization of input + skip + bias; the sum is the fourth output, those for training are not made."""
    total, width = _sum(node, 4)
    scale, shift = sized(node, 2, width), sized(node, 3, width) if node.has(3) else None
    out = node.call("LayerNormalization", total, scale, shift, epsilon=node.attr("epsilon", 1e-12))
    return out, None, None, total


@typed_converter(
    "SkipSimplifiedLayerNormalization",
    "input:T skip:T gamma:T bias:T?",
    attributes="epsilon:float",
    outputs=4,
    T=_FLOATS,
)
def skip_simplified_layer_normalization(node: Node) -> tuple[Value | None, ...]:
    """The same with RMSNormalization, which subtracts no mean."""
    total, width = _sum(node, 3)
    out = node.call("RMSNormalization", total, sized(node, 2, width), epsilon=node.attr("epsilon", 1e-12))
    return out, None, None, total


@typed_converter(
    "EmbedLayerNormalization",
    "input_ids:I segment_ids:I? word_embedding:T position_embedding:T segment_embedding:T? gamma:T beta:T mask:I? "
    "position_ids:I?",
    attributes="epsilon:float mask_index_type:int",
    outputs=3,
    T="float16 float32",
    I=INDICES,
)
def embed_layer_normalization(node: Node) -> tuple[Value | None, ...]:
    """LayerNormalization of the sum of three embeddings; the number of words in each row of the mask; the sum."""
    ids = sized(node, 0, None, None)
    batch, length = node.shape(0)
    width = node.shape(2)[-1]
    words = node.call("Gather", sized(node, 2, None, width), ids)
    total = node.call("Add", words, _positions(node, batch, length, width))
    if node.has(1) != node.has(4):
        raise node.error("inputs 'segment_ids' and 'segment_embedding' go together, found one of them")
    if node.has(1):
        table, segments = sized(node, 4, None, width), sized(node, 1, batch, length)
        total = node.call("Add", total, node.call("Gather", table, segments))
    gamma, beta = sized(node, 5, width), sized(node, 6, width)
    out = node.call("LayerNormalization", total, gamma, beta, epsilon=node.attr("epsilon", 1e-12))
    return out, _mask_index(node, batch, length), total


def _positions(node: Node, batch: Dim, length: Dim, width: Dim) -> Value:
    """Rows of the table of positions: those of position_ids, else the first ones; (batch or 1, length, width)."""
    table = sized(node, 3, None, width)
    if node.has(8):
        rows = node.shape(8)
        one = bool(rows) and node.symbols.equal(rows[0], 1) is True
        return node.call("Gather", table, sized(node, 8, 1 if one else batch, length))
    node.require_at_least(node.shape(3)[0], length, "the number of rows of position_embedding")
    zero, step = np.zeros(1, np.int64), np.ones(1, np.int64)
    end = node.call("Shape", node.value(0), start=1, end=2)
    return reshaped(node, node.call("Slice", table, zero, end, zero, step), 1, length, width)


def _mask_index(node: Node, batch: Dim, length: Dim) -> Value | None:
    if not node.wants(1):
        return None
    if not node.has(7):
        return node.call("Expand", np.zeros(1, np.int32), node.call("Shape", node.value(0), start=0, end=1))
    return node.call("ReduceSum", sized(node, 7, batch, length), np.array([1], np.int64), keepdims=0)
