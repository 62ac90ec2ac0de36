"""Attention and MultiHeadAttention: as many heads of keys as of queries, masks as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...values import Value
from ..schemas import typed_converter
from .attention_core import (
    ATTENTION_FLOATS,
    Attended,
    Heads,
    Weighing,
    attend,
    head_count,
    positions,
    sizes,
    split_heads,
    wide,
)
from .attention_masks import Grid, bias_term, mask_term
from .key_value_cache import written
from .operands import cast, one_element, reshaped, shape_value, sized

if TYPE_CHECKING:
    from ...node import Node


@dataclass(frozen=True)
class _Inputs:
    """Which inputs of a node are its mask, the term of its scores, and the length of what its buffers hold."""

    mask: int
    bias: int
    past_length: int


@typed_converter(
    "Attention",
    "input:T weights:T bias:T? mask_index:int32? past:T? attention_bias:T? past_sequence_length:int32?",
    attributes="num_heads:int unidirectional:int do_rotary:int rotary_embedding_dim:int past_present_share_buffer:int "
    "qkv_hidden_sizes:ints mask_filter_value:float scale:float",
    outputs=2,
    T=ATTENTION_FLOATS,
)
def attention(node: Node) -> tuple[Value | None, ...]:
    """Queries, keys and values are products of the input with one matrix."""
    if node.attr("do_rotary", 0):
        raise node.error("attribute 'do_rotary' must be 0: embeddings of positions are an operator of their own")
    shared = bool(node.attr("past_present_share_buffer", 0))
    if shared != node.has(6) or (shared and not node.has(4)):
        raise node.error(
            "attribute 'past_present_share_buffer' asks for inputs 'past' and 'past_sequence_length', and the latter "
            "for the attribute"
        )
    count = head_count(node)
    parts = [split_heads(node, part, count, "an operand") for part in _projections(node)]
    past = None
    if node.has(4):
        batch, size = node.shape(0)[0], sizes(node, parts[0])[-1]
        both = sized(node, 4, 2, batch, count, None, size)
        past = [node.call("Gather", both, np.array(i), axis=0) for i in (0, 1)]
    attended, key, value = _with_past(node, Heads(*parts), past, _Inputs(3, 5, 6))
    if not node.wants(1):
        return attended.result, None
    front = np.array([0])
    pair = [node.call("Unsqueeze", x, front) for x in (key, value)]
    return attended.result, node.call("Concat", *pair, axis=0)


def _projections(node: Node) -> list[Value]:
    """input @ weights + bias, cut into queries, keys and values (B, S, ...)."""
    sized(node, 0, None, None, None)
    width = node.shape(1)[-1]
    if node.rank(1) != 2 or not isinstance(width, int):
        raise node.error(f"input 'weights' needs 2 dimensions, the last of them fixed, found shape {node.shape(1)}")
    cuts = node.attr("qkv_hidden_sizes") or [width // 3] * 3
    if len(cuts) != 3 or sum(cuts) != width or cuts[0] != cuts[1] or min(cuts) < 1:
        raise node.error(
            f"attribute 'qkv_hidden_sizes' must be 3 sizes of sum {width}, two of them alike, found {cuts}"
        )
    merged = node.call("MatMul", node.value(0), node.value(1))
    if node.has(2):
        merged = node.call("Add", merged, sized(node, 2, width))
    return node.call_all("Split", merged, np.array(cuts), axis=2, outputs=3)


@typed_converter(
    "MultiHeadAttention",
    "query:T key:T? value:T? bias:T? key_padding_mask:int32? attention_bias:T? past_key:T? past_value:T? "
    "past_sequence_length:int32? cache_indirection:int32?",
    attributes="num_heads:int mask_filter_value:float scale:float unidirectional:int",
    outputs=4,
    T=ATTENTION_FLOATS,
)
def multi_head_attention(node: Node) -> tuple[Value | None, ...]:
    """Queries, keys and values are inputs, apart or packed, and a bias that is added to them another one."""
    if node.has(9):
        raise node.error("input 'cache_indirection', which beams share keys by, is not supported")
    if node.has(6) != node.has(7) or (node.has(8) and not node.has(6)):
        raise node.error("inputs 'past_key' and 'past_value' go together, and with 'past_sequence_length'")
    count = head_count(node)
    heads = _heads(node, count)
    past = None
    if node.has(6):
        batch = node.shape(0)[0]
        past = [sized(node, i, batch, count, None, sizes(node, x)[-1]) for i, x in ((6, heads.key), (7, heads.value))]
    attended, key, value = _with_past(node, heads, past, _Inputs(4, 5, 8))
    scores = attended.scores if node.wants(3) else None
    if scores is not None and node.has(8):
        raise node.error("output 'qk' with a buffer of keys, whose length is data, is not supported")
    return attended.result, key, value, None if scores is None else cast(node, scores, node.dtype(0))


def _heads(node: Node, count: int) -> Heads:
    """Queries, keys and values with their heads apart, and the bias added; where keys and values come so, only the
    queries have one."""
    parts = _packed(node, count)
    if parts is None:
        query = sized(node, 0, None, None, None)
        batch = node.shape(0)[0]
        key, value = node.value(1), node.value(2)
        if node.rank(1) == 4:
            (query,) = _biased(node, [query], count)
            split = split_heads(node, query, count, "input 'query'")
            own = sized(node, 1, batch, count, None, sizes(node, split)[-1])
            return Heads(split, own, sized(node, 2, batch, count, node.shape(1)[2], None))
        key = sized(node, 1, batch, None, node.shape(0)[2])
        value = sized(node, 2, batch, node.shape(1)[1], None)
        parts = [query, key, value]
    names = ("input 'query'", "input 'key'", "input 'value'")
    return Heads(*(split_heads(node, x, count, n) for x, n in zip(_biased(node, parts, count), names, strict=True)))


def _packed(node: Node, count: int) -> list[Value] | None:
    """(B, S, ...) each, where the query holds all (B, S, N, 3, H), or the key both (B, T, N, 2, H); else None."""
    rank = node.rank(0)
    if rank == 5 and not node.has(1) and not node.has(2):
        return _unpacked(node, sized(node, 0, None, None, count, 3, None), 3)
    if rank == 3 and node.has(1) and node.rank(1) == 5 and not node.has(2):
        packed = sized(node, 1, node.shape(0)[0], None, count, 2, None)
        return [node.value(0), *_unpacked(node, packed, 2)]
    if rank != 3 or not node.has(1) or not node.has(2) or node.rank(1) not in (3, 4):
        ranks = [node.rank(i) if node.has(i) else None for i in range(3)]
        raise node.error(
            "query, key and value need 3 dimensions each, or 3, 4 and 4, or 5 of the query alone, or 3 and 5 of query "
            f"and key, found {ranks}"
        )
    return None


def _unpacked(node: Node, packed: Value, parts: int) -> list[Value]:
    batch, rows, count, _, size = sizes(node, packed)
    cut = node.call_all("Split", packed, axis=3, num_outputs=parts, outputs=parts)
    return [reshaped(node, x, batch, rows, count * size) for x in cut]


def _biased(node: Node, parts: list[Value], count: int) -> list[Value]:
    """`parts`, the first ones of queries, keys and values (B, S, ...), with their pieces of the bias."""
    if not node.has(3):
        return parts
    widths = [sizes(node, x)[-1] for x in parts]
    total = node.shape(3)[0] if node.rank(3) == 1 else None
    fixed = [w for w in widths if isinstance(w, int)]
    if len(fixed) < len(widths) or not isinstance(total, int) or total < sum(fixed):
        raise node.error(f"input 'bias' must be as long as query, key and value are wide, found shape {node.shape(3)}")
    if len(parts) == 3:
        sized(node, 3, sum(fixed))
    ends = np.cumsum([0, *fixed])
    bias, axis = node.value(3), np.array([0])
    pieces = [node.call("Slice", bias, ends[i : i + 1], ends[i + 1 : i + 2], axis) for i in range(len(parts))]
    return [node.call("Add", x, piece) for x, piece in zip(parts, pieces, strict=True)]


def _with_past(node: Node, heads: Heads, past: list[Value] | None, inputs: _Inputs) -> tuple[Attended, Value, Value]:
    """The result, and all keys and values: those of earlier runs, and behind them these."""
    rows, fresh = sizes(node, heads.query)[2], sizes(node, heads.key)[2]
    causal, shared = bool(node.attr("unidirectional", 0)), node.has(inputs.past_length)
    if causal:
        node.require_equal(fresh, rows, "the number of keys of unidirectional attention")
    key, value, before = heads.key, heads.value, shape_value(node, 0)
    if past is not None and shared:
        before = reshaped(node, cast(node, one_element(node, inputs.past_length), "int64"), 1)
        start = node.call("Expand", before, shape_value(node, node.shape(0)[0]))
        key, value = (written(node, p, x, start, sizes(node, p)[2]) for p, x in zip(past, (key, value), strict=True))
    elif past is not None:
        before = shape_value(node, sizes(node, past[0])[2])
        key, value = (node.call("Concat", p, x, axis=2) for p, x in zip(past, (key, value), strict=True))
    grid, dtype = Grid(rows, sizes(node, key)[2], shared), wide(heads.query.dtype)
    terms = [mask_term(node, inputs.mask, grid, dtype)] if node.has(inputs.mask) else []
    terms += [bias_term(node, inputs.bias, grid, heads)] if node.has(inputs.bias) else []
    visible = None
    if causal:
        last = node.call("Add", positions(node, rows), before)
        visible = node.call("LessOrEqual", positions(node, grid.keys), reshaped(node, last, rows, 1))
    elif shared:
        visible = node.call("Less", positions(node, grid.keys), node.call("Add", before, shape_value(node, fresh)))
    weighing = Weighing(scale=node.attr("scale", 0.0) or None, added=terms, visible=visible)
    return attend(node, Heads(heads.query, key, value), weighing), key, value
