"""From a model and a part to a design: folds chosen, kernel built, everything estimated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import TargetError
from ..kernel.builder import array, kernel
from ..kernel.ir import Array, Kernel
from ..kernel.model import Estimate, estimate
from ..presets import BOARDS
from ..spec import RESOURCES, FpgaSpec
from .body import Body, Fold, Model
from .emit import Emitted, Place, emit
from .fold import Lane, Need, Plan, choose_folds, choose_memories, hold_for, lane_of, over_budget
from .luts import luts_of
from .record import Design, StageFacts
from .share import share_memories

# Plans that are tried until the kernel fits, each for this share of what the one before took too much of.
_ATTEMPTS, _STEP = 6, 0.9


@dataclass(frozen=True, eq=False)
class Built:
    """A plan's kernel, the values of its weights, what it takes exactly, and how many blocks that is by resource."""

    model: Model
    plan: Plan
    kernel: Kernel
    weights: Mapping[str, np.ndarray]
    exact: Estimate
    used: Mapping[str, int]

    def over(self, spec: FpgaSpec) -> dict[str, float]:
        """Resources of which it takes more than is usable, and how many times that."""
        return {r: n / spec.budget(r) for r, n in self.used.items() if n > spec.budget(r)}


def build_plan(model: Model, plan: Plan, spec: FpgaSpec) -> Built:
    """The kernel of a plan. Unfoldable if an operator cannot have its fold."""
    made, packed = _kernel(model, plan, spec)
    exact = estimate(made)
    return Built(model, plan, made, packed, exact, _used(exact, spec))


def default_plan(model: Model, spec: FpgaSpec) -> Built:
    """What is built without tuning, of a model with shared memories.

    TargetError if it does not fit even with one lane each: the sentence names the resource that is missing most, and
    the nearest part that has enough.
    """
    single = {b.name: alone(model, b, hold_for(b, 1)) for b in model.bodies}
    lanes = {name: lane_of(made.schedules[0], spec) for name, made in single.items()}
    _check_fits(model, lanes, spec)
    room = dict.fromkeys(RESOURCES, 1.0)
    for _ in range(_ATTEMPTS):
        built = build_plan(model, choose_folds(model, lanes, spec, room), spec)
        over = built.over(spec)
        if not over:
            break
        # Multiplexers between banks are not in the plan's figures: plan for less.
        room = {r: room[r] * (_STEP / over[r] if r in over else 1.0) for r in room}
    return built


def finish(built: Built, spec: FpgaSpec) -> Design:
    """The design of a kernel that was chosen."""
    model = built.model
    return Design(
        spec,
        built.kernel,
        _kernel(model, built.plan, spec, flat=True)[0],
        model.inputs,
        model.outputs,
        tuple(built.weights.items()),
        tuple(_facts(built, k, spec) for k in range(len(model.bodies))),
        built.exact.cycles,
        tuple(built.used.items()),
    )


def design_of(model: Model, spec: FpgaSpec) -> Design:
    """The design of `model` for a part without tuning; errors as for `default_plan`."""
    return finish(default_plan(share_memories(model), spec), spec)


def alone(model: Model, body: Body, fold: Fold) -> Estimate:
    """What one operator takes by itself, with the banks that its own fold wants. Unfoldable if it cannot have it."""
    plan = Plan(model, {body.name: fold} | {b.name: Fold() for b in model.bodies if b is not body})
    arrays = _tensors(model, plan, {}, only=body)
    made = emit(body, fold, arrays, model.tensors, _placer({}))
    return estimate(kernel("alone", [*arrays.values(), *(a for a, _ in made.weights), *made.sums], [made.nest]))


def _tensors(
    model: Model, plan: Plan, memories: Mapping[str, str], only: Body | None = None, flat: bool = False
) -> dict[str, Array]:
    """The arrays of tensors that are no weights, those of `only` if it is given; each in one bank with `flat`."""
    names = {a.name for a in ([only.target, *(x.array for x in only.loads())] if only else [])}
    made = {}
    for name, tensor in model.tensors.items():
        if name in plan.banks and (only is None or name in names):
            banks = 1 if flat else plan.banks[name]
            made[name] = array(name, [tensor.size], str(tensor.dtype), memories.get(name, "bram"), [banks], tensor.role)
    return made


