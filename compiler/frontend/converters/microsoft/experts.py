"""MoE: rows that a router sends to a few of many small networks.

All networks see all rows: a product of stacked matrices, of which a row's result takes what its experts gave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...values import Dim, Value
from ..schemas import typed_converter
from .attention_core import sizes
from .operands import cast, number, one_of, permuted, reshaped, sized

if TYPE_CHECKING:
    from ...node import Node

_ACTIVATIONS = ("relu", "gelu", "silu", "swiglu", "identity")


@typed_converter(
    "MoE",
    "input:T router_probs:T fc1_experts_weights:T fc1_experts_bias:T? fc2_experts_weights:T fc2_experts_bias:T? "
    "fc3_experts_weights:T? fc3_experts_bias:T?",
    attributes="k:int activation_type:string activation_alpha:float activation_beta:float swiglu_fusion:int "
    "swiglu_limit:float normalize_routing_weights:int use_sparse_mixer:int",
    T="float16 float32 bfloat16",
)
def mixture_of_experts(node: Node) -> Value:
    """Rows (T, H), or (B, S, H), through the k experts of the largest router_probs (T, E), weighed by their softmax."""
    if node.has(6) or node.has(7) or node.attr("use_sparse_mixer", 0):
        raise node.error("inputs 'fc3_experts_*' and attribute 'use_sparse_mixer' are not supported")
    kind = one_of(node, "activation_type", _ACTIVATIONS, "relu")
    shape = node.shape(0)
    if len(shape) not in (2, 3):
        raise node.error(f"input 0 needs 2 or 3 dimensions, found shape {shape}")
    experts = node.shape(1)[-1]
    if not isinstance(experts, int) or not 1 <= node.attr("k", 1) <= experts:
        raise node.error(
            f"attribute 'k' must be between 1 and the number of experts {experts}, found {node.attr('k', 1)}"
        )
    rows, width = node.shape(0)[0] if len(shape) == 2 else shape[0] * shape[1], shape[-1]
    tokens = reshaped(node, node.value(0), 1, rows, width)
    hidden = _layer(node, tokens, (2, 3), experts, width)
    inner = _activated(node, hidden, kind)
    out = _layer(node, inner, (4, 5), experts, sizes(node, inner)[-1])
    weights = reshaped(node, permuted(node, _gates(node, rows, experts), 1, 0), experts, rows, 1)
    mixed = node.call("ReduceSum", node.call("Mul", out, cast(node, weights, out.dtype)), np.array([0]), keepdims=0)
    return reshaped(node, mixed, *shape)


def _layer(node: Node, x: Value, inputs: tuple[int, int], experts: int, width: Dim) -> Value:
    """x (1 or E, T, width) by the weights (E, out, width) and bias (E, out): (E, T, out)."""
    weights, bias = inputs
    matrices = permuted(node, sized(node, weights, experts, None, width), 0, 2, 1)
    out = node.call("MatMul", x, matrices)
    if not node.has(bias):
        return out
    count = sizes(node, matrices)[-1]
    return node.call("Add", out, reshaped(node, sized(node, bias, experts, count), experts, 1, count))


def _activated(node: Node, x: Value, kind: str) -> Value:
    if kind == "swiglu":
        return _swiglu(node, x)
    if kind == "gelu":
        return node.call("Gelu", x, approximate="tanh")
    named = {"relu": "Relu", "silu": "Swish"}
    return node.call(named[kind], x) if kind in named else x


def _swiglu(node: Node, x: Value) -> Value:
    """g * sigmoid(alpha * g) * (l + beta) of pairs g, l that stand side by side, or one half behind the other."""
    fusion = one_of(node, "swiglu_fusion", (1, 2), 0)
    experts, rows, width = sizes(node, x)
    if not isinstance(width, int) or width % 2:
        raise node.error(f"input 'fc1_experts_weights' needs an even number of rows for swiglu, found {width}")
    shape = (width // 2, 2) if fusion == 1 else (2, width // 2)
    pairs = reshaped(node, x, experts, rows, *shape)
    axis = 3 if fusion == 1 else 2
    gate, linear = (node.call("Gather", pairs, np.array(i), axis=axis) for i in (0, 1))
    limit = node.attr("swiglu_limit")
    if limit is not None:
        high, low = number(limit, x.dtype), number(-limit, x.dtype)
        gate, linear = node.call("Min", gate, high), node.call("Clip", linear, low, high)
    gate = node.call("Swish", gate, alpha=node.attr("activation_alpha", 1.0))
    return node.call("Mul", gate, node.call("Add", linear, number(node.attr("activation_beta", 0.0), x.dtype)))


def _gates(node: Node, rows: Dim, experts: int) -> Value:
    """The softmax of the router (T, E), zero but for the k largest of a row, of sum 1 where the node asks for it."""
    router = cast(node, sized(node, 1, rows, experts), "float32")
    chosen, places = node.call_all("TopK", router, np.array([node.attr("k", 1)]), axis=-1, outputs=2)
    if node.attr("normalize_routing_weights", 0):
        weights = node.call("Softmax", chosen, axis=-1)
    else:
        weights = node.call("GatherElements", node.call("Softmax", router, axis=-1), places, axis=1)
    zeros = node.call("Mul", router, number(0, "float32"))
    return node.call("ScatterElements", zeros, places, weights, axis=1)
