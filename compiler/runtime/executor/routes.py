"""The stages of a placement's routes, numbered through, and which route a request had best take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...segments import Segment
from .placement import Placement
from .times import StageTimes

# Of a stage: its expected seconds on a device, and the devices that may run it.
Seconds = Callable[[int, int], float]


@dataclass(frozen=True)
class LaidStage:
    """A stage: the device that the plan has it on, its pieces, the stages of its route that it reads from and those
    that read from it, and the names of the tensors that it writes to shared memory."""

    device: int
    pieces: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """A route with the device for each of its stages, and the second, counted from now, when it will be done."""

    route: int
    where: dict[int, int]
    end: float
    busy: tuple[float, ...]


class Routes:
    """The stages of all routes; `members[r]` are the numbers of those of route r."""

    def __init__(self, placement: Placement, pieces: Sequence[Segment], outputs: Sequence[str]) -> None:
        self.stages: list[LaidStage] = []
        self.members: list[tuple[int, ...]] = []
        for route in placement.routes:
            first = len(self.stages)
            numbers = tuple(range(first, first + len(route.stages)))
            self.members.append(numbers)
            makers = {
                s.name: first + k for k, st in enumerate(route.stages) for p in st.pieces for s in pieces[p].outputs
            }
            before = [
                {makers[s.name] for p in stage.pieces for s in pieces[p].inputs if s.name in makers} - {first + k}
                for k, stage in enumerate(route.stages)
            ]
            for k, stage in enumerate(route.stages):
                after = tuple(n for n, needed in zip(numbers, before, strict=True) if first + k in needed)
                made = {s.name for p in stage.pieces for s in pieces[p].outputs}
                read = {s.name for n in after for p in route.stages[n - first].pieces for s in pieces[p].inputs}
                writes = tuple(sorted(made & (read | set(outputs))))
                self.stages.append(LaidStage(stage.device, stage.pieces, tuple(sorted(before[k])), after, writes))

    def planned(self, placement: Placement) -> list[list[float | None]]:
        """What the placement says of each stage's time on each device; None where it says nothing."""
        devices = range(len(placement.devices))
        if not placement.seconds:
            return [[None for _ in devices] for _ in self.stages]
        return [[sum(placement.seconds[p][d] for p in stage.pieces) for d in devices] for stage in self.stages]

    def best(self, busy: Sequence[float], usable: Sequence[bool], times: StageTimes) -> Choice:
        """The route that will be done first, if device d is busy for `busy[d]` seconds from now.

        Stages of devices that are not `usable` go to the one that has them done first. At least one is usable.
        """
        choices = [self._follow(r, busy, usable, times) for r in range(len(self.members))]
        return min(choices, key=lambda choice: choice.end)

    def _follow(self, route: int, busy: Sequence[float], usable: Sequence[bool], times: StageTimes) -> Choice:
        free = list(busy)
        where: dict[int, int] = {}
        ends: dict[int, float] = {}
        for number in self.members[route]:
            stage = self.stages[number]
            there = max((ends[b] for b in stage.before), default=0.0)
            device = stage.device if usable[stage.device] else quickest(number, free, usable, times, there)
            where[number] = device
            ends[number] = free[device] = max(free[device], there) + times.seconds(number, device)
        return Choice(route, where, max(ends.values()), tuple(free))


def quickest(stage: int, busy: Sequence[float], usable: Sequence[bool], times: StageTimes, there: float = 0.0) -> int:
    """The usable device that has a stage done first whose operands are there in `there` seconds."""
    devices = [d for d in range(len(busy)) if usable[d]]
    return min(devices, key=lambda d: max(busy[d], there) + times.seconds(stage, d))
