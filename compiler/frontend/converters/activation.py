"""Activation functions, as the elementwise formulas that the passes fuse and match."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import relax

from ..dtypes import is_float
from ..node import Node
from .broadcast import broadcast_operands, scalar
from .elementwise import clamp
from .registry import converter

op = relax.op


@converter("Relu")
def relu(node: Node) -> relax.Expr:
    return op.nn.relu(node.inputs[0])


@converter("Sigmoid")
def sigmoid(node: Node) -> relax.Expr:
    return op.sigmoid(node.inputs[0])


@converter("Tanh")
def tanh(node: Node) -> relax.Expr:
    return op.tanh(node.inputs[0])


@converter("LeakyRelu")
def leaky_relu(node: Node) -> relax.Expr:
    return op.nn.leakyrelu(node.inputs[0], node.attr("alpha", 0.01))


@converter("PRelu")
def prelu(node: Node) -> relax.Expr:
    """The slope broadcasts to x from the right; in opsets before 7 a vector holds one slope per channel."""
    x, slope = node.inputs[0], node.inputs[1]
    if node.opset < 7 and node.rank(1) == 1 and node.rank(0) > 2:
        slope = node.emit(op.reshape(slope, [*node.shape(1), *[1] * (node.rank(0) - 2)]))
    x, slope = broadcast_operands(node, [x, slope])
    return op.where(op.less(x, scalar(0, node.dtype(0))), op.multiply(slope, x), x)


@converter("ThresholdedRelu", since=10)
def thresholded_relu(node: Node) -> relax.Expr:
    x, dtype = node.inputs[0], node.dtype(0)
    return op.where(op.greater(x, scalar(node.attr("alpha", 1.0), dtype)), x, scalar(0, dtype))


def _exponential(node: Node, alpha: float, gamma: float = 1.0) -> relax.Expr:
    """gamma * (x, or alpha * (exp(x) - 1) below zero)."""
    x, dtype = node.inputs[0], node.dtype(0)
    below = op.multiply(op.subtract(op.exp(x), scalar(1, dtype)), scalar(alpha * gamma, dtype))
    above = x if gamma == 1 else op.multiply(x, scalar(gamma, dtype))
    return op.where(op.less(x, scalar(0, dtype)), below, above)


@converter("Elu")
def elu(node: Node) -> relax.Expr:
    return _exponential(node, node.attr("alpha", 1.0))


@converter("Selu")
def selu(node: Node) -> relax.Expr:
    old = node.opset < 6
    alpha = node.attr("alpha", 1.6732 if old else 1.67326319217681884765625)
    return _exponential(node, alpha, node.attr("gamma", 1.0507 if old else 1.05070102214813232421875))


@converter("Celu", since=12)
def celu(node: Node) -> relax.Expr:
    x, dtype, alpha = node.inputs[0], node.dtype(0), node.attr("alpha", 1.0)
    below = op.multiply(op.subtract(op.exp(op.divide(x, scalar(alpha, dtype))), scalar(1, dtype)), scalar(alpha, dtype))
    return op.where(op.less(x, scalar(0, dtype)), below, x)


def _hard_sigmoid(x: relax.Expr, alpha: float, beta: float, dtype: str) -> relax.Expr:
    line = op.add(op.multiply(x, scalar(alpha, dtype)), scalar(beta, dtype))
    return clamp(line, 0.0, 1.0, dtype)


@converter("HardSigmoid")
def hard_sigmoid(node: Node) -> relax.Expr:
    """max(0, min(1, alpha * x + beta))."""
    return _hard_sigmoid(node.inputs[0], node.attr("alpha", 0.2), node.attr("beta", 0.5), node.dtype(0))


@converter("HardSwish", since=14)
def hard_swish(node: Node) -> relax.Expr:
    """x * max(0, min(1, x / 6 + 0.5))."""
    return op.multiply(node.inputs[0], _hard_sigmoid(node.inputs[0], 1 / 6, 0.5, node.dtype(0)))


@converter("Swish", since=24)
def swish(node: Node) -> relax.Expr:
    """x * sigmoid(alpha * x)."""
    x, alpha = node.inputs[0], node.attr("alpha", 1.0)
    return op.multiply(x, op.sigmoid(x if alpha == 1 else op.multiply(x, scalar(alpha, node.dtype(0)))))


def _softplus(x: relax.Expr, dtype: str) -> relax.Expr:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    tail = op.log(op.add(op.exp(op.negative(op.abs(x))), scalar(1, dtype)))
    return op.add(op.maximum(x, scalar(0, dtype)), tail)


@converter("Softplus")
def softplus(node: Node) -> relax.Expr:
    return _softplus(node.inputs[0], node.dtype(0))


@converter("Mish", since=18)
def mish(node: Node) -> relax.Expr:
    return op.multiply(node.inputs[0], op.tanh(_softplus(node.inputs[0], node.dtype(0))))


@converter("Softsign")
def softsign(node: Node) -> relax.Expr:
    x = node.inputs[0]
    return op.divide(x, op.add(op.abs(x), scalar(1, node.dtype(0))))


def _gelu_erf(x: relax.Expr, dtype: str) -> relax.Expr:
    """0.5 * x * (1 + erf(x / sqrt(2)))."""
    cdf = op.add(op.erf(op.multiply(x, scalar(math.sqrt(0.5), dtype))), scalar(1, dtype))
    return op.multiply(op.multiply(x, scalar(0.5, dtype)), cdf)


def _gelu_tanh(x: relax.Expr, dtype: str) -> relax.Expr:
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))."""
    cube = op.multiply(op.multiply(x, x), x)
    inner = op.add(x, op.multiply(cube, scalar(0.044715, dtype)))
    inner = op.multiply(inner, scalar(math.sqrt(2 / math.pi), dtype))
    return op.multiply(op.multiply(x, scalar(0.5, dtype)), op.add(op.tanh(inner), scalar(1, dtype)))


_GELU: dict[str, Callable[[relax.Expr, str], relax.Expr]] = {"none": _gelu_erf, "tanh": _gelu_tanh}


@converter("Gelu", since=20)
def gelu(node: Node) -> relax.Expr:
    kind = node.attr("approximate", "none")
    if kind not in _GELU:
        raise node.error(f"approximate must be none or tanh, found {kind!r}")
    return _GELU[kind](node.inputs[0], node.dtype(0))


@converter("Shrink", since=9)
def shrink(node: Node) -> relax.Expr:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    given = node.dtype(0)
    dtype = given if is_float(given) else "float64"
    x = node.inputs[0] if dtype == given else op.astype(node.inputs[0], dtype)
    limit, bias = node.attr("lambd", 0.5), node.attr("bias", 0.0)
    above = op.where(op.greater(x, scalar(limit, dtype)), op.subtract(x, scalar(bias, dtype)), scalar(0, dtype))
    shrunk = op.where(op.less(x, scalar(-limit, dtype)), op.add(x, scalar(bias, dtype)), above)
    return shrunk if dtype == given else op.astype(shrunk, given)
