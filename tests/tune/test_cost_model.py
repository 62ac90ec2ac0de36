"""The cost model learns, ranks what it has not seen, adapts, and survives files of all sorts."""

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from operators import OPERATORS, conv2d, cpu, matmul, records, truth

from kompilo.compiler.errors import UsageError
from kompilo.compiler.tune.cost_model import FILE_NAME, CostModel, model_files
from kompilo.compiler.tune.record import Measurement
from kompilo.compiler.tune.store import installed_store
from kompilo.compiler.tune.task import points_of

TARGET = cpu()
SEEN = [
    *(conv2d(s, c, f) for s, c, f in ((56, 64, 128), (28, 192, 64), (14, 256, 512), (7, 512, 128), (28, 96, 160))),
    *(conv2d(s, c, f, kernel=3) for s, c, f in ((56, 32, 64), (28, 96, 96), (14, 192, 256), (7, 160, 320))),
    *(matmul(m, k, n) for m, k, n in ((128, 256, 512), (1, 1024, 1000), (64, 512, 96))),
]
UNSEEN = conv2d(21, 112, 144)


@pytest.fixture(scope="module")
def model() -> CostModel:
    return CostModel.fit([r for op in SEEN for r in records(op, TARGET)], TARGET)


def choice(model: CostModel, op) -> float:
    """Best time / time of the model's choice."""
    points = points_of(op, TARGET)
    times = truth(op, TARGET, points)
    return times.min() / times[np.argmin(model.predict(op, points))]


def test_what_was_learned_holds_for_an_operator_never_seen(model):
    assert choice(model, UNSEEN) > 0.97
    assert np.mean([choice(model, op) for op in SEEN]) > 0.98


def test_predictions_are_seconds_of_about_the_right_size(model):
    points = points_of(UNSEEN, TARGET)
    ratio = model.predict(UNSEEN, points) / truth(UNSEEN, TARGET, points)
    assert 0.5 < np.exp(np.mean(np.log(ratio))) < 2


def test_training_twice_gives_the_same_model(model):
    again = CostModel.fit([r for op in SEEN for r in records(op, TARGET)], TARGET)
    np.testing.assert_array_equal(
        again.predict(UNSEEN, points_of(UNSEEN, TARGET)), model.predict(UNSEEN, points_of(UNSEEN, TARGET))
    )


def test_an_untrained_model_ranks_by_its_estimate():
    for op in OPERATORS.values():
        times = CostModel(TARGET).predict(op, points_of(op, TARGET))
        assert np.isfinite(times).all()
        assert (times > 0).all()
    assert choice(CostModel(TARGET), UNSEEN) > 0.7


def test_records_of_a_session_correct_the_order():
    op = UNSEEN
    points = points_of(op, TARGET)
    # On this machine the order is the reverse of what the estimate says.
    guess = CostModel(TARGET).predict(op, points)
    measured = [
        replace(r, measurement=Measurement("ok", float(1e-8 / g)))
        for r, g in zip(records(op, TARGET), guess, strict=True)
    ]
    adapted = CostModel(TARGET).with_records(measured[::2])
    rest = slice(1, None, 2)
    before = np.corrcoef(np.log(guess[rest]), np.log(1 / guess[rest]))[0, 1]
    after = np.corrcoef(np.log(adapted.predict(op, points)[rest]), np.log(1 / guess[rest]))[0, 1]
    assert before < -0.99
    assert after > 0.3


def test_adapting_is_quick_and_leaves_the_original_alone(model):
    points = points_of(UNSEEN, TARGET)
    before = model.predict(UNSEEN, points)
    some = [r for op in SEEN for r in records(op, TARGET)]
    model.with_records(some[:8])  # imports XGBoost
    start = time.process_time()
    adapted = model.with_records(some)
    assert time.process_time() - start < 3  # 0.1 to 0.3 s where nothing else runs
    np.testing.assert_array_equal(model.predict(UNSEEN, points), before)
    assert sum(len(e.points) for e in adapted.examples) == len(some)
    assert sum(len(e.points) for e in adapted.with_records(some[:5]).examples) == len(some)
    assert adapted.with_records([]).examples == adapted.examples


