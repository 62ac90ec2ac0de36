"""Sessions with a pool that answers from a table, in any order."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.schedule.template import Config
from kompilo.compiler.tune.interrupts import Interrupts
from kompilo.compiler.tune.measure.pool import Job
from kompilo.compiler.tune.record import UNCHECKED, Measurement, Point, Record
from kompilo.compiler.tune.report import SessionState
from kompilo.compiler.tune.search import InGivenOrder, Search, TaskSearch
from kompilo.compiler.tune.session import (
    INTERRUPTED,
    NOTHING_LEFT,
    OUT_OF_TIME,
    OUT_OF_TRIALS,
    TOO_SHORT,
    Limits,
    Session,
)
from kompilo.compiler.tune.task import Task

POINTS = tuple(Point("t", 1, Config.of(rows=r)) for r in range(1, 25))
TIMES = dict(zip(POINTS, np.random.default_rng(1).uniform(1e-3, 2e-3, len(POINTS)), strict=True))


class Clock:
    """A clock that a measurement moves on by one second."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TablePool:
    """Answers after a second each; jobs come back in an order drawn by `seed`.

    Operators called `unchecked` have no reference; `disturbed` points look twice as fast when they are timed first.
    """

    def __init__(
        self, clock: Clock, seed: int = 0, fail: frozenset[Point] = frozenset(), interrupt_after: int = 10**9,
        unchecked: str = "", disturbed: frozenset[Point] = frozenset(),
    ):  # fmt: skip
        self.clock, self.fail, self.interrupt_after = clock, fail, interrupt_after
        self.unchecked, self.disturbed, self.first_after = unchecked, disturbed, 0.0
        self.rng = np.random.default_rng(seed)
        self.waiting: list[Job] = []
        self.done: list[Job] = []

    def submit(self, job: Job) -> None:
        self.waiting.append(job)

    def results(self, timeout_s: float | None = None) -> Iterator[tuple[Job, Measurement]]:
        until = None if timeout_s is None else self.clock() + timeout_s
        if self.clock() < self.first_after:
            self.clock.now = until or self.first_after
            return
        while self.waiting and (until is None or self.clock() < until):
            if len(self.done) == self.interrupt_after:
                raise KeyboardInterrupt
            job = self.waiting.pop(int(self.rng.integers(len(self.waiting))))
            self.clock.now += 1
            self.done.append(job)
            yield job, self.measurement(job)

    def measurement(self, job: Job) -> Measurement:
        if job.op.kind == self.unchecked:
            return Measurement(UNCHECKED, reason="too large")
        if job.point in self.fail:
            return Measurement("crashed", reason="as asked")
        if job.point in self.disturbed and self.done.count(job) == 1:
            return Measurement("ok", TIMES[job.point] / 2, alone=False)
        return Measurement("ok", TIMES[job.point])


def operator(name: str) -> OpSpec:
    out = TensorType((4, 4), "float32")
    return OpSpec(name, (out,), (False,), (), out, out)


def session(limits: Limits, names=("a", "b"), exhaustive: bool = False, **pool) -> tuple[Session, list, list]:
    clock = Clock()
    tasks = [TaskSearch(Task(operator(n), 1 + k, POINTS), POINTS[0]) for k, n in enumerate(names)]
    for task in tasks:
        task.predict_with(InGivenOrder())
    records: list[Record] = []
    states: list[SessionState] = []
    made = Session(
        Search(tasks, exhaustive=exhaustive), TablePool(clock, **pool), limits, "cpu-test", "0", records.append,
        progress=states.append, clock=clock,
    )  # fmt: skip
    return made, records, states


def test_everything_is_measured_when_asked_to():
    made, records, states = session(Limits(), exhaustive=True)
    state = made.run()
    assert state.stopped == NOTHING_LEFT
    assert len(records) == state.measured == 2 * len(POINTS)
    assert [t.best_seconds for t in state.tasks] == [min(TIMES.values())] * 2
    assert states[-1] is state
    assert not state.running


def test_the_time_is_kept():
    state = session(Limits(seconds=12.5), exhaustive=True)[0].run()
    assert state.stopped == OUT_OF_TIME
    assert state.measured == 13


@pytest.mark.parametrize("trials", [1, 7, 8, 30])
def test_the_number_of_trials_is_kept(trials):
    state = session(Limits(trials=trials), exhaustive=True)[0].run()
    assert state.stopped == OUT_OF_TRIALS
    assert state.measured == trials


def test_an_interrupt_keeps_what_was_measured():
    made, records, _ = session(Limits(), exhaustive=True, interrupt_after=11)
    state = made.run()
    assert state.stopped == INTERRUPTED
    assert len(records) == state.measured == 11
    assert sum(t.tried for t in state.tasks) == 11


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises KeyboardInterrupt, whatever those who started the tests made of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_a_record_is_written_loses_nothing(ctrl_c):
    """The first Ctrl-C waits until the session is between two measurements, a second one does not."""
    made, records, _ = session(Limits(), exhaustive=True)

    def keep(record: Record) -> None:
        if len(records) == 4:
            signal.raise_signal(signal.SIGINT)
        records.append(record)

    made.keep = keep
    state = made.run()
    assert state.stopped == INTERRUPTED
    assert len(records) == state.measured == sum(t.tried for t in state.tasks) == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_cannot_be_checked_is_given_up_and_not_recorded():
    made, records, _ = session(Limits(least_gain=0), unchecked="a")
    state = made.run()
    assert state.stopped == NOTHING_LEFT
    assert {r.op.kind for r in records} == {"b"}
    assert [t.given_up for t in made.search.tasks] == ["too large", ""]
    assert state.tasks[0].best_seconds is None


