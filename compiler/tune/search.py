"""What to measure next: per operator by a model's prediction, between operators by the time that may still be won.

The model's predictions of an operator's untried points are shifted by how wrong it was on the tried ones. With the
spread of those errors, the expected improvement of a point over the best time b is that of a lognormal variable with
median m and log deviation s (the criterion of Jones, Schonlau and Welch 1998, "Efficient Global Optimization"):

    E[max(0, b - t)] = b * P(d) - m * exp(s^2 / 2) * P(d - s),   d = ln(b / m) / s,   P: normal distribution function
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..schedule.op_spec import OpSpec
from .record import Measurement, Point
from .task import Task

# One in so many picks of an operator is the point least like those tried, whatever the model says of it.
DIVERSE_EVERY = 4
# Log deviation of predictions before anything is known of their errors, and the weight of that in observations.
PRIOR_DEVIATION = 0.15
PRIOR_WEIGHT = 2
# How often a point is measured until nobody else works on the core meanwhile.
MOST_TRIES = 3
# Timings of the same code differ by as much.
LEAST_DEVIATION = 0.02


class Predictor(Protocol):
    """Predicts times; only the order of one operator's points, and how far apart they are, must be about right."""

    def predict(self, op: OpSpec, points: Sequence[Point]) -> np.ndarray:
        """Seconds of each point, float64 of shape (points,)."""


class InGivenOrder:
    """The prediction when there is no model: points are the worse the later their template names them."""

    def predict(self, op: OpSpec, points: Sequence[Point]) -> np.ndarray:
        """Times that grow by 2% from one point to the next."""
        return np.power(1.02, np.arange(len(points)))


@dataclass
class TaskSearch:
    """What is known of one task; `results` may hold points of earlier sessions.

    `factors` of points (1 where there is none) turn their measured times into what they are worth on all cores, as
    `features.idle_factors` gives them: choices go by that, as those of a compilation do.
    """

    task: Task
    start: Point
    results: dict[Point, Measurement] = field(default_factory=dict)
    factors: Mapping[Point, float] = field(default_factory=dict)
    pending: set[Point] = field(default_factory=set)
    picks: int = 0
    predictions: int = 0
    finished: int = 0
    given_up: str = ""
    _tries: Counter[Point] = field(default_factory=Counter)
    _gain: tuple[tuple[int, int, int, str], float] | None = None
    _log_times: dict[Point, float] = field(default_factory=dict)

    def predict_with(self, predictor: Predictor) -> None:
        """Take `predictor`'s times for all points of the task."""
        points = self.task.points
        times = np.asarray(predictor.predict(self.task.op, points), float)
        times = times * [self.factors.get(p, 1.0) for p in points]
        self._log_times = dict(zip(points, np.log(times), strict=True))
        self.predictions += 1

    def worth(self, point: Point) -> float | None:
        """Seconds of a measured point times its factor; None if it was not measured, or failed."""
        measurement = self.results.get(point)
        if measurement is None or not measurement.ok or measurement.seconds is None:
            return None
        return measurement.seconds * self.factors.get(point, 1.0)

    @property
    def untried(self) -> list[Point]:
        """Points neither measured nor being measured; those whose time is not sure are to be measured again."""
        if self.given_up:
            return []
        return [p for p in self.task.points if p not in self.pending and (p not in self.results or self._unsure(p))]

    def _unsure(self, point: Point) -> bool:
        """Whether others worked on the core while `point` was timed, and never while some other point was.

        Such a time is rough: the least of many would be the one that errs most.
        """
        measured = self.results[point]
        return measured.ok and not measured.alone and self._tries[point] < MOST_TRIES and self._any_alone()

    def _any_alone(self) -> bool:
        return any(m.ok and m.alone for m in self.results.values())

    @property
    def best(self) -> tuple[Point, float] | None:
        """The fastest point that gave the right result, with what it is worth in seconds.

        Times taken beside other programs' work count only if there are no others.
        """
        times = [(p, seconds) for p in self.results if (seconds := self.worth(p)) is not None]
        alone = [(p, seconds) for p, seconds in times if self.results[p].alone]
        return min(alone or times, key=lambda found: found[1], default=None)

    def give_up(self, reason: str) -> None:
        """Measure nothing more of this task: `reason` tells why none of its points can be checked."""
        self.given_up = reason
        self.pending.clear()

    def predicted_seconds(self) -> float | None:
        """What the best untried point is thought to take, or None if nothing is left or known."""
        if self.best is None or not self.untried:
            return None
        shift, _ = self._errors()
        return math.exp(min(self._log_times[p] for p in self.untried) + shift)

    def gain(self) -> float:
        """Seconds of an inference that the untried point of the least predicted time is expected to save."""
        if self._gain is None or self._gain[0] != self.version:
            self._gain = self.version, self._expected_gain()
        return self._gain[1]

    @property
    def version(self) -> tuple[int, int, int, str]:
        """Another one whenever anything that is known of the task has changed."""
        return self.finished, len(self.pending), self.predictions, self.given_up

    def _expected_gain(self) -> float:
        best, predicted = self.best, self.predicted_seconds()
        if best is None or predicted is None:
            return 0.0
        return self.task.calls * expected_improvement(best[1], predicted, self._errors()[1])

    def pick(self, rng: np.random.Generator) -> Point | None:
        """The next point to measure, now pending: the start, then the model's choices mixed with unlike ones."""
        untried = self.untried
        if not untried:
            return None
        if self.start in untried:
            chosen = self.start
        elif self.picks % DIVERSE_EVERY == DIVERSE_EVERY - 1:
            chosen = self._least_like_tried(untried, rng)
        else:
            chosen = min(untried, key=lambda p: self._log_times[p])
        self.picks += 1
        self.pending.add(chosen)
        return chosen

    def finish(self, point: Point, measurement: Measurement) -> None:
        """Note the result of a pending point."""
        self.pending.discard(point)
        self.results[point] = measurement
        self._tries[point] += 1
        self.finished += 1

    def _errors(self) -> tuple[float, float]:
        """Mean and deviation of ln(measured / predicted) over the tried points."""
        errors = [
            math.log(t) - self._log_times[p]
            for p in self.results
            if p in self._log_times and not self._unsure(p) and (t := self.worth(p))
        ]
        if not errors:
            return 0.0, PRIOR_DEVIATION
        mean = sum(errors) / len(errors)
        squares = sum((e - mean) ** 2 for e in errors) + PRIOR_WEIGHT * PRIOR_DEVIATION**2
        return mean, max(LEAST_DEVIATION, math.sqrt(squares / (len(errors) + PRIOR_WEIGHT)))

    def _least_like_tried(self, untried: Sequence[Point], rng: np.random.Generator) -> Point:
        tried = [p for p in self.task.points if p in self.results or p in self.pending]
        order = rng.permutation(len(untried))
        return max((untried[k] for k in order), key=lambda p: min((distance(p, t) for t in tried), default=math.inf))


