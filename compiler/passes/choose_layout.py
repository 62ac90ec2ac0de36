"""Choose for each tensor whether it is stored channels-first or channels-last, and rewrite the graph accordingly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import tvm
from tvm import relax, tirx
from tvm.ir import GenericConst, Tuple
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .graph import Graph, Node, substitute, variables
from .layout_plans import PLANNERS, Plan, Side, elements, is_free, permuted, to_first, to_last
from .min_cut import INFINITE, MinCut
from .relayout_prim_func import channels_last

# A moved element costs SCALE; a change of storage that moves nothing costs 1, so that it is not done for nothing.
SCALE = 16


@dataclass(frozen=True)
class ChooseLayout(Pass):
    """Run conv2d and conv2d_transpose channels-last, and everything else so that the fewest elements are transposed.

    Before:  y = conv2d(x, w); z = add(y, b); u = mean(relu(z), (2, 3))          x: (N, C, H, W), b: (C, 1, 1)
    After:   x1 = permute_dims(x, (0, 2, 3, 1)); y1 = conv2d(x1, w, data_layout="NHWC"); z1 = add(y1, b of shape (C,));
             u = mean(relu(z1), (1, 2))

    Every operator that can work on either storage (elementwise ones, poolings, reductions, concat, reshapes that keep
    batch and channels, channel shuffles, PrimFuncs of tensor expressions, ...) is a two-way choice; a tensor whose
    maker and users differ is transposed once. The assignment with the fewest transposed elements is a minimum cut,
    found exactly. Inputs, outputs and operators without a plan stay channels-first. Kernel layouts stay OIHW and IOHW.

    Needs channels-first convolutions; models without conv2d are returned as they are. Simplify afterwards merges what
    is left of reshapes and permute_dims.
    """

    name: str = field(default="choose_layout", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with chosen layouts."""
        graph = Graph.of(mod)
        if graph is None or not any(n.op in ("nn.conv2d", "nn.conv2d_transpose") for n in graph.nodes):
            return mod
        plans = _Plans(graph)
        chosen = _choose(graph, plans)
        _Rewriter(graph, plans, chosen).run()
        return graph.to_module()


class _Plans:
    """The plan of every node; nodes without one read and make "first" only."""

    def __init__(self, graph: Graph):
        self._by_var = {n.var: self._plan(graph, n) for n in graph.nodes}

    def __getitem__(self, node: Node) -> Plan:
        return self._by_var[node.var]

    def _plan(self, graph: Graph, node: Node) -> Plan:
        special = {"call_tir": self._call_tir, "match_cast": _match_cast, "alias": _alias}
        planner = special.get(node.op, PLANNERS.get(node.op))
        known = tensors.shape(node.var) is not None or isinstance(node.ty, relax.TupleType)
        plan = planner(graph, node) if planner is not None and known else None
        if plan is None or not _has_storages(plan, node):
            return Plan(list(variables(node.args)), reads=Side.FIRST, makes=Side.FIRST)
        return plan

    def _call_tir(self, graph: Graph, node: Node) -> Plan | None:
        """A PrimFunc on four-dimensional tensors can be rewritten for any storage of its buffers."""
        gvar, args = node.args[0], node.args[1]
        if len(node.args) != 2 or not isinstance(args, Tuple) or tensors.rank(node.var) != 4:
            return None
        moved = [k for k, a in enumerate(args.fields) if tensors.rank(a) == 4]
        func = graph.function(gvar)
        if not moved or not isinstance(func, tirx.PrimFunc) or any(tensors.rank(a) > 4 for a in args.fields):
            return None
        relaid = channels_last(func, {*moved, len(args.fields)})
        if relaid is None or len(func.params) != len(args.fields) + 1:
            return None

        def last(graph: Graph, operands: Sequence[Expr]) -> Expr:
            fresh = dict(zip(moved, operands, strict=True))
            fields = [fresh.get(k, a) for k, a in enumerate(args.fields)]
            ty = relax.TensorType(permuted(tensors.known_shape(node.var), to_last(4)), tensors.dtype(node.var))
            name = graph.add_function(relaid, f"{gvar.name_hint}_nhwc")
            return relax.call_tir(name, Tuple(fields), ty)

        return Plan([args.fields[k] for k in moved], last)


