"""Rewrite a float graph as its plan says: int8 values beside the float ones that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Tuple
from tvm.relax import Expr

from ...schedule.requantize import LARGEST, fixed_points
from .. import tensors
from ..base import Pass
from ..graph import Graph, Node
from ..linear import linear
from ..rebuild import rebuild
from . import ops
from .forms import MOST_SUM, elements_averaged
from .plan import Plan, Unit

# Steps of the common scale of a residual addition in the larger of its operands' steps: factors fit 16 bits.
_COMMON = 1 << 14


@dataclass(frozen=True)
class Quantize(Pass):
    """Compute in 8-bit integers what the plan says.

    Before:  c = conv2d(x, w); y = relu(add(c, b)); s = softmax(...)
    After:   q = quantize(x); a = add(conv2d(q, w8), b32)                 # int32 sums
             r = requantize(a, multiplier, shift; 0, 127)                 # int8, what integer operators read
             y = dequantize(r, scale)                                     # float32, dead unless float operators read it

    `plan` was made for this very module, and `scales` has the step of each of its int8 values.
    """

    plan: Plan
    scales: dict[relax.Var, float]
    name: str = field(default="quantize", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module in integers."""
        graph = Graph.of(mod)
        if graph is None or not self.plan.units:
            return mod
        graph.sweep(_Rewriter(self.plan, self.scales).rule)
        return graph.to_module()


@dataclass(frozen=True)
class _Sums:
    """int32 sums, and what one of them is worth: `scale` (float64) broadcasts against them."""

    value: relax.Var
    scale: np.ndarray


class _Rewriter:
    """Holds the int8 values made so far, by the float values that they stand for."""

    def __init__(self, plan: Plan, scales: dict[relax.Var, float]) -> None:
        self.scales = scales
        self.units = {unit.head.var: unit for unit in plan.units.values()}
        self.narrow: dict[relax.Var, relax.Var] = {}
        self.made: dict[relax.Var, Expr] = {}  # float values of units' ends, until their nodes come by

    def rule(self, graph: Graph, node: Node) -> Expr | None:
        """The integers of a unit at its head, and its float value in place of the node that defined it."""
        unit = self.units.get(node.var)
        if unit is not None:
            self.made[unit.end] = (
                self._moved(graph, unit, node) if unit.form.kind == "move" else self._summed(graph, unit, node)
            )
        return self.made.pop(node.var, None)

    def int8(self, graph: Graph, value: relax.Var) -> relax.Var:
        """`value` in integers, quantized at the first request."""
        if value not in self.narrow:
            self.narrow[value] = graph.emit(ops.quantize(value, self.scales[value]))
        return self.narrow[value]

    def _moved(self, graph: Graph, unit: Unit, node: Node) -> Expr:
        operands = [self.int8(graph, x) for x in unit.form.operands]
        first = Tuple(operands) if isinstance(node.args[0], Tuple) else operands[0]
        call = node.value
        moved = tvm.ir.Call(call.op, [first, *node.args[1:]], call.attrs, call.ty_args)
        return self._known(graph, unit, moved)

    def _known(self, graph: Graph, unit: Unit, value: Expr) -> Expr:
        """Note the int8 `value` of the unit's end; its float form."""
        narrow = graph.emit(value, ty=relax.TensorType(unit.end.ty.shape, "int8"))
        self.narrow[unit.end] = narrow
        return ops.dequantize(narrow, np.asarray(self.scales[unit.end]))

    def _summed(self, graph: Graph, unit: Unit, node: Node) -> Expr:
        sums = SUMS[unit.form.kind](self, graph, unit, node)
        for bias in unit.biases if unit.form.kind != "product" else ():
            sums = _Sums(graph.emit(relax.op.add(sums.value, _integers(bias, sums.scale))), sums.scale)
        if not unit.narrow:
            return ops.dequantize(sums.value, sums.scale)
        scale = self.scales[unit.end]
        multiplier, shift = fixed_points(sums.scale / scale)
        low, high = (int(np.rint(np.clip(b / scale, -LARGEST, LARGEST))) for b in unit.bounds or (-np.inf, np.inf))
        return self._known(graph, unit, ops.requantize(sums.value, multiplier, shift, low, high))


def _integers(value: np.ndarray, scale: np.ndarray) -> Expr:
    """A constant in steps of `scale`, as int32."""
    return tensors.constant(np.clip(np.rint(value.astype(np.float64) / scale), -MOST_SUM, MOST_SUM), "int32")


