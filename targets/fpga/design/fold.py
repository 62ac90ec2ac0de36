"""How far each operator of a model is unfolded, by the cycle model: as in FINN, the slowest one that still can be is
unfolded further, until the part is full.

What a step costs is taken from each operator's own graph (multipliers of a lane) and from the banks and depths of
arrays; the finished kernel is estimated exactly afterwards.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..kernel.affine import Affine
from ..kernel.ir import Loop
from ..kernel.model import URAM_SHAPE, bram18_of, estimate
from ..kernel.ops import FLOAT_ADD
from ..kernel.schedule import Schedule
from ..spec import FpgaSpec
from .body import Body, Fold, Function, Model, deep, substitute_index
from .emit import Unfoldable, accesses, loops_of, walked
from .luts import luts_of

MAX_LANES = 256
# Sums that are interleaved lie in registers: no more than this for each lane.
_MAX_HELD = 64
# An operator that takes less than this share of the whole is left as it is.
_WORTH = 0.01
# Arrays of fewer words a bank are made of look-up tables.
LUTRAM_WORDS = 64


@dataclass(frozen=True)
class Need:
    """An array: bits of a word, words of a bank, banks."""

    name: str
    bits: int
    depth: int
    banks: int


@dataclass(frozen=True)
class Lane:
    """What a lane of an operator takes: multiplier blocks and look-up tables; `depth` of its pipeline in cycles."""

    dsp: int
    lut: int
    depth: int


Folds = dict[str, Fold]


class Plan:
    """Folds of all operators, with the banks of tensors that follow from them."""

    def __init__(self, model: Model, folds: Mapping[str, Fold]):
        self.model, self.folds = model, dict(folds)
        # An input that nothing reads is a port nevertheless.
        self.users: dict[str, list[Body]] = {name: [] for name in model.inputs}
        for body in model.bodies:
            for array, _ in accesses(body):
                if model.tensors[array.name].role != "weight":
                    self.users.setdefault(array.name, []).append(body)
        self.banks = {name: self._banks(name) for name in self.users}

    def with_fold(self, body: Body, fold: Fold) -> Plan | None:
        """With another fold of one operator; None if its tensors cannot be dealt out to as many banks."""
        made = Plan.__new__(Plan)
        made.model, made.users = self.model, self.users
        made.folds = {**self.folds, body.name: fold}
        touched = {a.name for a, _ in accesses(body) if a.name in self.users}
        made.banks = {**self.banks, **{name: made._banks(name) for name in touched}}
        wanted = [(a.name, _wanted(body, fold, i)) for a, i in accesses(body) if a.name in touched]
        return made if all(made.banks[name] >= banks for name, banks in wanted) else None

    def _banks(self, name: str) -> int:
        """As many banks as the widest user has lanes, if all can live with that; else the half of it, and so on."""
        sites = [(b, i) for b in self.users[name] for a, i in accesses(b) if a.name == name]
        banks = max((_wanted(b, self.folds[b.name], i) for b, i in sites), default=1)
        while banks > 1 and not all(self._suits(b, name, banks) for b in self.users[name]):
            banks //= 2
        return banks

    def _suits(self, body: Body, name: str, banks: int) -> bool:
        return _suits(body, self.folds[body.name], name, banks)

    def cycles(self, body: Body, depth: int) -> int:
        """Predicted cycles of one operator."""
        fold = self.folds[body.name]
        ii = math.ceil(FLOAT_ADD / fold.held) if body.waits else 1
        return ii * (body.trip // fold.width - 1) + depth

    def needs(self) -> list[Need]:
        """All memories."""
        found = []
        for name, tensor in self.model.tensors.items():
            if name in self.banks:
                found.append(Need(name, tensor.dtype.bits, -(-tensor.size // self.banks[name]), self.banks[name]))
        for body in self.model.bodies:
            for name, dealt in _weights(body, self.folds[body.name]):
                tensor = self.model.tensors[name]
                if tensor.role == "weight":
                    found.append(Need(f"{name}_{body.name}", tensor.dtype.bits, -(-tensor.size // dealt), dealt))
        return found


@functools.lru_cache(maxsize=1 << 16)
def _suits(body: Body, fold: Fold, name: str, banks: int) -> bool:
    """Whether an operator can have a tensor in so many banks."""
    loops = loops_of(body, fold)
    try:
        for array, index in accesses(body):
            if array.name == name:
                walked(substitute_index(index, loops.values), banks, loops.extents)
    except Unfoldable:
        return False
    return True


@functools.lru_cache(maxsize=1 << 14)
def _weights(body: Body, fold: Fold) -> tuple[tuple[str, int], ...]:
    """The arrays that an operator reads, and in how many banks those that are weights lie."""
    return tuple((array.name, _dealt(body, fold, index)) for array, index in accesses(body)[1:])


def _wanted(body: Body, fold: Fold, index: Affine) -> int:
    """Banks that an access of neighbouring elements needs."""
    along = (body.axes[-1:], fold.lanes), (body.reduce[-1:], fold.terms)
    return max(count if loops and index.coefficient(loops[0].var) == 1 else 1 for loops, count in along)


def _dealt(body: Body, fold: Fold, index: Affine) -> int:
    """Banks of a weight: one for each value of it that is read at once."""
    along = (body.axes[-1:], fold.lanes), (body.reduce[-1:], fold.terms)
    return math.prod(count for loops, count in along if loops and index.coefficient(loops[0].var))


def lane_choices(body: Body, most: int = MAX_LANES, whole: int = 1) -> list[int]:
    """Lanes that an operator can have: powers of two that divide its last axis, if all tensors go with that axis or
    not at all; up to `most`, and the whole axis if that is no longer than `whole`."""
    return _widths(body, body.axes[-1:], most, whole)


def term_choices(body: Body, most: int = MAX_LANES, whole: int = 1) -> list[int]:
    """Terms of a sum that an operator can have at once: likewise for the last loop that is reduced over."""
    plain = not body.value.lets and not any(isinstance(e, Function) for e in deep(body.value.expr))
    return _widths(body, body.reduce[-1:], most, whole) if plain and body.combine else [1]


def _widths(body: Body, loops: Sequence[Loop], most: int, whole: int) -> list[int]:
    if not loops:
        return [1]
    steps = {i.coefficient(loops[0].var) for a, i in accesses(body) if not a.name.startswith("w")}
    extent = loops[0].extent
    most = min(extent, most) if steps <= {0, 1} else 1
    powers = [1 << k for k in range(most.bit_length()) if extent % (1 << k) == 0 and 1 << k <= most]
    return sorted({*powers, extent}) if extent <= min(whole, most) else powers


def hold_for(body: Body, lanes: int, terms: int = 1) -> Fold:
    """The fold with as many interleaved sums as a float adder has cycles, if sizes allow: of the axis before the lanes'
    first, which does not walk through banks, and of powers of two of the lanes' own."""
    hold, held = [], 1
    last = len(body.axes) - 1
    for k in [*reversed(range(last)), last] if body.waits and body.axes else ():
        extent = body.axes[k].extent // (lanes if k == last else 1)
        fitting = [d for d in _divisors(extent) if held * d <= _MAX_HELD]
        enough = [d for d in fitting if held * d >= FLOAT_ADD]
        even = [d for d in enough if d & (d - 1) == 0]
        part = (even if even and k == last else enough or fitting[-1:])[0]
        hold.append((k, part))
        held *= part
        if held >= FLOAT_ADD:
            break
    return Fold(lanes, terms, tuple(sorted((k, n) for k, n in hold if n > 1)))


