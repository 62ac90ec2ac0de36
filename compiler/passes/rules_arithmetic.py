"""Rules of arithmetic on elementwise operators.

Floats change by rounding only where a rule says so. Every rule returns an expression of the node's own type, or None.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax
from tvm.relax import Expr

from . import tensors
from .elementwise import BROADCASTING
from .graph import Graph, Node, Rule
from .rules_constant import clip_bounds, is_constant


def _replaces(expr: Expr, node: Node) -> bool:
    """Whether `expr` has the node's shape and dtype, so that it can stand in for it."""
    same = tensors.same_dims(tensors.shape(expr), tensors.shape(node.var))
    return same and tensors.dtype(expr) == tensors.dtype(node.var)


def _all_equal(expr: Expr, value: float) -> bool:
    known = tensors.array(expr)
    return known is not None and known.size > 0 and bool(np.all(known == value))


def neutral(value: float, both_sides: bool) -> Rule:
    """x op value -> x, and value op x -> x for commutative operators"""

    def rule(_: Graph, node: Node) -> Expr | None:
        pairs = [(node.args[0], node.args[1])] + ([(node.args[1], node.args[0])] if both_sides else [])
        for kept, known in pairs:
            if is_constant(known) and not is_constant(kept) and _replaces(kept, node) and _all_equal(known, value):
                return kept
        return None

    return rule


def constant_second(_: Graph, node: Node) -> Expr | None:
    """c op x -> x op c for commutative operators: later rules look at the second operand only"""
    if is_constant(node.args[0]) and not is_constant(node.args[1]):
        return _BUILD[node.op](node.args[1], node.args[0])
    return None


def divide_by_constant(_: Graph, node: Node) -> Expr | None:
    """x / c -> x * (1 / c) for float constants

    Exact for powers of two; else the reciprocal's rounding adds half an ulp to the quotient's (1 ulp in all). float16
    and bfloat16 have no ulp to spare: there only powers of two qualify. Reciprocals that overflow or are subnormal
    stay; x / 0 is x * inf for every x (and TVM cannot compile a division by a literal 0).
    """
    known = tensors.array(node.args[1])
    if known is None or not tensors.is_float(node.var) or is_constant(node.args[0]):
        return None
    element = tensors.dtype(node.var)
    with np.errstate(all="ignore"):
        inverse = (1.0 / known.astype(np.float64)).astype(known.dtype)
    zero = known == 0
    exact = np.all(zero | (np.abs(np.frexp(known.astype(np.float64))[0]) == 0.5))
    if not exact and element not in ("float32", "float64"):
        return None
    tiny = np.finfo(np.float32 if element == "bfloat16" else known.dtype).tiny
    if not np.all(zero | np.isfinite(inverse.astype(np.float64))) or np.any(np.abs(inverse) < tiny):
        return None
    return relax.op.multiply(node.args[0], tensors.constant(inverse, element))


def subtract_constant(_: Graph, node: Node) -> Expr | None:
    """x - c -> x + (-c) for float constants (exact)"""
    known = tensors.array(node.args[1])
    if known is None or not tensors.is_float(node.var) or is_constant(node.args[0]):
        return None
    return relax.op.add(node.args[0], tensors.constant(-known, tensors.dtype(node.var)))


def multiply_chain(graph: Graph, node: Node) -> Expr | None:
    """(x * a) * b -> x * (a * b) for float constants, one rounding less or more

    Not where a * b over- or underflows.
    """
    found = _constant_chain(graph, node)
    if found is None:
        return None
    inner, a, b = found
    with np.errstate(all="ignore"):
        merged = a.astype(np.float64) * b.astype(np.float64)
        rounded = merged.astype(a.dtype)
    if not np.all(np.isfinite(rounded.astype(np.float64))) or np.any((rounded == 0) & (merged != 0)):
        return None
    return _rebuilt(relax.op.multiply, inner.args[0], rounded, node)


