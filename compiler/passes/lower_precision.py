"""Let the products of a float32 model be computed in float16, and what lies between its kernels be stored in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.ir import GenericConst, Tuple
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .elementwise import ELEMENTWISE
from .graph import Graph, Node, typed, variables, with_args

WIDE, NARROW = "float32", "float16"
LARGEST = float(np.finfo(NARROW).max)
# Operators whose operands become float16; they sum in float32.
PRODUCTS = frozenset(["matmul", "nn.conv2d", "nn.conv2d_transpose"])
# What only moves numbers does so in float16.
MOVES = frozenset(
    ["reshape", "permute_dims", "expand_dims", "squeeze", "broadcast_to", "strided_slice", "nn.max_pool2d", "concat"]
)
# Kernels of their own: what they read is stored in float16, and computed with in float32.
READERS = frozenset(
    [
        "nn.softmax", "nn.log_softmax", "nn.layer_norm", "nn.instance_norm", "nn.group_norm", "nn.rms_norm",
        "nn.avg_pool2d", "mean", "sum", "max", "min",
    ]
)  # fmt: skip
# Elements from which on a table that is looked up counts as weights.
_TABLE = 1 << 14
# Operators looked through in search of numbers that float16 does not have.
_LOOK_BACK = 32


@dataclass(frozen=True)
class LowerPrecision(Pass):
    """Operands of matmuls and convolutions become float16, and so does all that is stored behind the first of them.

    Before:  y = matmul(x, W); z = relu(add(y, b)); s = softmax(z)                        # float32
    After:   h = astype(x, "float16"); y = matmul(astype(h, "float32"), rounded W)
             z = relu(add(y, b)); k = astype(z, "float16"); s = softmax(astype(k, "float32"))

    Sums, elementwise operators, softmax, normalisations and means compute in float32 and round where their result is
    stored. Inputs and outputs of the model keep their types. Finite numbers beyond those of float16 become its largest
    ones, in weights and where constants or inputs of the model may bring them in (masks): what masks a whole row leaves
    all its scores alike, as in float32, where infinities would make NaN of it. NarrowOperands then lets the templates
    multiply float16, and fusion leaves no value of float32 between kernels that compute with the model's data.
    Comes before the layout phase, when weights have taken in what scales them.
    """

    name: str = field(default="lower_precision", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module in lower precision."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        lowering = _Lowering(*_stored(graph))
        graph.sweep(lowering.rule)
        return graph.to_module()


def _stored(graph: Graph) -> tuple[set[relax.Var], set[relax.Var]]:
    """float32 values to keep in float16, as a kernel of its own reads them; and all that products made."""
    made: set[relax.Var] = set()
    stored: set[relax.Var] = set()
    for node in graph.nodes:
        read = _wide(node)
        if node.op in PRODUCTS:
            stored.update(read)
        elif node.op in MOVES | READERS:
            stored.update(v for v in read if v in made)
        known = node.op in ELEMENTWISE | MOVES | READERS and any(v in made for v in read)
        if node.op in PRODUCTS or known or _is_look_up(node):
            made.add(node.var)
    return stored | _handed_over(graph, stored), made


def _handed_over(graph: Graph, stored: set[relax.Var]) -> set[relax.Var]:
    """What elementwise operators join several products by: the first one's kernel reads what the others store."""
    maker: dict[relax.Var, int] = {}  # number of the product whose kernel computes a value
    found: set[relax.Var] = set()
    for number, node in enumerate(graph.nodes):
        if node.op in PRODUCTS:
            first: int | None = number
        elif node.op in ELEMENTWISE:
            makers = {v: maker[v] for v in _wide(node) if v in maker}
            first = min(makers.values(), default=None)
            found.update(v for v, made in makers.items() if made != first)
        else:
            first = None
        if first is not None and node.var not in stored:
            maker[node.var] = first
    return found


def _wide(node: Node) -> list[relax.Var]:
    return [v for v in variables(node.args) if tensors.dtype(v) == WIDE]


def _is_look_up(node: Node) -> bool:
    """Whether rows of a large constant are taken."""
    table = tensors.static_shape(node.args[0]) if node.op == "take" else None
    return table is not None and isinstance(node.args[0], GenericConst) and int(np.prod(table)) >= _TABLE


