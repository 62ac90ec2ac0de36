"""Placements for one request at a time: HEFT on several sets of devices, then local search by simulation.

What is sought, the shortest time or the least energy or cost within a deadline, is a score of the simulated outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

from .heft import Placement, heft
from .outcome import Simulation
from .plan import Plan, Route, alone, stages_of
from .simulate import simulate
from .work import TimedWork

Score = tuple[float, ...]
Scorer = Callable[[Simulation], Score]

# Sets of devices to start from: all of them where there are few, else grown from the best.
_MOST_SETS = 32
# Simulations of the local search; each takes about 2 ms for 60 nodes.
SEARCH_STEPS = 400
# Times that room for weights is taken away where activations did not fit beside them.
_ROUNDS_OF_ROOM = 6


@dataclass(frozen=True)
class Found:
    """A plan with its simulated outcome and score."""

    plan: Plan
    outcome: Simulation
    score: Score


def single(work: TimedWork, device: int, score: Scorer, template: Plan) -> Found:
    """The whole model on one device."""
    return _judge(work, replace(template, routes=alone(work, device).routes), score)


def search(work: TimedWork, score: Scorer, template: Plan, steps: int = SEARCH_STEPS) -> Found:
    """The best plan found for one request at a time; `template` gives all but its routes.

    The score of a plan that does not fit memory counts behind all others.
    """
    count = len(work.cluster.devices)
    found = [single(work, d, score, template) for d in range(count)]
    ranking = sorted(range(count), key=lambda d: (found[d].score, d))
    for devices in _sets(ranking):
        placed = _fitting(work, devices, score, template)
        if placed is not None:
            found.append(placed)
    best = min(found, key=lambda f: f.score)
    return improve(work, best, score, steps)


def _sets(ranking: Sequence[int]) -> list[tuple[int, ...]]:
    """Sets of two devices or more, the best ones of `ranking` together first."""
    grown = [tuple(ranking[:k]) for k in range(2, len(ranking) + 1)]
    if 2 ** len(ranking) <= _MOST_SETS:
        others = [c for k in range(2, len(ranking) + 1) for c in combinations(ranking, k)]
    else:
        others = [(ranking[0], other) for other in ranking[1:]]
    return list(dict.fromkeys(tuple(sorted(s)) for s in [*grown, *others]))


def _fitting(work: TimedWork, devices: Sequence[int], score: Scorer, template: Plan) -> Found | None:
    """HEFT on `devices`, with less room for weights until activations fit beside them."""
    memory = [d.memory_bytes for d in work.cluster.devices]
    room = list(memory)
    found = None
    for _ in range(_ROUNDS_OF_ROOM):
        placement = heft(work, devices, room, template.narrow)
        if placement is None:
            return found
        found = _judge(work, replace(template, routes=(Route(placement.stages()),)), score)
        if found.outcome.fits:
            return found
        for device, peak in enumerate(found.outcome.peak_bytes):
            room[device] -= max(0.0, peak - memory[device])
    return found


def _judge(work: TimedWork, plan: Plan, score: Scorer) -> Found:
    outcome = simulate(work, plan)
    excess = sum(
        max(0.0, peak - device.memory_bytes)
        for peak, device in zip(outcome.peak_bytes, work.cluster.devices, strict=True)
    )
    return Found(plan, outcome, (excess, *score(outcome)))


def improve(work: TimedWork, start: Found, score: Scorer, steps: int = SEARCH_STEPS) -> Found:
    """Local search: move a node, or a whole run of neighbours on one device, to another device where that is better.

    Ends when no move helps, or after `steps` simulations; never worse than `start`.
    """
    best, left = _judge(work, replace(start.plan, routes=(Route(_placement(start.plan).stages()),)), score), steps
    improved = True
    while improved and left > 0:
        improved = False
        placement = _placement(best.plan)
        sets = [*_runs(work, placement.devices), *((n,) for n in _by_time(work, placement.devices))]
        for nodes, device in product(dict.fromkeys(sets), range(len(work.cluster.devices))):
            moved = _moved(best.plan, nodes, device)
            if moved is not None and left > 0:
                left -= 1
                found = _judge(work, moved, score)
                if found.score < best.score:
                    best, improved = found, True
    return min(start, best, key=lambda f: f.score)


def _moved(plan: Plan, nodes: Sequence[int], device: int) -> Plan | None:
    """`plan` with `nodes` on `device`; None if they are there."""
    placement = _placement(plan)
    chosen = set(nodes)
    devices = tuple(device if n in chosen else d for n, d in enumerate(placement.devices))
    if devices == placement.devices:
        return None
    return replace(plan, routes=(Route(stages_of(devices, placement.order)),))


def _placement(plan: Plan) -> Placement:
    stages = plan.routes[0].stages
    device = {n: s.device for s in stages for n in s.nodes}
    return Placement(tuple(device[n] for n in sorted(device)), tuple(n for s in stages for n in s.nodes))


def _by_time(work: TimedWork, devices: Sequence[int]) -> list[int]:
    durations = work.durations()
    return sorted(range(len(devices)), key=lambda n: (-durations[n, devices[n]], n))


def _runs(work: TimedWork, devices: Sequence[int]) -> list[tuple[int, ...]]:
    """Connected nodes that lie on one device, the fewest first; none if all lie on one."""
    root = list(range(len(devices)))

    def find(n: int) -> int:
        while root[n] != n:
            root[n] = root[root[n]]
            n = root[n]
        return n

    for n in range(len(devices)):
        for m in work.graph.successors(n):
            if devices[n] == devices[m]:
                root[find(m)] = find(n)
    members: dict[int, list[int]] = {}
    for n in range(len(devices)):
        members.setdefault(find(n), []).append(n)
    return sorted((tuple(m) for m in members.values()), key=lambda m: (len(m), m)) if len(members) > 1 else []
