"""How long a call takes, on a machine whose speed drifts.

Samples are taken in bursts of a few milliseconds, each between readings of a reference (see `pace`). A sample counts as
it would have been had the reference taken its usual time. That is exact only where the clock drifts: where another
program works on the same core, code is slowed down by half or double, each kind by its own measure. So bursts on a
shared core are put aside, and one waits a while for better moments; only if there are none do they count. Sampling ends
when the 95% confidence interval of the median is narrow enough; the interval is that of order statistics, which asks
nothing of the distribution.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from .pace import Clock, Pace


@dataclass(frozen=True)
class Sampling:
    """When enough is known: the half width of the median's interval, relative to it, or the seconds spent.

    Sampling goes on for at least `least_samples`, unless they take longer than `budget_s`. With a `rival` (the best
    time known for the operator, in seconds) it also ends when the whole interval lies above `beaten` times that.
    `patience_s` is the longest wait for a core that nobody else works on; it does not count as spent.
    """

    precision: float = 0.02
    budget_s: float = 0.25
    patience_s: float = 0.4
    least_samples: int = 10
    rival: float | None = None
    beaten: float = 1.25

    def enough(self, samples: Sequence[float], width: float) -> bool:
        """Whether `samples`, whose median is known to `width`, tell enough."""
        if len(samples) < self.least_samples:
            return False
        if self.rival is not None and statistics.median(samples) * (1 - width) > self.beaten * self.rival:
            return True
        return width <= self.precision


# A sample is at least this long, so that reading the clock (60 ns) does not count.
_SAMPLE_S = 20e-6
# A burst is short against the drift of a machine, and long against the reference kernel's readings around it.
_BURST_S = 6e-3
# No clock changes by more: a reference that says so was itself disturbed.
_MOST_DRIFT = 5.0
# Vector units and their clock take some milliseconds to come to rest after a change of load.
_WARM_UP_S = 4e-3


@dataclass(frozen=True)
class Timing:
    """`seconds` of a call, corrected for drift: the raw median times `speed`; the rest as in `record.Measurement`."""

    seconds: float
    spread: float | None
    samples: int
    speed: float
    alone: bool = True


@dataclass
class _Samples:
    """Times of calls as the clock told them, and corrected."""

    raw: list[float] = field(default_factory=list)
    corrected: list[float] = field(default_factory=list)

    def add(self, times: Sequence[float], speed: float) -> None:
        self.raw += times
        self.corrected += [t * speed for t in times]

    def enough(self, limits: Sampling) -> bool:
        return bool(self.raw) and limits.enough(self.corrected, spread(self.corrected))

    def timing(self, alone: bool) -> Timing:
        seconds = statistics.median(self.corrected)
        known = spread(self.corrected) if len(self.raw) > 1 else None
        return Timing(seconds, known, len(self.raw), seconds / statistics.median(self.raw), alone)


def measure(
    call: Callable[[], object], pace: Pace, sampling: Sampling | None = None, clock: Clock = time.perf_counter
) -> Timing:
    """Time `call` on the core whose speed `pace` knows."""
    limits = sampling or Sampling()
    began = clock()
    first = _sample(call, 1, clock)
    repeat = max(1, math.ceil(_SAMPLE_S / max(first, 1e-9)))
    while clock() < began + min(_WARM_UP_S, limits.budget_s - first):
        _sample(call, repeat, clock)
    alone, shared = _Samples(), _Samples()
    before = pace.read()
    while True:
        if pace.shared(before):
            before = pace.settle(limits.patience_s)
        deadline = began + limits.budget_s + pace.waited
        burst = _burst(call, repeat, min(deadline, clock() + _BURST_S), clock)
        after = pace.read()
        speed = pace.usual.seconds / ((before.seconds + after.seconds) / 2)
        sane = 1 / _MOST_DRIFT <= speed <= _MOST_DRIFT
        samples = alone if sane and not pace.shared(before) and not pace.shared(after) else shared
        samples.add(burst, min(max(speed, 1 / _MOST_DRIFT), _MOST_DRIFT))
        before = after
        resigned = not alone.raw and pace.waited >= limits.patience_s
        if alone.enough(limits) or (resigned and shared.enough(limits)) or clock() >= deadline:
            return alone.timing(True) if alone.raw else shared.timing(False)


def spread(samples: Sequence[float]) -> float:
    """Half the width of the median's 95% confidence interval relative to the median, by order statistics.

    For fewer than 6 samples the interval from the least to the largest does not reach 95%; it is what there is.
    """
    ordered = sorted(samples)
    count = len(ordered)
    reach = 0.98 * math.sqrt(count)
    low = max(0, math.floor(count / 2 - reach) - 1)
    high = min(count - 1, math.ceil(count / 2 + reach))
    return (ordered[high] - ordered[low]) / 2 / statistics.median(ordered)


def _burst(call: Callable[[], object], repeat: int, until: float, clock: Clock) -> list[float]:
    samples = [_sample(call, repeat, clock)]
    while clock() < until:
        samples.append(_sample(call, repeat, clock))
    return samples


def _sample(call: Callable[[], object], repeat: int, clock: Clock) -> float:
    """Seconds of one of `repeat` calls."""
    started = clock()
    for _ in range(repeat):
        call()
    return (clock() - started) / repeat


@contextmanager
def undisturbed() -> Iterator[None]:
    """A context in which Python's garbage collector does not run."""
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