def add_chain(graph: Graph, node: Node) -> Expr | None:
    """(x + a) + b -> x + (a + b) for float constants that neither overflow nor cancel, which may be meant to round"""
    found = _constant_chain(graph, node)
    if found is None:
        return None
    inner, a, b = found
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        merged = wide_a + wide_b
        rounded = merged.astype(a.dtype)
    cancels = np.any(np.abs(merged) * 2 < np.maximum(np.abs(wide_a), np.abs(wide_b)))
    if cancels or not np.all(np.isfinite(rounded.astype(np.float64))):
        return None
    return _rebuilt(relax.op.add, inner.args[0], rounded, node)


def _constant_chain(graph: Graph, node: Node) -> tuple[Node, np.ndarray, np.ndarray] | None:
    """The inner node and both constants of op(op(x, a), b) on floats."""
    inner = graph.sole_producer(node.args[0], node.op)
    known = tensors.arrays((inner.args[1], node.args[1])) if inner is not None else None
    if inner is None or known is None or not tensors.is_float(node.var) or is_constant(inner.args[0]):
        return None
    a, b = known
    return (inner, a, b) if _broadcast_grows_little(a, b) else None


def _broadcast_grows_little(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a op b is no larger than the larger of them: (C, 1, 1) with (1, H, W) would be."""
    return int(np.prod(np.broadcast_shapes(a.shape, b.shape))) <= max(a.size, b.size)


def _rebuilt(op: Callable[[Expr, Expr], Expr], source: Expr, merged: np.ndarray, node: Node) -> Expr:
    return op(source, tensors.constant(merged, tensors.dtype(node.var)))


def power_by_constant(_: Graph, node: Node) -> Expr | None:
    """x ** 2 -> x * x, x ** 3 -> x * x * x, x ** 0.5 -> sqrt(x), x ** -1 -> 1 / x, x ** -0.5 -> 1 / sqrt(x)

    Floats only; powers differ from these by an ulp at most.
    """
    x, exponent = node.args[0], tensors.scalar(node.args[1])
    if exponent is None or not tensors.is_float(node.var) or not _replaces(x, node) or is_constant(x):
        return None
    return _POWERS[exponent](_, x) if exponent in _POWERS else None


_POWERS = {
    2.0: lambda graph, x: relax.op.multiply(x, x),
    3.0: lambda graph, x: relax.op.multiply(graph.emit(relax.op.multiply(x, x)), x),
    0.5: lambda graph, x: relax.op.sqrt(x),
    -0.5: lambda graph, x: relax.op.rsqrt(x),
    -1.0: lambda graph, x: relax.op.divide(tensors.scalar_of(1.0, x), x),
}


def maximum_with_zero(_: Graph, node: Node) -> Expr | None:
    """maximum(x, 0) -> relu(x)"""
    if tensors.scalar(node.args[1]) != 0 or not _replaces(node.args[0], node) or not tensors.is_float(node.var):
        return None
    return relax.op.nn.relu(node.args[0])


def clip_of_extremes(graph: Graph, node: Node) -> Expr | None:
    """minimum(maximum(x, a), b) -> clip(x, a, b) for scalars a <= b; relu counts as maximum(x, 0)"""
    high = tensors.scalar(node.args[1])
    inner = graph.sole_producer(node.args[0], "maximum", "nn.relu")
    if inner is None or high is None or not tensors.is_float(node.var) or not _replaces(inner.args[0], node):
        return None
    low = 0.0 if inner.op == "nn.relu" else tensors.scalar(inner.args[1])
    return _clip(inner.args[0], low, high) if low is not None and low <= high else None


def clip_of_clip(graph: Graph, node: Node) -> Expr | None:
    """clip(clip(x, a, b), c, d) -> clip(x, the limits' composition); relu inside counts as clip(x, 0, inf)"""
    inner = graph.sole_producer(node.args[0], "clip", "nn.relu")
    if inner is None:
        return None
    low, high = clip_bounds(node)
    inner_low, inner_high = (0, float("inf")) if inner.op == "nn.relu" else clip_bounds(inner)
    if not (low <= high and inner_low <= inner_high):
        return None
    new_low = min(max(inner_low, low), high)
    new_high = min(max(inner_high, low), high)
    return _clip(inner.args[0], new_low, new_high)


def _clip(x: Expr, low: float, high: float) -> Expr:
    return relax.op.clip(x, relax.prim_value(low), relax.prim_value(high))


def relu_of_nonnegative(graph: Graph, node: Node) -> Expr | None:
    """relu(x) -> x where x is a relu, a sigmoid, an exp, a square root, or a clip from at least zero"""
    inner = graph.producer(node.args[0], "nn.relu", "sigmoid", "exp", "sqrt", "clip")
    if inner is None or (inner.op == "clip" and not 0 <= clip_bounds(inner)[0] <= clip_bounds(inner)[1]):
        return None
    return node.args[0]


def unlimited_clip(_: Graph, node: Node) -> Expr | None:
    """clip(x, 0, inf) -> relu(x); clip(x, -inf, inf) -> x"""
    low, high = clip_bounds(node)
    top = np.finfo(np.float64).max if tensors.dtype(node.var) == "float64" else np.finfo(np.float32).max
    if not tensors.is_float(node.var) or high < top:
        return None
    if low <= -top:
        return node.args[0]
    return relax.op.nn.relu(node.args[0]) if low == 0 else None


def negative_of_negative(graph: Graph, node: Node) -> Expr | None:
    """-(-x) -> x"""
    inner = graph.producer(node.args[0], "negative")
    return inner.args[0] if inner is not None else None


def broadcast_operand(graph: Graph, node: Node) -> Expr | None:
    """op(broadcast_to(x), y) -> op(x, y) where the result's shape does not need it"""
    dims = tensors.shape(node.var)
    sources = [graph.producer(a, "broadcast_to") for a in node.args]
    if dims is None or all(s is None for s in sources):
        return None
    args = list(node.args)
    for k, source in enumerate(sources):
        trial = [*args[:k], source.args[0], *args[k + 1 :]] if source is not None else args
        if _broadcast_shape_is(trial, dims):
            args = trial
    if all(a is b for a, b in zip(args, node.args, strict=True)):
        return None
    return _BUILD[node.op](*args)


def _broadcast_shape_is(args: list[Expr], dims: tuple[tensors.Dim, ...]) -> bool:
    if any(tensors.shape(a) is None for a in args):
        return False
    shapes = [tensors.known_shape(a) for a in args]
    if max(len(s) for s in shapes) != len(dims):
        return False
    for k, size in enumerate(reversed(dims), start=1):
        sizes = [s[-k] for s in shapes if len(s) >= k]
        if not any(tensors.same_dim(s, size) for s in sizes):
            return False
    return True


_BUILD = {op: getattr(relax.op, op) for op in BROADCASTING}

ARITHMETIC_RULES: dict[str, tuple[Rule, ...]] = dict.fromkeys(BROADCASTING, (broadcast_operand,))
for _op, _rules in {
    "add": (constant_second, neutral(0, True), add_chain),
    "subtract": (neutral(0, False), subtract_constant),
    "multiply": (constant_second, neutral(1, True), multiply_chain),
    "divide": (neutral(1, False), divide_by_constant),
    "power": (neutral(1, False), power_by_constant),
    "maximum": (constant_second, maximum_with_zero),
    "minimum": (constant_second, clip_of_extremes),
    "clip": (clip_of_clip, unlimited_clip),
    "nn.relu": (relu_of_nonnegative,),
    "negative": (negative_of_negative,),
}.items():
    ARITHMETIC_RULES[_op] = (*_rules, *ARITHMETIC_RULES.get(_op, ()))
