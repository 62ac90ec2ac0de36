"""Local algebraic rewriting until nothing changes."""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm

from .base import Pass
from .graph import Graph, Rule
from .rules_arithmetic import ARITHMETIC_RULES
from .rules_constant import CONSTANT_RULES
from .rules_movement import LATE_MOVEMENT_RULES, MOVEMENT_RULES


def _merge(*tables: dict[str, tuple[Rule, ...]]) -> dict[str, tuple[Rule, ...]]:
    merged: dict[str, tuple[Rule, ...]] = {}
    for table in tables:
        for op, rules in table.items():
            merged[op] = (*merged.get(op, ()), *rules)
    return merged


# Constants first: what is known needs no algebra.
RULES = _merge(CONSTANT_RULES, MOVEMENT_RULES, ARITHMETIC_RULES)


@dataclass(frozen=True)
class Simplify(Pass):
    """Fold constants, drop operators without effect, merge neighbours, and remove dead bindings.

    Before:  y = reshape(x, (2, 6)); z = reshape(y, (3, 4)); w = multiply(z, 1.0); v = relu(relu(w))
    After:   z = reshape(x, (3, 4)); v = relu(z)

    Needs nothing; types of surviving values stay as they are. The rules stand in rules_constant.py (known operands,
    with numpy), rules_movement.py (reshape, permute_dims, slices, ...) and rules_arithmetic.py.
    """

    name: str = field(default="simplify", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The simplified module; the same object if no rule applied and nothing was dead."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        graph.apply(RULES)
        if graph.apply(LATE_MOVEMENT_RULES):
            graph.apply(RULES)
        return graph.to_module()
