"""Run three-dimensional convolutions as two-dimensional ones of all depths at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .elementwise import ELEMENTWISE, on_operands, tensor_operands
from .graph import Graph, Node
from .rebuild import attributes, make_call

# (N, C, D, H, W) <-> (N, D, C, H, W)
_TURN = (0, 2, 1, 3, 4)
_LAYOUTS = {"data_layout": "NCHW", "kernel_layout": "OIHW", "out_layout": "NCHW"}


@dataclass(frozen=True)
class Conv3dToConv2d(Pass):
    """Let conv2d's templates serve conv3d: depths of the result are images, depths of the window are channels.

    Before:  y = conv3d(x, w, padding=(1, 1, 1, 1, 1, 1)); z = add(y, b); v = relu(z)     # w: (O, C, 3, KH, KW)
    After:   t = pad(permute_dims(x, (0, 2, 1, 3, 4)))                                    # (N, D + 2, C, H, W)
             i = reshape(concat([t[:, 0:D], t[:, 1:D + 1], t[:, 2:D + 2]], 2), (N * D, 3 * C, H, W))
             y = conv2d(i, w'); z = add(y, b'); v' = relu(z)
             v = permute_dims(reshape(v', (N, D, O, H, W)), (0, 2, 1, 3, 4))

    The input is in memory as often as the window is deep meanwhile. Elementwise operators with scalars and numbers by
    channel stay on images, so that they join the kernel. Windows of depth 1 may be grouped, deeper ones not. Needs
    "NCDHW" layouts and a known depth.
    """

    name: str = field(default="conv3d_to_conv2d", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module without such convolutions."""
        graph = Graph.of(mod)
        if graph is None or not any(n.op == "nn.conv3d" for n in graph.nodes):
            return mod
        graph.sweep(_Raiser().visit)
        return graph.to_module()


class _Raiser:
    """State of one sweep: which values (N, C, D, H, W) are views of images (N * D, C, H, W)."""

    def __init__(self) -> None:
        self.images: dict[relax.Var, relax.Var] = {}

    def visit(self, graph: Graph, node: Node) -> Expr | None:
        """The node as a view of images, where it can be."""
        dims = tensors.shape(node.var)
        if dims is None or len(dims) != 5:
            return None
        call = _convolution(graph, node, dims) if node.op == "nn.conv3d" else self._elementwise(node)
        if call is None:
            return None
        n, c, d, h, w = dims
        ty = relax.TensorType((tensors.product([n, d]), c, h, w), tensors.dtype(node.var))
        self.images[node.var] = graph.emit(call, node.var.name, ty)
        return relax.op.permute_dims(graph.emit(relax.op.reshape(self.images[node.var], (n, d, c, h, w))), _TURN)

    def _elementwise(self, node: Node) -> Expr | None:
        """An elementwise operator on images of one shape, and constants that are alike all over an image."""
        if node.op not in ELEMENTWISE:
            return None
        operands = tensor_operands(node)
        shapes = [tensors.shape(x) for x in operands if x in self.images]
        if not shapes or not all(tensors.same_dims(s, tensors.shape(node.var)) for s in shapes):
            return None
        moved = [self.images[x] if x in self.images else _by_channel(x) for x in operands]
        return on_operands(node, moved) if all(x is not None for x in moved) else None


def _by_channel(operand: Expr) -> Expr | None:
    """A constant scalar, or numbers by channel, for images; None where it is neither."""
    value = tensors.array(operand)
    if value is None or value.ndim > 5:
        return None
    dims = (1,) * (5 - value.ndim) + value.shape
    if any(d != 1 for k, d in enumerate(dims) if k != 1):
        return None
    return tensors.constant(value.reshape(dims[1], 1, 1) if value.ndim > 3 else value.reshape(value.shape[-3:]))


def _convolution(graph: Graph, node: Node, dims: tuple[tensors.Dim, ...]) -> Expr | None:
    """A conv3d whose result is of `dims` as a conv2d of images."""
    attrs = attributes(node)
    data, weight = node.args
    before, window = tensors.shape(data), tensors.static_shape(weight)
    layouts = attrs["data_layout"], attrs["kernel_layout"], attrs["out_layout"]
    if before is None or window is None or layouts != ("NCDHW", "OIDHW", "NCDHW") or not tensors.is_float(data):
        return None
    depth = window[2]
    if not isinstance(before[2], int) or not isinstance(dims[2], int) or (depth > 1 and attrs["groups"] != 1):
        return None
    strides, dilation, padding = (tensors.ints(attrs[name]) for name in ("strides", "dilation", "padding"))
    turned = graph.emit(relax.op.permute_dims(data, _TURN))
    if padding[0] or padding[3]:
        turned = graph.emit(relax.op.nn.pad(turned, [0, 0, padding[0], padding[3], *[0] * 6]))
    slices = [_depths(graph, turned, k * dilation[0], dims[2], strides[0]) for k in range(depth)]
    joined = graph.emit(relax.op.concat(slices, 2)) if depth > 1 else slices[0]
    size = (tensors.product([before[0], dims[2]]), tensors.product([before[1], depth]), *before[3:])
    images = graph.emit(relax.op.reshape(joined, size))
    values = {
        **attrs,
        **_LAYOUTS,
        "strides": strides[1:],
        "dilation": dilation[1:],
        "padding": [*padding[1:3], *padding[4:6]],
    }
    return make_call("nn.conv2d", [images, _folded(graph, weight, window)], values)


def _depths(graph: Graph, turned: Expr, first: int, count: int, stride: int) -> Expr:
    """Every `stride`-th depth of (N, D, C, H, W) from `first` on, `count` of them."""
    end = first + (count - 1) * stride + 1
    dims = tensors.shape(turned)
    if dims is not None and (first, stride) == (0, 1) and tensors.same_dim(dims[1], end):
        return turned
    return graph.emit(relax.op.strided_slice(turned, [1], [first], [end], [stride]))


def _folded(graph: Graph, weight: Expr, window: tuple[int, ...]) -> Expr:
    """(O, C, KD, KH, KW) as (O, KD * C, KH, KW)"""
    size = (window[0], window[2] * window[1], *window[3:])
    known = tensors.array(weight)
    if known is not None:
        return tensors.constant(np.ascontiguousarray(known.transpose(_TURN)).reshape(size))
    return graph.emit(relax.op.reshape(graph.emit(relax.op.permute_dims(weight, _TURN)), size))