def test_times_taken_beside_others_work_are_taken_again():
    """A third of the first tries look twice as fast as they are. Whatever wins in the end was timed alone."""
    made, records, _ = session(Limits(), exhaustive=True, disturbed=frozenset(POINTS[::3]))
    state = made.run()
    assert state.stopped == NOTHING_LEFT
    assert [t.best_seconds for t in state.tasks] == [min(TIMES.values())] * 2
    assert len(records) == 2 * (len(POINTS) + len(POINTS[::3]))
    again, _, _ = session(Limits(trials=12), exhaustive=True, disturbed=frozenset(POINTS))
    assert all(t.best_seconds is not None for t in again.run().tasks), "better a rough time than none"


def test_a_budget_too_short_for_anything_says_so():
    made, _, _ = session(Limits(seconds=0.1))
    made.pool.first_after = 103.0
    assert made.run().stopped == TOO_SHORT


def test_it_ends_when_nothing_is_to_be_won():
    state = session(Limits(least_gain=0.01))[0].run()
    assert "less than 1%" in state.stopped or state.stopped == NOTHING_LEFT
    assert all(t.best_seconds is not None for t in state.tasks)


def test_choices_do_not_depend_on_the_order_of_results():
    chosen = []
    for seed in (1, 2, 3):
        made, records, _ = session(Limits(trials=40, least_gain=0), seed=seed)
        made.run()
        chosen.append({(str(r.op), r.point) for r in records})
    assert chosen[0] == chosen[1] == chosen[2]


def test_failures_are_recorded_and_counted():
    fail = frozenset(POINTS[:6])
    made, records, _ = session(Limits(), exhaustive=True, fail=fail)
    state = made.run()
    assert state.failed == 2 * len(fail) == sum(not r.measurement.ok for r in records)
    assert all(t.best_point not in fail and t.start_seconds is None for t in state.tasks)


def test_the_model_learns_as_records_arrive():
    learned: list[int] = []

    class Learner(InGivenOrder):
        def with_records(self, records):
            learned.append(len(records))
            return self

    made, _, _ = session(Limits(), exhaustive=True)
    made.learner = Learner()
    made.run()
    assert learned
    assert all(n >= 32 for n in learned)


def test_the_history_falls():
    state = session(Limits(), exhaustive=True)[0].run()
    for task in state.tasks:
        times = [seconds for _, seconds in task.history]
        assert times == sorted(times, reverse=True)
        assert times[-1] == task.best_seconds


class Teachable(InGivenOrder):
    """Thinks of each point what it was last told of it, and of its successors the same."""

    def __init__(self, told: tuple[float, ...] = ()):
        self.told = told

    def with_records(self, records):
        return Teachable((*self.told, *(r.measurement.seconds for r in records)))

    def predict(self, op, points):
        order = np.argsort([hash_of(self.told, k) for k in range(len(points))])
        return 1.0 + order / 100


def hash_of(told: tuple[float, ...], k: int) -> float:
    """A number that any change in the order of `told` changes."""
    return sum(t * np.sin(i + k) for i, t in enumerate(told, 1))


def test_what_is_learnt_does_not_depend_on_the_order_of_results():
    chosen = []
    for seed in (1, 2, 3, 4):
        made, records, _ = session(Limits(trials=90, least_gain=0), names=("a", "b", "c", "d"), seed=seed)
        made.learner = Teachable()
        made.run()
        assert made.learner.told
        chosen.append((made.learner.told, {(str(r.op), r.point) for r in records}))
    assert chosen[0] == chosen[1] == chosen[2] == chosen[3]


def test_what_ended_unseen_is_recorded_when_the_time_is_up():
    made, records, _ = session(Limits(seconds=5.5), exhaustive=True)
    late = made.pool.results

    def results(timeout_s=None):
        if timeout_s == 0:
            yield from late()  # what had ended while the session did something else
        yield from late(timeout_s)

    made.pool.results = results
    state = made.run()
    assert state.stopped == OUT_OF_TIME
    assert len(records) == state.measured == 16
    assert sum(t.tried for t in state.tasks) == 16


def test_unchanged_tasks_keep_their_state():
    made, _, states = session(Limits(), exhaustive=True)
    made.run()
    kept = sum(a.tasks[k] is b.tasks[k] for a, b in itertools.pairwise(states) for k in (0, 1))
    assert kept > len(states) / 2


def test_times_are_shown_as_measured_though_choices_count_idle_cores():
    made, _, _ = session(Limits(), names=("a",), exhaustive=True)
    fastest = min(TIMES, key=TIMES.__getitem__)
    made.search.tasks[0].factors = {fastest: 3.0}
    (task,) = made.run().tasks
    second = sorted(TIMES.values())[1]
    assert task.best_seconds == task.history[-1][1] == second
    assert task.best_point != fastest
    assert task.start_seconds == TIMES[POINTS[0]]
