"""Run transposed convolutions as ordinary ones whose output channels are the phases of the stride."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.relax import Expr

from ..schedule.op_spec import AttrValue, OpSpec, TensorType
from ..schedule.selection import Selector, matches
from . import tensors
from .anchors import tensor_type
from .base import Pass
from .graph import Graph, Node
from .rebuild import attributes

Pair = tuple[int, int]


@dataclass(frozen=True)
class TransposedToConv2d(Pass):
    """nn.conv2d_transpose with constant weights as nn.conv2d, where no template of the target takes it as it is.

    Before:  y = conv2d_transpose(x, w, strides=(2, 2))                   # w: (I, O, 4, 4)
    After:   z = conv2d(x, w', padding=1)                                 # w': (2 * 2 * O, I, 2, 2)
             y = strided_slice(reshape(permute_dims(reshape(z, (N, 2, 2, O, H, W)), (0, 3, 4, 1, 5, 2)), ...))

    With stride s, output pixel q (counted from before the cropping that padding does) takes tap k of input pixel i
    where q = i * s + k. For all q of one phase r = q mod s these are k = r + s * j, i = q // s - j: a convolution of
    stride 1 with every s-th tap, turned round. Kernels of a size that s does not divide get zeros: at most (s - 1) taps
    of each axis. The data movement behind is one kernel, together with the elementwise operators that follow.
    Needs "NCHW" data and "IOHW" weights; comes ahead of the layout phase.
    """

    selector: Selector
    name: str = field(default="transposed_to_conv2d", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with such convolutions."""
        graph = Graph.of(mod)
        if graph is None or not any(n.op == "nn.conv2d_transpose" for n in graph.nodes):
            return mod
        graph.sweep(self._rewritten)
        return graph.to_module()

    def _rewritten(self, graph: Graph, node: Node) -> Expr | None:
        if node.op != "nn.conv2d_transpose":
            return None
        phases = _phases(node)
        if phases is None or matches(_as_spec(node), self.selector.target):
            return None
        return phases.emit(graph)


@dataclass(frozen=True)
class _Axis:
    """One spatial axis: taps of each phase, padding of the convolution, what the result begins with too much."""

    stride: int
    taps: int
    before: int
    after: int
    crop: int


@dataclass(frozen=True)
class _Phases:
    """A transposed convolution taken apart."""

    node: Node
    axes: tuple[_Axis, _Axis]
    groups: int
    weight: np.ndarray

    def emit(self, graph: Graph) -> Expr | None:
        """The convolution, and its phases put where they belong; None where open sizes would have to be cropped.

        Relax infers the sizes of slices with open ends anew in later passes, and not always as the same expressions.
        """
        batch, channels, height, width = tensors.known_shape(self.node.var)
        down, right = self.axes
        options = {
            "padding": (down.before, right.before, down.after, right.after),
            "groups": self.groups,
            "out_dtype": self.node.attrs.out_dtype or None,
        }
        kernel = tensors.constant(self._kernel())
        found = graph.emit(relax.op.nn.conv2d(self.node.args[0], kernel, **options))
        rows, columns = tensors.known_shape(found)[2:]
        apart = (batch, self.groups, down.stride, right.stride, int(channels) // self.groups, rows, columns)
        split = graph.emit(relax.op.reshape(found, apart))
        moved = graph.emit(relax.op.permute_dims(split, (0, 1, 4, 5, 2, 6, 3)))
        whole = (batch, channels, rows * down.stride, columns * right.stride)
        joined = relax.op.reshape(moved, whole)
        if not any(a.crop for a in self.axes) and tensors.same_dims(whole, (batch, channels, height, width)):
            return joined
        if not all(isinstance(d, int) for d in (height, width)):
            return None
        begin = [a.crop for a in self.axes]
        end = [size + a.crop for size, a in zip((height, width), self.axes, strict=True)]
        return relax.op.strided_slice(graph.emit(joined), [2, 3], begin, end)

    def _kernel(self) -> np.ndarray:
        """OIHW weights: output channel (group, phase down, phase right, channel of the group)."""
        weight, (down, right) = self.weight, self.axes
        inputs, outputs, *kernel = weight.shape
        missing = [a.stride * a.taps - k for a, k in zip(self.axes, kernel, strict=True)]
        padded = np.pad(weight, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])))
        # (group, input, output, tap, phase, tap, phase); tap j reads input pixel q // s - j, so they are turned round.
        shape = (self.groups, inputs // self.groups, outputs, down.taps, down.stride, right.taps, right.stride)
        taps = padded.reshape(shape)[:, :, :, ::-1, :, ::-1, :].transpose(0, 4, 6, 2, 1, 3, 5)
        return np.ascontiguousarray(taps.reshape(-1, inputs // self.groups, down.taps, right.taps))


def _phases(node: Node) -> _Phases | None:
    """`node` taken apart; None where its weights or its layouts do not allow that."""
    a = attributes(node)
    weight = tensors.array(node.args[1])
    if weight is None or (a["data_layout"], a["kernel_layout"], a["out_layout"]) != ("NCHW", "IOHW", "NCHW"):
        return None
    if tensors.shape(node.args[0]) is None or tensors.shape(node.var) is None:
        return None
    stuffed = _with_holes(weight, tensors.ints(a["dilation"]))
    top, left, bottom, right = tensors.ints(a["padding"])
    strides, more = tensors.ints(a["strides"]), tensors.ints(a["output_padding"])
    rows = _axis(stuffed.shape[2], strides[0], top, bottom, more[0])
    columns = _axis(stuffed.shape[3], strides[1], left, right, more[1])
    if rows is None or columns is None:
        return None
    return _Phases(node, (rows, columns), int(a["groups"]), stuffed)


def _axis(kernel: int, stride: int, before: int, after: int, more: int) -> _Axis | None:
    """How one axis of a transposed convolution is computed; None where it is cropped by more than whole taps."""
    taps = -(-kernel // stride)
    skipped = before // stride  # pixels of all phases that nobody wants, ahead of the first
    behind = -(-(kernel - after + more) // stride) - 1
    if taps - 1 - skipped < 0 or behind < 0:
        return None
    return _Axis(stride, taps, taps - 1 - skipped, behind, before - skipped * stride)


def _with_holes(weight: np.ndarray, dilation: tuple[int, ...]) -> np.ndarray:
    """IOHW weights with zeros where dilation leaves pixels out."""
    if set(dilation) == {1}:
        return weight
    sizes = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    stuffed = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    stuffed[:, :, :: dilation[0], :: dilation[1]] = weight
    return stuffed


def _as_spec(node: Node) -> OpSpec:
    """The operator as an anchor in channels-last layout."""
    data, weight, result = tensor_type(node.args[0]), tensor_type(node.args[1]), tensor_type(node.var)

    def last(t: TensorType) -> TensorType:
        return TensorType((t.shape[0], *t.shape[2:], t.shape[1]), t.dtype)

    a = node.attrs
    names = ("strides", "padding", "output_padding", "dilation")
    attrs: dict[str, AttrValue] = {name: tensors.ints(getattr(a, name)) for name in names}
    attrs |= {"groups": int(a.groups), "data_layout": "NHWC"}
    inputs = (last(data), weight)
    return OpSpec("conv2d_transpose", inputs, (False, True), tuple(sorted(attrs.items())), last(result), last(result))