def _divisors(n: int) -> Iterator[int]:
    return (d for d in range(1, n + 1) if n % d == 0)


def choose_memories(needs: Sequence[Need], spec: FpgaSpec) -> tuple[dict[str, str], dict[str, int]]:
    """Memory of each array, and how many blocks that takes: shallow ones in look-up tables, others where they take the
    smaller share of what the part has."""
    chosen: dict[str, str] = {}
    used = {"bram18": 0, "uram": 0, "lut": 0}
    for need in sorted(needs, key=lambda n: (-n.banks * bram18_of(n.bits, n.depth), n.name)):
        if need.depth <= LUTRAM_WORDS:
            chosen[need.name] = "lutram"
            used["lut"] += need.banks * need.bits * math.ceil(need.depth / 64)
            continue
        bram, uram = need.banks * bram18_of(need.bits, need.depth), need.banks * uram_of(need.bits, need.depth)
        shares = {
            "bram18": (used["bram18"] + bram) / spec.budget("bram18"),
            "uram": (used["uram"] + uram) / spec.budget("uram") if spec.budget("uram") else math.inf,
        }
        kind = min(shares, key=lambda k: (shares[k], k))
        chosen[need.name] = kind.removesuffix("18")
        used[kind] += bram if kind == "bram18" else uram
    return chosen, used


