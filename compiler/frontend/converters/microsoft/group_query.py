"""GroupQueryAttention: keys and values that several heads of queries share, in caches of a length for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...values import Dim, Value
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
)
from .attention_masks import Grid, bias_term
from .key_value_cache import written
from .operands import cast, number, one_element, one_of, reshaped, shape_value, sized
from .rotary import rotated, rotation_tables

if TYPE_CHECKING:
    from ...node import Node

_QUERY, _PAST_KEY, _PAST_VALUE, _LENGTHS, _TOTAL, _COS, _SIN, _PLACES, _BIAS, _SINK = 0, 3, 4, 5, 6, 7, 8, 9, 10, 11


@typed_converter(
    "GroupQueryAttention",
    "query:T key:T? value:T? past_key:T? past_value:T? seqlens_k:int32 total_sequence_length:int32 cos_cache:T? "
    "sin_cache:T? position_ids:int64? attention_bias:T? head_sink:T? k_scale:float32? v_scale:float32? "
    "q_norm_weight:T? k_norm_weight:T?",
    attributes="num_heads:int kv_num_heads:int scale:float softcap:float do_rotary:int rotary_interleaved:int "
    "local_window_size:int causal:int smooth_softmax:int qk_output:int qk_norm_epsilon:float sliding_window_cache:int "
    "kv_cache_bit_width:int k_quant_type:string v_quant_type:string",
    outputs=4,
    T=ATTENTION_FLOATS,
)
def group_query_attention(node: Node) -> tuple[Value | None, ...]:
    """Attention of the keys before the end of each sample, which are in the cache and, behind them, new.

    seqlens_k + 1 is a sample's end, and its new keys start S before that, or at 0 where that is negative.
    """
    _refuse(node)
    heads = _heads(node)
    batch, _, rows, _ = sizes(node, heads.query)
    one = np.array(1)
    ends = node.call("Add", cast(node, _lengths(node, batch), "int64"), one)
    starts = node.call("Max", node.call("Sub", ends, shape_value(node, rows)), np.array(0))
    places = node.call("Add", reshaped(node, starts, batch, 1), positions(node, rows))
    heads = _turned(node, heads, places)
    key, value = _caches(node, heads, starts)
    grid = Grid(rows, sizes(node, key)[2], buffer=True)
    visible = _visible(node, grid, reshaped(node, places, batch, 1, rows, 1), reshaped(node, ends, batch, 1, 1, 1))
    weighing = Weighing(
        scale=node.attr("scale", 0.0) or None,
        softcap=node.attr("softcap", 0.0),
        added=[bias_term(node, _BIAS, grid, heads)] if node.has(_BIAS) else [],
        visible=visible,
        sink=_sink(node, sizes(node, heads.query)[1]),
    )
    attended = attend(node, Heads(heads.query, key, value), weighing)
    return attended.result, key, value, _shown(node, attended, visible)


def _refuse(node: Node) -> None:
    """ModelError for what is not supported, and for inputs that do not go together."""
    for index, name in ((12, "k_scale"), (13, "v_scale")):
        if node.has(index):
            raise node.error(f"input {name!r}, for caches of integers, is not supported")
    for name in ("k_quant_type", "v_quant_type"):
        one_of(node, name, ("NONE",), "NONE")
    if node.attr("sliding_window_cache", 0):
        raise node.error("attribute 'sliding_window_cache' must be 0: caches hold all keys, or have room for them")
    for first, second in ((_PAST_KEY, _PAST_VALUE), (_COS, _SIN), (14, 15), (1, 2)):
        if node.has(first) != node.has(second):
            raise node.error(f"inputs {first} and {second} go together, found one of them")
    if node.attr("do_rotary", 0) and not node.has(_COS):
        raise node.error("attribute 'do_rotary' asks for inputs 'cos_cache' and 'sin_cache'")
    if not one_of(node, "causal", (0, 1), 1) and node.attr("local_window_size", -1) != -1:
        raise node.error("attribute 'local_window_size' must be -1 where 'causal' is 0")


def _heads(node: Node) -> Heads:
    count, groups = head_count(node), head_count(node, "kv_num_heads")
    if count % groups:
        raise node.error(f"attribute 'num_heads' must be a multiple of 'kv_num_heads', found {count} and {groups}")
    query = sized(node, _QUERY, None, None, None)
    batch, rows, width = node.shape(_QUERY)
    if not node.has(1):
        whole = split_heads(node, query, count + 2 * groups, "input 'query'")
        return Heads(*node.call_all("Split", whole, np.array([count, groups, groups]), axis=1, outputs=3))
    if not isinstance(width, int) or width % count:
        raise node.error(f"the last dimension of input 'query' must be a multiple of {count} heads, found {width}")
    parts = [sized(node, i, batch, rows, width // count * groups) for i in (1, 2)]
    key, value = (split_heads(node, x, groups, "keys and values") for x in parts)
    return Heads(split_heads(node, query, count, "input 'query'"), key, value)


def _lengths(node: Node, batch: Dim) -> Value:
    """seqlens_k as a vector (B); a column is taken too."""
    column = node.rank(_LENGTHS) == 2
    lengths = sized(node, _LENGTHS, *((batch, 1) if column else (batch,)))
    return reshaped(node, lengths, batch) if column else lengths


def _turned(node: Node, heads: Heads, places: Value) -> Heads:
    """Queries and keys of one mean square, and rotated, where the node asks for that."""
    query, key = heads.query, heads.key
    if node.has(14):
        size, epsilon = sizes(node, query)[-1], node.attr("qk_norm_epsilon", 1e-6)
        query = node.call("RMSNormalization", query, sized(node, 14, size), epsilon=epsilon)
        key = node.call("RMSNormalization", key, sized(node, 15, size), epsilon=epsilon)
    if node.attr("do_rotary", 0):
        tables, interleaved = rotation_tables(node, _COS, _SIN), bool(node.attr("rotary_interleaved", 0))
        rows = _rotary_places(node, places)
        query, key = (rotated(node, x, rows, tables, interleaved) for x in (query, key))
    return Heads(query, key, heads.value)


def _rotary_places(node: Node, places: Value) -> Value:
    """Rows of the tables (B, S): the places in the cache, or position_ids, of which a first run takes the first and
    counts on from there."""
    if not node.has(_PLACES):
        return places
    batch, rows = sizes(node, places)
    given = sized(node, _PLACES, batch, rows)
    first = node.call("Slice", given, np.array([0, 0]), np.array([1, 1]), np.array([0, 1]), np.array([1, 1]))
    counted = node.call("Add", first, positions(node, rows))
    whole = cast(node, one_element(node, _TOTAL), "int64")
    is_first = node.call("Equal", reshaped(node, whole, 1, 1), shape_value(node, rows))
    return node.call("Where", is_first, counted, given)


def _caches(node: Node, heads: Heads, starts: Value) -> tuple[Value, Value]:
    """All keys and values: as long as the cache, or as the keys so far where these are more."""
    batch, groups, _, size = sizes(node, heads.key)
    if not node.has(_PAST_KEY):
        return heads.key, heads.value
    pasts = [sized(node, i, batch, groups, None, size) for i in (_PAST_KEY, _PAST_VALUE)]
    long = node.shape(_PAST_KEY)[2]
    node.require_equal(node.shape(_PAST_VALUE)[2], long, "the length of input 'past_value'")
    totals = node.dims(_TOTAL)
    one_element(node, _TOTAL)
    if totals is None:
        extra = node.call("Max", _longer(node, long), np.array([0]))
        pads = node.call("Concat", np.zeros(6, np.int64), extra, np.zeros(1, np.int64), axis=0)
        pasts = [node.call("Pad", x, pads) for x in pasts]
        length = sizes(node, pasts[0])[2]
    else:
        length = node.symbols.maximum(long, totals[0])
    empty = isinstance(long, int) and long == 0 and totals is not None
    key, value = (
        written(node, None if empty else p, x, starts, length, rest=False)
        for p, x in zip(pasts, (heads.key, heads.value), strict=True)
    )
    return key, value


def _longer(node: Node, length: Dim) -> Value:
    """By how much total_sequence_length, which is data, exceeds the cache's length: (1)."""
    whole = reshaped(node, cast(node, node.value(_TOTAL), "int64"), 1)
    return node.call("Sub", whole, shape_value(node, length))


