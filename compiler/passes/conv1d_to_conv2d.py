"""Run one-dimensional convolutions and poolings as two-dimensional ones of height one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .elementwise import ELEMENTWISE, on_operands, tensor_operands
from .graph import Graph, Node
from .rebuild import attributes, make_call

# one-dimensional operator -> two-dimensional one
_RAISED = {
    "nn.conv1d": "nn.conv2d",
    "nn.conv1d_transpose": "nn.conv2d_transpose",
    "nn.max_pool1d": "nn.max_pool2d",
    "nn.avg_pool1d": "nn.avg_pool2d",
}
# What the height gets for each attribute that has an entry (or a begin and an end) per spatial axis.
_HEIGHT = {"strides": 1, "dilation": 1, "pool_size": 1, "output_padding": 0}


@dataclass(frozen=True)
class Conv1dToConv2d(Pass):
    """Give conv1d, conv1d_transpose, max_pool1d and avg_pool1d a height of one, so that conv2d's templates serve them.

    Before:  y = conv1d(x, w, padding=1); z = add(y, b); v = relu(z); u = conv1d(v, w2)
    After:   x4 = reshape(x, (N, C, 1, L)); y = conv2d(x4, w4, padding=(0, 1, 0, 1)); z = add(y, b4); v = relu(z);
             u4 = conv2d(v, w5); u = reshape(u4, (N, O, Lo))

    Elementwise operators behind stay four-dimensional, so that they fuse. Needs "NCW" layouts and known ranks.
    """

    name: str = field(default="conv1d_to_conv2d", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module without one-dimensional convolutions and poolings."""
        graph = Graph.of(mod)
        if graph is None or not any(n.op in _RAISED for n in graph.nodes):
            return mod
        graph.sweep(_Raiser().visit)
        return graph.to_module()


class _Raiser:
    """State of one sweep: which three-dimensional values are views of four-dimensional ones."""

    def __init__(self) -> None:
        self.raised: dict[relax.Var, relax.Var] = {}

    def visit(self, graph: Graph, node: Node) -> Expr | None:
        if node.op in _RAISED:
            call = self._raise_window(graph, node)
        elif node.op in ELEMENTWISE or node.op == "concat":
            call = self._raise_elementwise(graph, node)
        else:
            return None
        dims = tensors.shape(node.var)
        if call is None or dims is None:
            return None
        ty = relax.TensorType(with_height(dims), tensors.dtype(node.var))
        value = graph.emit(call, node.var.name, ty)
        self.raised[node.var] = value
        return relax.op.reshape(value, dims)  # dead where every user was raised too

    def _raise_window(self, graph: Graph, node: Node) -> Expr | None:
        attrs = attributes(node)
        layouts = {k: v.replace("W", "HW") for k, v in attrs.items() if k.endswith("layout")}
        data_layout = attrs.get("data_layout", attrs.get("layout"))
        if data_layout != "NCW" or attrs["out_layout"] != "NCW" or any(tensors.shape(a) is None for a in node.args):
            return None
        spatial = {k: [_HEIGHT[k], *tensors.ints(attrs[k])] for k in _HEIGHT if k in attrs}
        begin, end = tensors.ints(attrs["padding"])
        args = [self._with_height(graph, a) for a in node.args]
        return make_call(_RAISED[node.op], args, {**attrs, **spatial, **layouts, "padding": [0, begin, 0, end]})

    def _raise_elementwise(self, graph: Graph, node: Node) -> Expr | None:
        parts: Sequence[Expr] = _concat_parts(node) if node.op == "concat" else tensor_operands(node)
        if not any(p in self.raised for p in parts if isinstance(p, relax.Var)) or tensors.rank(node.var) != 3:
            return None
        if any(tensors.shape(p) is None for p in parts):
            return None
        operands = [self._with_height(graph, p) for p in parts]
        if node.op != "concat":
            return on_operands(node, operands)
        axis = int(node.attrs.axis or 0) % 3
        return relax.op.concat(operands, axis + (axis == 2))

    def _with_height(self, graph: Graph, expr: Expr) -> Expr:
        """`expr` with an axis of size one ahead of its last one; unchanged below rank two."""
        if isinstance(expr, relax.Var) and expr in self.raised:
            return self.raised[expr]
        dims = tensors.shape(expr)
        if dims is None or len(dims) < 2:
            return expr
        known = tensors.array(expr)
        if known is not None:
            return tensors.constant(known.reshape(with_height(dims)))
        return graph.emit(relax.op.reshape(expr, with_height(dims)))


def with_height(dims: Sequence[tensors.Dim]) -> tuple[tensors.Dim, ...]:
    """(..., L) -> (..., 1, L)"""
    return (*dims[:-1], 1, dims[-1])


def _concat_parts(node: Node) -> list[Expr]:
    return list(node.args[0].fields) if isinstance(node.args[0], relax.Tuple) else []
