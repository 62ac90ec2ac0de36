"""How fast a core is just now: readings of a reference, and what they usually are.

A reading runs two small programs: a matrix product of numpy's that fits into L2 and keeps all arithmetic units busy,
and a chain of additions in which each waits for the one before. The clock slows both alike. Another program on the same
core (a sibling thread, another virtual machine) takes units from the product, and hardly anything from the chain, so
that the ratio of their times tells that the core is shared, whatever the clock. Seen on Cascade Lake: 2.7 to 2.9 alone,
4.1 to 4.4 beside any other program, while the clock alone changed both times by a quarter.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Clock = Callable[[], float]

# A ratio this many times the usual one tells of another program on the core.
SHARED = 1.2


@dataclass(frozen=True)
class Reading:
    """`seconds` of the matrix product, and their `ratio` to those of the chain."""

    seconds: float
    ratio: float


@dataclass
class Pace:
    """Takes readings by `read_now` and compares them with the `usual` one; `waited` seconds for a core to be free."""

    read_now: Callable[[], Reading]
    usual: Reading
    clock: Clock = time.perf_counter
    waited: float = 0.0
    readings: list[Reading] = field(default_factory=list)

    def read(self) -> Reading:
        """A reading now."""
        reading = self.read_now()
        self.readings.append(reading)
        return reading

    def shared(self, reading: Reading) -> bool:
        """Whether another program worked on the core."""
        return reading.ratio > SHARED * self.usual.ratio

    def settle(self, patience_s: float) -> Reading:
        """A reading once nobody else works on the core, or when all waits together took `patience_s` seconds."""
        began, before = self.clock(), self.waited
        reading = self.read()
        while self.shared(reading) and self.waited < patience_s:
            reading = self.read()
            self.waited = before + self.clock() - began
        return reading


class Reference:
    """The two programs."""

    _SIZE = 128
    _LINKS = 4096
    _RUNS = 3

    def __init__(self) -> None:
        values = np.random.Generator(np.random.SFC64(0)).random((2, self._SIZE, self._SIZE), np.float32)
        self._lhs, self._rhs = values
        self._product = np.empty_like(self._lhs)
        self._links = np.full(self._LINKS, 1e-9)
        self._sums = np.empty_like(self._links)

    def read(self) -> Reading:
        """A reading now: the best of three runs of each, as the first finds the caches full of other things."""
        chain = self._best(lambda: np.add.accumulate(self._links, out=self._sums))
        product = self._best(lambda: np.matmul(self._lhs, self._rhs, out=self._product))
        return Reading(product, product / chain)

    def usual(self, seconds: float = 0.15) -> Reading:
        """What readings are for most of the next `seconds`; if the core is shared for a part of them, for the rest."""
        until = time.perf_counter() + seconds
        readings = [self.read()]
        while time.perf_counter() < until:
            readings.append(self.read())
        return usual_of(readings)

    def _best(self, run: Callable[[], object]) -> float:
        best = math.inf
        for _ in range(self._RUNS):
            started = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - started)
        return best


def middle_of(readings: list[Reading]) -> Reading:
    """The median seconds and the median ratio."""
    return Reading(statistics.median(r.seconds for r in readings), statistics.median(r.ratio for r in readings))


def usual_of(readings: list[Reading]) -> Reading:
    """The median of those readings whose ratio is near to that which a quarter of them stay below."""
    ratios = sorted(r.ratio for r in readings)
    low = ratios[len(ratios) // 4]
    return middle_of([r for r in readings if r.ratio <= SHARED * low])
