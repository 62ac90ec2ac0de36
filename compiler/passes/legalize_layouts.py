"""Put channels-last operators that no template took, and that TVM lowers channels-first only, between permute_dims."""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .graph import Graph, Node
from .layout_plans import to_first, to_last
from .rebuild import rebuild

# operator -> the attributes that name layouts, and their channels-first values
_CHANNELS_FIRST = {"nn.conv2d_transpose": {"data_layout": "NCHW", "out_layout": "NCHW"}}


@dataclass(frozen=True)
class LegalizeLayouts(Pass):
    """Run transposed convolutions that are left over (no template takes float64, say) channels-first.

    Before:  y = conv2d_transpose(x, w, data_layout="NHWC")
    After:   x1 = permute_dims(x, (0, 3, 1, 2)); y1 = conv2d_transpose(x1, w); y = permute_dims(y1, (0, 2, 3, 1))

    A permute_dims that made `x` from a channels-first tensor is undone rather than followed by its inverse. Comes after
    SelectTemplates. Kernel layouts must be channels-first already.
    """

    name: str = field(default="legalize_layouts", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with such operators channels-first."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        graph.sweep(_channels_first)
        return graph.to_module() if graph.changed else mod


def _channels_first(graph: Graph, node: Node) -> Expr | None:
    wanted = _CHANNELS_FIRST.get(node.op)
    if wanted is None or all(getattr(node.attrs, name) == layout for name, layout in wanted.items()):
        return None
    ndim = tensors.rank(node.var)
    data = _stored_first(graph, node.args[0], ndim)
    result = graph.emit(rebuild(node, [data, *node.args[1:]], **wanted), node.var.name)
    return relax.op.permute_dims(result, to_last(ndim))


def _stored_first(graph: Graph, data: Expr, ndim: int) -> Expr:
    made = graph.producer(data, "permute_dims")
    if made is not None and tensors.permutation(made.attrs, ndim) == to_last(ndim):
        return made.args[0]
    return graph.emit(relax.op.permute_dims(data, to_first(ndim)))