class Search:
    """All tasks of a session: shares the measurements out among them.

    `exhaustive` measures every point, those of the tasks with most of them first, which gives data to learn from.
    """

    def __init__(self, tasks: Sequence[TaskSearch], seed: int = 0, exhaustive: bool = False):
        self.tasks = list(tasks)
        self.exhaustive = exhaustive
        self._rng = np.random.default_rng(seed)

    def propose(self, count: int) -> list[tuple[TaskSearch, Point]]:
        """Up to `count` points: every task's start first, then where most time may still be won."""
        chosen: list[tuple[TaskSearch, Point]] = []
        unmeasured = [t for t in self.tasks if t.best is None and not t.pending]
        gains = {id(t): self._worth(t) for t in self.tasks}
        while len(chosen) < count:
            if unmeasured:
                task = unmeasured.pop(0)
            else:
                if not self.tasks:
                    break
                task = max(self.tasks, key=lambda t: gains[id(t)])
                if gains[id(task)] <= 0:
                    break
            point = task.pick(self._rng)
            if point is not None:
                chosen.append((task, point))
            # What is being measured already may win the same time.
            gains[id(task)] = self._worth(task)
        return chosen

    def _worth(self, task: TaskSearch) -> float:
        if self.exhaustive:
            return len(task.untried)
        return task.gain() / (1 + len(task.pending))

    def expected_gain(self) -> float | None:
        """The part of the model's time that one more point per task would save; None while that cannot be told."""
        if self.exhaustive:
            return None
        total = 0.0
        for task in self.tasks:
            best = task.best
            if best is None:
                if task.untried or task.pending:
                    return None
                continue
            total += task.task.calls * best[1]
        return sum(t.gain() for t in self.tasks) / total if total else 0.0


def expected_improvement(best: float, median: float, deviation: float) -> float:
    """E[max(0, best - t)] for ln t normal around ln `median` with standard deviation `deviation`."""
    d = math.log(best / median) / deviation
    return best * _normal(d) - median * math.exp(deviation**2 / 2) * _normal(d - deviation)


def distance(a: Point, b: Point) -> float:
    """How unlike two points are: 4 for another template, else the sum of the knobs' ratios in powers of two."""
    if a.template != b.template:
        return 4.0
    other = dict(b.config.knobs)
    return sum(_knob_distance(value, other.get(name)) for name, value in a.config.knobs)


def _knob_distance(a: int | str, b: int | str | None) -> float:
    if isinstance(a, int) and isinstance(b, int) and a > 0 and b > 0:
        return min(2.0, abs(math.log2(a / b)))
    return float(a != b)


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))
