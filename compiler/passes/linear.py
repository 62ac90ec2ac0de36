"""Operators that are linear in their data: where their output channels stand in the result and in the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.relax import Expr

from . import tensors
from .graph import Node


@dataclass(frozen=True)
class Linear:
    """A convolution or matmul with constant weights.

    `out_axis` and `in_axis` are the channel axes of result and data, counted from the end (negative).
    `out_factor` and `in_factor` reshape a vector with one entry per channel so that it broadcasts against the weights
    reshaped to `weight_view`.
    """

    data: Expr
    weight: np.ndarray
    out_axis: int
    in_axis: int
    out_channels: int
    in_channels: int
    weight_view: tuple[int, ...]
    out_factor: tuple[int, ...]
    in_factor: tuple[int, ...]


def _convolution(node: Node, weight: np.ndarray) -> Linear | None:
    if node.attrs.data_layout[1] != "C" or node.attrs.out_layout[1] != "C" or node.attrs.kernel_layout[:2] != "OI":
        return None
    groups, spatial = int(node.attrs.groups), weight.ndim - 2
    outs, ins = weight.shape[0], weight.shape[1]
    return Linear(
        data=node.args[0],
        weight=weight,
        out_axis=-1 - spatial,
        in_axis=-1 - spatial,
        out_channels=outs,
        in_channels=ins * groups,
        weight_view=(groups, outs // groups, ins, *weight.shape[2:]),
        out_factor=(groups, outs // groups, 1, *(1,) * spatial),
        in_factor=(groups, 1, ins, *(1,) * spatial),
    )


def _transposed(node: Node, weight: np.ndarray) -> Linear | None:
    if node.attrs.data_layout[1] != "C" or node.attrs.out_layout[1] != "C" or node.attrs.kernel_layout[:2] != "IO":
        return None
    groups, spatial = int(node.attrs.groups), weight.ndim - 2
    ins, outs = weight.shape[0], weight.shape[1]
    return Linear(
        data=node.args[0],
        weight=weight,
        out_axis=-1 - spatial,
        in_axis=-1 - spatial,
        out_channels=outs * groups,
        in_channels=ins,
        weight_view=(groups, ins // groups, outs, *weight.shape[2:]),
        out_factor=(groups, 1, outs, *(1,) * spatial),
        in_factor=(groups, ins // groups, 1, *(1,) * spatial),
    )


def _matmul(node: Node, weight: np.ndarray) -> Linear | None:
    if weight.ndim < 2 or tensors.rank(node.args[0]) < 1:
        return None
    ins, outs = weight.shape[-2:]
    return Linear(
        data=node.args[0],
        weight=weight,
        out_axis=-1,
        in_axis=-1,
        out_channels=outs,
        in_channels=ins,
        weight_view=weight.shape,
        out_factor=(1, outs),
        in_factor=(ins, 1),
    )


_READERS: dict[str, Callable[[Node, np.ndarray], Linear | None]] = {
    **{f"nn.conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"nn.conv{n}d_transpose": _transposed for n in (1, 2, 3)},
    "matmul": _matmul,
}
LINEAR_OPS = tuple(_READERS)


def linear(node: Node) -> Linear | None:
    """The facts of a convolution (channels first) or matmul whose second operand is a float constant, else None."""
    if node.op not in _READERS:
        return None
    weight = tensors.array(node.args[1])
    if weight is None or not tensors.is_float(node.var) or tensors.dtype(node.args[1]) != tensors.dtype(node.var):
        return None
    if node.op != "matmul" and min(weight.shape[:2], default=0) < 1:
        return None
    return _READERS[node.op](node, weight)


def channel_values(value: np.ndarray, axis: int, channels: int, ndim: int) -> np.ndarray | None:
    """`value` as `channels` float64 numbers if, broadcast against rank `ndim`, it varies along `axis` only."""
    if value.ndim > ndim or any(s != 1 for k, s in enumerate(value.shape) if k - value.ndim != axis):
        return None
    flat = value.reshape(-1).astype(np.float64)
    return np.broadcast_to(flat, (channels,)) if flat.size in (1, channels) else None


def bias_of_shift(op: Linear, offset: np.ndarray) -> np.ndarray:
    """What each output channel gains when `offset`, a number per input channel, is added to the data."""
    terms = op.weight.reshape(op.weight_view).astype(np.float64) * offset.reshape(op.in_factor)
    kept = {k for k, size in enumerate(op.out_factor) if size != 1}
    total = terms.sum(axis=tuple(k for k in range(terms.ndim) if k not in kept))
    return np.broadcast_to(total.reshape(-1), (op.out_channels,))


def scaled_weight(op: Linear, factor: np.ndarray, shape: tuple[int, ...]) -> Expr | None:
    """The weights times `factor` (float64, reshaped to `shape`), rounded once; None if that is not finite.

    A sum over the result finds any infinity or NaN in one pass without a temporary mask.
    """
    element = str(op.weight.dtype)
    expr, out = tensors.blank(op.weight.shape, element) if element != "bfloat16" else (None, np.empty_like(op.weight))
    with np.errstate(all="ignore"):
        np.multiply(
            op.weight.reshape(op.weight_view),
            factor.reshape(shape),
            out=out.reshape(op.weight_view),
            casting="same_kind",
        )
        finite = np.isfinite(np.sum(out, dtype=np.float64))
    if not finite:
        return None
    return expr if expr is not None else tensors.constant(out, element)
