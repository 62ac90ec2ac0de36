"""Masks of keys, in the forms that ONNX Runtime's attention operators take them, as terms of the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...values import Dim, Value
from .attention_core import Heads, positions, sizes
from .operands import cast, number, reshaped, shape_value, sized

if TYPE_CHECKING:
    from ...node import Node


@dataclass(frozen=True)
class Grid:
    """What scores are over: `rows` of queries, and `keys`. Those may be the places of a buffer that is longer than the
    keys so far, which masks are made for."""

    rows: Dim
    keys: Dim
    buffer: bool = False


def mask_term(node: Node, index: int, grid: Grid, dtype: str) -> Value:
    """Input `index`, an integer mask, as a term (B, 1, 1 or S, T): 0 for keys that count, mask_filter_value for others.

    It is (B, T) or (B, S, T), with 0 for keys that do not count; (B, 1, longest, longest), of which the rows and
    columns of this run are taken; or of keys the lengths (B), ends and starts (2 B), or lengths and their sums
    (3 B + 2).
    """
    shape = node.shape(index)
    if len(shape) not in _COUNTING:
        raise node.error(f"input {index}, a mask, needs 1 to 4 dimensions, found shape {shape}")
    counts = _COUNTING[len(shape)](node, index, grid)
    filler = node.attr("mask_filter_value", -10000.0)
    return node.call("Where", counts, number(0, dtype), number(filler, dtype))


def _of_lengths(node: Node, index: int, grid: Grid) -> Value:
    """Keys before the end, and from the start on where there is one."""
    batch, size = node.shape(0)[0], node.shape(index)[0]
    equal = node.symbols.equal
    starts = equal(size, batch * 2) is True and equal(size, batch) is not True
    if not starts and equal(size, batch * 3 + 2) is not True:
        node.require_equal(size, batch, f"the number of lengths in input {index}")
    place = positions(node, grid.keys)
    counts = node.call("Less", place, _part(node, index, 0, batch))
    if starts:
        counts = node.call("And", counts, node.call("GreaterOrEqual", place, _part(node, index, batch, batch * 2)))
    return reshaped(node, counts, batch, 1, 1, grid.keys)


def _part(node: Node, index: int, start: Dim, end: Dim) -> Value:
    """Elements `start` to `end` of a vector as int64 (B, 1)."""
    batch = node.shape(0)[0]
    part = node.value(index)
    if node.symbols.equal(node.shape(index)[0], batch) is not True:
        part = node.call("Slice", part, shape_value(node, start), shape_value(node, end), np.array([0]), np.array([1]))
    return reshaped(node, cast(node, part, "int64"), batch, 1)


def _of_keys(node: Node, index: int, grid: Grid) -> Value:
    batch = node.shape(0)[0]
    return reshaped(node, _counting(node, fitted(node, index, grid, batch)), batch, 1, 1, grid.keys)


def _of_rows(node: Node, index: int, grid: Grid) -> Value:
    batch = node.shape(0)[0]
    counts = _counting(node, fitted(node, index, grid, batch, grid.rows))
    return reshaped(node, counts, batch, 1, grid.rows, grid.keys)


def _of_longest(node: Node, index: int, grid: Grid) -> Value:
    """The last `rows` of the first `keys` rows of a square, and its first `keys` columns."""
    mask = sized(node, index, node.shape(0)[0], 1, None, None)
    rows, keys = grid.rows, grid.keys
    for size in node.shape(index)[2:]:
        node.require_at_least(size, keys, f"the length of the mask in input {index}")
    start, end = shape_value(node, keys - rows, 0), shape_value(node, keys, keys)
    return _counting(node, node.call("Slice", mask, start, end, np.array([2, 3]), np.array([1, 1])))


def _counting(node: Node, mask: Value) -> Value:
    return node.call("Greater", mask, np.array(0, np.int32))


def fitted(node: Node, index: int, grid: Grid, *front: Dim) -> Value:
    """Input `index` of the sizes `front` and one of keys; zeros stand for what a buffer has more places."""
    if not grid.buffer:
        return sized(node, index, *front, grid.keys)
    value, own = sized(node, index, *front, None), node.shape(index)[-1]
    if node.symbols.equal(own, grid.keys) is True:
        return value
    node.require_at_least(grid.keys, own, f"the buffer that input {index} is for")
    return node.call("Pad", value, shape_value(node, *[0] * (2 * len(front) + 1), grid.keys - own))


def bias_term(node: Node, index: int, grid: Grid, heads: Heads) -> Value:
    """Input `index`, attention_bias: (B or 1, N or 1, S, T)."""
    own, whole = node.shape(index), (node.shape(0)[0], sizes(node, heads.query)[1])
    if len(own) != 4:
        raise node.error(f"input 'attention_bias' needs 4 dimensions, found shape {own}")
    front = [1 if isinstance(a, int) and a == 1 else b for a, b in zip(own, whole, strict=False)]
    return fitted(node, index, grid, *front, grid.rows)


_COUNTING = {1: _of_lengths, 2: _of_keys, 3: _of_rows, 4: _of_longest}
