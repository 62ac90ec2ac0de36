"""int8 on the command line: compile with calibration data, inspect, verify."""

import json

import numpy as np
import pytest

from kompilo.compiler.peers.base import is_installed

needs_onnxruntime = pytest.mark.skipif(not is_installed("onnxruntime"), reason="onnxruntime is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Calibration data for `small_model`: eight samples, and as many others with labels."""
    folder = tmp_path_factory.mktemp("int8")
    rng = np.random.default_rng(1)
    for name in ("calibration", "others"):
        np.savez(folder / f"{name}.npz", x=rng.standard_normal((8, 1, 3, 8, 8)).astype("f4"))
    np.save(folder / "labels.npy", np.arange(8) % 5)
    return folder


@needs_onnxruntime
def test_int8_from_calibration_to_accuracy(kompilo, model, folder):
    artifact = folder / "small.kpo"
    options = ["--precision", "int8", "--calibration", folder / "calibration.npz", "-o", artifact]
    outcome = kompilo("compile", model, *options)
    assert outcome.code == 0, outcome
    assert "Quantized by 8 samples (minmax)" in outcome.out
    assert "no integer form" in outcome.out
    assert "Quantized by 8 samples" in kompilo("inspect", artifact).out
    facts = json.loads(kompilo("inspect", artifact, "--json").out)["provenance"]["quantization"]
    assert facts["integer"]["nn.conv2d"] == 1
    assert {"operator": "nn.softmax", "reason": "no integer form", "count": 1} in facts["float"]

    others = ["--calibration", folder / "others.npz"]
    outcome = kompilo("verify", artifact, model, *others, "--labels", folder / "labels.npy", "--json")
    assert outcome.code == 0, outcome
    found = json.loads(outcome.out)
    assert found["samples"] == 8
    for output in found["outputs"]:
        assert 20 < output["sqnr_db"] < 80
        assert 0 < output["error_of_range"] < 0.1
        assert 0 <= output["accuracy_after"] <= 1
    for count in (3, 9):
        np.save(folder / "wrong.npy", np.arange(count))
        outcome = kompilo("verify", artifact, model, *others, "--labels", folder / "wrong.npy")
        assert outcome.code == 2
        assert "labels: expected" in outcome.err
        assert f"{count}." in outcome.err
    table = kompilo("verify", artifact, model).out
    assert "SQNR (dB)" in table
    strict = kompilo("verify", artifact, model, "--tolerance", "1e-6")
    assert strict.code == 1
    assert "miss the expected error of at most 1e-06 of range" in strict.err


def test_calibration_goes_with_int8_only(kompilo, model, folder):
    outcome = kompilo("compile", model, "--precision", "int8")
    assert outcome.code == 2
    assert "expected data for precision 'int8', and for no other, found none." in outcome.err
    outcome = kompilo("compile", model, "--calibration", folder / "calibration.npz")
    assert outcome.code == 2
    assert "found some for precision 'fp32'." in outcome.err


def test_methods_are_checked(kompilo, model, folder):
    options = ["--precision", "int8", "--calibration", folder / "calibration.npz", "--calibration-method", "best"]
    outcome = kompilo("compile", model, *options)
    assert outcome.code == 2
    assert "expected minmax or percentile, found 'best'" in outcome.err
