"""Every error a user can cause, as the command line tells it: one sentence, exit code 2."""

import dataclasses
import shutil

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_models import small_model, write_model

from kompilo.compiler.artifact import artifact as artifact_module
from kompilo.compiler.artifact.artifact import Artifact


@pytest.fixture
def copy(artifact, tmp_path):
    """The small artifact, free to be damaged."""
    return shutil.copy(artifact, tmp_path / "copy.kpo")


@pytest.mark.parametrize(
    "content", [b"", b"this is plain text\n" * 9, b"\x7fELF" + bytes(500), b"PK\x03\x04 half a zip"]
)
def test_not_an_onnx_file(fails, tmp_path, content):
    (tmp_path / "text.onnx").write_bytes(content)
    assert "'text.onnx' is" in fails("compile", tmp_path / "text.onnx", "-o", tmp_path / "o.kpo")
    assert not (tmp_path / "o.kpo").exists()


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_truncated_model(fails, model, tmp_path, part):
    content = model.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: int(len(content) * part)])
    assert "cut.onnx" in fails("compile", tmp_path / "cut.onnx", "-o", tmp_path / "o.kpo")


def test_missing_external_data(fails, tmp_path):
    path = small_model(tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=16)
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin" in fails("compile", path, "-o", tmp_path / "o.kpo")


def test_an_unsupported_operator_is_named_with_its_node(fails, tmp_path):
    node = helper.make_node("FrobnicateTwice", ["x"], ["y"], name="the_culprit", domain="example.com")
    sides = [("x", TensorProto.FLOAT, [2])], [("y", TensorProto.FLOAT, [2])]
    path = write_model(tmp_path / "m.onnx", [node], *sides)
    text = fails("compile", path, "-o", tmp_path / "o.kpo")
    assert "FrobnicateTwice" in text
    assert "the_culprit" in text


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--input", "z:1x3x8x8"), "'z'"),
        (("--input", "x:1x3x8"), "'x'"),
        (("--input", "x:1x4x8x8"), "'x'"),
        (("--input", "x:1x3x8x8", "--input", "x:1x3x8x8"), "given twice"),
        (("--precision", "fp12"), "'fp12'"),
        (("--precision", "fp16"), "computes in fp32 or int8, found 'fp16'"),
        (("--target", "abacus"), "'abacus'"),
        (("--target", "cpu:abacus"), "'abacus'"),
        (("--output", "no/such/folder/o.kpo"), "does not exist"),
        (("--output", "o.onnx"), "would look like a model"),
        (("--output", "."), "is a directory"),
        (("--output", "/dev/full"), "is not a regular file"),
    ],
)
def test_compile_options_that_do_not_fit(fails, model, tmp_path, monkeypatch, option, says):
    monkeypatch.chdir(tmp_path)
    assert says in fails("compile", model, *option)
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_never_overwritten(fails, tmp_path):
    path = small_model(tmp_path / "model.kpo")
    content = path.read_bytes()
    assert "is the model itself" in fails("compile", path, "-o", path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((1, 3, 8, 9), np.float32), "x"),
        (np.zeros((3, 8, 8), np.float32), "x"),
        (np.zeros((1, 3, 8, 8), np.float64), "float64"),
        (np.zeros((1, 3, 8, 8), np.int32), "int32"),
    ],
)
def test_inputs_of_the_wrong_shape_or_dtype(fails, artifact, tmp_path, array, says):
    np.save(tmp_path / "in.npy", array)
    assert says in fails("run", artifact, "--input", f"x={tmp_path}/in.npy")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--input", "z=random"], "no input 'z': expected one of x"),
        (["--input", "x=nothere.npy"], "no file 'nothere.npy'"),
        (["--threads", "1,2"], "one number of threads"),
        (["--device", "toaster"], "toaster"),
        (["--shape", "N=4"], "no dimension 'N'"),
        (["--output", "no/such/folder/o.npz"], "does not exist"),
        (["--output", "."], "is a directory"),
        (["--seed", "-1"], "'--seed'"),
    ],
)
def test_run_options_that_do_not_fit(fails, artifact, args, says):
    assert says in fails("run", artifact, *args)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("", "expected an ONNX file, found an empty name"),
        ("/", "'/' is a directory"),
        (".", "'.' is a directory"),
        ("/dev/null", "'/dev/null' is not a regular file"),
    ],
)
def test_what_is_no_file_is_no_model(fails, model, says):
    assert says in fails("compile", model)


