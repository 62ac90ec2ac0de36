"""Fold constant multiplications and additions into the weights of neighbouring convolutions and matmuls."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .graph import Graph, Node, typed, with_args
from .linear import LINEAR_OPS, Linear, bias_of_shift, channel_values, linear, scaled_weight
from .rebuild import CONVOLUTIONS


@dataclass(frozen=True)
class FoldScaleShift(Pass):
    """Leave nothing but one bias addition behind a convolution or matmul with constant weights.

    Before:  c = conv2d(x, w); a = add(c, b); m = multiply(a, s); y = add(m, t)      b, s, t of shape (C, 1, 1) or (1,)
    After:   c = conv2d(x, w * s);            y = add(c, b * s + t)
    and      m = multiply(x, s); y = conv2d(m, w)   ->   y = conv2d(x, w * s)        along the input channels
    and      a = add(x, t); y = conv2d(a, w)        ->   y = add(conv2d(x, w), sum of w * t)      without padding

    Needs: channels-first layouts, commutative operators with their constant second (Simplify sees to that). Each value
    in between must have one use. All is computed in float64 and rounded once; a fold that would overflow is left alone.
    """

    name: str = field(default="fold_scale_shift", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with folded weights; new constants replace the old ones."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        rules = dict.fromkeys(LINEAR_OPS, (scale_before, shift_before))
        graph.apply({**rules, "multiply": (scale_behind, scale_behind_shift), "add": (shift_behind_shift,)})
        return graph.to_module()


def scale_behind(graph: Graph, node: Node) -> Expr | None:
    """multiply(linear(x, w), s) -> linear(x, w * s)"""
    anchor, op = _anchor(graph, node.args[0])
    scale = _per_channel(op, node)
    return None if scale is None else _with_weight(anchor, op, scale)


def scale_behind_shift(graph: Graph, node: Node) -> Expr | None:
    """multiply(add(linear(x, w), b), s) -> add(linear(x, w * s), b * s)"""
    shift = graph.producer(node.args[0], "add") if graph.sole_use(node.args[0]) else None
    anchor, op = _anchor(graph, shift.args[0]) if shift is not None else (None, None)
    scale, bias = _per_channel(op, node), _per_channel(op, shift)
    if scale is None or bias is None:
        return None
    call = _with_weight(anchor, op, scale)
    return None if call is None else _add_bias(graph.emit(call, anchor.var.name, anchor.ty), op, bias * scale)


def shift_behind_shift(graph: Graph, node: Node) -> Expr | None:
    """add(add(linear(x, w), b), t) -> add(linear(x, w), b + t)"""
    shift = graph.producer(node.args[0], "add") if graph.sole_use(node.args[0]) else None
    anchor, op = _anchor(graph, shift.args[0]) if shift is not None else (None, None)
    first, second = _per_channel(op, shift), _per_channel(op, node)
    return None if first is None or second is None else _add_bias(anchor.var, op, first + second)


def scale_before(graph: Graph, node: Node) -> Expr | None:
    """linear(multiply(x, s), w) -> linear(x, w * s); zero padding commutes with the scale"""
    scale = graph.producer(node.args[0], "multiply") if graph.sole_use(node.args[0]) else None
    op = linear(node) if scale is not None else None
    known = tensors.array(scale.args[1]) if op is not None else None
    if known is None or not _same_type(scale.args[0], scale.var):
        return None
    factor = channel_values(known, op.in_axis, op.in_channels, tensors.rank(scale.var))
    weight = None if factor is None else scaled_weight(op, factor, op.in_factor)
    return None if weight is None else typed(with_args(node.value, [scale.args[0], weight]), node.ty)


def shift_before(graph: Graph, node: Node) -> Expr | None:
    """linear(add(x, t), w) -> add(linear(x, w), sum of w * t) where every output sees whole windows"""
    shift = graph.producer(node.args[0], "add") if graph.sole_use(node.args[0]) else None
    op = linear(node) if shift is not None else None
    known = tensors.array(shift.args[1]) if op is not None else None
    if known is None or not _sees_whole_windows(node) or not _same_type(shift.args[0], shift.var):
        return None
    offset = channel_values(known, op.in_axis, op.in_channels, tensors.rank(shift.var))
    if offset is None or (node.op == "matmul" and op.weight.ndim != 2) or not np.all(np.isfinite(offset)):
        return None
    with np.errstate(all="ignore"):
        bias = bias_of_shift(op, offset)
    if not np.all(np.isfinite(bias)):
        return None
    call = with_args(node.value, [shift.args[0], node.args[1]])
    return _add_bias(graph.emit(call, node.var.name, node.ty), op, bias)


def _sees_whole_windows(node: Node) -> bool:
    """Whether no output element of a convolution reads padding, and none of a transposed one misses taps."""
    return node.op == "matmul" or (node.op in CONVOLUTIONS and not any(tensors.ints(node.attrs.padding)))


def _anchor(graph: Graph, expr: Expr) -> tuple[Node, Linear] | tuple[None, None]:
    """The linear operator that `expr` is the result of, if it is used nowhere else."""
    anchor = graph.producer(expr, *LINEAR_OPS) if graph.sole_use(expr) else None
    op = linear(anchor) if anchor is not None else None
    return (None, None) if op is None else (anchor, op)


def _per_channel(op: Linear | None, node: Node | None) -> np.ndarray | None:
    """The constant operand of a multiply or add as one float64 number per output channel."""
    if op is None or node is None:
        return None
    known = tensors.array(node.args[1])
    if known is None or not _same_type(node.args[0], node.var):
        return None
    return channel_values(known, op.out_axis, op.out_channels, tensors.rank(node.var))


def _same_type(a: Expr, b: Expr) -> bool:
    return tensors.same_dims(tensors.shape(a), tensors.shape(b)) and tensors.dtype(a) == tensors.dtype(b)


def _with_weight(anchor: Node, op: Linear, scale: np.ndarray) -> Expr | None:
    weight = scaled_weight(op, scale, op.out_factor)
    return None if weight is None else typed(with_args(anchor.value, [anchor.args[0], weight]), anchor.ty)


def _add_bias(result: Expr, op: Linear, bias: np.ndarray) -> Expr:
    dims = (op.out_channels, *(1,) * (-1 - op.out_axis))
    with np.errstate(all="ignore"):
        return relax.op.add(result, tensors.constant(bias.reshape(dims), tensors.dtype(result)))
