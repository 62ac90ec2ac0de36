"""`kompilo train-cost-model`."""

import json

import pytest

from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune.cost_model import FILE_NAME, CostModel
from kompilo.compiler.tune.record import Measurement, Record
from kompilo.compiler.tune.store import RecordStore
from kompilo.compiler.tune.task import extract_tasks


@pytest.fixture
def store(tmp_path, model, monkeypatch) -> RecordStore:
    """The user's records: some for the operators of the small model; none are installed."""
    monkeypatch.setenv("KOMPILO_RECORDS", str(tmp_path / "user"))
    monkeypatch.setattr("kompilo.compiler.tune.library.installed_store", lambda: None)
    target = find_target("cpu")
    store = RecordStore(tmp_path / "user")
    store.extend(
        Record(task.op, target.spec.key, point, Measurement("ok", 1e-3 / (k + 1)), "2026-11-22T06:00:00Z", "0.1.0")
        for task in extract_tasks(model, target).tasks
        for k, point in enumerate(task.points)
    )
    return store


def test_the_model_goes_to_the_users_records_and_is_found_there(kompilo, store):
    outcome = kompilo("train-cost-model", "--no-report")
    assert outcome.code == 0
    target = find_target("cpu")
    path = store.folder / target.spec.key / FILE_NAME
    assert str(path) in outcome.out
    assert "learned from" in outcome.out
    model = CostModel.pretrained(target)
    assert model is not None
    assert dict(model.trained)["operators"] >= 1


def test_json_and_a_given_place(kompilo, store, tmp_path):
    path = tmp_path / "mine.npz"
    outcome = kompilo("train-cost-model", "--no-report", "--json", "--output", path)
    facts = json.loads(outcome.out)
    assert facts["file"] == str(path)
    assert facts["left_out"] == []
    assert path.stat().st_size > 0


def test_the_report_shows_a_line_per_model_left_out(kompilo, store, tmp_path, monkeypatch):
    ops = [str(r.op) for r in store.read(find_target("cpu").spec.key)[0]]
    monkeypatch.setattr("kompilo.compiler.tune.training.operators_of_zoo", lambda *_: {"small": ops[:1]})
    outcome = kompilo("train-cost-model", "-o", tmp_path / "mine.npz")
    assert outcome.code == 0
    names = [line.split("  ")[0] for line in outcome.out.splitlines()]
    assert {"small", "(other operators)", "all"} <= set(names)


def test_without_records_it_says_so(fails, tmp_path, monkeypatch):
    monkeypatch.setenv("KOMPILO_RECORDS", str(tmp_path / "none"))
    monkeypatch.setattr("kompilo.compiler.tune.library.installed_store", lambda: None)
    assert "expected records of several configs of an operator, found 0" in fails("train-cost-model", "--no-report")


def test_a_place_that_cannot_be_is_told_before_the_training(fails, store, tmp_path):
    assert "nowhere" in fails("train-cost-model", "-o", tmp_path / "nowhere" / "x.npz")