def test_failed_and_foreign_records_teach_nothing(model):
    failed = [replace(r, measurement=Measurement("crashed", reason="signal 11")) for r in records(UNSEEN, TARGET)]
    foreign = [replace(r, target="cpu-other-2c") for r in records(UNSEEN, TARGET)]
    old = [replace(r, point=replace(r.point, version=0)) for r in records(UNSEEN, TARGET)]
    assert model.with_records([*failed, *foreign, *old]).examples == ()
    with pytest.raises(UsageError, match="cannot train a cost model for cpu-cascadelake.*found 0 usable"):
        CostModel.fit([*failed, *foreign, *old], TARGET)


def test_a_file_holds_the_same_model(model, tmp_path):
    path = tmp_path / "new folder" / FILE_NAME
    model.save(path)
    points = points_of(UNSEEN, TARGET)
    loaded = CostModel.load(path, TARGET)
    np.testing.assert_array_equal(loaded.predict(UNSEEN, points), model.predict(UNSEEN, points))
    assert loaded.trained == model.trained
    assert path.stat().st_size < 500_000
    # Times are of one thread: the number of cores is no matter, the kind of core is.
    CostModel.load(path, cpu("cascadelake,cores=16"))
    with pytest.raises(UsageError, match="is for cpu-cascadelake-avx512-2c, expected one for cpu-znver4-avx512-2c"):
        CostModel.load(path, cpu("znver4,cores=2"))


def test_damaged_files_are_one_sentence(model, tmp_path):
    path = tmp_path / FILE_NAME
    model.save(path)
    whole = path.read_bytes()
    for data in (b"", b"nonsense", whole[:1000], whole[: len(whole) // 2], b"PK\x03\x04" + bytes(100)):
        path.write_bytes(data)
        with pytest.raises(UsageError, match="cannot read a cost model from"):
            CostModel.load(path, TARGET)
    with pytest.raises(UsageError, match="cannot read a cost model from"):
        CostModel.load(tmp_path / "none.npz", TARGET)
    with pytest.raises(UsageError, match="cannot write the cost model to"):
        model.save(tmp_path / FILE_NAME / "below a file")


def test_a_model_of_other_features_is_passed_over(model, tmp_path, monkeypatch):
    monkeypatch.setenv("KOMPILO_RECORDS", str(tmp_path))
    monkeypatch.setattr("kompilo.compiler.tune.store.installed_store", lambda: None)
    assert CostModel.pretrained(TARGET) is None
    model.save(tmp_path / TARGET.spec.key / FILE_NAME)
    assert CostModel.pretrained(TARGET) is not None
    assert CostModel.pretrained(cpu("cascadelake,cores=8")) is not None
    assert CostModel.pretrained(cpu("haswell,cores=2")) is None
    monkeypatch.setattr("kompilo.compiler.tune.cost_model.feature_names", lambda target: ("op.kind",))
    assert CostModel.pretrained(TARGET) is None


def test_installed_models_can_be_used():
    store = installed_store()
    assert store is not None
    for path in store.folder.glob(f"*/{FILE_NAME}"):
        assert path in model_files(path.parent.name)
        preset = path.parent.name.split("-avx")[0].removeprefix("cpu-")
        assert len(CostModel.load(path, cpu(f"{preset},cores=2")).ranking.roots)


def test_predicting_needs_no_xgboost(model, tmp_path):
    model.save(tmp_path / FILE_NAME)
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from operators import conv2d, cpu
from kompilo.compiler.tune.cost_model import CostModel
from kompilo.compiler.tune.task import points_of
op = conv2d(21, 112, 144)
CostModel.load({str(tmp_path / FILE_NAME)!r}, cpu()).predict(op, points_of(op, cpu()))
assert "xgboost" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_a_full_disk_leaves_the_old_model(model, tmp_path, monkeypatch):
    path = tmp_path / FILE_NAME
    model.save(path)
    whole = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="cannot write the cost model to .*: no space left on device"):
        model.save(path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]
