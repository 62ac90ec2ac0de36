"""What a session knows when it begins: records of this machine, which it need not repeat, and where to start."""

from __future__ import annotations

import numpy as np
import pytest
from operators import conv2d, cpu, records, truth

from kompilo.compiler.errors import UsageError
from kompilo.compiler.tune import library as library_module
from kompilo.compiler.tune import tune as tune_module
from kompilo.compiler.tune.cost_model import CostModel
from kompilo.compiler.tune.library import RecordLibrary
from kompilo.compiler.tune.search import InGivenOrder
from kompilo.compiler.tune.store import RecordStore
from kompilo.compiler.tune.task import Task, Tasks, points_of
from kompilo.compiler.tune.tune import known_results, searches_for

TARGET = cpu()
OP = conv2d(28, 96, 96, kernel=3)
POINTS = points_of(OP, TARGET)
FOUND = Tasks((Task(OP, 1, POINTS),), ())


@pytest.fixture
def stores(tmp_path, monkeypatch) -> tuple[RecordStore, RecordStore]:
    """The user's own and the installed one, both empty."""
    own, installed = RecordStore(tmp_path / "own"), RecordStore(tmp_path / "installed")
    for module in (library_module, tune_module):
        monkeypatch.setattr(module, "user_store", lambda: own)
        monkeypatch.setattr(module, "installed_store", lambda: installed)
    for store in (own, installed):
        store.folder.mkdir()
    return own, installed


def test_records_of_this_machine_are_not_measured_again(stores):
    own, _ = stores
    own.extend(records(OP, TARGET, POINTS[:5]))
    library = RecordLibrary.of(None)
    known = known_results(FOUND, TARGET, library)
    (search,) = searches_for(FOUND, TARGET, library, known, InGivenOrder())
    assert {r.point for r in known[0]} == set(POINTS[:5]) == set(search.results)


def test_records_that_come_along_say_where_to_start_but_are_measured_again(stores):
    _, installed = stores
    installed.extend(records(OP, TARGET))
    library = RecordLibrary.of(None)
    known = known_results(FOUND, TARGET, library)
    (search,) = searches_for(FOUND, TARGET, library, known, InGivenOrder())
    assert known == [[]]
    assert len(search.untried) == len(POINTS)
    worth = truth(OP, TARGET, POINTS) * [search.factors[p] for p in POINTS]
    assert search.start == POINTS[int(np.argmin(worth))]


@pytest.mark.parametrize("trained", [False, True])
def test_the_cost_model_trained_or_not_knows_what_was_measured_before(stores, monkeypatch, trained):
    own, _ = stores
    own.extend(records(OP, TARGET, POINTS[:5]))
    learners = []

    class Recorder:
        def __init__(self, *arguments):
            learners.append(arguments[6])

        search_s = 0.0

        def run(self):
            return None

    monkeypatch.setattr(tune_module, "Session", Recorder)
    monkeypatch.setattr(tune_module, "find_target", lambda name: TARGET)
    monkeypatch.setattr(tune_module, "extract_tasks", lambda *given: FOUND)
    monkeypatch.setattr(CostModel, "pretrained", classmethod(lambda cls, target: cls(target) if trained else None))
    tune_module.tune("model.onnx", workers=1)
    (learner,) = learners
    assert isinstance(learner, CostModel)
    assert [set(e.points) for e in learner.examples] == [set(POINTS[:5])]


def test_a_seed_is_not_negative():
    with pytest.raises(UsageError, match="seed: expected a whole number of at least 0, found -1"):
        tune_module.tune("model.onnx", seed=-1)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("budget", v) for v in ([], b"5s", True, "999999999999h", 1e30, 10**400, float("nan"))),
        *(("trials", v) for v in ("3", 0, 1.5, True)),
        *(("seed", v) for v in (None, "a", 1.5)),
        *(("workers", v) for v in ([], 1.5, True, 0)),
        *(("records", v) for v in (5, ["a"], b"a", "a\0b", "")),
        *(("target", v) for v in (None, 3, ["cpu"])),
        ("progress", 5),
        ("exhaustive", "no"),
    ],
)
def test_wrong_arguments_are_told_before_any_work(argument, value):
    with pytest.raises(UsageError, match=f"^{argument}: expected "):
        tune_module.tune("model.onnx", **{argument: value})