class _Lowering:
    """Holds what is already known in float16, by the float32 variable that stands for it."""

    def __init__(self, stored: set[relax.Var], made: set[relax.Var]) -> None:
        self.stored, self.made = stored, made
        self.narrow: dict[relax.Var, Expr] = {}

    def rule(self, graph: Graph, node: Node) -> Expr | None:
        """The node as PRODUCTS, MOVES and values to be stored want it."""
        if tensors.dtype(node.var) != WIDE:
            return None
        if node.op in PRODUCTS:
            value: Expr = typed(with_args(node.value, [self._operand(graph, x) for x in node.args]), node.ty)
        elif _is_look_up(node) or (node.op in MOVES and self._known(node)):
            return self._moved(graph, node)
        else:
            value = node.value
        if node.var not in self.stored or node.op == "match_cast":
            return value if node.op in PRODUCTS else None
        wide = graph.emit(value, ty=node.ty)
        if self._leaves_range(graph, node):
            wide = graph.emit(relax.op.clip(wide, tirx.const(-LARGEST, WIDE), tirx.const(LARGEST, WIDE)))
        return self._widened(graph, node, relax.op.astype(wide, NARROW))

    def _operand(self, graph: Graph, x: Expr) -> Expr:
        """An operand of a product: a constant of numbers that float16 has, or the cast of a float16 tensor."""
        value = tensors.array(x)
        if value is not None and value.dtype == np.float32:
            return tensors.constant(narrowed(value).astype(WIDE))
        if x in self.narrow or tensors.dtype(x) != WIDE:
            return x
        # An input, or what nobody knows how to store otherwise.
        self.narrow[x] = graph.emit(relax.op.astype(x, NARROW))
        return graph.emit(relax.op.astype(self.narrow[x], WIDE))

    def _leaves_range(self, graph: Graph, node: Node) -> bool:
        """Whether numbers beyond float16's may take part in the elementwise operators and moves that make a value.

        Those are constants, and inputs of the model that join what products have made.
        """
        joins = node.var in self.made
        pending, seen = [node], {node.var}
        while pending and len(seen) <= _LOOK_BACK:
            current = pending.pop()
            operands = _operands(current) if current.op in ELEMENTWISE | MOVES else []
            for operand in operands:
                value, maker = tensors.array(operand), graph.producer(operand)
                if operand in self.narrow:
                    continue
                if value is not None:
                    beyond = _has_beyond(value)
                else:
                    beyond = maker is None and joins and tensors.dtype(operand) == WIDE
                if beyond:
                    return True
                if maker is not None and maker.var not in seen:
                    seen.add(maker.var)
                    pending.append(maker)
        return False

    def _known(self, node: Node) -> bool:
        found = list(variables(node.args[:1]))
        return bool(found) and all(x in self.narrow for x in found) and not _has_constants(node.args[0])

    def _moved(self, graph: Graph, node: Node) -> Expr:
        """The same operator on float16."""
        first = node.args[0]
        value = tensors.array(first)
        if value is not None:
            moved: Expr = tensors.constant(narrowed(value))
        elif isinstance(first, Tuple):
            moved = Tuple([self.narrow[x] for x in first.fields])
        else:
            moved = self.narrow[first]
        call = node.value
        return self._widened(graph, node, tvm.ir.Call(call.op, [moved, *node.args[1:]], call.attrs, call.ty_args))

    def _widened(self, graph: Graph, node: Node, value: Expr) -> Expr:
        self.narrow[node.var] = graph.emit(value)
        return relax.op.astype(self.narrow[node.var], WIDE)


def narrowed(value: np.ndarray) -> np.ndarray:
    """`value` in float16; finite numbers stay finite."""
    limited = np.where(np.isfinite(value), np.clip(value, -LARGEST, LARGEST), value)
    return limited.astype(NARROW)


def _has_constants(arg: Expr) -> bool:
    return isinstance(arg, Tuple) and any(isinstance(x, GenericConst) for x in arg.fields)


def _operands(node: Node) -> list[Expr]:
    """The tensors that a node reads, those of tuples too."""
    flat = [x for arg in node.args for x in (arg.fields if isinstance(arg, Tuple) else (arg,))]
    return [x for x in flat if tensors.rank(x) >= 0]


def _has_beyond(value: np.ndarray) -> bool:
    return value.dtype == np.float32 and bool(np.any(np.isfinite(value) & (np.abs(value) > LARGEST)))
