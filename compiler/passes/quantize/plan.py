"""What of a float graph becomes integer, which values share a scale, and which ranges have to be known for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from tvm import relax

from .. import tensors
from ..graph import Graph, Node, variables
from .forms import Form, bias_of, bounds_of, form_of

# Nodes that compute nothing.
_NAMES = frozenset(["alias", "tuple", "get_item", "match_cast", "other"])


@dataclass(frozen=True)
class Unit:
    """A node with an integer form, and what is taken in behind it.

    Attributes:
        head: the node.
        form: its form.
        biases: constants added to its sums, in turn.
        bounds: limits of the activation behind them.
        ends: the values that head, biases and activation define, in turn; only the last is used elsewhere.
        narrow: whether the result is wanted as int8 (else only as float32, made of the sums themselves).
    """

    head: Node
    form: Form
    biases: tuple[np.ndarray, ...]
    bounds: tuple[float, float] | None
    ends: tuple[relax.Var, ...]
    narrow: bool = True

    @property
    def end(self) -> relax.Var:
        """The value that stands for the whole unit."""
        return self.ends[-1]

    def without_bounds(self) -> Unit:
        """The unit whose activation is left to float operators."""
        return self if self.bounds is None else replace(self, bounds=None, ends=self.ends[:-1])


@dataclass
class Plan:
    """All units by the value of their end, the scale that each int8 value takes, and why other nodes stay float."""

    units: dict[relax.Var, Unit]
    groups: dict[relax.Var, relax.Var] = field(default_factory=dict)  # int8 value -> one that stands for its scale
    moved: set[relax.Var] = field(default_factory=set)  # int8 values that hold nothing but others' numbers
    integer: Counter[str] = field(default_factory=Counter)
    floats: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def measured(self) -> list[relax.Var]:
        """The float values whose ranges give the scales."""
        return [v for v in self.groups if v not in self.moved]

    def scales(self, ranges: dict[relax.Var, float], largest: int) -> dict[relax.Var, float]:
        """The step of each int8 value, from the largest magnitudes of `measured`."""
        most: dict[relax.Var, float] = {}
        for value in self.measured:
            most[self.groups[value]] = max(most.get(self.groups[value], 0.0), ranges[value])
        # A value that was 0 throughout stays 0 in any scale; float32 has no inverse of the scale of subnormal numbers.
        sizes = {group: size if size > _LEAST else 1.0 for group, size in most.items()}
        return {v: sizes[group] / largest for v, group in self.groups.items()}


def make_plan(graph: Graph) -> Plan:
    """The plan for a graph of float32, channels first, after the simplify phase."""
    users: dict[relax.Var, list[Node]] = {}
    for node in graph.nodes:
        for value in variables(node.args):
            users.setdefault(value, []).append(node)
    reasons: dict[relax.Var, str] = {}
    able = _able_units(graph, users, reasons)
    units = _wanted_units(able, users, reasons)
    plan = Plan(units)
    _share_scales(plan)
    taken = {v for unit in units.values() for v in unit.ends}
    for node in graph.nodes:
        if node.op in _NAMES or tensors.dtype(node.var) != "float32" or not any(True for _ in variables(node.args)):
            continue
        if node.var in taken:
            plan.integer[node.op] += 1
        else:
            plan.floats[node.op, reasons.get(node.var, "only float operators use it")] += 1
    return plan


Users = dict[relax.Var, list[Node]]
# Values that are no larger count as 0.
_LEAST = 1e-30


def _able_units(graph: Graph, users: Users, reasons: dict[relax.Var, str]) -> dict[relax.Var, Unit]:
    """Units that could be integers if somebody wanted them, by their ends; and why other nodes could not."""
    units: dict[relax.Var, Unit] = {}
    taken: set[relax.Var] = set()
    for node in graph.nodes:
        if node.var in taken or node.op in _NAMES or tensors.dtype(node.var) != "float32":
            continue
        form = form_of(graph, node)
        if isinstance(form, Form) and not form.demands and not all(v in units for v in form.operands):
            form = "its operands are float"
        if isinstance(form, str):
            reasons[node.var] = form
            continue
        unit = _grown(graph, node, form, users)
        units[unit.end] = unit
        taken.update(unit.ends)
    return units


def _grown(graph: Graph, node: Node, form: Form, users: Users) -> Unit:
    """The unit of `node` with the biases and the activation behind it."""
    biases: list[np.ndarray] = []
    bounds = bounds_of(node)
    ends = [node.var]
    while form.kind != "move" and bounds is None:
        user = users.get(ends[-1], [])
        if len(user) != 1 or graph.uses[ends[-1]] != 1:
            break
        bias = bias_of(user[0])
        bounds = bounds_of(user[0])
        if bias is not None:
            biases.append(bias)
        elif bounds is None:
            break
        ends.append(user[0].var)
    return Unit(node, form, tuple(biases), bounds, tuple(ends))


def _wanted_units(able: dict[relax.Var, Unit], users: Users, reasons: dict[relax.Var, str]) -> dict[relax.Var, Unit]:
    """Those of `able` that are worth it: products and averages, and whatever leads from integers to such."""
    kept: dict[relax.Var, Unit] = {}
    readers: set[relax.Var] = set()  # values that kept units read
    for unit in reversed(able.values()):
        narrow = unit.end in readers
        if not narrow and not unit.form.absorbing:
            continue
        unit = unit if narrow else replace(unit.without_bounds(), narrow=False)
        kept[unit.end] = unit
        readers.update(unit.form.operands)
    return dict(reversed(kept.items()))


def _share_scales(plan: Plan) -> None:
    """Group the int8 values: operands and results of moves have one scale."""
    leader: dict[relax.Var, relax.Var] = {}

    def find(value: relax.Var) -> relax.Var:
        while leader.setdefault(value, value) is not value:
            value = leader[value]
        return value

    for unit in plan.units.values():
        for value in _int8_values(unit):
            find(value)
        if unit.form.kind == "move":
            plan.moved.add(unit.end)
            for operand in unit.form.operands:
                leader[find(operand)] = find(unit.end)
    plan.groups.update({value: find(value) for value in leader})


def _int8_values(unit: Unit) -> Iterator[relax.Var]:
    yield from unit.form.operands
    if unit.narrow:
        yield unit.end