@pytest.mark.parametrize("size", [10**11, 10**24])
def test_sizes_that_no_memory_holds(fails, dynamic_artifact, size):
    assert "not enough memory for the shape" in fails("run", dynamic_artifact, "--shape", f"N={size}")


def test_the_artifact_is_never_overwritten_by_its_outputs(fails, copy):
    assert "is the artifact itself" in fails("run", copy, "--output", copy)


@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_a_reference_model_that_cannot_be_read(fails, artifact, model, tmp_path, verb):
    (tmp_path / "bad.onnx").write_text("garbage")
    rest = ["--model", tmp_path / "bad.onnx"] if verb == "bench" else [tmp_path / "bad.onnx"]
    assert "'bad.onnx' or its external data cannot be read" in fails(verb, artifact, *rest)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--seconds", "inf"], "finite"),
        (["--json", "."], "is a directory"),
        (["--json", "none/b.json"], "does not exist"),
        (["--json", "m.kpo"], "expected a file for JSON"),
    ],
)
def test_bench_options_that_do_not_fit(fails, artifact, args, says):
    assert says in fails("bench", artifact, "--against", "none", *args)


@pytest.mark.parametrize("name", ["in.npy", "in.npz"])
def test_files_of_no_arrays_are_not_to_be_unpickled(fails, artifact, tmp_path, name):
    (tmp_path / name).write_text("junk")
    text = fails("run", artifact, "--input", f"x={tmp_path}/{name}")
    assert f"is no readable {name[2:]} file" in text
    assert "pickle" not in text


def test_an_input_without_a_shape_is_told_for_both_interfaces(fails, tmp_path):
    sides = [("x", TensorProto.FLOAT, None)], [("y", TensorProto.FLOAT, None)]
    text = fails("compile", write_model(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], *sides))
    assert "--input x:" in text
    assert "inputs={'x': " in text


def test_an_input_of_strings_that_is_used(fails, tmp_path):
    sides = [("s", TensorProto.STRING, [1])], [("y", TensorProto.STRING, [1])]
    path = write_model(tmp_path / "m.onnx", [helper.make_node("Identity", ["s"], ["y"])], *sides)
    assert "Identity node 'y' cannot be compiled: its input 's' holds strings" in fails("compile", path, "--no-host")


def test_dynamic_dimensions_need_a_size(fails, dynamic_artifact):
    assert "--shape N=SIZE" in fails("run", dynamic_artifact)


@pytest.mark.parametrize("verb", ["run", "inspect"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_artifact(fails, copy, verb, part):
    content = copy.read_bytes()
    copy.write_bytes(content[: int(len(content) * part)])
    assert "copy.kpo" in fails(verb, copy)


@pytest.mark.parametrize("verb", ["run", "inspect"])
def test_a_flipped_bit(fails, copy, verb):
    content = bytearray(copy.read_bytes())
    for place in (len(content) // 3, len(content) // 2):
        damaged = bytearray(content)
        damaged[place] ^= 4
        copy.write_bytes(damaged)
        assert "copy.kpo" in fails(verb, copy)


def test_an_artifact_of_a_newer_format(fails, artifact, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(artifact_module, "WHOLE_VERSION", 99)
        Artifact.open(artifact).save(tmp_path / "new.kpo")
    assert "newer" in fails("run", tmp_path / "new.kpo")


def test_an_artifact_for_another_cpu(fails, kompilo, artifact, tmp_path):
    opened = Artifact.open(artifact)
    foreign = tuple(dataclasses.replace(t, cpu_features=(*t.cpu_features, "avx4096f")) for t in opened.targets)
    dataclasses.replace(opened, targets=foreign).save(tmp_path / "foreign.kpo")
    assert "avx4096f" in fails("run", tmp_path / "foreign.kpo")
    assert kompilo("inspect", tmp_path / "foreign.kpo").code == 0


def test_verify_with_the_arguments_swapped(fails, artifact, model):
    assert "artifact first" in fails("verify", model, artifact)


def test_bench_of_an_artifact_needs_the_model_for_peers(fails, artifact):
    assert "--model MODEL.onnx" in fails("bench", artifact, "--against", "onnxruntime")


@pytest.mark.parametrize("level", ["nowhere", ""])
def test_an_unknown_ir_level_names_the_known_ones(fails, model, level):
    assert "import" in fails("inspect", model, "--ir", level)
