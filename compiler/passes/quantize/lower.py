"""Write quantize, requantize and dequantize out in plain operators, which fuse with what is around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.relax import Expr

from ...schedule.requantize import LARGEST
from .. import tensors
from ..base import Pass
from ..graph import Graph, Node
from . import ops


@dataclass(frozen=True)
class LowerQuantized(Pass):
    """Leave no operator to later passes that only quantized graphs have.

    Before:  y = requantize(acc, m, s; low, high)
    After:   y = astype(clip(right_shift(astype(acc, "int64") * m + (1 << (s - 1)), s), low, high), "int8")
    and      dequantize(x, scale) -> multiply(astype(x, "float32"), scale)
    and      quantize(x, inverse) -> astype(clip(nearbyint(multiply(x, inverse)), -127, 127), "int8")
    """

    name: str = field(default="lower_quantized", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module in plain operators."""
        graph = Graph.of(mod)
        if graph is None or not any(node.op in _LOWERED for node in graph.nodes):
            return mod
        graph.sweep(lambda graph, node: _LOWERED[node.op](graph, node) if node.op in _LOWERED else None)
        return graph.to_module()


def _requantize(graph: Graph, node: Node) -> Expr:
    acc, *constants = node.args
    multiplier, shift = tensors.arrays(constants)  # type: ignore[misc]
    wide = [
        tensors.constant(x.astype(np.int64)) for x in (multiplier, np.int64(1) << (shift.astype(np.int64) - 1), shift)
    ]
    value = graph.emit(relax.op.multiply(graph.emit(relax.op.astype(acc, "int64")), wide[0]))
    value = graph.emit(relax.op.right_shift(graph.emit(relax.op.add(value, wide[1])), wide[2]))
    low, high = (tirx.const(limit, "int64") for limit in ops.limits(node.value))
    return relax.op.astype(graph.emit(relax.op.clip(value, low, high)), "int8")


def _quantize(graph: Graph, node: Node) -> Expr:
    x, inverse = node.args
    scaled = graph.emit(relax.op.multiply(x, inverse))
    builder = relax.BlockBuilder()
    call = builder.call_te(_rounded, scaled, primfunc_name_hint="quantize")
    name = graph.add_function(builder.get()[call.args[0]], "quantize")
    return tvm.ir.Call(call.op, [name, *call.args[1:]], call.attrs, call.ty_args)


def _rounded(x: te.Tensor) -> te.Tensor:
    low, high = (tirx.const(float(limit), "float32") for limit in (-LARGEST, LARGEST))

    def element(*i: tirx.Expr) -> tirx.Expr:
        return tirx.Cast("int8", tirx.max(tirx.min(tirx.nearbyint(x(*i)), high), low))

    return te.compute(x.shape, element, name="quantized")


def _dequantize(graph: Graph, node: Node) -> Expr:
    return relax.op.multiply(graph.emit(relax.op.astype(node.args[0], "float32")), node.args[1])


_LOWERED: dict[str, Callable[[Graph, Node], Expr]] = {
    ops.QUANTIZE: _quantize,
    ops.REQUANTIZE: _requantize,
    ops.DEQUANTIZE: _dequantize,
}
