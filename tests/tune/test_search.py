"""The choice of what to measure, on tasks whose true times are made up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.schedule.template import Config
from kompilo.compiler.tune.record import Measurement, Point
from kompilo.compiler.tune.search import InGivenOrder, Search, TaskSearch, distance, expected_improvement
from kompilo.compiler.tune.task import Task

POINTS = tuple(Point("t", 1, Config.of(rows=r, cols=c)) for r in (1, 2, 4, 8) for c in (1, 2, 4))


def op(name: str = "conv2d") -> OpSpec:
    out = TensorType((4, 4), "float32")
    return OpSpec(name, (out,), (False,), (), out, out)


def task(calls: int = 1, points: tuple[Point, ...] = POINTS, name: str = "conv2d") -> TaskSearch:
    search = TaskSearch(Task(op(name), calls, points), points[0])
    search.predict_with(InGivenOrder())
    return search


def run(search: Search, seconds, batch: int = 4) -> list[Point]:
    """Measure until nothing is proposed; `seconds(point)` is None where the point fails."""
    order = []
    while chosen := search.propose(batch):
        for t, point in chosen:
            found = seconds(point)
            t.finish(point, Measurement("crashed" if found is None else "ok", found))
            order.append(point)
    return order


def test_the_start_of_every_task_comes_first():
    tasks = [task(name=n) for n in ("a", "b", "c")]
    chosen = Search(tasks).propose(5)
    assert [(t, p) for t, p in chosen[:3]] == [(t, POINTS[0]) for t in tasks]


def test_a_task_whose_start_fails_goes_on_with_other_points():
    (only,) = tasks = [task()]
    run(Search(tasks), lambda p: None if p == POINTS[0] else 1.0)
    assert only.best is not None
    assert only.best[0] != POINTS[0]


def test_a_task_of_which_all_points_fail_ends():
    tasks = [task(), task(name="other")]
    order = run(Search(tasks), lambda p: None)
    assert len(order) == 2 * len(POINTS)
    assert Search(tasks).expected_gain() == 0


def test_time_goes_where_most_may_be_won():
    often, rarely = task(calls=50, name="often"), task(calls=1, name="rarely")
    search = Search([often, rarely])
    for t, point in search.propose(2):
        t.finish(point, Measurement("ok", 1.0))
    picked = [t for t, _ in search.propose(4)]
    assert picked.count(often) == 4


def test_all_points_are_tried_once_and_none_twice_when_exhaustive():
    order = run(Search([task()], exhaustive=True), lambda p: 1.0 + POINTS.index(p))
    assert sorted(map(str, order)) == sorted(map(str, POINTS))


def test_results_of_earlier_sessions_are_not_measured_again():
    known = task()
    known.results = {p: Measurement("ok", 1.0) for p in POINTS[:5]}
    assert not set(run(Search([known], exhaustive=True), lambda p: 1.0)) & set(POINTS[:5])


def test_equal_seeds_choose_equally():
    times = dict(zip(POINTS, np.random.default_rng(3).uniform(1, 2, len(POINTS)), strict=True))
    first, second = (run(Search([task()], seed=7), times.get) for _ in range(2))
    assert first == second


def test_a_good_predictor_finds_the_best_at_once():
    class Knowing:
        def predict(self, op, points):
            return np.array([1.0 + (p.config.int("rows") - 4) ** 2 + p.config.int("cols") for p in points])

    only = task()
    only.predict_with(Knowing())
    search = Search([only])
    for _ in range(2):
        ((t, point),) = search.propose(1)
        t.finish(point, Measurement("ok", 1.0 + (point.config.int("rows") - 4) ** 2 + point.config.int("cols")))
    assert only.best[0].config == Config.of(rows=4, cols=1)
    assert search.expected_gain() < 0.01


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.01, 0.5))
def test_expected_improvement_is_that_of_a_sample(best, median, deviation):
    # Midpoint rule over +-8 standard deviations.
    z = (np.arange(20_000) + 0.5) / 20_000 * 16 - 8
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    sampled = np.sum(np.maximum(0, best - median * np.exp(deviation * z)) * density) * 16 / 20_000
    assert expected_improvement(best, median, deviation) == pytest.approx(sampled, rel=1e-3, abs=1e-6)


def test_distance():
    a = Point("t", 1, Config.of(rows=1, ahead="none"))
    assert distance(a, a) == 0
    assert distance(a, Point("t", 1, Config.of(rows=4, ahead="data"))) == 3
    assert distance(a, Point("other", 1, Config.of(rows=1, ahead="none"))) == 4


def test_a_point_counts_for_what_it_is_worth_on_all_cores():
    search = TaskSearch(Task(op(), 1, POINTS), POINTS[0], factors={POINTS[1]: 2.0})
    search.predict_with(InGivenOrder())
    for point, seconds in ((POINTS[0], 3.0), (POINTS[1], 2.0)):
        search.pending.add(point)
        search.finish(point, Measurement("ok", seconds))
    assert search.best == (POINTS[0], 3.0)
    assert search.worth(POINTS[1]) == 4.0
    assert search.worth(POINTS[2]) is None
    search.finish(POINTS[2], Measurement("crashed"))
    assert search.worth(POINTS[2]) is None
    assert search.pick(np.random.default_rng(0)) == POINTS[3]


def test_of_idle_cores_the_prediction_knows():
    search = TaskSearch(Task(op(), 1, POINTS), POINTS[0], {POINTS[0]: Measurement("ok", 1.0)}, {POINTS[1]: 2.0})
    search.predict_with(InGivenOrder())
    assert search.pick(np.random.default_rng(0)) == POINTS[2]
