"""Activation functions of ONNX Runtime's own domain, and those that its products end with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...values import Value
from ..schemas import typed_converter
from .operands import FLOATS, number, sized

if TYPE_CHECKING:
    from ...node import Node


def _biased(node: Node, required: bool) -> Value:
    """Input 0, and input 1, a vector as long as its last dimension, added to it."""
    x = node.value(0)
    if not required and not node.has(1):
        return x
    shape = node.shape(0)
    if not shape:
        raise node.error("input 0 needs at least one dimension, found a scalar")
    return node.call("Add", x, sized(node, 1, shape[-1]))


@typed_converter("Gelu", "X:T", T=FLOATS)
def gelu(node: Node) -> Value:
    return node.call("Gelu", node.value(0))


@typed_converter("BiasGelu", "A:T B:T", T=FLOATS)
def bias_gelu(node: Node) -> Value:
    return node.call("Gelu", _biased(node, required=True))


@typed_converter("FastGelu", "X:T bias:T?", T=FLOATS)
def fast_gelu(node: Node) -> Value:
    """Gelu by the hyperbolic tangent, of the input and a bias that may be left out."""
    return node.call("Gelu", _biased(node, required=False), approximate="tanh")


@typed_converter("QuickGelu", "X:T", attributes="alpha:float", T=FLOATS)
def quick_gelu(node: Node) -> Value:
    """x * sigmoid(alpha * x)."""
    return node.call("Swish", node.value(0), alpha=node.attr("alpha", 1.702))


@typed_converter("BiasSplitGelu", "X:T bias:T", T=FLOATS)
def bias_split_gelu(node: Node) -> Value:
    """The first half of the last dimension times gelu of the second, after a bias has been added."""
    rank, width = node.rank(0), node.shape(0)[-1]
    if not isinstance(width, int) or width % 2:
        raise node.error(f"the last dimension of input 0 must be fixed and even, found {width}")
    left, right = node.call_all("Split", _biased(node, required=True), axis=rank - 1, num_outputs=2, outputs=2)
    return node.call("Mul", left, node.call("Gelu", right))


# Activation -> its numbers, in the order of FusedConv's list.
ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "": (),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "Softplus": (),
    "Softsign": (),
    "LeakyRelu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
    "Clip": ("min", "max"),
}


def activation_name(node: Node) -> str:
    """Attribute `activation`; ModelError where it names none that is known."""
    name = node.attr("activation", "")
    if name not in ACTIVATIONS:
        listed = ", ".join(filter(None, ACTIVATIONS))
        raise node.error(f"attribute 'activation' must be one of {listed}, found {name!r}")
    return name


def activated(node: Node, x: Value, numbers: Mapping[str, float]) -> Value:
    """The activation that the node names, with its numbers."""
    name = activation_name(node)
    if name == "Clip":
        return node.call(name, x, number(numbers["min"], x.dtype), number(numbers["max"], x.dtype))
    return node.call(name, x, **numbers) if name else x
