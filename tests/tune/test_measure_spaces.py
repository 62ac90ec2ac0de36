"""benchmarks/measure_spaces.py on a machine whose clock and readings are made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from benchmark_files import benchmark
from operators import matmul

from kompilo.compiler.schedule.template import Config
from kompilo.compiler.tune import store
from kompilo.compiler.tune.measure.pace import Pace, Reading
from kompilo.compiler.tune.record import Measurement, Point
from kompilo.compiler.tune.task import Task

spaces = benchmark("measure_spaces")
USUAL = Reading(1e-3, 2.8)
BESIDE_ANOTHER = 4.2


@dataclass
class Machine:
    """Runs for `now` seconds; `reading(k)` is the k-th reading, and `slowness()` what calls take longer."""

    reading: Callable[[int], Reading] = lambda k: USUAL
    slowness: Callable[[], float] = lambda: 1.0
    now: float = 0.0
    readings: int = 0

    def clock(self) -> float:
        return self.now

    def read(self) -> Reading:
        self.now += 1e-3
        self.readings += 1
        return self.reading(self.readings - 1)

    def pace(self) -> Pace:
        return Pace(self.read, USUAL, self.clock)


@dataclass
class Call:
    """A call that takes `seconds` of `machine`."""

    machine: Machine
    seconds: float

    def __call__(self) -> None:
        self.machine.now += self.seconds * self.machine.slowness()

    def go_on_at(self, place: float) -> None:
        """There is one copy only."""

    def after(self, place: float, calls: int) -> float:
        return 0.0


@pytest.fixture
def play(monkeypatch):
    """Plays on a machine: (machine, seconds of each contender) -> contenders, speeds, alone."""

    def run(machine: Machine, *seconds: float):
        monkeypatch.setattr(spaces, "time", SimpleNamespace(perf_counter=machine.clock))
        contenders = [spaces.Contender(point(k), Call(machine, s), 1e-6) for k, s in enumerate(seconds)]
        return contenders, *spaces.play(contenders, machine.pace())

    return run


def point(k: int) -> Point:
    return Point("tiled", 1, Config((("rows", k),)))


def test_the_speed_of_a_round_rests_on_the_readings_around_it(play):
    machine = Machine(lambda k: Reading(USUAL.seconds * (1 + k), USUAL.ratio))
    _, speeds, alone = play(machine, 1e-3)
    assert speeds == pytest.approx([2 / ((1 + k) + (2 + k)) for k in range(spaces.ROUNDS)])
    assert alone


def test_the_speed_of_a_disturbed_round_that_counts_is_not_that_of_the_wait_after_it(play):
    # Every round is disturbed, the core is free in between, and it gets slower all the time.
    machine = Machine(lambda k: Reading(USUAL.seconds * (1 + k), USUAL.ratio if k % 2 == 0 else BESIDE_ANOTHER))
    contenders, speeds, alone = play(machine, 1e-3)
    repeated = spaces.MOST_ROUNDS - spaces.ROUNDS - 1
    assert speeds == pytest.approx([2 / (4 * k + 3) for k in range(repeated, repeated + spaces.ROUNDS)])
    assert len(contenders[0].times) == spaces.ROUNDS
    assert not alone


def test_disturbed_rounds_are_repeated(play):
    machine = Machine(lambda k: Reading(USUAL.seconds, BESIDE_ANOTHER if k in (3, 4) else USUAL.ratio))
    contenders, speeds, alone = play(machine, 1e-3, 1.1e-3)
    assert speeds == [1.0] * spaces.ROUNDS
    assert [len(c.times) for c in contenders] == [spaces.ROUNDS] * 2
    # The first reading, one after each round, the disturbed one's included, and two of the wait behind that.
    assert machine.readings == 1 + (spaces.ROUNDS + 1) + 2
    assert alone


def test_a_core_that_is_never_free_ends_the_rounds_all_the_same(play):
    _, speeds, alone = play(Machine(lambda k: Reading(USUAL.seconds, BESIDE_ANOTHER)), 1e-3)
    assert len(speeds) == spaces.ROUNDS
    assert not alone


def test_hopeless_contenders_drop_out_after_the_first_rounds(play):
    contenders, _, _ = play(Machine(), 1e-3, 1.4e-3, 1.6e-3)
    assert [c.dropped for c in contenders] == [False, False, True]
    assert [len(c.times) for c in contenders] == [spaces.ROUNDS, spaces.ROUNDS, spaces.FIRST_ROUNDS]


def test_short_calls_are_repeated_within_a_turn(play):
    contenders, _, _ = play(Machine(), 1e-4, 1e-2)
    assert [c.calls for c in contenders] == [15, 1]
    assert contenders[0].times == pytest.approx([1e-4] * spaces.ROUNDS)


def test_what_slows_a_whole_round_changes_no_ratio(play):
    machine = Machine()
    machine.slowness = lambda: 1.0 + machine.readings % 3  # rounds of usual, double and triple time
    machine.reading = lambda k: Reading(USUAL.seconds, USUAL.ratio)
    contenders, speeds, alone = play(machine, 1e-3, 1.2e-3, 3e-3)
    found = spaces.results(contenders, speeds, alone)
    assert [p for p, _ in found] == [point(0), point(1), point(2)]
    times = [m.seconds for _, m in found]
    assert times[1] / times[0] == pytest.approx(1.2)
    assert times[2] / times[0] == pytest.approx(3.0)
    assert [m.samples for _, m in found] == [spaces.ROUNDS, spaces.ROUNDS, spaces.FIRST_ROUNDS]
    assert all(m.spread == pytest.approx(0.0, abs=1e-9) for _, m in found)


def test_times_are_those_at_the_usual_speed():
    slow = spaces.Contender(point(0), None, 1e-6, times=[2e-3] * 5)
    ((_, measured),) = spaces.results([slow], [0.5] * 5, True)
    assert measured.seconds == pytest.approx(1e-3)
    assert measured.speed == pytest.approx(0.5)
    assert measured.ok
    assert measured.alone
    assert measured.error == 1e-6


def test_no_contenders_no_results(play):
    contenders, speeds, alone = play(Machine())
    assert spaces.results(contenders, speeds, alone) == []


def test_records_of_an_operator_are_written_in_one_go_and_then_passed_over(monkeypatch, tmp_path):
    task = Task(matmul(8, 8, 8), 1, tuple(point(k) for k in range(3)))
    measured, written = [], []

    def measure_space(task, bench, usual, cold):
        measured.append(task)
        return [(p, Measurement("ok", 1e-3, 0.01, 11)) for p in task.points]

    whole = store.append_whole
    monkeypatch.setattr(store, "append_whole", lambda path, data: (written.append(data), whole(path, data)))
    monkeypatch.setattr(spaces, "find_target", lambda name: SimpleNamespace(spec=SimpleNamespace(key="cpu-test-1c")))
    monkeypatch.setattr(spaces, "remembered", lambda folder: USUAL)
    monkeypatch.setattr(spaces, "Bench", lambda setup: SimpleNamespace(cold_memory=lambda: None))
    monkeypatch.setattr(spaces, "tasks_of", lambda models, target: [task])
    monkeypatch.setattr(spaces, "measure_space", measure_space)
    monkeypatch.setattr(spaces.os, "sched_getaffinity", lambda pid: {0})
    for _ in range(2):
        spaces.work(tmp_path, [], 0, 1)
    assert measured == [task]
    (lines,) = written
    assert lines.count(b"\n") == 3