def _product(self: _Rewriter, graph: Graph, unit: Unit, node: Node) -> _Sums:
    """Weights per output channel: each channel's largest is 127, unless its bias then left int32."""
    found = linear(node)
    assert found is not None, "forms are linear"
    (data,) = unit.form.operands
    step = self.scales[data]
    trailing = (1,) * (-1 - found.out_axis)
    bias = np.zeros((found.out_channels, *trailing))
    for each in unit.biases:
        bias = bias + each.astype(np.float64)
    kept = tuple(k for k, size in enumerate(found.out_factor) if size == 1)
    view = found.weight.reshape(found.weight_view)
    largest = np.abs(view).max(axis=kept, initial=0.0).reshape(-1).astype(np.float64)
    most_bias = np.abs(bias).reshape(-1, found.out_channels, *trailing).max(axis=0).reshape(-1)
    scale = np.maximum(largest / LARGEST, most_bias / (step * MOST_SUM))
    scale[scale == 0.0] = 1.0
    weight = np.rint(view / scale.reshape(found.out_factor)).astype(np.int8).reshape(found.weight.shape)
    operands = [self.int8(graph, data), tensors.constant(weight)]
    if node.op == "matmul":
        sums = graph.emit(relax.op.matmul(*operands, out_dtype="int32"))
    else:
        sums = graph.emit(rebuild(node, operands, out_dtype="int32"), ty=_wide(node))
    worth = step * scale.reshape(-1, *trailing)
    if unit.biases:
        sums = graph.emit(relax.op.add(sums, _integers(bias, worth)))
    return _Sums(sums, worth)


def _average(self: _Rewriter, graph: Graph, unit: Unit, node: Node) -> _Sums:
    """Sums over axes, or a convolution of each channel with ones."""
    (data,) = unit.form.operands
    count = elements_averaged(node)
    assert count is not None, "forms of averages have a number of elements"
    worth = np.asarray(self.scales[data] / (1 if node.op == "sum" else count))
    x, rank = self.int8(graph, data), tensors.rank(data)
    dims = tensors.known_shape(data)
    pooled = node.op not in ("mean", "sum", "nn.adaptive_avg_pool2d")
    whole = not pooled or (tensors.ints(node.attrs.pool_size) == dims[2:] and not any(tensors.ints(node.attrs.padding)))
    if not whole and isinstance(dims[1], int):
        a = node.attrs
        ones = tensors.constant(np.ones((dims[1], 1, *tensors.ints(a.pool_size)), np.int8))
        convolve = {3: relax.op.nn.conv1d, 4: relax.op.nn.conv2d, 5: relax.op.nn.conv3d}[rank]
        options = {"strides": tensors.ints(a.strides), "padding": tensors.ints(a.padding), "groups": dims[1]}
        return _Sums(graph.emit(convolve(x, ones, out_dtype="int32", **options), ty=_wide(node)), worth)
    reduces = node.op in ("mean", "sum")
    axes = list(tensors.axes_of(node.attrs.axis, rank)) if reduces else list(range(2, rank))
    keepdims = bool(node.attrs.keepdims) if reduces else True
    wide = graph.emit(relax.op.astype(x, "int32"))
    return _Sums(graph.emit(relax.op.sum(wide, axes, keepdims)), worth)


def _residual(self: _Rewriter, graph: Graph, unit: Unit, node: Node) -> _Sums:
    """Both operands in steps of a common scale, 2^-14 of the larger of theirs."""
    common = max(self.scales[x] for x in unit.form.operands) / _COMMON
    terms = []
    for operand in unit.form.operands:
        wide = graph.emit(relax.op.astype(self.int8(graph, operand), "int32"))
        factor = tensors.constant(np.asarray(round(self.scales[operand] / common)), "int32")
        terms.append(graph.emit(relax.op.multiply(wide, factor)))
    return _Sums(graph.emit(relax.op.add(*terms)), np.asarray(common))


def _affine(self: _Rewriter, graph: Graph, unit: Unit, node: Node) -> _Sums:
    """Constants that multiply or are added: factors of 127 and its negative, so that there are steps to add in."""
    (data,) = unit.form.operands
    wide = graph.emit(relax.op.astype(self.int8(graph, data), "int32"))
    value = tensors.array(node.args[1])
    assert value is not None, "forms of this kind have a constant"
    factor = value.astype(np.float64) if node.op == "multiply" else np.ones(())
    added = value if node.op == "add" else np.zeros(())
    step = self.scales[data]
    most = np.maximum(np.abs(factor) / LARGEST, np.abs(added) / (step * MOST_SUM))
    scale = np.where(most == 0.0, 1.0, most)
    whole = tensors.constant(np.rint(factor / scale), "int32")
    sums, worth = graph.emit(relax.op.multiply(wide, whole)), step * scale
    if node.op == "add":
        sums = graph.emit(relax.op.add(sums, _integers(value, worth)))
    return _Sums(sums, worth)


def _limit(self: _Rewriter, graph: Graph, unit: Unit, node: Node) -> _Sums:
    """An activation alone: what is left is to requantize."""
    (data,) = unit.form.operands
    return _Sums(graph.emit(relax.op.astype(self.int8(graph, data), "int32")), np.asarray(self.scales[data]))


def _wide(node: Node) -> relax.Type:
    return relax.TensorType(node.ty.shape, "int32")


# Kind of a form -> the int32 sums of a unit.
SUMS: dict[str, Callable[[_Rewriter, Graph, Unit, Node], _Sums]] = {
    "product": _product,
    "average": _average,
    "residual": _residual,
    "affine": _affine,
    "limit": _limit,
}
