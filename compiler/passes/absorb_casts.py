"""Let kernels read 16-bit floats where a kernel before them did nothing but cast these to float32.

Before:  w = call_tir(cast, (x,)); y = call_tir(softmax, (w,))        # x: float16
After:   y = call_tir(softmax', (x,))                                 # softmax' casts each element that it loads

FuseOps fuses casts into maps and plain reductions only, not into what reads its operand several times.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import TensorLoad
from tvm.ir.expr import TensorRegion
from tvm.relax import Expr

from . import tensors
from .graph import Graph, Node, with_args

_NARROW = ("float16", "bfloat16")


def absorb_casts(mod: tvm.IRModule) -> tvm.IRModule:
    """`mod`, whose operators are call_tir, with such casts inside of their readers."""
    graph = Graph.of(mod)
    if graph is None:
        return mod

    def rule(graph: Graph, node: Node) -> Expr | None:
        if node.op != "call_tir" or not isinstance(node.args[1], tvm.ir.Tuple):
            return None
        function, operands = graph.function(node.args[0]), list(node.args[1].fields)
        name = node.args[0].name_hint
        absorbed = False
        for k, operand in enumerate(operands):
            source = _cast_source(graph, operand)
            narrow = _reading(function, k, tensors.dtype(source)) if source is not None else None
            if source is not None and narrow is not None:
                function, operands[k], absorbed = narrow, source, True
        if not absorbed:
            return None
        gvar = graph.add_function(function, name)
        return with_args(node.value, [gvar, tvm.ir.Tuple(operands), *node.args[2:]])

    graph.sweep(rule)
    return graph.to_module()


def _cast_source(graph: Graph, operand: Expr) -> Expr | None:
    """What `operand`, used nowhere else, is the widening cast of."""
    made = graph.sole_producer(operand, "call_tir")
    # Besides the tensor, there may be sizes.
    fields = list(made.args[1].fields) if made is not None and isinstance(made.args[1], tvm.ir.Tuple) else []
    if made is None or tensors.dtype(operand) != "float32" or [tensors.rank(f) >= 0 for f in fields].count(True) != 1:
        return None
    source = fields[0]
    casts = tensors.dtype(source) in _NARROW and _is_cast(graph.function(made.args[0]))
    return source if casts and isinstance(source, relax.Var) else None


def _is_cast(function: tirx.PrimFunc) -> bool:
    """Whether all that `function` does is to cast each element where it is."""
    stores = _stores(function)
    if len(stores) != 1 or not isinstance(stores[0].value, tirx.Cast):
        return False
    load = stores[0].value.value
    if not isinstance(load, TensorLoad) or len(load.indices) != len(stores[0].indices):
        return False
    return all(a.same_as(b) for a, b in zip(load.indices, stores[0].indices, strict=True))


def _stores(function: tirx.PrimFunc) -> list[tirx.BufferStore]:
    found: list[tirx.BufferStore] = []
    tvm_ffi.structural_walk(function.body, (tirx.BufferStore, found.append), order="post")
    return found


def _reading(function: tirx.PrimFunc, number: int, dtype: str) -> tirx.PrimFunc | None:
    """`function` with parameter `number` of type `dtype`, cast where it is loaded; None if it is a single nest."""
    if (function.attrs and function.attrs.get("tirx.is_scheduled")) or len(_stores(function)) < 2:
        return None
    old = function.params[number]
    if not isinstance(old.ty, tirx.BufferType):
        return None
    new = tirx.decl_buffer(old.shape, dtype, old.name, layout=None)

    def load(node: TensorLoad) -> tirx.Expr:
        return tirx.BufferLoad(new, node.indices).astype(str(old.dtype)) if node.source.same_as(old) else node

    def region(node: TensorRegion) -> TensorRegion:
        return tirx.BufferRegion(new, node.region) if node.source.same_as(old) else node

    body = tvm_ffi.structural_map(function.body, [(TensorLoad, load), (TensorRegion, region)], order="post")
    params = [new if k == number else p for k, p in enumerate(function.params)]
    return tirx.PrimFunc(params, body, function.ret_type, attrs=function.attrs)
