"""Reduce*, ArgMax and ArgMin. The axes are an attribute in old opsets and an input in newer ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax, te, tirx, topi

from ...reductions import extreme_position
from ..dtypes import is_float, numpy_dtype
from ..values import constant
from .broadcast import scalar
from .registry import converter

if TYPE_CHECKING:
    from ..node import Node

_RELAX: dict[str, Callable] = {
    "sum": relax.op.sum,
    "mean": relax.op.mean,
    "max": relax.op.max,
    "min": relax.op.min,
    "prod": relax.op.prod,
}


def empty_value(kind: str, dtype: str) -> float | int | bool:
    """The reduction of no elements at all."""
    if kind in ("sum", "prod"):
        return int(kind == "prod")
    if dtype == "bool":
        return kind == "min"
    if is_float(dtype):
        return {"mean": math.nan, "max": -math.inf, "min": math.inf}[kind]
    limits = np.iinfo(dtype)
    return {"mean": 0, "max": int(limits.min), "min": int(limits.max)}[kind]


def reduce(node: Node, kind: str, x: relax.Expr, axes: list[int], keepdims: bool) -> relax.Expr:
    """Emit the reduction `kind` ("sum", "mean", "max", "min", "prod") of `x` over `axes` (counted from the front).

    No axes: `x` itself. 16-bit floats are summed in float32, booleans compared as integers, and a fixed extent of 0
    gives the value ONNX defines (0 for a sum, -inf for a float maximum, ...).
    """
    if not axes:
        return x
    dtype, shape = str(x.ty.dtype), list(x.ty.shape.values)
    if any(isinstance(d, int) and d == 0 for d in (_fixed(shape[a]) for a in axes)):
        out = [1 if i in axes else d for i, d in enumerate(shape) if keepdims or i not in axes]
        value = constant(np.array(empty_value(kind, dtype), numpy_dtype(dtype)))
        return node.emit(relax.op.broadcast_to(value, out))
    wide = {"float16": "float32", "bfloat16": "float32"}.get(dtype) if kind in ("sum", "mean", "prod") else None
    wide = "int8" if dtype == "bool" else wide
    if wide:
        x = node.emit(relax.op.astype(x, wide))
    if kind == "mean" and not is_float(dtype):
        return _integer_mean(node, x, axes, keepdims)
    out = node.emit(_RELAX[kind](x, axes, keepdims))
    return node.emit(relax.op.astype(out, dtype)) if wide else out


def _integer_mean(node: Node, x: relax.Expr, axes: list[int], keepdims: bool) -> relax.Expr:
    """The sum divided by the count, rounded toward zero. (Relax's mean of int32 comes out as int64.)"""

    def mean(x: te.Tensor) -> te.Tensor:
        count = tirx.const(1, "int64") * math.prod(x.shape[a] for a in axes)
        total = topi.sum(x, axes, keepdims)
        return te.compute(total.shape, lambda *at: tirx.truncdiv(total(*at), count.astype(x.dtype)), name="mean")

    return node.te(mean, x, name="integer_mean")


def _fixed(dim: object) -> int | None:
    return int(dim.value) if hasattr(dim, "value") else None


def reduction_axes(node: Node) -> list[int]:
    """The axes to reduce, counted from the front and sorted; all where none are given, unless that means a no-op."""
    rank = node.rank(0)
    if node.has(1):
        axes = node.dims(1)
        if axes is None or not all(isinstance(a, int) for a in axes):
            raise node.error(
                "the axes must be known when the model is compiled, found a tensor computed at run time",
                "make the axes an initializer, or give their value when compiling",
            )
    else:
        axes = node.attr("axes")
    if not axes:
        return [] if node.attr("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({node.axis(a, rank) for a in axes})


Reduction = Callable[["Node", relax.Expr, list[int], bool], relax.Expr]


def _plain(kind: str) -> Reduction:
    return lambda node, x, axes, keepdims: reduce(node, kind, x, axes, keepdims)


def _l1(node: Node, x: relax.Expr, axes: list[int], keepdims: bool) -> relax.Expr:
    return reduce(node, "sum", node.emit(relax.op.abs(x)), axes, keepdims)


def _sum_square(node: Node, x: relax.Expr, axes: list[int], keepdims: bool) -> relax.Expr:
    return reduce(node, "sum", node.emit(relax.op.multiply(x, x)), axes, keepdims)


def _in_float(function: Reduction) -> Reduction:
    """Run `function` in float64 for integers and in float32 for 16-bit floats; cast the result back."""

    def run(node: Node, x: relax.Expr, axes: list[int], keepdims: bool) -> relax.Expr:
        dtype = str(x.ty.dtype)
        wide = "float32" if dtype in ("float16", "bfloat16") else dtype if is_float(dtype) else "float64"
        if wide == dtype:
            return function(node, x, axes, keepdims)
        out = function(node, node.emit(relax.op.astype(x, wide)), axes, keepdims)
        return node.emit(relax.op.astype(out, dtype))

    return run


@_in_float
def _l2(node: Node, x: relax.Expr, axes: list[int], keepdims: bool) -> relax.Expr:
    return node.emit(relax.op.sqrt(_sum_square(node, x, axes, keepdims)))


@_in_float
def _log_sum(node: Node, x: relax.Expr, axes: list[int], keepdims: bool) -> relax.Expr:
    return node.emit(relax.op.log(reduce(node, "sum", x, axes, keepdims)))


@_in_float
def _log_sum_exp(node: Node, x: relax.Expr, axes: list[int], keepdims: bool) -> relax.Expr:
    """max + log(sum(exp(x - max))); a maximum that is not finite is replaced by 0 to avoid inf - inf."""
    if not axes:
        return x
    dtype = str(x.ty.dtype)
    largest = reduce(node, "max", x, axes, keepdims=True)
    finite = node.emit(relax.op.isfinite(largest))
    shift = node.emit(relax.op.where(finite, largest, scalar(0, dtype)))
    powers = node.emit(relax.op.exp(node.emit(relax.op.subtract(x, shift))))
    log = node.emit(relax.op.log(reduce(node, "sum", powers, axes, keepdims)))
    if not keepdims:
        shift = node.emit(relax.op.squeeze(shift, axes))
    return node.emit(relax.op.add(log, shift))


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": _plain("sum"),
    "ReduceMean": _plain("mean"),
    "ReduceMax": _plain("max"),
    "ReduceMin": _plain("min"),
    "ReduceProd": _plain("prod"),
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceSumSquare": _sum_square,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
}


def _register(op_type: str, reduction: Reduction) -> None:
    @converter(op_type)
    def convert(node: Node) -> relax.Expr:
        return reduction(node, node.inputs[0], reduction_axes(node), bool(node.attr("keepdims", 1)))


for _op_type, _reduction in _REDUCTIONS.items():
    _register(_op_type, _reduction)


def _arg_reduce(node: Node, select: Callable, largest: bool) -> relax.Expr:
    rank = node.rank(0)
    axis = node.axis(node.attr("axis", 0), rank) if rank else 0
    keepdims = bool(node.attr("keepdims", 1))
    if node.shape(0)[axis : axis + 1] == [0]:
        raise node.error(f"axis {axis} of the input is empty")
    if not node.attr("select_last_index", 0):
        return node.emit(select(node.inputs[0], axis, keepdims))

    def last(x: te.Tensor) -> te.Tensor:
        return extreme_position(x, axis, keepdims, largest, last=True)

    return node.te(last, node.inputs[0], name=f"last_{node.op_type.lower()}")


@converter("ArgMax")
def arg_max(node: Node) -> relax.Expr:
    return _arg_reduce(node, relax.op.argmax, largest=True)


@converter("ArgMin")
def arg_min(node: Node) -> relax.Expr:
    return _arg_reduce(node, relax.op.argmin, largest=False)
