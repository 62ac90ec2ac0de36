"""A light view of the dataflow block of `main` that passes read and rewrite.

Relax's own mutators re-infer the type of every call they touch (1 ms for each convolution or pooling); here a value
keeps its variable and type when its definition is replaced by an equal one, so that only real changes cost anything.

    graph = Graph.of(mod)
    graph.sweep(rule)                 # rule(graph, node) -> None (keep), or an equal value to take the node's place
    mod = graph.to_module()           # dead bindings are gone; the same object if nothing changed
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import tvm
from tvm import relax
from tvm.ir import Call, GenericConst, Tuple, TupleGetItem
from tvm.relax import Expr
from tvm.relax.expr import _update_type

Rule = Callable[["Graph", "Node"], "Expr | None"]

LEAVES = (relax.Var, GenericConst)


class Node:
    """One binding: `var` is defined as `value`.

    `op` is the Relax operator's name without "relax." for calls ("nn.conv2d", "call_tir"), else "tuple", "get_item",
    "alias" (another variable or a constant), "match_cast" or "other". `args` are a call's arguments, a tuple's fields
    or the one operand.
    """

    __slots__ = ("args", "cast", "op", "value", "var")

    def __init__(self, var: relax.Var, value: Expr, cast: tvm.ir.Type | None = None):
        self.var = var
        self.value = value
        self.cast = cast
        self.op, self.args = _describe(value)
        if cast is not None:
            self.op = "match_cast"

    @property
    def attrs(self) -> tvm.ir.Attrs:
        """The call's attributes."""
        return self.value.attrs

    @property
    def ty(self) -> tvm.ir.Type:
        """Type of the value defined here."""
        return self.var.ty

    def renamed(self, names: Mapping[relax.Var, Expr]) -> Node:
        """This node with variables of its operands replaced; the same object if none is."""
        value = substitute(self.value, names)
        return self if value is self.value else Node(self.var, value, self.cast)

    def __repr__(self) -> str:
        return f"{self.var.name} = {self.op}"


def _describe(value: Expr) -> tuple[str, tuple[Expr, ...]]:
    if isinstance(value, Call):
        name = str(value.op.name).removeprefix("relax.") if isinstance(value.op, tvm.ir.Op) else "other"
        return name, tuple(value.args)
    if isinstance(value, Tuple):
        return "tuple", tuple(value.fields)
    if isinstance(value, TupleGetItem):
        return "get_item", (value.tuple_value,)
    return ("alias", (value,)) if isinstance(value, LEAVES) else ("other", ())


