"""A search through the folds of all operators of a model: the fewest cycles within a part's blocks.

Of all steps (more lanes or more terms for one operator) the one is taken that saves most cycles for the share that it
takes of what is left of each resource, until none fits: a path of plans, each faster and larger than the one before.
After that, again and again, some operators are folded up and unfolded anew with other weights of the resources.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..spec import FpgaSpec
from .body import Body, Model
from .cost import StageCost, plan_blocks, stage_costs
from .fold import Plan, hold_for, lane_choices, term_choices

# Values that an operator may compute at once: twice what is built without tuning.
MAX_WIDTH = 512
# Axes that are no power of two may be unfolded as a whole up to this extent (three colours, windows of 3, 5 or 7).
_WHOLE = 9
_RESOURCES = ("dsp", "bram18", "uram", "lut")
# Operators that are folded up at once, and how far weights vary (standard deviation of their logarithm).
_RUINED, _SPREAD = 6, 0.5


@dataclass(frozen=True)
class Step:
    """A plan on a path, and the blocks that it takes, about."""

    plan: Plan
    used: Mapping[str, int]


Weights = Mapping[str, float]


class Climber:
    """Climbs for one model and part. `give_up` is asked between steps whether to end early."""

    def __init__(self, model: Model, spec: FpgaSpec, give_up: Callable[[], bool] = lambda: False):
        self.model, self.spec, self.give_up = model, spec, give_up
        self.costs: dict[str, StageCost] = stage_costs(model, spec)
        self.bodies = {b.name: b for b in model.bodies}
        self.widths = {
            b.name: (lane_choices(b, MAX_WIDTH, _WHOLE), term_choices(b, MAX_WIDTH, _WHOLE)) for b in model.bodies
        }

    def bottom(self) -> Plan:
        """One lane each."""
        return Plan(self.model, {b.name: hold_for(b, 1) for b in self.model.bodies})

    def climb(self, start: Plan, room: Weights, weights: Weights | None = None) -> list[Step]:
        """The path from `start` on; `room` is the share of each resource's budget that may be taken, `weights` tell
        how dear each resource is.

        Gains are computed anew only for what is on top: a step rarely gets better by others that are taken.
        """
        budgets = {r: self.spec.budget(r) * room.get(r, 1.0) for r in _RESOURCES}
        weights = weights or dict.fromkeys(_RESOURCES, 1.0)
        path = [Step(start, plan_blocks(start, self.costs, self.spec))]
        waiting = [(-math.inf, name, -1) for name in self.bodies]
        found: dict[str, Step] = {}
        while waiting and not self.give_up():
            gain, name, known_at = heapq.heappop(waiting)
            if known_at == len(path):
                path.append(found[name])
                heapq.heappush(waiting, (gain, name, -1))
                continue
            best = self._best(self.bodies[name], path[-1], budgets, weights)
            if best is not None:
                found[name] = best[1]
                heapq.heappush(waiting, (-best[0], name, len(path)))
        return path

    def _best(self, body: Body, at: Step, budgets: Weights, weights: Weights) -> tuple[float, Step] | None:
        """The best step of one operator, and its cycles saved for what it takes; None if none fits."""
        fold, cost = at.plan.folds[body.name], self.costs[body.name]
        lanes, terms = self.widths[body.name]
        wider = [(n, fold.terms) for n in lanes if n > fold.lanes] + [(fold.lanes, n) for n in terms if n > fold.terms]
        best: tuple[float, Step] | None = None
        for count, deep in wider:
            if count * deep > MAX_WIDTH:
                continue
            new = hold_for(body, count, deep)
            saved = cost.cycles(body, fold) - cost.cycles(body, new)
            plan = at.plan.with_fold(body, new) if saved > 0 else None
            if plan is None:
                continue
            used = plan_blocks(plan, self.costs, self.spec)
            if any(used[r] > budgets[r] for r in _RESOURCES):
                continue
            gain = saved / (_price(at.used, used, budgets, weights) + 1e-6)
            if best is None or gain > best[0]:
                best = gain, Step(plan, used)
        return best

    def ruined(self, plan: Plan, rng: np.random.Generator) -> Plan:
        """`plan` with some operators, neighbours of a random one, folded up."""
        names = [b.name for b in self.model.bodies]
        at = int(rng.integers(len(names)))
        near = names[max(0, at - _RUINED // 2) : at + _RUINED // 2]
        far = rng.choice(names, size=min(len(names), _RUINED), replace=False)
        chosen = {*near, *far}
        return Plan(self.model, {n: hold_for(self.bodies[n], 1) if n in chosen else f for n, f in plan.folds.items()})

    def weights(self, rng: np.random.Generator) -> dict[str, float]:
        """Random ones."""
        return {r: float(math.exp(rng.normal(0.0, _SPREAD))) for r in _RESOURCES}


def _price(before: Mapping[str, int], after: Mapping[str, int], budgets: Weights, weights: Weights) -> float:
    """The share that a step takes of what is left, of all resources together."""
    left = {r: max(1.0, budgets[r] - before[r]) for r in _RESOURCES}
    return sum(weights[r] * max(0, after[r] - before[r]) / left[r] for r in _RESOURCES)


def plan_of(model: Model, widths: Sequence[tuple[int, int]]) -> Plan | None:
    """The plan with so many lanes and terms of each operator; None if the operators cannot have them."""
    if len(widths) != len(model.bodies):
        return None
    for body, (lanes, terms) in zip(model.bodies, widths, strict=True):
        known = lane_choices(body, MAX_WIDTH, _WHOLE), term_choices(body, MAX_WIDTH, _WHOLE)
        if lanes not in known[0] or terms not in known[1] or lanes * terms > MAX_WIDTH:
            return None
    return Plan(model, {b.name: hold_for(b, *w) for b, w in zip(model.bodies, widths, strict=True)})


def widths_of(plan: Plan) -> list[tuple[int, int]]:
    """Lanes and terms of each operator, in the model's order."""
    return [(plan.folds[b.name].lanes, plan.folds[b.name].terms) for b in plan.model.bodies]
