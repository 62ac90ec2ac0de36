"""Rules that compute operators on constants with numpy (TVM's FoldConstant compiles code for each: 13 s for ResNet-50).

Each rule: op(constants) -> constant. Results larger than `LIMIT` bytes are only made when the operands are as large, so
that no broadcast blows up the artifact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.ir import GenericConst, Tuple, TupleGetItem
from tvm.relax import Expr

from . import tensors
from .graph import Graph, Node, Rule

LIMIT = 1 << 16

_erf = np.vectorize(math.erf, otypes=[np.float64])

# Rounded once from float64, except for exact operations. Integers only where numpy and TIR agree for every operand.
FLOAT_UNARY: dict[str, Callable[..., Any]] = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": _erf,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
}
ANY_UNARY: dict[str, Callable[..., Any]] = {
    "negative": np.negative,
    "abs": np.abs,
    "square": np.square,
    "nn.relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "logical_not": np.logical_not,
}
FLOAT_BINARY: dict[str, Callable[..., Any]] = {"divide": np.divide, "power": np.power}
ANY_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "floor_divide": np.floor_divide,
    "floor_mod": np.mod,
}


def _elementwise(function: Callable[..., Any], wide: bool) -> Rule:
    """op(constants) -> constant; `wide` computes floats in float64 and refuses integers."""

    def rule(_: Graph, node: Node) -> Expr | None:
        values = tensors.arrays(node.args)
        if values is None or (wide and not tensors.is_float(node.args[0])):
            return None
        if any(v.dtype.kind in "iu" and not v.size for v in values) or _divides_by_zero(node, values):
            return None
        kind = values[0].dtype
        if wide:
            values = [v.astype(np.float64) for v in values]
        with np.errstate(all="ignore"):
            result = np.asarray(function(*values))
            return _result(node, result.astype(kind) if wide else result)

    return rule


def _divides_by_zero(node: Node, values: list[np.ndarray]) -> bool:
    return node.op in ("floor_divide", "floor_mod") and not np.all(values[1])


def _result(node: Node, value: np.ndarray) -> Expr | None:
    """`value` as a constant of the node's own dtype; None if that is larger than the operands and than LIMIT."""
    element = tensors.dtype(node.var)
    operands = sum(v.nbytes for v in map(tensors.array, _flat(node.args)) if v is not None)
    value = np.asarray(value)
    if value.nbytes > max(LIMIT, operands) or tensors.static_shape(node.var) != value.shape:
        return None
    return tensors.constant(value, element)


def _flat(args: tuple[Expr, ...]) -> list[Expr]:
    return [x for a in args for x in (_flat(tuple(a.fields)) if isinstance(a, Tuple) else [a])]


def _movement(function: Callable[[Node, np.ndarray], np.ndarray | None]) -> Rule:
    """op(constant) -> constant, where `function` rearranges the elements of the first argument."""

    def rule(_: Graph, node: Node) -> Expr | None:
        value = tensors.array(node.args[0])
        moved = None if value is None or tensors.static_shape(node.var) is None else function(node, value)
        return None if moved is None else _result(node, moved)

    return rule


def _reshape(node: Node, value: np.ndarray) -> np.ndarray:
    return value.reshape(tensors.static_shape(node.var))


def _permute(node: Node, value: np.ndarray) -> np.ndarray:
    return value.transpose(tensors.permutation(node.attrs, value.ndim))


def _broadcast(node: Node, value: np.ndarray) -> np.ndarray:
    return np.broadcast_to(value, tensors.static_shape(node.var) or ())


def _cast(node: Node, value: np.ndarray) -> np.ndarray | None:
    target = tensors.dtype(node.var)
    if value.dtype.kind == "f" and np.dtype(target).kind in "iu" and not np.isfinite(value).all():
        return None
    return value.astype(target)