class Graph:
    """The bindings of one dataflow block in order, with producers and use counts."""

    def __init__(self, mod: tvm.IRModule, gvar: tvm.ir.GlobalVar, func: relax.Function, position: int):
        self._mod, self._gvar, self._func, self._position = mod, gvar, func, position
        block = func.body.blocks[position]
        self.nodes = [Node(b.var, b.value, b.ty if isinstance(b, relax.MatchCast) else None) for b in block.bindings]
        self.params: tuple[relax.Var, ...] = tuple(func.params)
        self.outputs = {n.var for n in self.nodes if not isinstance(n.var, relax.DataflowVar)}
        self.changed = False
        self._builder = relax.BlockBuilder(mod)
        self._added: dict[tvm.ir.GlobalVar, tvm.ir.BaseFunc] = {}
        self._renames: dict[relax.Var, Expr] = {}
        self._producers = {n.var: n for n in self.nodes}
        self.uses: dict[relax.Var, int] = {}
        self._count_uses()

    @classmethod
    def of(cls, mod: tvm.IRModule) -> Graph | None:
        """The view of `main`'s only dataflow block; None if `main` has none, or several."""
        found = [(v, f) for v, f in mod.functions_items() if v.name_hint == "main" and isinstance(f, relax.Function)]
        if not found or not isinstance(found[0][1].body, relax.SeqExpr):
            return None
        gvar, func = found[0]
        blocks = [k for k, b in enumerate(func.body.blocks) if isinstance(b, relax.DataflowBlock)]
        return cls(mod, gvar, func, blocks[0]) if len(blocks) == 1 else None

    # Reading

    def producer(self, expr: Expr, *ops: str) -> Node | None:
        """The node that defines `expr` in this block, if any; with `ops` given, only if it is one of those."""
        node = self._producers.get(expr) if isinstance(expr, relax.Var) else None
        return node if node is not None and (not ops or node.op in ops) else None

    def sole_use(self, expr: Expr) -> bool:
        """Whether one place uses the value `expr` of this block. Values made during a sweep count as used once."""
        return isinstance(expr, relax.Var) and expr in self._producers and self.uses.get(expr, 1) == 1

    def sole_producer(self, expr: Expr, *ops: str) -> Node | None:
        """The node that defines `expr`, as `producer` finds it, if one place only uses `expr`."""
        return self.producer(expr, *ops) if self.sole_use(expr) else None

    def function(self, name: tvm.ir.GlobalVar) -> tvm.ir.BaseFunc:
        """The module's function called by a call_tir node."""
        added = self._added.get(name)
        return self._mod[name] if added is None else added

    # Rewriting

    def sweep(self, rule: Rule) -> bool:
        """Visit all nodes in order, their arguments already rewritten; whether anything was replaced.

        `rule` returns None to keep the node, a variable or constant to use in its place, or a new call (a tuple, ...)
        that has the same type. It may `emit` values that the new call needs.
        """
        before, self.nodes = self.nodes, []
        self._producers = {}
        replaced = False
        for node in before:
            node = node.renamed(self._renames)
            value = rule(self, node)
            if value is None:
                self._append(node)
            else:
                replaced = True
                self._replace(node, value)
        self.changed |= replaced
        self._count_uses()
        return replaced

    def apply(self, rules: Mapping[str, Sequence[Rule]], limit: int = 10) -> bool:
        """Sweep with `rules` (operator name -> rules, tried in order) until nothing changes, `limit` times at most."""

        def rule(graph: Graph, node: Node) -> Expr | None:
            for candidate in rules.get(node.op, ()):
                value = candidate(graph, node)
                if value is not None:
                    return value
            return None

        swept = [self.sweep(rule)]
        while swept[-1] and len(swept) < limit:
            swept.append(self.sweep(rule))
        return swept[0]

    def emit(self, value: Expr, name: str = "", ty: tvm.ir.Type | None = None) -> relax.Var:
        """Bind `value` to a new variable ahead of the node being visited.

        `ty` saves inferring the type, which takes 1 ms for convolutions and poolings.
        """
        value = typed(value, ty) if ty is not None else self._builder.normalize(value)
        var = relax.DataflowVar(name or "lv", value.ty)
        self._append(Node(var, value))
        return var

    def match_cast(self, value: Expr, ty: tvm.ir.Type, name: str = "") -> relax.Var:
        """Bind `value`, checked at run time to have the type `ty`, to a new variable."""
        var = relax.DataflowVar(name or "lv", ty)
        self._append(Node(var, value, ty))
        return var

    def add_function(self, func: tvm.ir.BaseFunc, name: str) -> tvm.ir.GlobalVar:
        """Add `func` to the module under a fresh name like `name`; the same function gets the same name."""
        gvar = self._builder.add_func(func, name)
        self._added[gvar] = func
        return gvar

    def take_nodes(self) -> list[Node]:
        """Empty the graph, for a pass that puts all nodes back itself with `emit` and `keep`, definitions first."""
        before, self.nodes = self.nodes, []
        self._producers = {}
        self.changed = True
        return before

    def keep(self, node: Node) -> None:
        """Put back a node, after `take_nodes`."""
        self._append(node)

    def to_module(self) -> tvm.IRModule:
        """The module with this block rewritten, without dead bindings; the original object if nothing changed."""
        nodes = list(self._live())
        if not self.changed and len(nodes) == len(self.nodes):
            return self._mod
        bindings = [
            relax.VarBinding(n.var, n.value) if n.cast is None else relax.MatchCast(n.var, n.value, n.cast)
            for n in nodes
        ]
        func = self._func
        blocks = list(func.body.blocks)
        blocks[self._position] = relax.DataflowBlock(bindings)
        body = relax.SeqExpr(blocks, func.body.body)
        _update_type(body, func.body.ty)
        functions = {**dict(self._mod.functions_items()), **self._added}
        mod = tvm.IRModule(functions, attrs=self._mod.attrs, global_infos=self._mod.global_infos)
        mod[self._gvar] = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)
        return mod

    # Internals

    def _append(self, node: Node) -> None:
        self.nodes.append(node)
        self._producers[node.var] = node

    def _replace(self, node: Node, value: Expr) -> None:
        if not isinstance(value, LEAVES):
            self._append(Node(node.var, typed(value, node.ty)))
            return
        self._renames[node.var] = value
        if node.var in self.outputs:
            self._append(Node(node.var, value))

    def _count_uses(self) -> None:
        self.uses = dict.fromkeys(self._producers, 0)
        for param in self.params:
            self.uses[param] = 0
        for var in self.outputs:
            self.uses[var] += 1
        for node in self.nodes:
            for var in variables(node.args):
                self.uses[var] = self.uses.get(var, 0) + 1

    def _live(self) -> Iterator[Node]:
        live = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if node.var in live or node.op == "match_cast":
                live.update(variables(node.args))
                kept.append(node)
        return reversed(kept)


def substitute(expr: Expr, names: Mapping[relax.Var, Expr]) -> Expr:
    """`expr` with variables replaced; the same object if it mentions none of them."""
    if not names:
        return expr
    if isinstance(expr, relax.Var):
        return names.get(expr, expr)
    parts = _describe(expr)[1]
    if not parts or isinstance(expr, GenericConst):
        return expr
    renamed = [substitute(p, names) for p in parts]
    if all(a is b for a, b in zip(parts, renamed, strict=True)):
        return expr
    return with_args(expr, renamed)


def variables(args: Sequence[Expr]) -> Iterator[relax.Var]:
    """The variables in a node's arguments, tuples opened up."""
    for arg in args:
        if isinstance(arg, relax.Var):
            yield arg
        elif isinstance(arg, Tuple):
            yield from variables(tuple(arg.fields))


def with_args(expr: Expr, args: Sequence[Expr]) -> Expr:
    """The call, tuple or projection `expr` on other arguments of the same types; its own type is kept."""
    if isinstance(expr, Call):
        return Call(expr.op, list(args), expr.attrs, expr.ty_args, expr.span, ret_ty=expr.ty)
    if isinstance(expr, Tuple):
        return Tuple(list(args))
    if isinstance(expr, TupleGetItem):
        return TupleGetItem(args[0], expr.index)
    return args[0]


def typed(expr: Expr, ty: tvm.ir.Type) -> Expr:
    """The newly made `expr` with its type set to `ty` rather than inferred (tuples know theirs)."""
    if expr.ty.is_missing():
        _update_type(expr, ty)
    elif isinstance(expr, Call) and not expr.ty.same_as(ty):
        return Call(expr.op, expr.args, expr.attrs, expr.ty_args, expr.span, ret_ty=ty)
    return expr
