"""Find the groups to fuse: each anchor (convolution, matmul) with the elementwise operators behind it.

    y = conv2d(x, w); z = add(y, b); r = relu(z)      is one group: conv2d(x, w) | add(anchor, i2); relu(s0)

A group may end only at a value which is the only one of the group that the rest of the graph sees. The group of a
matmul or of attention may also take in the permute_dims behind it: the kernel then writes its result in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import tvm
from tvm import relax, tirx

from ..schedule.epilogue import CAST, STEP_OPS
from ..schedule.op_spec import OpSpec, Step
from .anchors import ANCHORS, Anchor, as_stored, is_widening, op_name, tensor_type

# Longer epilogues stop paying: their operands' cache lines evict the tile that is being computed.
MAX_STEPS = 24
# Kinds whose kernels write their result in any order of axes.
_WRITE_PERMUTED = ("matmul", "attention")
# Kinds of anchors whose products may be rounded.
_PRODUCTS = ("matmul", "conv2d")


@dataclass
class Group:
    """An anchor and the bindings fused behind it; `operands` are the OpSpec's inputs, `result` the value it defines."""

    op: OpSpec
    operands: list[relax.Expr]
    result: relax.Var
    members: set[relax.Var]


@dataclass
class _Growth:
    """State while an epilogue grows along the bindings that follow the anchor."""

    anchor: Anchor
    operands: list[relax.Expr]
    refs: dict[relax.Var, str] = field(default_factory=dict)  # fused value -> "anchor" or "sK"
    steps: list[Step] = field(default_factory=list)
    tainted: set[relax.Var] = field(default_factory=set)  # values that depend on a fused value through an unfused one


class GraphUses:
    """Bindings of one dataflow block with the definition and the users of each variable.

    `precision` is what products of float32 may be rounded to ("tf32"), if anything.
    """

    def __init__(self, function: relax.Function, precision: str | None = None):
        self.precision = precision
        self.bindings = [b for block in function.body.blocks for b in block.bindings]
        self.index = {b.var: k for k, b in enumerate(self.bindings)}
        self.producers: dict[relax.Var, relax.Expr] = {b.var: b.value for b in self.bindings}
        self.arguments = {b.var: _variables(b.value) for b in self.bindings}
        self.users: dict[relax.Var, list[relax.Var]] = {}
        for var, args in self.arguments.items():
            for arg in args:
                self.users.setdefault(arg, []).append(var)
        self.outputs = set(_variables(function.body.body))
        self.claimed: set[relax.Var] = set()


def _variables(expr: relax.Expr) -> list[relax.Var]:
    found: list[relax.Var] = []
    relax.analysis.post_order_visit(expr, lambda e: found.append(e) if isinstance(e, relax.Var) else None)
    return found


def find_group(graph: GraphUses, var: relax.Var, accepts: Callable[[OpSpec], bool]) -> Group | None:
    """The largest group anchored at the binding of `var` that `accepts` takes, or None if it takes none at all."""
    call = graph.producers[var]
    for producers in (graph.producers, {}):  # operands as they lie in memory; as the model has them
        anchor = ANCHORS[op_name(call)](call, producers)
        group = _grown(graph, var, anchor, accepts) if anchor is not None else None
        if group is not None:
            return group
        if anchor is None or all(a is b for a, b in zip(anchor.operands, call.args, strict=False)):
            break
    return None


def _grown(graph: GraphUses, var: relax.Var, anchor: Anchor, accepts: Callable[[OpSpec], bool]) -> Group | None:
    """The largest group around `anchor`, which `var` is bound to, that `accepts` takes."""
    growth = _Growth(anchor, list(anchor.operands), {var: "anchor"})
    closed = [(var, 0, len(growth.operands))] if _sole_escape(graph, growth) is not None else []
    for binding in graph.bindings[graph.index[var] + 1 :]:
        if len(growth.steps) >= MAX_STEPS or not _pending(graph, growth):
            break
        if _extend(graph, growth, var, binding):
            last = _sole_escape(graph, growth)
            if last is not None:
                closed.append((last, len(growth.steps), len(growth.operands)))
    for result, steps, operands in reversed(closed):
        group = _make_group(growth, var, result, steps, operands, graph.precision)
        for choice in (_with_permute(graph, group), group):
            if choice is not None and accepts(choice.op):
                graph.claimed |= choice.members
                # A later anchor must not look through a permute_dims to the value that this kernel never stores.
                graph.producers.pop(choice.result)
                return choice
    return None


def _with_permute(graph: GraphUses, group: Group) -> Group | None:
    """The group with the permute_dims that is the only user of its result taken in, for kinds that can write so."""
    users = graph.users.get(group.result, [])
    if group.op.kind not in _WRITE_PERMUTED or group.result in graph.outputs or len(users) != 1:
        return None
    user = users[0]
    if user in graph.claimed or op_name(graph.producers[user]) != "permute_dims":
        return None
    call = graph.producers[user]
    rank = len(group.result.ty.shape)
    axes = tuple(range(rank))[::-1] if call.attrs.axes is None else tuple(int(a) % rank for a in call.attrs.axes)
    op = replace(
        group.op, attrs=tuple(sorted({**dict(group.op.attrs), "out_perm": axes}.items())), output=tensor_type(user)
    )
    return Group(op, group.operands, user, group.members | {user})


