"""One tuning session: choose, measure, record, learn, until the budget is gone or nothing is left to win.

Points are chosen in batches, and each batch while the one before is being measured: a choice rests on all batches but
that one, whatever the order in which measurements arrive. Equal measurements thus lead to equal choices.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from .interrupts import Interrupts
from .measure.pool import Job
from .record import UNCHECKED, Measurement, Point, Record
from .report import SessionState, TaskState
from .search import Predictor, Search, TaskSearch

# A session ends when a further point for every task is expected to save less than this part of the model's time.
LEAST_GAIN = 0.01
BATCH = 8
# The model learns from new records when they are this many more than when it last did.
LEARN_EVERY = 32
# Ctrl-C is looked for as often as this.
LONGEST_WAIT_S = 0.25


OUT_OF_TIME = "the time is up"
TOO_SHORT = "the time was up before a first candidate was measured: worker processes take some seconds to start"
OUT_OF_TRIALS = "all trials were made"
NOTHING_LEFT = "every config was measured"
INTERRUPTED = "interrupted"

_Batch = dict[Job, tuple[TaskSearch, Point]]


class Pool(Protocol):
    """Measures jobs side by side."""

    def submit(self, job: Job) -> None:
        """Have `job` measured; returns at once."""

    def results(self, timeout_s: float | None = None) -> Iterator[tuple[Job, Measurement]]:
        """Jobs as they end, until none is left or `timeout_s` are over."""


class Learner(Predictor, Protocol):
    """A predictor that learns."""

    def with_records(self, records: Sequence[Record]) -> Learner:
        """The same, knowing `records` as well."""


@dataclass(frozen=True)
class Limits:
    """When to stop: after `seconds`, after `trials` measurements, or at the latest when nothing more is to be won."""

    seconds: float | None = None
    trials: int | None = None
    least_gain: float = LEAST_GAIN


@dataclass
class Session:
    """Measures points of `search` with `pool`; hands every record to `keep` at once, and snapshots to `progress`.

    What was spent choosing before it runs is told by `search_s`, and since when the time counts by `began`.
    """

    search: Search
    pool: Pool
    limits: Limits
    target_key: str
    kompilo: str
    keep: Callable[[Record], None]
    learner: Learner | None = None
    progress: Callable[[SessionState], None] = lambda state: None
    clock: Callable[[], float] = time.monotonic
    search_s: float = 0.0
    began: float | None = None
    _interrupts: Interrupts = field(default_factory=Interrupts)
    _began: float = 0.0
    _submitted: int = 0
    _measured: int = 0
    _failed: int = 0
    _batches: deque[_Batch] = field(default_factory=deque)
    _arrived: dict[Job, Record] = field(default_factory=dict)
    _fresh: list[Record] = field(default_factory=list)
    _history: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    _states: dict[int, tuple[tuple[int, int, int, str], TaskState]] = field(default_factory=dict)

    def run(self) -> SessionState:
        """Run to the end; an interrupt (Ctrl-C) ends it too. The last snapshot says why it ended."""
        self._began = self.clock() if self.began is None else self.began
        with self._interrupts:
            try:
                stopped = self._loop()
            except KeyboardInterrupt:  # by a listener, or the second
                stopped = INTERRUPTED
            for job, measurement in self.pool.results(0):  # what ended while something else was done
                self._note(job, measurement)
            while self._batches:
                self._finish(self._batches.popleft())
        if self._interrupts.asked:
            stopped = INTERRUPTED
        if stopped == OUT_OF_TIME and not self._measured and self._submitted:
            stopped = TOO_SHORT
        state = self._snapshot(running=False, stopped=stopped)
        self.progress(state)
        return state

    def _loop(self) -> str:
        while True:
            reason = self._why_stop()
            if reason is None and len(self._batches) < 2:
                batch = self._next_batch()
                if batch:
                    self._batches.append(batch)
                    continue
            if reason in (OUT_OF_TIME, INTERRUPTED):
                return str(reason)
            if not self._batches:
                return reason or NOTHING_LEFT
            if self._wait_for(self._batches[0]):
                self._finish(self._batches.popleft())

    def _why_stop(self) -> str | None:
        if self._interrupts.asked:
            return INTERRUPTED
        if self._time_left() == 0:
            return OUT_OF_TIME
        if self.limits.trials is not None and self._submitted >= self.limits.trials:
            return OUT_OF_TRIALS
        began = self.clock()
        gain = self.search.expected_gain()
        self.search_s += self.clock() - began
        if gain is not None and gain < self.limits.least_gain:
            return f"less than {self.limits.least_gain:.0%} of the model's time is expected to be won"
        return None

    def _next_batch(self) -> _Batch:
        began = self.clock()
        self._learn()
        count = BATCH
        if self.limits.trials is not None:
            count = min(count, self.limits.trials - self._submitted)
        batch = {Job(task.task.op, point): (task, point) for task, point in self.search.propose(count)}
        self._submitted += len(batch)
        self.search_s += self.clock() - began
        for job in batch:
            self.pool.submit(job)
        return batch

    def _learn(self) -> None:
        if len(self._fresh) < LEARN_EVERY or self.learner is None:
            return
        self.learner = self.learner.with_records(self._fresh)
        self._fresh.clear()
        for task in self.search.tasks:
            task.predict_with(self.learner)

    def _wait_for(self, batch: _Batch) -> bool:
        """Whether all of `batch` have arrived after a while; whatever arrives meanwhile is recorded at once."""
        if not batch.keys() <= self._arrived.keys():
            left = self._time_left()
            for job, measurement in self.pool.results(LONGEST_WAIT_S if left is None else min(left, LONGEST_WAIT_S)):
                self._note(job, measurement)
                if batch.keys() <= self._arrived.keys() or self._interrupts.asked or self._time_left() == 0:
                    break
        return batch.keys() <= self._arrived.keys()

    def _finish(self, batch: _Batch) -> None:
        for job, (task, point) in batch.items():
            if job in self._arrived:
                record = self._arrived.pop(job)
                if record.measurement.status == UNCHECKED:
                    task.give_up(record.measurement.reason)
                    continue
                task.finish(point, record.measurement)
                # In the order of the batch, not of arrival: what is learnt must not depend on chance.
                self._fresh.append(record)

    def _note(self, job: Job, measurement: Measurement) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        record = Record(job.op, self.target_key, job.point, measurement, now, self.kompilo)
        self._arrived[job] = record
        if measurement.status == UNCHECKED:
            return
        self.keep(record)
        self._measured += 1
        self._failed += not measurement.ok
        began = self.clock()
        state = self._snapshot()
        self.search_s += self.clock() - began
        self.progress(state)

    def _time_left(self) -> float | None:
        if self.limits.seconds is None:
            return None
        return max(0.0, self._began + self.limits.seconds - self.clock())

    def _snapshot(self, running: bool = True, stopped: str = "") -> SessionState:
        return SessionState(
            tasks=tuple(self._task_state(t) for t in self.search.tasks),
            elapsed_s=self.clock() - self._began,
            budget_s=self.limits.seconds,
            measured=self._measured,
            failed=self._failed,
            running=running,
            stopped=stopped,
        )

    def _task_state(self, task: TaskSearch) -> TaskState:
        """The state of a task, made anew only if anything about it has changed."""
        version = task.version
        kept = self._states.get(id(task))
        if kept is None or kept[0] != version:
            kept = self._states[id(task)] = version, self._new_state(task)
        return kept[1]

    def _new_state(self, task: TaskSearch) -> TaskState:
        best, start = task.best, task.results.get(task.start)
        best_seconds = task.results[best[0]].seconds if best else None
        history = self._history.setdefault(id(task), [])
        if best_seconds is not None and (not history or best_seconds != history[-1][1]):
            history.append((self.clock() - self._began, best_seconds))
        return TaskState(
            op=task.task.op,
            calls=task.task.calls,
            points=len(task.task.points),
            tried=len(task.results),
            failed=sum(not m.ok for m in task.results.values()),
            start_point=task.start,
            start_seconds=start.seconds if start is not None else None,
            best_point=best[0] if best else None,
            best_seconds=best_seconds,
            predicted_seconds=task.predicted_seconds(),
            history=tuple(history),
        )
