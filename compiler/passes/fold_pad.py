"""Merge constant padding into the convolution or pooling behind it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .graph import Graph, Node, typed
from .rebuild import CONVOLUTIONS, POOLS, rebuild
from .rules_constant import clip_bounds

LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class FoldPad(Pass):
    """Let convolutions and poolings pad by themselves.

    Before:  p = nn.pad(x, (0, 0, 0, 0, 1, 1, 1, 1)); y = conv2d(p, w, padding=(0, 0, 0, 0))
    After:   y = conv2d(x, w, padding=(1, 1, 1, 1))

    Only non-negative constant padding of spatial axes: zeros ahead of convolutions; zeros ahead of an average pooling
    that counts its padding, or has none; ahead of a maximum pooling the lowest number, or zeros behind a non-negative
    value when each window keeps at least one real element. Needs channels-first layouts.
    """

    name: str = field(default="fold_pad", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module without the pads that their users could take over."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        rules = dict.fromkeys(CONVOLUTIONS, (pad_then_convolution,))
        rules |= {op: (pad_then_average if "avg" in op else pad_then_maximum,) for op in POOLS}
        graph.apply(rules)
        return graph.to_module()


def pad_then_convolution(graph: Graph, node: Node) -> Expr | None:
    """conv(pad(x, 0)) -> conv(x)"""
    pad = _zero_pad(graph, node) if node.attrs.data_layout[1] == "C" else None
    return None if pad is None else _merged(node, *pad)


def pad_then_average(graph: Graph, node: Node) -> Expr | None:
    """avg_pool(pad(x, 0)) -> avg_pool(x, count_include_pad=True)"""
    a = node.attrs
    counted = bool(a.count_include_pad) or not any(tensors.ints(a.padding))
    plain = a.layout[1] == "C" and not a.ceil_mode and all(d == 1 for d in tensors.ints(a.dilation))
    pad = _zero_pad(graph, node) if counted and plain else None
    return None if pad is None else _merged(node, *pad, count_include_pad=True)


def pad_then_maximum(graph: Graph, node: Node) -> Expr | None:
    """max_pool(pad(x, lowest)) -> max_pool(x); also pad(x, 0) where x >= 0"""
    a = node.attrs
    pad = graph.producer(node.args[0], "nn.pad")
    if pad is None or a.layout[1] != "C" or a.ceil_mode or not tensors.is_float(node.var):
        return None
    widths = _spatial_widths(pad)
    if widths is None:
        return None
    value = float(pad.attrs.pad_value)
    total = [w + p for w, p in zip(widths, tensors.ints(a.padding), strict=True)]
    inside = all(w < k for w, k in zip(total, tensors.ints(a.pool_size) * 2, strict=True))
    real = inside and all(d == 1 for d in tensors.ints(a.dilation))
    if value <= LOWEST or (value == 0 and real and _is_non_negative(graph, pad.args[0])):
        return _merged(node, pad.args[0], widths)
    return None


def _zero_pad(graph: Graph, node: Node) -> tuple[Expr, list[int]] | None:
    pad = graph.producer(node.args[0], "nn.pad")
    if pad is None or float(pad.attrs.pad_value) != 0:
        return None
    widths = _spatial_widths(pad)
    return None if widths is None else (pad.args[0], widths)


def _spatial_widths(pad: Node) -> list[int] | None:
    """Widths as convolutions list them: begins, then ends; None if batch or channels are padded, or any is negative."""
    widths = tensors.ints(pad.attrs.pad_width)
    if pad.attrs.pad_mode != "constant" or any(widths[:4]) or min(widths) < 0:
        return None
    return [*widths[4::2], *widths[5::2]]


def _is_non_negative(graph: Graph, expr: Expr) -> bool:
    made = graph.producer(expr, "nn.relu", "sigmoid", "clip", "exp")
    return made is not None and (made.op != "clip" or 0 <= clip_bounds(made)[0] <= clip_bounds(made)[1])


def _merged(node: Node, data: Expr, widths: list[int], **changes: object) -> Expr:
    padding = [w + p for w, p in zip(widths, tensors.ints(node.attrs.padding), strict=True)]
    return typed(rebuild(node, [data, *node.args[1:]], padding=padding, **changes), node.ty)
