"""Adaptive sampling against simulated machines, whose clock advances by what calls cost."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable

import pytest

from kompilo.compiler.tune.measure.pace import Pace, Reading, Reference, usual_of
from kompilo.compiler.tune.measure.timing import Sampling, Timing, measure, spread, undisturbed

USUAL = Reading(50e-6, 2.8)


class Machine:
    """Every call takes its time over `speed(now)`; both may be noisy."""

    def __init__(self, speed: Callable[[float], float] = lambda now: 1.0, noise: float = 0.0):
        self.now, self.speed, self.noise = 0.0, speed, noise
        self.random = random.Random(0)
        self.calls = 0

    def clock(self) -> float:
        return self.now

    def run(self, seconds: float) -> float:
        lasted = seconds / self.speed(self.now) * (1 + self.noise * abs(self.random.gauss(0, 1)))
        self.now += lasted
        return lasted

    def read(self) -> Reading:
        """The clock slows product and chain alike."""
        return Reading(self.run(USUAL.seconds), USUAL.ratio)

    def time(self, seconds: float, **sampling: float | None) -> Timing:
        def call() -> None:
            self.calls += 1
            self.run(seconds)

        pace = Pace(self.read, USUAL, self.clock)
        return measure(call, pace, Sampling(**sampling), self.clock)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0.3e-6, 20e-6, 1e-3, 40e-3])
def test_a_steady_machine_needs_few_samples(seconds: float) -> None:
    machine = Machine()
    timing = machine.time(seconds)
    assert timing.seconds == pytest.approx(seconds)
    assert timing.speed == pytest.approx(1.0)
    assert timing.spread < 1e-6
    assert machine.now < 0.02 + 12 * seconds


def test_noise_asks_for_more_samples_until_the_interval_is_narrow() -> None:
    few, many = (Machine(noise=n).time(1e-3) for n in (0.005, 0.08))
    assert few.samples < many.samples
    assert many.spread <= 0.02
    assert many.seconds == pytest.approx(1e-3 * (1 + 0.08 * 0.67), rel=0.05)


def test_the_budget_bounds_noise_without_end() -> None:
    machine = Machine(noise=3.0)
    timing = machine.time(1e-3)
    assert timing.spread > 0.02
    assert 0.2 < machine.now < 0.35


def test_what_is_far_slower_than_the_best_need_not_be_known_exactly() -> None:
    exact, near, far = (Machine(noise=0.15).time(1e-3, rival=r) for r in (None, 0.95e-3, 0.5e-3))
    assert near.samples == exact.samples > far.samples
    assert far.spread > 0.02
    assert far.seconds == pytest.approx(exact.seconds, rel=0.1)


def test_slow_candidates_are_called_once_or_twice() -> None:
    machine = Machine()
    timing = machine.time(2.0)
    assert timing.seconds == pytest.approx(2.0)
    assert machine.calls <= 2
    assert timing.spread is None, "one sample tells nothing of how far it may be off"


class SharedMachine(Machine):
    """At times another program works on the core: the product takes 1.6 times as long then, other code 1.3 times."""

    def __init__(self, shared: Callable[[float], bool], clock_speed: float = 1.0):
        super().__init__(lambda now: clock_speed / (1.3 if shared(now) else 1.0))
        self.shared, self.clock_speed = shared, clock_speed

    def read(self) -> Reading:
        slower = 1.6 if self.shared(self.now) else 1.0
        seconds = USUAL.seconds / self.clock_speed * slower
        self.now += seconds
        return Reading(seconds, USUAL.ratio * slower)


def test_samples_of_a_shared_core_do_not_count_beside_others() -> None:
    """Shared for 25 of every 60 ms: those samples, corrected by the product, would be wrong by 1.6 / 1.3."""
    timing = SharedMachine(lambda now: now % 0.06 < 0.025).time(1e-3)
    assert timing.seconds == pytest.approx(1e-3)
    assert timing.speed == pytest.approx(1.0)
    assert timing.alone


def test_a_core_that_is_free_again_soon_is_waited_for() -> None:
    machine = SharedMachine(lambda now: now < 0.3)
    assert machine.time(1e-3).seconds == pytest.approx(1e-3)
    assert machine.now < 0.35


def test_a_core_that_stays_shared_gives_a_corrected_time() -> None:
    machine = SharedMachine(lambda now: True)
    timing = machine.time(1e-3)
    assert timing.seconds == pytest.approx(1e-3 * 1.3 / 1.6)
    assert timing.speed == pytest.approx(1 / 1.6)
    assert not timing.alone
    assert 0.4 < machine.now < 0.5


@pytest.mark.parametrize("clock_speed", [0.8, 1.4])
def test_another_clock_is_no_other_program(clock_speed: float) -> None:
    machine = SharedMachine(lambda now: False, clock_speed)
    timing = machine.time(1e-3)
    assert timing.seconds == pytest.approx(1e-3)
    assert timing.alone
    assert machine.now < 0.05


def test_a_machine_at_half_speed_gives_the_same_time() -> None:
    timing = Machine(lambda now: 0.5).time(1e-3)
    assert timing.seconds == pytest.approx(1e-3)
    assert timing.speed == pytest.approx(0.5)


def test_drift_within_a_measurement_is_corrected() -> None:
    """The machine slows down by 40% within 60 ms."""
    drifting = Machine(lambda now: max(0.6, 1.0 - 7 * now), noise=0.01)
    timing = drifting.time(1e-3, least_samples=50, precision=0.0)
    assert timing.seconds == pytest.approx(1e-3, rel=0.03)
    assert timing.speed < 0.8


def test_spread_is_the_interval_of_the_median() -> None:
    assert spread([1.0, 1.0]) == 0
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(0.5)
    generator = random.Random(1)
    inside = 0
    for _ in range(300):
        samples = [generator.gauss(10, 1) for _ in range(40)]
        inside += abs(statistics.median(samples) - 10) < 2 * spread(samples) * statistics.median(samples)
    assert inside > 270
    wide, narrow = (spread([generator.gauss(10, 1) for _ in range(n)]) for n in (20, 2000))
    assert narrow < wide / 4


def test_the_usual_reading_is_that_of_an_unshared_core() -> None:
    alone = [Reading(45e-6 + 1e-8 * k, 2.7 + 0.01 * k) for k in range(10)]
    shared = [Reading(80e-6, 4.2)] * 20
    odd = [Reading(40e-6, 1.5)]  # the clock changed between product and chain
    usual = usual_of([*shared, *odd, *alone])
    assert usual.seconds == pytest.approx(45e-6, rel=0.01)
    assert usual.ratio == pytest.approx(2.75, rel=0.02)
    assert usual_of([Reading(80e-6, 4.2)]) == Reading(80e-6, 4.2)


def test_a_reading_is_of_real_work() -> None:
    with undisturbed():
        reading = Reference().usual(0.02)
    assert reading.seconds > 1e-6
    assert 0 < reading.ratio < math.inf
