"""Cast 16-bit floats to float32 where they are used, rather than once for all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .graph import Graph, Node, typed, variables, with_args

_NARROW = ("float16", "bfloat16")


@dataclass(frozen=True)
class CastAtUses(Pass):
    """Give each reader of a 16-bit tensor in float32 a cast of its own, which fuses into that reader's kernel.

    Before:  w = astype(x, "float32"); y = exp(w); z = softmax(w)            # one kernel would store w, twice as wide
    After:   y = exp(astype(x, "float32")); z = softmax(astype(x, "float32"))

    Comes behind SelectTemplates, when equal values are no longer looked for.
    """

    name: str = field(default="cast_at_uses", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with such casts."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        readers = Counter(v for node in graph.nodes for v in set(variables(node.args)))

        def rule(graph: Graph, node: Node) -> Expr | None:
            found = {v: graph.producer(v, "astype") for v in variables(node.args)}
            wide = {v: made for v, made in found.items() if made is not None and _widens(made) and readers[v] > 1}
            if not wide or node.op == "tuple" or node.cast is not None:
                return None
            own = {v: graph.emit(made.value, ty=v.ty) for v, made in wide.items()}
            return typed(with_args(node.value, [_replaced(a, own) for a in node.args]), node.ty)

        graph.sweep(rule)
        return graph.to_module()


def _widens(node: Node) -> bool:
    return tensors.dtype(node.var) == "float32" and tensors.dtype(node.args[0]) in _NARROW


def _replaced(arg: Expr, own: dict[relax.Var, relax.Var]) -> Expr:
    if isinstance(arg, tvm.ir.Tuple):
        return tvm.ir.Tuple([_replaced(x, own) for x in arg.fields])
    return own.get(arg, arg) if isinstance(arg, relax.Var) else arg
