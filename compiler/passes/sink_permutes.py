"""Move permute_dims below elementwise operators that treat every element alike."""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .elementwise import ELEMENTWISE, on_operands, tensor_operands
from .graph import Graph, Node


@dataclass(frozen=True)
class SinkPermutes(Pass):
    """Bring permutes next to the matmuls that read through them, and scalar operators next to what made their operand.

    Before:  q = permute_dims(x, (0, 2, 1, 3)); s = multiply(q, 0.25); y = matmul(s, k)
    After:   s = multiply(x, 0.25); q = permute_dims(s, (0, 2, 1, 3)); y = matmul(q, k)

    Only where the other operands are scalar constants and nothing else uses the permuted value.
    """

    name: str = field(default="sink_permutes", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The same object if no elementwise operator reads a permute."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        graph.apply(dict.fromkeys(ELEMENTWISE, (sink_permute,)))
        return graph.to_module()


def sink_permute(graph: Graph, node: Node) -> Expr | None:
    """op(permute_dims(x), scalar) -> permute_dims(op(x, scalar))"""
    operands = tensor_operands(node)
    tensor = [o for o in operands if tensors.scalar(o) is None]
    permute = graph.sole_producer(tensor[0], "permute_dims") if len(tensor) == 1 else None
    if permute is None:
        return None
    source = tensors.shape(permute.args[0])
    if source is None or tensors.rank(node.var) != len(source):
        return None
    ty = relax.TensorType(source, tensors.dtype(node.var))
    moved = [permute.args[0] if o is tensor[0] else o for o in operands]
    value = graph.emit(on_operands(node, moved), node.var.name, ty)
    return relax.op.permute_dims(value, tensors.permutation(permute.attrs, len(source)))
