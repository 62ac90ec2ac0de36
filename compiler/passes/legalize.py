"""Lower the Relax operators that are no anchors to TIR, and fuse elementwise, injective and reduction chains.

Before:  y = softmax(x); z = add(y, b)
After:   z = call_tir(fused_softmax_add, (x, b))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.ir import Call
from tvm.relax import transform

from ..reductions import extreme, extreme_position
from ..schedule.target import Target
from ..size_requirements import free_sizes
from .absorb_casts import absorb_casts
from .base import Pass
from .graph import Graph


@dataclass(frozen=True)
class Legalize(Pass):
    """LegalizeOps with the target's own legalisations first, then ours, then TVM's; and FuseOps and FuseTIR."""

    target: Target
    name: str = field(default="legalize", init=False)

    def run(self, mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
        """Every call in `main` becomes call_tir or a runtime built-in."""
        with self.target.tvm_target(), tvm.transform.PassContext(opt_level=3):
            mod = transform.LegalizeOps({**_EXTREMES, **self.target.legalizations()})(mod)
            return transform.DeadCodeElimination()(_fused(absorb_casts(mod)))


# What TVM says of a size that is written in two ways; the second where one of them is new to a chain of kernels.
_OTHER_SIZES = ("Inconsistent buffers", "VarRemapGet(source) == nullptr")


def _fused(mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
    """`mod` with chains of kernels fused; as it is where TVM cannot tell that two ways to write a size are one.

    FuseTIR compares sizes as they are written: n * 1 is not n to it, nor h * 2 - 1 - 1 h * 2 - 2.
    """
    mark_chains = tvm.transform.Sequential([transform.AnnotateTIROpPattern(), transform.FuseOps()])
    try:
        return transform.FuseTIR()(_sizes_first(mark_chains(mod)))
    except tvm.error.InternalError as error:
        if not any(text in str(error) for text in _OTHER_SIZES):
            raise
        return mod


def _sizes_first(mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
    """`mod` with what uses the sizes that a match_cast tells, and no parameter, behind it: FuseOps puts chains in an
    order that goes by operands alone."""
    graph = Graph.of(mod)
    if graph is None or not any(node.op == "match_cast" for node in graph.nodes):
        return mod
    known = {size for param in mod["main"].params for size in free_sizes(param.ty)}
    tells = {id(n): set(free_sizes(n.cast)) - known for n in graph.nodes if n.cast is not None}
    to_come = set().union(*tells.values()) | {n.var for n in graph.nodes}
    waiting, ordered = deque(graph.nodes), []
    passed_over = 0
    while waiting and passed_over < len(waiting):
        node = waiting.popleft()
        own = tells.get(id(node), set())
        if to_come.intersection({*free_sizes(node.value), *free_sizes(node.ty)} - own - {node.var}):
            waiting.append(node)
            passed_over += 1
            continue
        ordered.append(node)
        to_come -= own | {node.var}
        passed_over = 0
    graph.nodes, graph.changed = [*ordered, *waiting], True
    return graph.to_module()


Legalization = Callable[[relax.BlockBuilder, Call], relax.Expr]


def _extreme(largest: bool) -> Legalization:
    def legalize(bb: relax.BlockBuilder, call: Call) -> relax.Expr:
        axes = _axes(call.attrs.axis, call)
        keepdims = bool(call.attrs.keepdims)
        hint = "max" if largest else "min"
        return bb.call_te(lambda x: extreme(x, axes, keepdims, largest), call.args[0], primfunc_name_hint=hint)

    return legalize


def _extreme_position(largest: bool) -> Legalization:
    def legalize(bb: relax.BlockBuilder, call: Call) -> relax.Expr:
        (axis,) = _axes([call.attrs.axis], call)
        keepdims = bool(call.attrs.keepdims)
        hint = "argmax" if largest else "argmin"
        return bb.call_te(lambda x: extreme_position(x, axis, keepdims, largest), call.args[0], primfunc_name_hint=hint)

    return legalize


def _axes(axes: list[int] | None, call: Call) -> list[int]:
    rank = len(call.args[0].ty.shape)
    return list(range(rank)) if axes is None else sorted(int(a) % rank for a in axes)


_EXTREMES: dict[str, Legalization] = {
    "relax.max": _extreme(largest=True),
    "relax.min": _extreme(largest=False),
    "relax.argmax": _extreme_position(largest=True),
    "relax.argmin": _extreme_position(largest=False),
}