def _match_cast(_: Graph, node: Node) -> Plan | None:
    same_rank = tensors.rank(node.args[0]) == tensors.rank(node.var) and tensors.shape(node.args[0]) is not None
    return Plan([node.args[0]], lambda _, moved: moved[0]) if same_rank else None


def _alias(graph: Graph, node: Node) -> Plan | None:
    return None if node.var in graph.outputs else Plan([node.args[0]], lambda _, moved: moved[0])


def _has_storages(plan: Plan, node: Node) -> bool:
    """Whether what the plan is to move has three dimensions at least."""
    if plan.reads in (Side.FIRST, Side.ANY):
        return True
    made = tensors.rank(node.var) > 2 or plan.makes is Side.FIRST or not isinstance(node.ty, relax.TensorType)
    read = any(tensors.rank(o) > 2 for o in plan.operands) or node.op == "get_item"
    return made and read and (plan.align or all(tensors.rank(o) > 2 or node.op == "get_item" for o in plan.operands))


@dataclass(frozen=True)
class _Chosen:
    """Per node: whether it reads, and whether it makes, "last"."""

    reads: dict[relax.Var, bool]
    makes: dict[relax.Var, bool]


def _choose(graph: Graph, plans: _Plans) -> _Chosen:
    """The cheapest assignment; "last" is the source side, so that ties keep epilogues with their convolution."""
    cut = MinCut()
    fixed = {Side.FIRST: MinCut.SINK, Side.LAST: MinCut.SOURCE}
    reads: dict[relax.Var, int] = {}
    makes: dict[relax.Var, int] = dict.fromkeys(graph.params, MinCut.SINK)
    users: dict[relax.Var, set[int]] = {v: {MinCut.SINK} for v in graph.outputs}
    absorbed = {v for node in graph.nodes for v in plans[node].absorbs}
    for node in graph.nodes:
        plan = plans[node]
        own = cut.choice() if Side.CHOSEN in (plan.reads, plan.makes) else MinCut.SINK
        reads[node.var] = fixed.get(plan.reads, own)
        makes[node.var] = fixed.get(plan.makes, own)
        if plan.first_cost:
            cut.cost(MinCut.SOURCE, own, plan.first_cost * SCALE)
        if node.var in absorbed:
            continue
        for operand in variables(plan.operands):
            if plan.reads is not Side.ANY:
                small = plan.align and tensors.rank(operand) < tensors.rank(node.var)
                users.setdefault(operand, set()).add(MinCut.SINK if small else reads[node.var])
        for other in _others(node, plan):
            users.setdefault(other, set()).add(MinCut.SINK)
    for var, choices in users.items():
        _price(cut, makes.get(var, MinCut.SINK), choices, _move_cost(var))
    last = cut.solve()
    return _Chosen({v: last[c] for v, c in reads.items()}, {v: last[c] for v, c in makes.items()})


def _others(node: Node, plan: Plan) -> set[relax.Var]:
    """Variables that the node reads "first" whatever is chosen for it: weights that are inputs, say."""
    return set(variables(node.args)) - set(variables(plan.operands)) - set(plan.absorbs)


def _move_cost(var: relax.Var) -> int:
    """Cost of changing the storage of `var`: none below three dimensions, not to be had for tuples."""
    if not isinstance(var.ty, relax.TensorType):
        return INFINITE
    dims = tensors.shape(var)
    if dims is None or len(dims) < 3:
        return 0
    return 1 if is_free(dims) else elements(var) * SCALE


def _price(cut: MinCut, maker: int, users: set[int], amount: int) -> None:
    """`amount` is paid once if any user's choice is not the maker's."""
    others = sorted(users - {maker})
    if not others or not amount:
        return
    if len(others) == 1:
        cut.cost(maker, others[0], amount, amount)
        return
    first_copy, last_copy = cut.choice(), cut.choice()
    cut.cost(maker, first_copy, amount)
    cut.cost(last_copy, maker, amount)
    for user in others:
        cut.cost(first_copy, user, INFINITE)
        cut.cost(user, last_copy, INFINITE)


