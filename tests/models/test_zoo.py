"""The zoo: names, where files come from, that what is built is the same each time, that the models mean something."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest

from kompilo.compiler.errors import ModelError, UsageError
from kompilo.models import light_cnn, zoo
from kompilo.models.light_cnn import LightCnn

WHEEL_MODELS = ("magika", "ppocr_det", "ppocr_rec", "ppocr_cls", "minilm_l3")
CNNS = tuple(m.name for m in light_cnn.MODELS)
SMALL_CNNS = ("shufflenet", "squeezenet", "densenet121", "inception_v1", "inception_v2")


def session(path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_names():
    assert set(zoo.names()) == {*CNNS, *WHEEL_MODELS, "mnist"}
    assert zoo.find("zoo:magika") is zoo.find("magika")


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown zoo model 'resnet': expected one of resnet50"):
        zoo.find("resnet")


@pytest.mark.parametrize("name", zoo.all_names())
def test_declares_what_a_user_asks(name):
    model = zoo.find(name)
    assert model.summary
    assert model.license
    assert model.source.describe()
    assert model.inputs
    assert 0 < model.tolerance <= (1e-2 if "int8" in name else 1e-4)


@pytest.mark.parametrize("name", zoo.all_names())
def test_sample_inputs_are_the_same_for_a_seed(name):
    model = zoo.find(name)
    first, again, other = model.sample_inputs(3), model.sample_inputs(3), model.sample_inputs(4)
    assert list(first) == [i.name for i in model.inputs]
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert any(not np.array_equal(first[k], other[k]) for k in first)
    assert {i.name: (first[i.name].shape, str(first[i.name].dtype)) for i in model.inputs} == {
        i.name: (i.sample_shape, i.dtype) for i in model.inputs
    }


def test_sample_inputs_of_another_shape():
    model = zoo.find("magika")
    assert model.dynamic
    assert model.sample_inputs(shapes={"bytes": (4, 2048)})["bytes"].shape == (4, 2048)
    with pytest.raises(UsageError, match="magika: input bytes expects shape"):
        model.sample_inputs(shapes={"bytes": (4, 2047)})


@pytest.mark.parametrize("name", SMALL_CNNS)
def test_cnn_is_deterministic(name):
    recipe = zoo.find(name).source
    assert isinstance(recipe, LightCnn)
    built = light_cnn.build(recipe.topology(), light_cnn.SEED, recipe.logit_gain)
    assert hashlib.sha256(built).hexdigest() == recipe.sha256
    other = light_cnn.build(recipe.topology(), light_cnn.SEED + 1, recipe.logit_gain)
    assert len(other) == len(built)
    assert other != built


@pytest.mark.parametrize("name", [*SMALL_CNNS, "resnet50"])
def test_cnn_depends_on_its_image(name):
    """Logits have a useful spread, and another image gives other ones: no saturated softmax, no constant network."""
    model = zoo.find(name)
    onnx.checker.check_model(str(model.path()))
    run = session(model.path())
    first, second = (run.run(None, model.sample_inputs(seed))[0].ravel().astype(np.float64) for seed in (0, 1))
    if first.min() >= 0:
        assert first.sum() == pytest.approx(1, abs=1e-4)
        first, second = np.log(first), np.log(second)
    assert np.isfinite(first).all()
    assert 1 < first.std() < 4
    assert np.abs(first - second).max() > 0.2


def test_cnn_of_another_onnx_release_is_refused(monkeypatch):
    recipe = LightCnn("light_squeezenet.onnx", "0" * 64, "0" * 64, 1.0)
    with pytest.raises(ModelError, match=r"light_squeezenet.onnx of the installed onnx package: expected SHA-256 000"):
        recipe.topology()


@pytest.mark.parametrize("name", zoo.names())
def test_real_inputs_fit(name, zoo_model):
    model = zoo_model(name)
    if name in CNNS:
        assert model.real_inputs() == []
        return
    for feeds in model.real_inputs():
        for spec in model.inputs:
            assert str(feeds[spec.name].dtype) == spec.dtype
            model.sample_inputs(shapes={spec.name: feeds[spec.name].shape for spec in model.inputs})


def test_magika_knows_its_files(zoo_model):
    model = zoo_model("magika")
    from kompilo.models.magika import Reader

    reader = Reader.load()
    scores = session(model.path()).run(None, model.real_inputs()[0])[0]
    assert [reader.verdict(row).label for row in scores] == ["python", "json", "onnx"]
    assert reader.verdict(scores[0] * 0.1).description == "Generic text document"


def test_magika_features():
    from kompilo.models.magika import Reader

    reader = Reader(begin=4, end=3, block=8, padding=256)
    assert reader.features(b"  abcdefghij  ").tolist() == [[97, 98, 99, 100, 104, 105, 106]]
    assert reader.features(b" ab ").tolist() == [[97, 98, 32, 256, 32, 97, 98]]
    assert reader.features(b"").tolist() == [[256] * 7]


def test_ppocr_reads_the_text_and_its_angle(zoo_model):
    model = zoo_model("ppocr_rec")
    run = session(model.path())
    letters = ["", *run.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    best = run.run(None, model.real_inputs()[0])[0][0].argmax(axis=1)
    kept = [k for k, before in zip(best, [0, *best[:-1]], strict=True) if k != before]
    assert "".join(letters[k] for k in kept).replace("0", "O") == "KOMPILO 27"
    angle = zoo_model("ppocr_cls")
    assert session(angle.path()).run(None, angle.real_inputs()[0])[0].argmax(axis=1).tolist() == [0, 1]


def test_ppocr_finds_the_lines(zoo_model):
    model = zoo_model("ppocr_det")
    found = session(model.path()).run(None, model.real_inputs()[0])[0][0, 0] > 0.3
    rows = np.flatnonzero(found.any(axis=1))
    assert found[75:90, 60:380].mean() > 0.5
    assert 55 < rows.min() < rows.max() < 235


def test_minilm_finds_the_paraphrase(zoo_model):
    model = zoo_model("minilm_l3")
    run = session(model.path())
    vectors = run.run(None, model.real_inputs()[0])[-1]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.8
    assert similar[0, 2] < 0.3


def test_mnist_reads_held_out_digits(zoo_model):
    model = zoo_model("mnist")
    from kompilo.models.mnist import Digits

    digits = Digits.load()
    assert len(digits.train_images) == 4000
    assert len(digits.test_images) == 1000
    probability = session(model.path()).run(None, {"image": digits.test_images})[0]
    assert (probability.argmax(axis=1) == digits.test_labels).mean() > 0.95
    metadata = {p.key: p.value for p in onnx.load(model.path()).metadata_props}
    assert float(metadata["held_out_accuracy"]) > 0.95
