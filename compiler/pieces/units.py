"""What of a graph stays together when it is cut: operators with the elementwise work behind them.

Units are numbered so that tensors go from lower to higher numbers only. An elementwise operator (and a view) joins the
highest of the units that it reads, any other operator opens a new one: so no two units need each other's results, and
the epilogue of a convolution or product is never cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from tvm import relax
from tvm.ir import GenericConst

from ..passes.elementwise import ELEMENTWISE
from ..passes.graph import Graph, Node, variables
from ..passes.tensors import static_shape
from ..plan.cluster import Cluster, Device
from ..plan.work import INPUT, TimedWork, Value, WorkGraph, WorkNode
from ..schedule.flops import tensor_bytes
from ..schedule.op_spec import TensorType

_JOINING = ELEMENTWISE | {"reshape", "permute_dims", "get_item", "alias", "match_cast", "squeeze", "expand_dims"}
# Only ratios count: how many operations an ordinary core does while it moves a byte.
_CORE = Device("core", "cpu", flops_per_s=1e11, bytes_per_s=1e10, memory_bytes=float("inf"))


class Units:
    """The units of a graph. `of` gives the unit of every variable that a node defines; tuples are of no unit."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.members: list[list[Node]] = []
        self.of: dict[relax.Var, int] = {}
        self.tuples: dict[relax.Var, Node] = {}
        for node in graph.nodes:
            if node.op == "tuple":
                self.tuples[node.var] = node  # costs nothing: each reader's piece makes its own
            else:
                self._place(node)

    def _place(self, node: Node) -> None:
        before = [self.of[v] for v in self.reads(node) if v in self.of]
        if node.op in _JOINING and before:
            unit = max(before)
        else:
            unit = len(self.members)
            self.members.append([])
        self.members[unit].append(node)
        self.of[node.var] = unit

    def reads(self, node: Node) -> list[relax.Var]:
        """The variables that `node` reads, those in tuples that it reads included, each once."""
        found: dict[relax.Var, None] = {}
        for var in variables(node.args):
            inner = self.reads(self.tuples[var]) if var in self.tuples else [var]
            found.update(dict.fromkeys(inner))
        return list(found)

    def readers(self) -> dict[relax.Var, set[int]]:
        """For each variable the units that read it, its own included."""
        found: dict[relax.Var, set[int]] = {}
        for unit, nodes in enumerate(self.members):
            for node in nodes:
                for var in self.reads(node):
                    found.setdefault(var, set()).add(unit)
        return found

    def work(self, results: Sequence[relax.Var]) -> TimedWork:
        """The units as work, timed by the roofline of an ordinary core: good for telling small from large."""
        readers = self.readers()
        values = []
        for var in (*self.graph.params, *self.of):
            own = self.of.get(var, INPUT)
            consumers = tuple(sorted(readers.get(var, set()) - {own}))
            if consumers or var in results:
                values.append(Value(own, float(_bytes(var)), consumers, is_result=var in results))
        nodes = tuple(_work_of(self, unit) for unit in range(len(self.members)))
        return TimedWork.predict(WorkGraph("the model", nodes, tuple(values)), Cluster((_CORE,)))


def _work_of(units: Units, unit: int) -> WorkNode:
    nodes = units.members[unit]
    flops = float(sum(_flops(node) for node in nodes))
    weights = sum(_bytes(c) for node in nodes for c in _constants(node))
    made = _bytes(nodes[-1].var)
    read = {v for node in nodes for v in units.reads(node) if units.of.get(v) != unit}
    return WorkNode(str(nodes[0].var.name), nodes[0].op, flops, weights + made + sum(map(_bytes, read)), weights)


def _flops(node: Node) -> int:
    """Operations of a node: two for each weight or column that an output element meets, or one for each element."""
    shape = static_shape(node.var)
    elements = prod(shape) if shape is not None else 0
    return elements * _PER_ELEMENT.get(node.op, lambda _: 1)(node)


def _products_of_weights(node: Node) -> int:
    shape = static_shape(node.args[1]) or (1,)
    return 2 * prod(shape[1:])


def _products_of_columns(node: Node) -> int:
    shape = static_shape(node.args[0]) or (1,)
    return 2 * shape[-1]


_PER_ELEMENT = {
    "nn.conv2d": _products_of_weights,
    "nn.conv1d": _products_of_weights,
    "nn.conv3d": _products_of_weights,
    "nn.conv2d_transpose": _products_of_weights,
    "matmul": _products_of_columns,
}


def _constants(node: Node) -> list[GenericConst]:
    return [a for a in node.args if isinstance(a, GenericConst)]


def _bytes(expr: relax.Expr) -> int:
    """Bytes of a tensor of known shape, 0 for others."""
    shape = static_shape(expr)
    return 0 if shape is None else tensor_bytes(TensorType(shape, str(expr.ty.dtype)))


def is_static(graph: Graph, units: Mapping[relax.Var, int]) -> bool:
    """Whether all tensors of the graph have fixed sizes."""
    tensors = (v for v in (*graph.params, *units) if isinstance(v.ty, relax.TensorType))
    return all(static_shape(v) is not None for v in tensors)