def _take(node: Node, value: np.ndarray) -> np.ndarray | None:
    indices, axis = tensors.array(node.args[1]), node.attrs.axis
    if indices is None or (axis is None and value.ndim != 1):
        return None
    axis = 0 if axis is None else int(axis)
    inside = indices.size == 0 or (indices.min() >= 0 and indices.max() < value.shape[axis])
    return np.take(value, indices, axis) if inside else None


def _slice(node: Node, value: np.ndarray) -> np.ndarray | None:
    if not all(isinstance(a, Tuple) for a in node.args[1:]):
        return None
    bounds = [[tensors.dim(v) for v in a.fields] for a in node.args[1:]]
    if not all(isinstance(v, int) for b in bounds for v in b):
        return None
    axes, begin, end = bounds[:3]
    strides = bounds[3] if len(bounds) > 3 else [1] * len(axes)
    if any(s <= 0 for s in strides):
        return None
    index = [slice(None)] * value.ndim
    for axis, b, e, s in zip(axes, begin, end, strides, strict=True):
        index[axis] = slice(b, e, s)
    return value[tuple(index)]


def _where(_: Graph, node: Node) -> Expr | None:
    values = tensors.arrays(node.args)
    if values is None:
        return None
    condition, yes, no = values
    return _result(node, np.where(condition, yes, no))


def _concat(_: Graph, node: Node) -> Expr | None:
    if not isinstance(node.args[0], Tuple):
        return None
    values = tensors.arrays(node.args[0].fields)
    if values is None:
        return None
    return _result(node, np.concatenate(values, int(node.attrs.axis or 0)))


def _clip(_: Graph, node: Node) -> Expr | None:
    value, low, high = tensors.array(node.args[0]), *clip_bounds(node)
    return None if value is None else _result(node, np.minimum(np.maximum(value, low), high))


def clip_bounds(node: Node) -> tuple[float, float]:
    """The two limits of a clip call."""
    return node.args[1].value, node.args[2].value


def _split_part(graph: Graph, node: Node) -> Expr | None:
    """split(constant)[k] -> constant"""
    if not isinstance(node.value, TupleGetItem):
        return None
    split = graph.producer(node.args[0], "split")
    if split is None:
        return None
    value = tensors.array(split.args[0])
    if value is None:
        return None
    sections = tensors.sections(split.attrs.indices_or_sections)
    return _result(node, np.array_split(value, sections, int(split.attrs.axis))[node.value.index])


def _full(_: Graph, node: Node) -> Expr | None:
    """full(scalar, static shape) -> constant"""
    dims, value = tensors.static_shape(node.var), tensors.array(node.args[1])
    if dims is None or value is None:
        return None
    return _result(node, np.full(dims, value.reshape(())))


def _filled(value: int) -> Rule:
    def rule(_: Graph, node: Node) -> Expr | None:
        dims = tensors.static_shape(node.var)
        return None if dims is None else _result(node, np.full(dims, value, tensors.dtype(node.var)))

    return rule


def is_constant(expr: Expr) -> bool:
    """Whether `expr` is a tensor constant."""
    return isinstance(expr, GenericConst)


CONSTANT_RULES: dict[str, tuple[Rule, ...]] = {
    **{op: (_elementwise(f, wide=True),) for op, f in {**FLOAT_UNARY, **FLOAT_BINARY}.items()},
    **{op: (_elementwise(f, wide=False),) for op, f in {**ANY_UNARY, **ANY_BINARY}.items()},
    **{op: (_movement(_reshape),) for op in ("reshape", "expand_dims", "squeeze", "flatten", "nn.batch_flatten")},
    "permute_dims": (_movement(_permute),),
    "broadcast_to": (_movement(_broadcast),),
    "astype": (_movement(_cast),),
    "take": (_movement(_take),),
    "strided_slice": (_movement(_slice),),
    "where": (_where,),
    "concat": (_concat,),
    "clip": (_clip,),
    "get_item": (_split_part,),
    "full": (_full,),
    "zeros": (_filled(0),),
    "ones": (_filled(1),),
}
