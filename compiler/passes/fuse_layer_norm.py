"""Recognise layer normalisation written out as means, squares and a square root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .graph import Graph, Node, typed

_Change = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """One nn.layer_norm for each normalisation over trailing axes of fixed size.

    Before:  d = subtract(x, mean(x, -1, keepdims)); v = mean(multiply(d, d), -1, keepdims)
             y = add(multiply(divide(d, sqrt(add(v, 1e-5))), gamma), beta)
    After:   y = nn.layer_norm(x, gamma, beta, axes=(-1,), epsilon=1e-5)

    Also with rsqrt or a reciprocal square root, and of float16 whose means are of float32. Scale and shift are taken in
    as far as they are constants that vary along the normalised axes only. Needs constants second in commutative
    operators (Simplify sees to that).
    """

    name: str = field(default="fuse_layer_norm", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with normalisations fused."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        graph.apply({"divide": (normalisation,), "multiply": (normalisation, scale_behind), "add": (shift_behind,)})
        return graph.to_module()


def normalisation(graph: Graph, node: Node) -> Expr | None:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) -> layer_norm(x, ones, zeros)"""
    for centred, deviation in ((node.args[0], node.args[1]), (node.args[1], node.args[0])):
        variance = _variance_and_epsilon(graph, node.op, deviation)
        if variance is not None:
            found = _layer_norm(graph, node, centred, *variance)
            if found is not None or node.op == "divide":
                return found
    return None


@dataclass(frozen=True)
class _Mean:
    """A mean, and what it is of: in float32 also of float16, to which it is cast again."""

    node: Node
    of: Expr


def _mean(graph: Graph, expr: Expr) -> _Mean | None:
    node = graph.producer(expr, "mean", "astype")
    if node is None or node.op == "mean":
        return _Mean(node, node.args[0]) if node is not None else None
    wide = graph.producer(node.args[0], "mean")
    cast = graph.producer(wide.args[0], "astype") if wide is not None else None
    if wide is None or cast is None or tensors.dtype(wide.var) != "float32":
        return None
    return _Mean(wide, cast.args[0]) if tensors.dtype(cast.args[0]) == tensors.dtype(expr) else None


def _variance_and_epsilon(graph: Graph, op: str, deviation: Expr) -> tuple[_Mean, float] | None:
    """v and e where `deviation` is sqrt(v + e) for a division, or the inverse of that for a multiplication."""
    made = graph.producer(deviation)
    if op == "multiply" and made is not None and made.op == "divide" and tensors.scalar(made.args[0]) == 1:
        made, op = graph.producer(made.args[1]), "divide"
    if made is None or made.op != ("sqrt" if op == "divide" else "rsqrt"):
        return None
    total = graph.producer(made.args[0], "add")
    if total is None:
        return None
    epsilon, variance = tensors.scalar(total.args[1]), _mean(graph, total.args[0])
    return (variance, float(epsilon)) if variance is not None and epsilon is not None else None


def _layer_norm(graph: Graph, node: Node, centred: Expr, variance: _Mean, epsilon: float) -> Expr | None:
    centring, squared = graph.producer(centred, "subtract"), graph.producer(variance.of, "multiply", "square")
    if centring is None or squared is None or any(not a.same_as(centred) for a in squared.args):
        return None
    source, mean = centring.args[0], _mean(graph, centring.args[1])
    dims = tensors.shape(node.var)
    if (
        dims is None
        or mean is None
        or not mean.of.same_as(source)
        or not tensors.same_dims(dims, tensors.shape(source))
    ):
        return None
    axes = _trailing_axes(mean.node, len(dims))
    if axes is None or axes != _trailing_axes(variance.node, len(dims)):
        return None
    normalised, element = [dims[a] for a in axes], tensors.dtype(node.var)
    # nn.layer_norm has kernels for these dtypes only.
    if element not in ("float32", "float16") or not all(isinstance(d, int) for d in normalised):
        return None
    gamma, beta = (tensors.constant(np.full(normalised, v), element) for v in (1, 0))
    return relax.op.nn.layer_norm(source, gamma, beta, list(axes), epsilon)


def _trailing_axes(mean: Node, ndim: int) -> tuple[int, ...] | None:
    """Axes of a mean with keepdims if they are the last ones, in order."""
    axes = tensors.axes_of(mean.attrs.axis, ndim)
    return axes if axes and bool(mean.attrs.keepdims) and axes == tuple(range(ndim - len(axes), ndim)) else None


def scale_behind(graph: Graph, node: Node) -> Expr | None:
    """layer_norm(x, g, b) * c -> layer_norm(x, g * c, b * c)"""
    return _affine(graph, node, lambda gamma, beta, c: (gamma * c, beta * c))


def shift_behind(graph: Graph, node: Node) -> Expr | None:
    """layer_norm(x, g, b) + c -> layer_norm(x, g, b + c)"""
    return _affine(graph, node, lambda gamma, beta, c: (gamma, beta + c))


def _affine(graph: Graph, node: Node, change: _Change) -> Expr | None:
    norm = graph.sole_producer(node.args[0], "nn.layer_norm")
    if norm is None:
        return None
    known = tensors.arrays((norm.args[1], norm.args[2], node.args[1]))
    if known is None or known[2].ndim > tensors.rank(node.var):
        return None
    shape, factor = known[0].shape, known[2]
    while factor.ndim > len(shape) and factor.shape[0] == 1:
        factor = factor[0]
    if factor.ndim > len(shape) or np.broadcast_shapes(factor.shape, shape) != shape:
        return None
    gamma, beta = change(*(k.astype(np.float64) for k in (known[0], known[1], factor)))
    element = tensors.dtype(node.var)
    args = [norm.args[0], tensors.constant(gamma, element), tensors.constant(np.broadcast_to(beta, shape), element)]
    axes = [int(a) for a in norm.attrs.axes]
    return typed(relax.op.nn.layer_norm(*args, axes, float(norm.attrs.epsilon)), node.ty)
