"""What an operator takes for any fold, from two kernels of it alone: blocks are linear in lanes and in terms of a lane.

What a fold really takes, multiplexers between banks included, is told by the model's kernel (`build.build_plan`).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

from ..kernel.model import Estimate
from ..kernel.ops import FLOAT_ADD
from ..spec import FpgaSpec
from .body import Body, Fold, Model
from .build import alone
from .emit import Unfoldable
from .fold import Plan, choose_memories, hold_for, term_choices
from .luts import luts_of


@dataclass(frozen=True)
class StageCost:
    """Of one operator: `dsp` and `lut` of a lane without its terms and of each of them, `depth` of its pipeline with
    one term, and `level`, the cycles that each doubling of the terms adds to it."""

    dsp: tuple[int, int]
    lut: tuple[int, int]
    depth: int
    level: int

    def blocks(self, fold: Fold) -> tuple[int, int]:
        """Multiplier blocks and look-up tables."""
        return _linear(self.dsp, fold), _linear(self.lut, fold)

    def cycles(self, body: Body, fold: Fold) -> int:
        """From the first iteration's start to the last one's effect."""
        ii = math.ceil(FLOAT_ADD / fold.held) if body.waits else 1
        return ii * (body.trip // fold.width - 1) + self.depth + self.level * math.ceil(math.log2(fold.terms))


def _linear(of: tuple[int, int], fold: Fold) -> int:
    return fold.lanes * (of[0] + of[1] * fold.terms)


def stage_costs(model: Model, spec: FpgaSpec) -> dict[str, StageCost]:
    """The cost of every operator of a model, by name."""
    return {body.name: _stage_cost(model, body, spec) for body in model.bodies}


def _stage_cost(model: Model, body: Body, spec: FpgaSpec) -> StageCost:
    one = alone(model, body, hold_for(body, 1))
    two, more = one, 1
    for terms in term_choices(body)[1:2]:
        with suppress(Unfoldable):  # operands that cannot be dealt out
            two, more = alone(model, body, hold_for(body, 1, terms)), terms
    depth = one.schedules[0].depth
    level = (two.schedules[0].depth - depth) / math.log2(more) if more > 1 else 0
    dsps = _apart(one.dsps(spec.dsp), two.dsps(spec.dsp), more)
    return StageCost(dsps, _apart(_luts(one), _luts(two), more), depth, math.ceil(level))


def _luts(made: Estimate) -> int:
    return luts_of(made.schedules[0])


def _apart(one: int, two: int, more: int) -> tuple[int, int]:
    """What a lane takes besides its terms, and of each term: `one` has one term, `two` has `more`."""
    each = (two - one) // (more - 1) if more > 1 else 0
    return one - each, each


def plan_cycles(plan: Plan, costs: dict[str, StageCost]) -> int:
    """Of all operators, one after the other."""
    return sum(costs[b.name].cycles(b, plan.folds[b.name]) for b in plan.model.bodies)


def plan_blocks(plan: Plan, costs: dict[str, StageCost], spec: FpgaSpec) -> dict[str, int]:
    """Blocks that a plan takes, without multiplexers between banks."""
    _, memory = choose_memories(plan.needs(), spec)
    dsps, luts = zip(*(costs[name].blocks(fold) for name, fold in plan.folds.items()), strict=True)
    return {**memory, "dsp": sum(dsps), "lut": memory["lut"] + sum(luts)}
