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


@dataclass(frozen=True)
class _Found:
    """A convolution or matmul with constant weights: its node, and what is known of it."""

    node: Node
    op: Linear


def scale_behind(graph: Graph, node: Node) -> Expr | None:
    """multiply(linear(x, w), s) -> linear(x, w * s)"""
    anchor = _anchor(graph, node.args[0])
    scale = _per_channel(anchor, node)
    return None if anchor is None or scale is None else _with_weight(anchor, scale)


def scale_behind_shift(graph: Graph, node: Node) -> Expr | None:
    """multiply(add(linear(x, w), b), s) -> add(linear(x, w * s), b * s)"""
    shift = graph.sole_producer(node.args[0], "add")
    anchor = _anchor(graph, shift.args[0]) if shift is not None else None
    scale, bias = _per_channel(anchor, node), _per_channel(anchor, shift)
    if anchor is None or scale is None or bias is None:
        return None
    call = _with_weight(anchor, scale)
    if call is None:
        return None
    return _add_bias(graph.emit(call, anchor.node.var.name, anchor.node.ty), anchor.op, bias * scale)


def shift_behind_shift(graph: Graph, node: Node) -> Expr | None:
    """add(add(linear(x, w), b), t) -> add(linear(x, w), b + t)"""
    shift = graph.sole_producer(node.args[0], "add")
    anchor = _anchor(graph, shift.args[0]) if shift is not None else None
    first, second = _per_channel(anchor, shift), _per_channel(anchor, node)
    if anchor is None or first is None or second is None:
        return None
    return _add_bias(anchor.node.var, anchor.op, first + second)


def scale_before(graph: Graph, node: Node) -> Expr | None:
    """linear(multiply(x, s), w) -> linear(x, w * s); zero padding commutes with the scale"""
    scale, op = graph.sole_producer(node.args[0], "multiply"), linear(node)
    factor = None if scale is None or op is None else _per_input_channel(op, scale)
    if scale is None or op is None or factor is None:
        return None
    weight = scaled_weight(op, factor, op.in_factor)
    return None if weight is None else typed(with_args(node.value, [scale.args[0], weight]), node.ty)


def shift_before(graph: Graph, node: Node) -> Expr | None:
    """linear(add(x, t), w) -> add(linear(x, w), sum of w * t) where every output sees whole windows"""
    shift, op = graph.sole_producer(node.args[0], "add"), linear(node)
    if shift is None or op is None or not _sees_whole_windows(node) or (node.op == "matmul" and op.weight.ndim != 2):
        return None
    offset = _per_input_channel(op, shift)
    if offset is None or not np.all(np.isfinite(offset)):
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


def _anchor(graph: Graph, expr: Expr) -> _Found | None:
    """The linear operator that `expr` is the result of, if it is used nowhere else."""
    node = graph.sole_producer(expr, *LINEAR_OPS)
    op = linear(node) if node is not None else None
    return None if node is None or op is None else _Found(node, op)


def _per_channel(anchor: _Found | None, node: Node | None) -> np.ndarray | None:
    """The constant operand of a multiply or add behind `anchor` as one float64 number per output channel."""
    if anchor is None or node is None:
        return None
    known = tensors.array(node.args[1])
    if known is None or not _same_type(node.args[0], node.var):
        return None
    return channel_values(known, anchor.op.out_axis, anchor.op.out_channels, tensors.rank(node.var))


def _per_input_channel(op: Linear, node: Node) -> np.ndarray | None:
    """The constant operand of a multiply or add ahead of `op` as one float64 number per input channel."""
    known = tensors.array(node.args[1])
    if known is None or not _same_type(node.args[0], node.var):
        return None
    return channel_values(known, op.in_axis, op.in_channels, tensors.rank(node.var))


def _same_type(a: Expr, b: Expr) -> bool:
    return tensors.same_dims(tensors.shape(a), tensors.shape(b)) and tensors.dtype(a) == tensors.dtype(b)


def _with_weight(anchor: _Found, scale: np.ndarray) -> Expr | None:
    weight, node = scaled_weight(anchor.op, scale, anchor.op.out_factor), anchor.node
    return None if weight is None else typed(with_args(node.value, [node.args[0], weight]), node.ty)


def _add_bias(result: Expr, op: Linear, bias: np.ndarray) -> Expr:
    dims = (op.out_channels, *(1,) * (-1 - op.out_axis))
    with np.errstate(all="ignore"):
        return relax.op.add(result, tensors.constant(bias.reshape(dims), tensors.dtype(result)))