def _placer(memories: Mapping[str, str]) -> Place:
    def place(name: str, shape: Sequence[int], dtype: str, factors: Sequence[int], role: str) -> Array:
        return array(name, shape, dtype, memories.get(name, "bram"), factors, role)

    return place


def _kernel(model: Model, plan: Plan, spec: FpgaSpec, flat: bool = False) -> tuple[Kernel, dict[str, np.ndarray]]:
    """The kernel of a plan, and the values of its weights: first to learn its arrays, then with memories for them.

    With `flat` tensors lie in one bank each, and nothing chooses between banks: the same numbers, simulated faster.
    """
    memories: dict[str, str] = {}
    for last in (False, True):
        arrays = _tensors(model, plan, memories, flat=flat)
        place = _placer(memories)
        parts: list[Emitted] = [emit(b, plan.folds[b.name], arrays, model.tensors, place) for b in model.bodies]
        weights = {a.name: (a, data) for p in parts for a, data in p.weights}
        if not last:
            known = [*arrays.values(), *(a for a, _ in weights.values())]
            memories, _ = choose_memories([need_of(a) for a in known], spec)
    sums = [a for p in parts for a in p.sums]
    everything = [*arrays.values(), *(a for a, _ in weights.values()), *sums]
    made = kernel("model", everything, [p.nest for p in parts])
    return made, {name: data for name, (_, data) in weights.items()}


def need_of(a: Array) -> Need:
    """An array as memory."""
    return Need(a.name, a.dtype.bits, a.depth, a.banks)


def _used(made: Estimate, spec: FpgaSpec) -> dict[str, int]:
    """Blocks of the kernel; look-up tables are an estimate."""
    lutram = sum(a.banks * a.dtype.bits * math.ceil(a.depth / 64) for a in made.kernel.arrays if a.memory == "lutram")
    lut = sum(luts_of(s) for s in made.schedules) + lutram
    return {"dsp": made.dsps(spec.dsp), "bram18": made.bram18(), "uram": made.uram(), "lut": lut}


def _facts(built: Built, number: int, spec: FpgaSpec) -> StageFacts:
    body, schedule, packed = built.model.bodies[number], built.exact.schedules[number], built.weights
    fold = built.plan.folds[body.name]
    nest = schedule.graph.nest
    own = Kernel(nest.name, tuple(a for a in nest.arrays() if a.name in packed or a.name == body.target.name), (nest,))
    single = Estimate(own, (schedule,), schedule.cycles)
    macs = body.trip if body.combine == "add" else 0
    return StageFacts(
        body.name, body.source, fold.lanes, fold.terms, fold.held, schedule.ii, nest.trip, schedule.depth,
        schedule.cycles, macs, single.dsps(spec.dsp), single.bram18(), single.uram(), luts_of(schedule),
    )  # fmt: skip


def _check_fits(model: Model, lanes: Mapping[str, Lane], spec: FpgaSpec) -> None:
    plan = Plan(model, {b.name: hold_for(b, 1) for b in model.bodies})
    over = over_budget(plan, lanes, spec)
    if not over:
        return
    resource, (needed, budget) = max(over.items(), key=lambda item: item[1][0] / max(item[1][1], 1))
    fitting = [name for name, other in BOARDS.items() if not over_budget(plan, lanes, other) and other.key != spec.key]
    nearest = min(fitting, key=lambda name: BOARDS[name].budget(resource), default=None)
    hint = f"fpga:{nearest} has enough." if nearest else "no known part has enough: choose a smaller model."
    raise TargetError(
        f"target {spec.key}: expected a model within {budget} usable {_WORDS[resource]}, found one that needs {needed},"
        f" {needed - budget} too many, with one lane for each operator.",
        hint,
    )


_WORDS = {"dsp": "DSP blocks", "bram18": "block RAMs of 18 Kib", "uram": "UltraRAMs", "lut": "look-up tables"}