def uram_of(bits: int, depth: int) -> int:
    """UltraRAMs for `depth` words of `bits`."""
    return math.ceil(bits / URAM_SHAPE[0]) * math.ceil(depth / URAM_SHAPE[1])


def lane_of(schedule: Schedule, spec: FpgaSpec) -> Lane:
    """What one lane takes, from the schedule of an operator with one lane."""
    made = estimate(schedule.graph.kernel)
    return Lane(made.dsps(spec.dsp), luts_of(schedule), schedule.depth)


def choose_folds(
    model: Model, lanes: Mapping[str, Lane], spec: FpgaSpec, room: Mapping[str, float] | None = None
) -> Plan:
    """The plan that unfolding the slowest operator, again and again, ends in.

    `lanes` by operator; `room` is the share of each resource's budget that may be taken, all of it by default.
    """
    plan = Plan(model, {b.name: hold_for(b, 1) for b in model.bodies})
    choices = {b.name: (lane_choices(b), term_choices(b)) for b in model.bodies}
    stuck: set[str] = set()
    while True:
        slow = [b for b in model.bodies if b.name not in stuck]
        if not slow:
            return plan
        times = {b.name: plan.cycles(b, lanes[b.name].depth) for b in model.bodies}
        body = max(slow, key=lambda b: times[b.name])
        if times[body.name] < _WORTH * sum(times.values()):
            return plan
        better = _next(plan, body, choices[body.name], lanes, spec, room)
        if better is None:
            stuck.add(body.name)
        else:
            plan = better


def _next(
    plan: Plan,
    body: Body,
    choices: tuple[Sequence[int], Sequence[int]],
    lanes: Mapping[str, Lane],
    spec: FpgaSpec,
    room: Mapping[str, float] | None,
) -> Plan | None:
    """`plan` with the next larger number of lanes, or of terms, of one operator that makes it faster and fits the part;
    of both that which takes less of the part."""
    fold, now = plan.folds[body.name], plan.cycles(body, lanes[body.name].depth)
    wider = next((n for n in choices[0] if n > fold.lanes), None)
    deeper = next((n for n in choices[1] if n > fold.terms), None)
    found: list[tuple[float, int, Plan]] = []
    for count, terms in ((wider, fold.terms), (fold.lanes, deeper)):
        if count is None or terms is None or count * terms > MAX_LANES:
            continue
        made = plan.with_fold(body, hold_for(body, count, terms))
        if made is None or made.cycles(body, lanes[body.name].depth) >= now or over_budget(made, lanes, spec, room):
            continue
        used = taken(made, lanes, spec)
        found.append((max(n / max(spec.budget(r), 1) for r, n in used.items()), len(found), made))
    return min(found, key=lambda item: item[:2])[2] if found else None


def taken(plan: Plan, lanes: Mapping[str, Lane], spec: FpgaSpec) -> dict[str, int]:
    """Blocks that a plan takes, about."""
    _, used = choose_memories(plan.needs(), spec)
    dsp = sum(lanes[name].dsp * fold.width for name, fold in plan.folds.items())
    lut = sum(lanes[name].lut * fold.width for name, fold in plan.folds.items())
    return {"dsp": dsp, "bram18": used["bram18"], "uram": used["uram"], "lut": used["lut"] + lut}


def over_budget(
    plan: Plan, lanes: Mapping[str, Lane], spec: FpgaSpec, room: Mapping[str, float] | None = None
) -> dict[str, tuple[int, int]]:
    """Resources of which a plan takes more than it may: how much, and the budget, or the share of it that `room` is."""
    budgets = {r: int(spec.budget(r) * (room[r] if room else 1.0)) for r in ("dsp", "bram18", "uram", "lut")}
    return {r: (n, budgets[r]) for r, n in taken(plan, lanes, spec).items() if n > budgets[r]}
