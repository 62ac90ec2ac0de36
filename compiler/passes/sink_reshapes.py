"""Move reshapes and permutes behind elementwise operators, so that these fuse with the anchor before them."""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .elementwise import ELEMENTWISE, on_operands, tensor_operands
from .graph import Graph, Node
from .linear import LINEAR_OPS


@dataclass(frozen=True)
class SinkReshapes(Pass):
    """An anchor's epilogue has the anchor's shape; what is reshaped in between is computed before the reshape instead.

    Before:  y = conv2d(x, w); r = reshape(y, (N, L, C)); z = add(r, b of shape (C,)); v = relu(z)
    After:   y = conv2d(x, w); z = add(y, b); v = relu(z); r = reshape(v, (N, L, C))

    Only behind convolutions and matmuls and their elementwise users. The other operands must be constants that mean
    the same in the anchor's shape, values moved by an equal reshape, or values of the reshaped shape (which are
    reshaped back).

    Likewise op(permute_dims(x), scalar) -> permute_dims(op(x, scalar)) anywhere: matmuls read and write through
    permutes that are next to them.
    """

    name: str = field(default="sink_reshapes", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with reshapes sunk as far as elementwise chains go."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        graph.apply(dict.fromkeys(ELEMENTWISE, (_Sinker().sink, sink_permute)))
        return graph.to_module()


def sink_permute(graph: Graph, node: Node) -> Expr | None:
    """op(permute_dims(x), scalar) -> permute_dims(op(x, scalar))"""
    operands = tensor_operands(node)
    tensor = [o for o in operands if tensors.scalar(o) is None]
    permute = graph.producer(tensor[0], "permute_dims") if len(tensor) == 1 and graph.sole_use(tensor[0]) else None
    source = tensors.shape(permute.args[0]) if permute is not None else None
    if source is None or tensors.rank(node.var) != len(source):
        return None
    ty = relax.TensorType(source, tensors.dtype(node.var))
    value = graph.emit(
        on_operands(node, [permute.args[0] if o is tensor[0] else o for o in operands]), node.var.name, ty
    )
    return relax.op.permute_dims(value, tensors.permutation(permute.attrs, len(source)))


class _Sinker:
    """Remembers which values an anchor's epilogue consists of."""

    def __init__(self) -> None:
        self.epilogue: dict[relax.Var, bool] = {}

    def sink(self, graph: Graph, node: Node) -> Expr | None:
        """op(reshape(x), c) -> reshape(op(x, c))"""
        operands, dims = tensor_operands(node), tensors.shape(node.var)
        sources = [self._source(graph, o, dims) for o in operands]
        source = next((s for s in sources if s is not None), None)
        if source is None:
            return None
        if any(s is None and self._in_epilogue(graph, o) for o, s in zip(operands, sources, strict=True)):
            return None  # it fuses with the other operand's anchor as it is
        inner = tensors.shape(source)
        moved = [
            s if s is not None and tensors.same_dims(tensors.shape(s), inner) else _in_shape(graph, o, dims, inner)
            for o, s in zip(operands, sources, strict=True)
        ]
        if any(m is None for m in moved):
            return None
        ty = relax.TensorType(inner, tensors.dtype(node.var))
        value = graph.emit(on_operands(node, moved), node.var.name, ty)
        self.epilogue[value] = True
        return relax.op.reshape(value, dims)

    def _source(self, graph: Graph, operand: Expr, dims: tuple[tensors.Dim, ...] | None) -> relax.Var | None:
        """x where `operand` is reshape(x) of the result's shape and x belongs to an anchor's epilogue."""
        reshape = graph.producer(operand, "reshape")
        if reshape is None or not isinstance(reshape.args[0], relax.Var) or tensors.shape(reshape.args[0]) is None:
            return None
        if not tensors.same_dims(tensors.shape(operand), dims):
            return None
        return reshape.args[0] if self._in_epilogue(graph, reshape.args[0]) else None

    def _in_epilogue(self, graph: Graph, value: Expr) -> bool:
        """Whether `value` is an anchor's result or computed elementwise from one."""
        node = graph.producer(value)
        if node is None:
            return False
        if node.var not in self.epilogue:
            known = node.op in LINEAR_OPS
            if node.op in ELEMENTWISE:
                known = any(self._in_epilogue(graph, o) for o in tensor_operands(node))
            self.epilogue[node.var] = known
        return self.epilogue[node.var]


def _in_shape(
    graph: Graph, operand: Expr, dims: tuple[tensors.Dim, ...], inner: tuple[tensors.Dim, ...]
) -> Expr | None:
    """What broadcasts against `inner` as `operand` does against `dims`, or None."""
    own = tensors.shape(operand)
    if own is None:
        return None
    if all(tensors.is_one(d) for d in own):
        return operand if len(own) <= len(inner) else _constant_reshaped(operand, (1,) * len(inner))
    if all(tensors.is_one(d) for d in own[:-1]) and tensors.same_dim(dims[-1], inner[-1]):
        return _constant_reshaped(operand, own[-1:])
    if isinstance(operand, relax.Var) and tensors.same_dims(own, dims):
        return graph.emit(relax.op.reshape(operand, inner))
    return None


def _constant_reshaped(operand: Expr, dims: tuple[tensors.Dim, ...]) -> Expr | None:
    known = tensors.array(operand)
    return None if known is None else tensors.constant(known.reshape(dims))