def _visible(node: Node, grid: Grid, places: Value, ends: Value) -> Value:
    """(B, 1, S, T): keys before the sample's end, in a causal node none behind the row, and no more than the window."""
    keys = positions(node, grid.keys)
    visible = node.call("Less", keys, ends)
    if not node.attr("causal", 1):
        return visible
    visible = node.call("And", visible, node.call("LessOrEqual", keys, places))
    window = node.attr("local_window_size", -1)
    if window <= 0:
        return visible
    return node.call("And", visible, node.call("Greater", keys, node.call("Sub", places, np.array(window))))


def _sink(node: Node, count: Dim) -> Value | None:
    """The score that takes part of each row's weights (1, N, 1, 1): head_sink, or 0 where softmax is to be smooth."""
    if node.has(_SINK):
        return reshaped(node, sized(node, _SINK, count), 1, count, 1, 1)
    if node.attr("smooth_softmax", -1) == 1:
        return Value(array=number(0, "float32").reshape(1, 1, 1, 1))
    return None


def _shown(node: Node, attended: Attended, visible: Value) -> Value | None:
    """Scores (1) or weights (2) as an output, of total_sequence_length keys; 0 where a key is not seen."""
    kind = one_of(node, "qk_output", (0, 1, 2), 0)
    if not node.wants(3) or not kind:
        return None
    totals = node.dims(_TOTAL)
    if totals is None:
        raise node.error("output 'output_qk' is not supported where 'total_sequence_length' is data")
    table = attended.weights if kind == 2 else attended.scores
    table = node.call("Where", visible, table, number(0, table.dtype))
    axis = np.array([3])
    table = node.call("Slice", table, np.array([0]), shape_value(node, totals[0]), axis, np.array([1]))
    return cast(node, table, node.dtype(0))
