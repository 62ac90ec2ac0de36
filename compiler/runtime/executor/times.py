"""How long stages take on devices: what a plan says at first, and what runs measure from then on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

_NEW = 0.3  # the part that the newest measurement has in the average
_FORGET_S = 5.0  # after so long half of what was measured is forgotten: a device that was busy may be idle again
_UNKNOWN_S = 1e-3
_KEPT = 10_000


class StageTimes:
    """Seconds of stages (rows) on devices (columns); `planned` holds what a plan says, None where it says nothing."""

    def __init__(self, planned: Sequence[Sequence[float | None]]) -> None:
        self._planned = [list(row) for row in planned]
        self._latest: list[deque[float]] = [deque(maxlen=_KEPT) for _ in planned]
        self._measured: dict[tuple[int, int], tuple[float, float]] = {}

    def seconds(self, stage: int, device: int) -> float:
        """What stage number `stage` is expected to take on `device`."""
        planned = self._expected(stage, device)
        found = self._measured.get((stage, device))
        if found is None:
            return planned
        average, when = found
        return planned + (average - planned) * 0.5 ** ((time.monotonic() - when) / _FORGET_S)

    def _expected(self, stage: int, device: int) -> float:
        """What is expected without a measurement; of a device that nobody knows as much as of the others."""
        planned = self._planned[stage][device]
        if planned is not None:
            return planned
        others = [s for s in self._planned[stage] if s is not None]
        others += [average for (s, _), (average, _) in self._measured.items() if s == stage]
        return sum(others) / len(others) if others else _UNKNOWN_S

    def note(self, stage: int, device: int, seconds: float) -> None:
        """Stage number `stage` took `seconds` on `device`."""
        if self._planned[stage][device] is None:
            self._planned[stage][device] = seconds  # the first one is as good as a plan
        found = self._measured.get((stage, device))
        average = seconds if found is None else found[0] + _NEW * (seconds - found[0])
        self._measured[stage, device] = average, time.monotonic()
        self._latest[stage].append(seconds)

    def latest(self, stage: int) -> list[float]:
        """The seconds of the latest runs of a stage, on any device."""
        return list(self._latest[stage])
