"""benchmarks/tuners.py: how the tuners are compared, and what becomes of a MetaSchedule that fails."""

from __future__ import annotations

import math
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from benchmark_files import benchmark
from operators import cpu, matmul

from kompilo.compiler.schedule.template import Config
from kompilo.compiler.tune.advisors import LEAST_GAIN
from kompilo.compiler.tune.record import Point
from kompilo.compiler.tune.task import Task

tuners = benchmark("tuners")
POINTS = tuple(Point("tiled", 1, Config((("rows", k),))) for k in range(3))
TASK = Task(matmul(8, 8, 8), 2, POINTS)


def predictor(*seconds: float) -> SimpleNamespace:
    return SimpleNamespace(predict=lambda op, points: np.array(seconds))


def test_a_session_starts_from_what_a_compilation_would_take():
    assert tuners.first_point(TASK, predictor(1.0, 0.5, 0.4)) == POINTS[2]
    assert tuners.first_point(TASK, predictor(1.0, 1.0 - LEAST_GAIN / 2, 2.0)) == POINTS[0]


def test_only_models_of_the_zoo(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tuners.py", "--model", "mine.onnx"])
    with pytest.raises(SystemExit):
        tuners.main()
    assert "--model: expected zoo:NAME" in capsys.readouterr().err


def test_sums_exist_once_every_operator_has_a_time():
    found = [(1.0, 0, 3e-3), (2.0, 1, None), (3.0, 1, 5e-3), (4.0, 0, 1e-3), (5.0, 0, 2e-3)]
    events = [tuners.Event(*f) for f in found]
    calls = [2, 1]
    assert math.isnan(tuners.total_at(events, calls, 2.5))
    assert tuners.total_at(events, calls, 3.0) == pytest.approx(11e-3)
    assert tuners.total_at(events, calls, 9.0) == pytest.approx(7e-3)
    assert tuners.median_total([events, events[:3], events], calls, 9.0) == pytest.approx(7e-3)
    assert math.isnan(tuners.median_total([events, events[:2]], calls, 9.0))


def test_a_point_that_several_runs_measured_has_one_time():
    def event(seconds, point, place=0):
        return tuners.Event(1.0, place, seconds, point)

    curves = {
        "Kompilo": [[event(3e-3, POINTS[0]), event(9e-3, POINTS[0], place=1)], [event(4e-3, POINTS[0])]],
        "random search": [[event(8e-3, POINTS[0]), event(1e-3, POINTS[1]), event(None, POINTS[2])]],
        "MetaSchedule": [[event(2e-3, None), event(5e-3, None)]],
    }
    common = tuners.with_common_times(curves)
    seconds = {name: [[e.seconds for e in run] for run in runs] for name, runs in common.items()}
    assert seconds == {
        "Kompilo": [[4e-3, 9e-3], [4e-3]],
        "random search": [[4e-3, 1e-3, None]],
        "MetaSchedule": [[2e-3, 5e-3]],
    }


@pytest.fixture
def session(tmp_path):
    """A session of MetaSchedule's, played by a script: (its lines, seconds) -> events."""

    def run(script: str, seconds: float):
        worker = tmp_path / "worker.py"
        worker.write_text("import json, sys, time\nasked = json.load(sys.stdin)\n" + script)
        return tuners.metaschedule_events([TASK], cpu(), seconds, 7, worker)

    return run


def test_the_clock_starts_when_the_worker_is_ready_and_ends_it(session, capsys):
    began = time.monotonic()
    events = session(
        "time.sleep(1)\n"
        "print('a line of another kind')\n"
        "print('ready', flush=True)\n"
        "print(json.dumps([0.2, 0, asked['seed'] * 1e-3]), flush=True)\n"
        "print(json.dumps([0.3, 0, None]), flush=True)\n"
        "print(json.dumps([9.0, 0, 1e-3]), flush=True)\n"
        "time.sleep(60)\n",
        0.5,
    )
    assert events == [(0.2, 0, pytest.approx(7e-3), None), (0.3, 0, None, None)]
    assert 1.5 <= time.monotonic() - began < 20
    assert capsys.readouterr().err == ""


def test_a_worker_that_is_never_ready_is_given_up(session, capsys, monkeypatch):
    monkeypatch.setattr(tuners, "READY_WITHIN_S", 0.5)
    assert session("time.sleep(60)\n", 5.0) == []
    assert "MetaSchedule measured nothing: it was not ready within 0.5 s." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("raise ModuleNotFoundError('no cloudpickle')", "ModuleNotFoundError: no cloudpickle"),
        ("print('ready')", "no candidate was timed within 5 s."),
        (
            "print('ready')\nprint('[0.1, 0, null]')\nprint('operator 0: no such intrinsic', file=sys.stderr)",
            "operator 0: no such intrinsic",
        ),
    ],
)
def test_a_worker_that_measures_nothing_says_why(session, capsys, script, says):
    session(script, 5.0)
    assert f"MetaSchedule measured nothing: {says}" in capsys.readouterr().err
