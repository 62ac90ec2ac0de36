"""What each verb prints and writes, on small models."""

import json
import shutil

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_models import small_model, write_model

from kompilo.compiler.peers.base import is_installed

needs_onnxruntime = pytest.mark.skipif(not is_installed("onnxruntime"), reason="onnxruntime is not installed")


def parsed(outcome):
    """The JSON on stdout of a command that succeeded."""
    assert outcome.code == 0, outcome
    return json.loads(outcome.out)


def test_compile_writes_an_artifact_and_says_what_next(kompilo, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = kompilo("compile", model)
    assert outcome.code == 0
    assert (tmp_path / "small.kpo").stat().st_size > 1000
    assert "small.kpo: " in outcome.out
    assert "template" in outcome.out
    assert "kompilo run small.kpo" in outcome.out
    assert "import" in outcome.err


def test_the_default_name_keeps_every_dot_of_the_model(kompilo, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, "net.v1.onnx")
    assert kompilo("compile", "net.v1.onnx").code == 0
    assert (tmp_path / "net.v1.kpo").is_file()


def test_options_of_a_target_are_part_of_its_name(kompilo, model, tmp_path):
    path = str(tmp_path / "eight.kpo")
    told = parsed(kompilo("compile", model, "--target", "cpu:x86-64-v3,cores=8", "-o", path, "--json"))
    assert told["targets"][0]["name"] == "cpu:x86-64-v3,cores=8"
    assert kompilo("inspect", path).code == 0


def test_compile_as_json_fixes_shapes(kompilo, dynamic_model, tmp_path):
    facts = parsed(kompilo("compile", dynamic_model, "-o", tmp_path / "o.kpo", "--input", "x:2x3x8x8", "--json"))
    assert facts["inputs"] == [{"name": "x", "shape": [2, 3, 8, 8], "dtype": "float32"}]
    assert facts["bytes"] == (tmp_path / "o.kpo").stat().st_size
    assert facts["targets"][0]["templates"]


def test_run_prints_and_stores_outputs(kompilo, artifact, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((1, 3, 8, 8), np.float32))
    outcome = kompilo("run", artifact, "--input", f"x={tmp_path}/x.npy", "-o", tmp_path / "out.npz", "--repeat", "3")
    assert outcome.code == 0
    assert "1x5" in outcome.out
    assert "3 runs: median" in outcome.out
    with np.load(tmp_path / "out.npz") as stored:
        assert set(stored) == {"y", "p"}
        np.testing.assert_allclose(stored["p"].sum(), 1, rtol=1e-5)


def test_run_as_json(kompilo, artifact, dynamic_artifact):
    facts = parsed(kompilo("run", artifact, "--input", "x=zeros", "--json", "--threads", "1"))
    assert [(o["name"], o["shape"]) for o in facts["outputs"]] == [("y", [1, 5]), ("p", [1, 5])]
    facts = parsed(kompilo("run", dynamic_artifact, "--shape", "N=3", "--json"))
    assert facts["outputs"][0]["shape"] == [3, 5]


def test_random_inputs_follow_the_seed(kompilo, artifact):
    first, same, other = (kompilo("run", artifact, "--seed", seed).out for seed in (1, 1, 2))
    assert first == same != other


@needs_onnxruntime
@pytest.mark.parametrize("reference", ["onnxruntime", "reference"])
def test_verify_agrees(kompilo, artifact, model, reference):
    facts = parsed(kompilo("verify", artifact, model, "--against", reference, "--samples", "2", "--json"))
    assert facts["passes"]
    assert facts["reference"] == reference
    assert facts["samples"] == 2
    assert [o["name"] for o in facts["outputs"]] == ["y", "p"]
    assert facts["least_tolerance"] == max(o["max_rel"] for o in facts["outputs"]) <= 1e-4


@needs_onnxruntime
def test_verify_fails_with_code_1(kompilo, artifact, tmp_path):
    other = small_model(tmp_path / "other.onnx")
    changed = other.read_bytes().replace(b"Softmax", b"Sigmoid")
    other.write_bytes(changed)
    outcome = kompilo("verify", artifact, other)
    assert outcome.code == 1
    assert "FAILED" in outcome.out
    assert "1 of 2 outputs exceed the tolerance" in outcome.err
    assert kompilo("verify", artifact, other, "--tolerance", "1e9").code == 0


@needs_onnxruntime
def test_verify_a_dynamic_model_says_what_it_assumed(kompilo, dynamic_artifact, dynamic_model):
    outcome = kompilo("verify", dynamic_artifact, dynamic_model)
    assert outcome.code == 0
    assert "assumed N=1" in outcome.out
    facts = parsed(kompilo("verify", dynamic_artifact, dynamic_model, "--shape", "N=5", "--json"))
    assert facts["passes"]
    assert facts["assumed"] == {}


@needs_onnxruntime
def test_verify_with_inputs_given_runs_once(kompilo, artifact, model):
    facts = parsed(kompilo("verify", artifact, model, "--input", "x=0.5", "--json"))
    assert facts["samples"] == 1


def test_verify_without_onnxruntime_says_so(kompilo, artifact, model, monkeypatch):
    from kompilo.compiler.peers import base

    monkeypatch.setattr(base, "is_installed", lambda name: name == "reference")
    outcome = kompilo("verify", artifact, model)
    assert outcome.code == 0
    assert "onnxruntime is not installed" in outcome.err
    assert "against reference" in outcome.out


def test_inspect_an_artifact(kompilo, artifact):
    outcome = kompilo("inspect", artifact)
    assert outcome.code == 0
    for word in (
        "integrity ok",
        "float32",
        "1x3x8x8",
        "needs CPU features",
        "template",
        "intermediate memory",
        "sha256",
    ):
        assert word in outcome.out
    facts = parsed(kompilo("inspect", artifact, "--json"))
    operators = facts["targets"][0]["operators"]
    assert any(o["kind"] == "conv2d" and o["template"] and o["spec"] for o in operators)


def test_inspect_a_model(kompilo, tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gelu", ["h"], ["g"], domain="example.com"),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    sides = [("x", TensorProto.FLOAT, ["N", 4])], [("y", TensorProto.FLOAT, ["N", 8])]
    path = write_model(tmp_path / "m.onnx", nodes, *sides, {"w": np.zeros((4, 8), np.float32)})
    facts = parsed(kompilo("inspect", path, "--json"))
    assert facts["parameters"] == 32
    assert facts["unsupported"] == ["example.com.Gelu"]
    assert facts["flops"] == 64
    assert facts["assumed"] == {"N": 1}
    assert parsed(kompilo("inspect", path, "--input", "x:10x4", "--json"))["flops"] == 640
    outcome = kompilo("inspect", path)
    assert outcome.code == 0
    assert "not supported: example.com.Gelu" in outcome.out
    assert "cannot be compiled: Gelu node" in outcome.out
    assert "Nx4" in outcome.out


def test_an_input_of_strings_that_nothing_uses_is_ignored(kompilo, tmp_path):
    sides = [("x", TensorProto.FLOAT, ["n"]), ("s", TensorProto.STRING, [1])], [("y", TensorProto.FLOAT, ["n"])]
    path = write_model(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], *sides)
    assert kompilo("compile", path, "-o", tmp_path / "m.kpo").code == 0
    facts = parsed(kompilo("inspect", tmp_path / "m.kpo", "--json"))
    assert [s["name"] for s in facts["inputs"]] == ["x"]
    assert kompilo("verify", tmp_path / "m.kpo", path, "--against", "reference").code == 0
    assert kompilo("verify", tmp_path / "m.kpo", path).code == 0


def test_inspect_tells_the_outputs_that_an_artifact_would_have(kompilo, tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
        helper.make_node("Add", ["x", "z"], ["y"]),
    ]
    sides = [("x", TensorProto.FLOAT, ["n", 4])], [("y", TensorProto.FLOAT, ["m", 4])]
    path = write_model(tmp_path / "m.onnx", nodes, *sides)
    facts = parsed(kompilo("inspect", path, "--json"))
    assert facts["outputs"][0]["shape"] == ["n", 4]
    assert facts["unsupported"] == []
    assert {o["operator"]: o["support"] for o in facts["operators"]}["Shape"] == "at compile time"
    assert "all operators are supported" in kompilo("inspect", path).out


def test_inspect_the_ir_after_a_phase(kompilo, model):
    levels = kompilo("inspect", model, "--ir", "list")
    assert levels.code == 0
    assert levels.out.startswith("import\n")
    outcome = kompilo("inspect", model, "--ir", "import")
    assert outcome.code == 0
    assert "conv2d" in outcome.out


def test_targets(kompilo):
    outcome = kompilo("targets")
    assert outcome.code == 0
    assert "cpu (this machine)" in outcome.out
    assert "cpu:znver4" in outcome.out
    cpu = next(t for t in parsed(kompilo("targets", "--json")) if t["target"] == "cpu")
    assert cpu["this_machine"]["vector_bytes"] in (16, 32, 64)
    assert cpu["link"] == "ok"


def test_zoo_list(kompilo):
    outcome = kompilo("zoo", "list")
    assert outcome.code == 0
    assert "zoo:resnet50" in outcome.out
    assert {"name", "summary", "license", "tolerance"} <= parsed(kompilo("zoo", "list", "--json"))[0].keys()


def test_a_zoo_model_from_getting_to_verifying(kompilo, zoo_model, tmp_path):
    zoo_model("squeezenet")
    got = kompilo("zoo", "get", "squeezenet", "-o", tmp_path)
    assert got.code == 0
    assert got.out.strip().startswith(str(tmp_path))
    assert got.out.strip().endswith(".onnx")
    assert kompilo("compile", "zoo:squeezenet", "-o", tmp_path / "s.kpo").code == 0
    assert parsed(kompilo("verify", tmp_path / "s.kpo", "zoo:squeezenet", "--samples", "1", "--json"))["passes"]


@needs_onnxruntime
def test_bench_a_model_against_a_peer(kompilo, dynamic_model, tmp_path):
    args = ("--against", "onnxruntime", "--threads", "1", "--seconds", "0.02")
    outcome = kompilo("bench", dynamic_model, *args, "--json", tmp_path / "b.json")
    assert outcome.code == 0
    assert "onnxruntime" in outcome.out
    assert "assumed N=1" in outcome.out
    facts = json.loads((tmp_path / "b.json").read_text())
    assert facts["results"][0]["ratios"][0]["error"] <= 1e-4
    timings = facts["results"][0]["timings"]
    assert [t["runtime"] for t in timings] == ["kompilo", "onnxruntime"]
    assert timings[1]["runs_on"] == "CPU"


@needs_onnxruntime
def test_bench_an_artifact(kompilo, artifact, model):
    alone = parsed(kompilo("bench", artifact, "--seconds", "0.02", "--json"))
    assert [t["runtime"] for t in alone["results"][0]["timings"]] == ["kompilo"]
    args = ("--model", model, "--against", "onnxruntime", "--seconds", "0.02", "--json", "-")
    assert len(parsed(kompilo("bench", artifact, *args))["results"][0]["ratios"]) == 1


def test_bench_compiles_a_model_for_the_device_that_is_asked_for(kompilo, fails, model):
    options = ("--against", "none", "--seconds", "0.01")
    facts = parsed(kompilo("bench", model, "--device", "cpu:avx2", *options, "--json"))
    assert facts["results"][0]["timings"][0]["runs_on"].startswith("cpu-haswell")
    assert "unknown target 'gpu'" in fails("bench", model, "--device", "gpu", *options)


def test_the_ir_as_json(kompilo, model):
    phases = parsed(kompilo("inspect", model, "--ir", "list", "--json"))
    assert phases[0] == "import"
    facts = parsed(kompilo("inspect", model, "--ir", "import", "--json"))
    assert "R.nn.conv2d" in facts["ir"]


def test_tensors_called_file(kompilo, tmp_path):
    """numpy's savez has a parameter of that name."""
    sides = [("file", TensorProto.FLOAT, [4])], [("allow_pickle", TensorProto.FLOAT, [4])]
    path = write_model(tmp_path / "m.onnx", [helper.make_node("Relu", ["file"], ["allow_pickle"])], *sides)
    assert kompilo("compile", path, "-o", tmp_path / "m.kpo").code == 0
    assert kompilo("run", tmp_path / "m.kpo", "-i", "file=ones", "-o", tmp_path / "o.npz").code == 0
    with np.load(tmp_path / "o.npz") as arrays:
        assert dict(arrays)["allow_pickle"].tolist() == [1, 1, 1, 1]
    facts = parsed(kompilo("bench", tmp_path / "m.kpo", "--against", "none", "--seconds", "0.01", "--json"))
    assert facts["inputs"]["file"]["shape"] == [4]


def test_bench_does_not_import_what_lies_in_the_current_folder(kompilo, artifact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    assert kompilo("bench", artifact, "--against", "none", "--seconds", "0.01").code == 0


def test_memory_that_only_the_sizes_decide(kompilo, tmp_path):
    path = write_model(
        tmp_path / "m.onnx",
        [helper.make_node("Softmax", ["x"], ["s"]), helper.make_node("MatMul", ["s", "x"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", "N"])],
        [("y", TensorProto.FLOAT, ["N", "N"])],
    )
    assert kompilo("compile", path, "-o", tmp_path / "m.kpo").code == 0
    assert "intermediate memory: depends on dynamic dimensions\n" in kompilo("inspect", tmp_path / "m.kpo").out


def test_bench_shows_its_figures_even_if_they_cannot_be_stored(kompilo, artifact, tmp_path, monkeypatch):
    def fail(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("kompilo.compiler.cli.bench.write_text", fail)
    args = ("--against", "none", "--seconds", "0.01", "--json", tmp_path / "b.json")
    outcome = kompilo("bench", artifact, *args)
    assert outcome.code == 2
    assert "median" in outcome.out
