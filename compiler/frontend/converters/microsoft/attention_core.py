"""Attention over heads, as all of ONNX Runtime's attention operators compute it.

B is the batch, N the heads of queries, M those of keys and values (N, or a divisor of it), S the rows of queries, T
those of keys, H a head's size, V that of values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...values import Dim, Value
from .operands import cast, number, permuted, reshaped, shape_value

if TYPE_CHECKING:
    from ...node import Node

ATTENTION_FLOATS = "float16 float32 bfloat16"


@dataclass(frozen=True)
class Heads:
    """Queries (B, N, S, H), keys (B, M, T, H) and values (B, M, T, V)."""

    query: Value
    key: Value
    value: Value


@dataclass(frozen=True)
class Weighing:
    """How scores become weights.

    Attributes:
        scale: factor of the products of queries and keys; None for 1 / sqrt(H).
        softcap: c > 0 for c * tanh(score / c).
        added: terms of the scores, after that, of shapes that broadcast to (B, N, S, T).
        visible: bool, likewise; a key counts for a row where it is true.
        sink: (1, N, 1, 1), a score of no key in each row; None for none.
    """

    scale: float | None = None
    softcap: float = 0.0
    added: Sequence[Value] = ()
    visible: Value | None = None
    sink: Value | None = None


@dataclass(frozen=True)
class Attended:
    """The result (B, S, N * V), and the scores and weights (B, N, S, T) in the type they are computed in."""

    result: Value
    scores: Value
    weights: Value


def wide(dtype: str) -> str:
    """The type of scores and weights: 16-bit floats are weighed in float32."""
    return dtype if dtype == "float64" else "float32"


def lowest(dtype: str) -> np.ndarray:
    """The score of a key that does not count: the smallest number, so that a row of such is no NaN."""
    return number(float(np.finfo(dtype).min), dtype)


def attend(node: Node, heads: Heads, weighing: Weighing) -> Attended:
    """softmax(q k' * scale + ...) v."""
    dtype, (batch, count, rows, size) = heads.query.dtype, sizes(node, heads.query)
    groups = sizes(node, heads.key)[1]
    assert isinstance(count, int)
    assert isinstance(groups, int)
    key, value = (_repeated(node, x, count // groups) for x in (heads.key, heads.value))
    scores = node.call("MatMul", heads.query, permuted(node, key, 0, 1, 3, 2))
    scores = _weighed(node, cast(node, scores, wide(dtype)), weighing, size)
    weights = _softmax(node, scores, weighing.sink)
    out = node.call("MatMul", cast(node, weights, dtype), value)
    width = sizes(node, heads.value)[-1]
    merged = reshaped(node, permuted(node, out, 0, 2, 1, 3), batch, rows, width * count)
    return Attended(merged, scores, weights)


def sizes(node: Node, x: Value) -> list[Dim]:
    assert x.shape is not None
    return [node.symbols.simplify(d) for d in x.shape]


def _repeated(node: Node, x: Value, times: int) -> Value:
    """Each head several times, one after the other."""
    if times == 1:
        return x
    batch, groups, rows, width = sizes(node, x)
    wanted = shape_value(node, batch, groups, times, rows, width)
    copies = node.call("Expand", node.call("Unsqueeze", x, np.array([2])), wanted)
    return reshaped(node, copies, batch, groups * times, rows, width)


def _weighed(node: Node, scores: Value, weighing: Weighing, size: Dim) -> Value:
    dtype = scores.dtype
    scale = weighing.scale
    if scale is None:
        if not isinstance(size, int):
            raise node.error(f"heads must have a fixed size, or attribute 'scale' be given, found size {size}")
        scale = 1 / math.sqrt(size)
    if scale != 1:
        scores = node.call("Mul", scores, number(scale, dtype))
    if weighing.softcap > 0:
        flat = node.call("Tanh", node.call("Mul", scores, number(1 / weighing.softcap, dtype)))
        scores = node.call("Mul", flat, number(weighing.softcap, dtype))
    for term in weighing.added:
        scores = node.call("Add", scores, cast(node, term, dtype))
    if weighing.visible is not None:
        scores = node.call("Where", weighing.visible, scores, lowest(dtype))
    return scores


def _softmax(node: Node, scores: Value, sink: Value | None) -> Value:
    """Weights of the keys; with a sink, a score that takes its part of the sum and has no value."""
    if sink is None:
        return node.call("Softmax", scores, axis=-1)
    axis = np.array([3])
    sink = cast(node, sink, scores.dtype)
    largest = node.call("Max", node.call("ReduceMax", scores, axis, keepdims=1), sink)
    powers = node.call("Exp", node.call("Sub", scores, largest))
    rest = node.call("Exp", node.call("Sub", sink, largest))
    return node.call("Div", powers, node.call("Add", node.call("ReduceSum", powers, axis, keepdims=1), rest))


def split_heads(node: Node, x: Value, count: int, what: str) -> Value:
    """(B, S, count * size) as (B, count, S, size)."""
    batch, rows, width = sizes(node, x)
    if not isinstance(width, int) or width % count:
        raise node.error(f"the last dimension of {what} must be fixed and a multiple of {count} heads, found {width}")
    return permuted(node, reshaped(node, x, batch, rows, count, width // count), 0, 2, 1, 3)


def head_count(node: Node, name: str = "num_heads") -> int:
    count = node.required(name)
    if count < 1:
        raise node.error(f"attribute {name!r} must be positive, found {count}")
    return count


def positions(node: Node, length: Dim) -> Value:
    """0, 1, ..., length - 1, of int64."""
    length = node.symbols.simplify(length)
    if isinstance(length, int):
        return Value(array=np.arange(length))
    end = np.empty((), object)
    end[()] = length
    return node.call("Range", np.array(0), Value(elements=end), np.array(1))
