"""RotaryEmbedding of ONNX Runtime's domain: ONNX's own, with positions that may be one offset for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...values import Dim, Value
from ..schemas import typed_converter
from .attention_core import ATTENTION_FLOATS, positions, sizes, split_heads
from .operands import permuted, reshaped, shape_value, sized

if TYPE_CHECKING:
    from ...node import Node


def rotated(node: Node, x: Value, places: Value, tables: tuple[Value, Value], interleaved: bool) -> Value:
    """`x` (B, N, S, H), of which as many elements are rotated as two rows of `tables` (positions, R / 2) hold.

    `places` (B, S), of int64, are the rows of the tables.
    """
    half, size = sizes(node, tables[0])[-1], sizes(node, x)[-1]
    if not isinstance(half, int) or not isinstance(size, int) or 2 * half > size:
        raise node.error(f"'cos_cache' must be fixed and at most half as wide as a head, found {half} for {size}")
    partial = {} if 2 * half == size else {"rotary_embedding_dim": 2 * half}
    return node.call("RotaryEmbedding", x, *tables, places, interleaved=int(interleaved), **partial)


def rotation_tables(node: Node, cos: int, sin: int) -> tuple[Value, Value]:
    """The inputs of cosines and sines, two matrices of one shape."""
    table = sized(node, cos, None, None)
    return table, sized(node, sin, *node.shape(cos))


@typed_converter(
    "RotaryEmbedding",
    "input:T position_ids:int64 cos_cache:T sin_cache:T",
    attributes="interleaved:int num_heads:int rotary_embedding_dim:int is_packed_batching:int scale:float",
    T=ATTENTION_FLOATS,
)
def rotary_embedding(node: Node) -> Value:
    """(B, S, N * H), or (B, N, S, H), rotated by positions (B, S), or by those from one offset on."""
    if node.attr("is_packed_batching", 0) or node.attr("scale", 1.0) != 1:
        raise node.error("attributes 'is_packed_batching' and 'scale' must be 0 and 1")
    tables = rotation_tables(node, 2, 3)
    x, flat = node.value(0), node.rank(0) == 3
    if flat:
        x = split_heads(node, x, _head_count(node, tables[0]), "input 0")
    elif node.rank(0) != 4:
        raise node.error(f"input 0 needs 3 or 4 dimensions, found shape {node.shape(0)}")
    batch, _, rows, _ = sizes(node, x)
    out = rotated(node, x, _places(node, batch, rows), tables, bool(node.attr("interleaved", 0)))
    return reshaped(node, permuted(node, out, 0, 2, 1, 3), *node.shape(0)) if flat else out


def _head_count(node: Node, table: Value) -> int:
    """Attribute `num_heads`, which goes with rotary_embedding_dim; else heads are as wide as the rotation."""
    count, width, half = node.attr("num_heads", 0), node.shape(0)[-1], sizes(node, table)[-1]
    if node.attr("rotary_embedding_dim", 0) > 0:
        if count < 1:
            raise node.error(f"attribute 'rotary_embedding_dim' asks for a positive 'num_heads', found {count}")
        return count
    if not isinstance(width, int) or not isinstance(half, int) or not half or width % (2 * half):
        raise node.error(f"the last dimension of input 0 must be a multiple of 2 * {half}, found {width}")
    return width // (2 * half)


def _places(node: Node, batch: Dim, rows: Dim) -> Value:
    """The rows of the tables (B, S)."""
    if node.rank(1) != 1:
        return sized(node, 1, batch, rows)
    places = node.call("Add", sized(node, 1, 1), positions(node, rows))
    return node.call("Expand", places, shape_value(node, batch, rows))