class _Rewriter:
    """Rebuilds the nodes with the chosen storages; changes of storage are made at first use and then shared."""

    def __init__(self, graph: Graph, plans: _Plans, chosen: _Chosen):
        self.graph, self.plans, self.chosen = graph, plans, chosen
        self.first: dict[relax.Var, Expr] = {p: p for p in graph.params}
        self.last: dict[relax.Var, Expr] = {}

    def run(self) -> None:
        """Replace the graph's nodes."""
        for node in self.graph.take_nodes():
            plan = self.plans[node]
            if plan.last is not None and (self.chosen.reads[node.var] or self.chosen.makes[node.var]):
                self._rewrite(node, plan, plan.last)
            else:
                self._keep(node)

    def _keep(self, node: Node) -> None:
        """A node that reads and makes "first"."""
        renames = {v: self._stored_first(v) for v in variables(node.args)}
        self.graph.keep(node.renamed(renames))
        self.first[node.var] = node.var

    def _rewrite(self, node: Node, plan: Plan, last: Callable[[Graph, Sequence[Expr]], Expr]) -> None:
        """A node that reads or makes "last"."""
        ndim = tensors.rank(node.var) if plan.align else None
        operands = [self._operand(o, plan.reads, self.chosen.reads[node.var], ndim) for o in plan.operands]
        makes_last = self.chosen.makes[node.var]
        others = {v: self._stored_first(v) for v in _others(node, plan)}
        value = substitute(last(self.graph, operands), others)
        ty = _last_type(node.ty) if makes_last else node.ty
        if node.op == "match_cast":
            value = self.graph.match_cast(value, ty, node.var.name)
        elif not isinstance(value, relax.Var):
            value = self.graph.emit(value, node.var.name, ty if isinstance(ty, relax.TensorType) else None)
        (self.last if makes_last else self.first)[node.var] = value
        if node.var in self.graph.outputs:
            result = self._stored_first(node.var)
            self.graph.keep(Node(node.var, result))
            self.first[node.var] = node.var

    def _operand(self, expr: Expr, side: Side, reads_last: bool, align: int | None) -> Expr:
        if side is Side.ANY:
            return self.last.get(expr, self.first.get(expr, expr))
        if not reads_last:
            return self._stored_first(expr)
        if isinstance(expr, GenericConst):
            return _constant_last(expr, align)
        if align is not None and tensors.rank(expr) < align:
            return self._aligned(self._stored_first(expr), align)
        return self._stored_last(expr)

    def _stored_first(self, expr: Expr) -> Expr:
        if expr not in self.first and expr in self.last:
            self.first[expr] = self._permute(self.last[expr], to_first)
        return self.first.get(expr, expr)

    def _stored_last(self, expr: Expr) -> Expr:
        if expr not in self.last:
            self.last[expr] = self._permute(self.first[expr], to_last)
        return self.last[expr]

    def _permute(self, expr: Expr, order: Callable[[int], tuple[int, ...]]) -> Expr:
        dims = tensors.known_shape(expr)
        if len(dims) < 3:
            return expr  # only one storage
        axes = order(len(dims))
        channels_first = dims if order is to_last else permuted(dims, axes)
        if is_free(channels_first):
            return self.graph.emit(relax.op.reshape(expr, permuted(dims, axes)), expr.name)
        return self.graph.emit(relax.op.permute_dims(expr, axes), expr.name)

    def _aligned(self, expr: Expr, ndim: int) -> Expr:
        """A small tensor, such as (C, 1, 1), reshaped to broadcast against "last" tensors of `ndim` dimensions."""
        dims = tensors.known_shape(expr)
        padded = (1,) * (ndim - len(dims)) + dims
        if all(tensors.is_one(d) for d in dims):
            return expr
        return self.graph.emit(relax.op.reshape(expr, permuted(padded, to_last(ndim))))


def _last_type(ty: relax.Type) -> relax.Type:
    if not isinstance(ty, relax.TensorType) or ty.ndim < 3:
        return ty
    return relax.TensorType(permuted(list(ty.shape), to_last(ty.ndim)), str(ty.dtype))


def _constant_last(expr: GenericConst, align: int | None) -> Expr:
    """A constant stored "last"; with `align` it may have any rank and leading axes of size one are dropped."""
    value = tensors.array(expr)
    if value is None or (value.size == 1 and align is not None):
        return expr
    ndim = align or value.ndim
    moved = value.reshape((1,) * (ndim - value.ndim) + value.shape).transpose(to_last(ndim))
    while align is not None and moved.ndim > 1 and moved.shape[0] == 1:
        moved = moved[0]
    return tensors.constant(moved)
