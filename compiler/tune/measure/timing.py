"""How long a call takes, on a machine whose speed drifts.

Samples are taken in bursts of a few milliseconds, each between runs of a reference kernel. A sample counts as it would
have been had the reference taken its usual time. That is exact only for small drifts: where another program works on
the same core (a sibling thread, another virtual machine), code is slowed down by half or double, each kind by its own
measure. So bursts beside a slow reference are put aside, and one waits a while for better moments; only if there are
none do they count. Sampling ends when the 95% confidence interval of the median is narrow enough; the interval is that
of order statistics, which asks nothing of the distribution.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

Clock = Callable[[], float]


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
# A burst is short against the drift of a machine, and long against the reference kernel's runs around it.
_BURST_S = 6e-3
# A core on which the reference kernel takes this many times as long as usual is shared with another program. Two
# threads of one core take 1.5 to 1.9 times as long as one; the clock varies by less than this.
SHARED = 1.1
# Vector units and their clock take some milliseconds to come to rest after a change of load.
_WARM_UP_S = 4e-3


@dataclass(frozen=True)
class Timing:
    """`seconds` of a call, corrected for drift: the raw median times `speed`; `spread` as in `record.Measurement`."""

    seconds: float
    spread: float
    samples: int
    speed: float


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

    def timing(self) -> Timing:
        seconds = statistics.median(self.corrected)
        return Timing(seconds, spread(self.corrected), len(self.raw), seconds / statistics.median(self.raw))


@dataclass
class Pace:
    """How fast the core is: asks the reference kernel, whose usual time is `nominal`, and remembers its `best` time."""

    reference: Callable[[], float]
    nominal: float
    clock: Clock = time.perf_counter
    best: float = math.inf
    waited: float = 0.0

    def now(self) -> float:
        """Seconds that the reference kernel takes now."""
        seconds = self.reference()
        self.best = min(self.best, seconds)
        return seconds

    def shared(self, *seconds: float) -> bool:
        """Whether any of these times of the reference tells of another program on the core."""
        return max(seconds) > SHARED * self.nominal

    def settle(self, patience_s: float) -> float:
        """The reference's time once nobody else works on the core, or when all waits together took `patience_s`."""
        began, before = self.clock(), self.waited
        seconds = self.now()
        while self.shared(seconds) and self.waited < patience_s:
            seconds = self.now()
            self.waited = before + self.clock() - began
        return seconds


def measure(
    call: Callable[[], object], pace: Pace, sampling: Sampling | None = None, clock: Clock = time.perf_counter
) -> Timing:
    """Time `call` on the core whose speed `pace` knows."""
    limits = sampling or Sampling()
    began = clock()

    def over() -> bool:
        return clock() >= began + limits.budget_s + pace.waited

    first = _sample(call, 1, clock)
    repeat = max(1, math.ceil(_SAMPLE_S / max(first, 1e-9)))
    while clock() < began + min(_WARM_UP_S, limits.budget_s - first):
        _sample(call, repeat, clock)
    alone, shared = _Samples(), _Samples()
    before = pace.now()
    while True:
        if pace.shared(before):
            before = pace.settle(limits.patience_s)
        burst = _burst(call, repeat, min(began + limits.budget_s + pace.waited, clock() + _BURST_S), clock)
        after = pace.now()
        samples = shared if pace.shared(before, after) else alone
        samples.add(burst, pace.nominal / ((before + after) / 2))
        before = after
        resigned = not alone.raw and pace.waited >= limits.patience_s
        if alone.enough(limits) or (resigned and shared.enough(limits)) or over():
            return (alone if alone.raw else shared).timing()


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


class ReferenceKernel:
    """A matrix product of numpy's that fits into L2: what it takes tells how fast the core is just now."""

    _SIZE = 128
    _RUNS = 3

    def __init__(self) -> None:
        values = np.random.Generator(np.random.SFC64(0)).random((2, self._SIZE, self._SIZE), np.float32)
        self._lhs, self._rhs = values
        self._result = np.empty_like(self._lhs)

    def time(self) -> float:
        """Seconds of a run now: the best of three, as the first finds the caches full of other things."""
        clock, lhs, rhs, result = time.perf_counter, self._lhs, self._rhs, self._result
        best = math.inf
        for _ in range(self._RUNS):
            started = clock()
            np.matmul(lhs, rhs, out=result)
            best = min(best, clock() - started)
        return best

    def usual(self, seconds: float = 0.15) -> float:
        """The best time of as many runs as fit into `seconds`: that of an undisturbed core."""
        until = time.perf_counter() + seconds
        best = self.time()
        while time.perf_counter() < until:
            best = min(best, self.time())
        return best


@contextmanager
def undisturbed() -> Iterator[None]:
    """A context in which Python's garbage collector does not run."""
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