def _pending(graph: GraphUses, growth: _Growth) -> bool:
    """Whether some use of a fused value has not been looked at yet."""
    seen = growth.refs.keys() | growth.tainted
    return any(user not in seen for v in growth.refs for user in graph.users.get(v, ()))


def _extend(graph: GraphUses, growth: _Growth, anchor: relax.Var, binding: relax.VarBinding) -> bool:
    """Fuse `binding` as one more step if it is elementwise on fused values; otherwise note what it taints."""
    args = graph.arguments[binding.var]
    if not any(a in growth.refs or a in growth.tainted for a in args):
        return False
    step_args = None
    if binding.var not in graph.claimed and not any(a in growth.tainted for a in args):
        step_args = _step_args(graph, growth, anchor, binding)
    if step_args is None:
        growth.tainted.add(binding.var)
        return False
    growth.refs[binding.var] = f"s{len(growth.steps)}"
    growth.steps.append(Step(op_name(binding.value), step_args, str(binding.var.ty.dtype)))
    return True


def _step_args(
    graph: GraphUses, growth: _Growth, anchor: relax.Var, binding: relax.VarBinding
) -> tuple[str | float, ...] | None:
    call = binding.value
    if op_name(call) not in (CAST, *STEP_OPS) or not _fits(growth, anchor, binding):
        return None
    new_operands: list[relax.Expr] = []
    refs: list[str | float] = []
    for arg in [*call.args, *_attribute_arguments(call)]:
        if isinstance(arg, (float, int)):
            refs.append(float(arg))
        elif isinstance(arg, tirx.FloatImm | tirx.IntImm):
            refs.append(float(arg.value))
        elif isinstance(arg, relax.Var) and arg in growth.refs:
            refs.append(growth.refs[arg])
        else:
            literal = _scalar_constant(arg)
            if literal is not None:
                refs.append(literal)
            elif str(arg.ty.dtype) != str(binding.var.ty.dtype) or len(arg.ty.shape) > len(anchor.ty.shape):
                return None
            else:
                refs.append(_operand(growth, new_operands, as_stored(arg, graph.producers)))
    growth.operands.extend(new_operands)
    return tuple(refs)


def _operand(growth: _Growth, new: list[relax.Expr], arg: relax.Expr) -> str:
    first = len(growth.anchor.operands)
    known = [*growth.operands, *new]
    for k in range(first, len(known)):
        if known[k].same_as(arg):
            return f"i{k}"
    new.append(arg)
    return f"i{len(known)}"


def _attribute_arguments(call: tvm.ir.Call) -> list[float]:
    return [float(call.attrs.alpha)] if op_name(call) == "nn.leakyrelu" else []


def _scalar_constant(expr: relax.Expr) -> float | None:
    if isinstance(expr, tvm.ir.GenericConst) and all(int(d) == 1 for d in expr.ty.shape):
        return float(expr.value.numpy().reshape(-1)[0])
    return None


def _fits(growth: _Growth, anchor: relax.Var, binding: relax.VarBinding) -> bool:
    """Whether a step's result has the anchor's shape, and its type or the one that sums of narrower operands become."""
    if tensor_type(binding.var).shape != tensor_type(anchor).shape:
        return False
    if is_widening(binding.value):
        return False  # what was rounded is to be stored so
    operands = {str(x.ty.dtype) for x in growth.anchor.operands[:2]}
    if str(anchor.ty.dtype) in operands:
        return op_name(binding.value) != CAST and str(binding.var.ty.dtype) == str(anchor.ty.dtype)
    return True


def _sole_escape(graph: GraphUses, growth: _Growth) -> relax.Var | None:
    """The only fused value used outside the group, or None if there are several."""
    escaping = [
        v for v in growth.refs if v in graph.outputs or any(u not in growth.refs for u in graph.users.get(v, ()))
    ]
    last = f"s{len(growth.steps) - 1}" if growth.steps else "anchor"
    return escaping[0] if len(escaping) == 1 and growth.refs[escaping[0]] == last else None


def _make_group(
    growth: _Growth, anchor: relax.Var, result: relax.Var, steps: int, operands: int, precision: str | None
) -> Group:
    inputs = growth.operands[:operands]
    attrs = dict(growth.anchor.attrs)
    if precision and growth.anchor.kind in _PRODUCTS and all(str(x.ty.dtype) == "float32" for x in inputs[:2]):
        attrs["precision"] = precision
    op = OpSpec(
        kind=growth.anchor.kind,
        inputs=tuple(tensor_type(x) for x in inputs),
        constant=tuple(isinstance(x, tvm.ir.GenericConst) for x in inputs),
        attrs=tuple(sorted(attrs.items())),
        anchor_type=tensor_type(anchor),
        output=tensor_type(result),
        epilogue=tuple(growth.steps[:steps]),
    )
    members = {v for v, ref in growth.refs.items() if ref == "anchor" or int(ref[1:]) < steps}
    return Group(op, inputs, result, members)
