"""Examples from several places of records, and scores of models left out."""

from dataclasses import replace

import numpy as np
import pytest
from operators import conv2d, cpu, matmul, records, truth

from kompilo.compiler.tune import training
from kompilo.compiler.tune.cost_model import CostModel
from kompilo.compiler.tune.examples import examples_of
from kompilo.compiler.tune.library import RecordLibrary
from kompilo.compiler.tune.store import IMPORTED, RecordStore
from kompilo.compiler.tune.task import Task, Tasks, points_of

TARGET = cpu()
A, B, C = conv2d(28, 64, 96), matmul(64, 256, 192), conv2d(14, 128, 64)


def test_records_of_all_places_become_one_example_per_operator(tmp_path):
    first, second = RecordStore(tmp_path / "a"), RecordStore(tmp_path / "b")
    first.extend(records(A, TARGET)[:3])
    second.extend([*records(A, TARGET), *records(B, TARGET)])
    found = training.training_examples(RecordLibrary((first, second)), TARGET)
    assert [e.op for e in found] == [A, B]
    assert set(found[0].points) == set(points_of(A, TARGET))
    np.testing.assert_allclose(found[0].seconds, truth(A, TARGET, found[0].points))


def test_imported_times_are_scaled_before_anything_is_learnt_from_them(tmp_path):
    store = RecordStore(tmp_path)
    store.extend(records(A, TARGET)[:3])
    slower = [
        replace(r, measurement=replace(r.measurement, seconds=1.3 * r.measurement.seconds)) for r in records(A, TARGET)
    ]
    store.extend(slower, IMPORTED)
    (found,) = training.training_examples(RecordLibrary((store,)), TARGET)
    assert set(found.points) == set(points_of(A, TARGET))
    np.testing.assert_allclose(found.seconds, truth(A, TARGET, found.points))


def test_every_model_is_judged_by_one_that_never_saw_its_operators(monkeypatch):
    examples = examples_of([r for op in (A, B, C) for r in records(op, TARGET)], TARGET)
    seen = []
    original = CostModel.of_examples

    def spy(cls, examples, target):
        seen.append({str(e.op) for e in examples})
        return original(examples, target)

    monkeypatch.setattr(CostModel, "of_examples", classmethod(spy))
    scores = training.leave_one_model_out(examples, {"one": [str(A), str(B)], "two": [str(B)]}, TARGET)
    assert seen == [{str(C)}, {str(A), str(C)}, {str(A), str(B)}]
    assert [(s.model, s.operators) for s in scores] == [("one", 2), ("two", 1), (training.OTHERS, 1), ("all", 4)]
    for score in scores:
        for mean, worst in (score.first, score.best_of_8, score.default):
            assert 0 < worst <= mean <= 1
        assert score.best_of_8[0] >= score.first[0]


def test_quality_is_the_best_time_over_the_time_of_the_choice():
    (example,) = examples_of(records(A, TARGET), TARGET)

    class Perfect:
        target = TARGET

        def predict(self, op, points):
            return truth(op, TARGET, points) ** 20  # far enough apart for the default to be given up

    class Backwards(Perfect):
        def predict(self, op, points):
            return 1 / super().predict(op, points)

    assert training.quality(example, Perfect())[:2] == (1.0, 1.0)
    first, best_of_8, default = training.quality(example, Backwards())
    assert first == example.seconds.min() / example.seconds.max()
    assert first < best_of_8
    assert default == example.seconds.min() / truth(A, TARGET, points_of(A, TARGET)[:1])[0]


def test_a_default_that_was_never_measured_has_no_quality():
    (example,) = examples_of(records(A, TARGET, points_of(A, TARGET)[1:]), TARGET)
    assert training.default_place(example, TARGET) is None
    assert np.isnan(training.quality(example, CostModel(TARGET))[2])


@pytest.fixture
def extracted(monkeypatch) -> list[str]:
    """The models whose operators were looked for; there are two of one operator each, and one that cannot be had."""
    from types import SimpleNamespace

    from kompilo.compiler.errors import UsageError

    asked = []

    def extract(model, target, inputs):
        asked.append(model)
        if model == "zoo:gone":
            raise UsageError("no network.")
        return Tasks((Task(A, 1, ()),), ())

    zoo = SimpleNamespace(names=lambda: ["x", "gone", "y"], find=lambda name: SimpleNamespace(shapes={}))
    monkeypatch.setattr(training, "extract_tasks", extract)
    monkeypatch.setattr("kompilo.compiler.model_source.zoo", lambda: zoo)
    return asked


def test_operators_of_the_zoo_are_found_once(extracted, tmp_path):
    for _ in range(2):
        assert training.operators_of_zoo(TARGET, tmp_path) == {"x": [str(A)], "y": [str(A)]}
    assert extracted == ["zoo:x", "zoo:gone", "zoo:y", "zoo:gone"]
    training.operators_of_zoo(cpu("haswell,cores=2"), tmp_path)
    assert len(extracted) == 7


def test_operators_of_the_zoo_without_a_place_to_keep_them(extracted, tmp_path):
    (tmp_path / "file").write_text("")
    assert list(training.operators_of_zoo(TARGET, tmp_path / "file" / "below")) == ["x", "y"]
