"""Move reshapes that only add or drop axes of size one below elementwise operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr

from ..schedule.epilogue import STEP_OPS
from . import tensors
from .base import Pass
from .graph import Graph, Node

VIEWS = ("reshape", "expand_dims", "squeeze")


@dataclass(frozen=True)
class SinkReshapes(Pass):
    """Let the operators behind a squeezed convolution follow it directly, so that they can join its kernel.

    Before:  c = conv2d(x, w) (1, 8, 1, 16); s = reshape(c, (1, 8, 16)); y = add(s, b); z = multiply(y, s)
    After:   c = conv2d(x, w); y = add(c, b'); z' = multiply(y, c); z = reshape(z', (1, 8, 16))

    Needs nothing. All tensor operands must come through reshapes from one shape, or be constants.
    """

    name: str = field(default="sink_reshapes", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The same object if no elementwise operator reads such a reshape."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        graph.apply(dict.fromkeys(STEP_OPS, (_sink,)))
        return graph.to_module()


def _sink(graph: Graph, node: Node) -> Expr | None:
    operands = [a for a in node.args if isinstance(a.ty, relax.TensorType)]
    if len(operands) != len(node.args) and node.op != "clip":
        return None
    sources = [_source(graph, a) for a in operands]
    first = next((s for s in sources if s is not None), None)
    after = tensors.shape(node.var)
    before = tensors.shape(first) if first is not None else None
    if before is None or after is None or not _same_but_for_ones(before, after):
        return None
    moved = []
    for operand, source in zip(operands, sources, strict=True):
        value = _moved(operand, source, before, after)
        if value is None:
            return None
        moved.append(value)
    args = [*moved, *node.args[len(operands) :]]
    call = Call(node.value.op, args, node.attrs, ret_ty=relax.TensorType(before, tensors.dtype(node.var)))
    return relax.op.reshape(graph.emit(call, ty=call.ty), after)


def _source(graph: Graph, expr: Expr) -> Expr | None:
    node = graph.producer(expr, *VIEWS)
    return node.args[0] if node is not None else None


def _same_but_for_ones(a: Sequence[tensors.Dim], b: Sequence[tensors.Dim]) -> bool:
    rest = [[d for d in dims if not tensors.is_one(d)] for dims in (a, b)]
    return len(a) != len(b) and tensors.same_dims(*rest)


def _moved(
    operand: Expr, source: Expr | None, before: Sequence[tensors.Dim], after: Sequence[tensors.Dim]
) -> Expr | None:
    """`operand` as it reads ahead of the reshape, or None if it cannot."""
    if source is not None:
        fits = tensors.same_dims(tensors.shape(source), before) and tensors.same_dims(tensors.shape(operand), after)
        return source if fits else None
    value = tensors.array(operand) if isinstance(operand, GenericConst) else None
    if value is None:
        return None
    if value.size == 1:
        return tensors.constant(value.reshape(()), str(value.dtype))
    if value.ndim > len(after):
        return None
    dims = (1,) * (len(after) - value.ndim) + value.shape
    kept = [d for d, full in zip(dims, after, strict=True) if not tensors.is_one(full)]
    if any(d != 1 for d, full in zip(dims, after, strict=True) if tensors.is_one(full)):
        return None
    shape = [1 if tensors.is_one(full) else kept.pop(0) for full in before]
    return tensors.constant(value.reshape(shape), str(value.dtype))
