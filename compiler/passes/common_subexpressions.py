"""Compute equal values once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import GenericConst, Tuple, TupleGetItem
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .graph import Graph, Node

# Larger constants are compared by identity only: reading weights would cost more than it finds.
CONSTANT_BYTES = 4096

# Calls that may give another value each time.
_IMPURE = frozenset(("call_pure_packed", "call_dps_packed", "call_inplace_packed", "other", "match_cast"))


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Replace a value by an earlier one of the same operator, operands and attributes.

    Before:  a = relu(x); b = relu(x); y = add(a, b)
    After:   a = relu(x); y = add(a, a)
    """

    name: str = field(default="common_subexpressions", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module without repeated bindings."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        seen: dict[Hashable, list[Node]] = {}

        def rule(_: Graph, node: Node) -> Expr | None:
            if node.op in _IMPURE or node.op == "alias":
                return None
            same = seen.setdefault((node.op, *map(_key, node.args)), [])
            for earlier in same:
                if _equal(earlier, node):
                    return earlier.var
            same.append(node)
            return None

        graph.sweep(rule)
        return graph.to_module()


def _key(arg: Expr) -> Hashable:
    """Equal arguments have equal keys; unequal ones nearly always differ."""
    if isinstance(arg, Tuple):
        return tuple(map(_key, arg.fields))
    if isinstance(arg, GenericConst):
        known = tensors.array(arg)
        if known is not None and known.nbytes <= CONSTANT_BYTES:
            return str(arg.ty), known.tobytes()
        return arg
    if isinstance(arg, relax.Var | tvm.ir.GlobalVar):
        return arg
    return tvm_ffi.structural_hash(arg, map_free_vars=False)


def _equal(a: Node, b: Node) -> bool:
    """Whether two nodes of equal keys compute the same; their operands are the same or equal small constants."""
    if isinstance(a.value, TupleGetItem):
        return a.value.index == b.value.index
    if not isinstance(a.value, tvm.ir.Call):
        return isinstance(a.value, Tuple)
    others = all(
        tvm_ffi.structural_equal(p, q)
        for p, q in zip(a.args, b.args, strict=True)
        if not isinstance(p, relax.Var | GenericConst | Tuple | tvm.ir.GlobalVar)
    )
    return others and tvm_ffi.structural_equal(a.value.attrs, b.value.attrs) and tvm_ffi.structural_equal(a.ty, b.ty)
