"""Calls of kernels that only copy their argument in row-major order become reshapes, which cost nothing at run time."""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm
from tvm import relax, tirx
from tvm.ir import Tuple

from . import tensors
from .base import Pass
from .graph import Graph, Node


@dataclass(frozen=True)
class ViewReshapes(Pass):
    """Turn reshapes back from TIR into views.

    Before:  y = call_tir(reshape_kernel, (x,))
    After:   y = reshape(x, shape of y)            # the virtual machine makes a view of x's memory

    Needs functions as legalisation leaves them (sblocks): TVM's own RewriteDataflowReshape aborts on finished loops,
    which templates' kernels consist of; those are skipped here.
    """

    name: str = field(default="view_reshapes", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The same object if no call only reshapes."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        graph.apply({"call_tir": (_as_view,)}, limit=1)
        return graph.to_module() if graph.changed else mod


def _as_view(graph: Graph, node: Node) -> relax.Expr | None:
    gvar, operands = node.args[0], node.args[1]
    if not isinstance(operands, Tuple) or len(operands.fields) != 1 or len(node.args) > 2:
        return None
    source = operands.fields[0]
    func = graph.function(gvar)
    scheduled = func.attrs and func.attrs.get("tirx.is_scheduled")
    dims = tensors.shape(node.var)
    if not isinstance(func, tirx.PrimFunc) or scheduled or dims is None:
        return None
    if tensors.dtype(source) != tensors.dtype(node.var) or not relax.analysis.has_reshape_pattern(func):
        return None
    # TVM also sees the pattern in a kernel that copies the first rows of a tensor: that is no view of all of it.
    before = tensors.shape(source)
    if before is None or not tensors.same_dim(tensors.product(before), tensors.product(dims)):
        return None
    return relax.op.reshape(source, dims)
