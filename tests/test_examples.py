"""The examples say in one sentence what is wrong with what they were given."""

import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("artifact", ["nothere.kpo", "README.md"])
def test_classify_files_without_an_artifact(zoo_model, artifact):
    zoo_model("magika")
    command = [sys.executable, str(EXAMPLES / "classify_files.py"), artifact, "README.md"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES.parent)
    assert done.returncode == 1
    assert artifact in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("file", "says"), [("nothere.txt", "No such file"), (".", "Is a directory")])
def test_classify_files_that_cannot_be_read(zoo_model, tmp_path, file, says):
    zoo_model("magika")
    import kompilo

    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    sides = [[helper.make_tensor_value_info(name, TensorProto.INT32, [1])] for name in "xy"]
    kompilo.compile(helper.make_model(helper.make_graph(nodes, "g", *sides), ir_version=8)).save(tmp_path / "m.kpo")
    command = [sys.executable, str(EXAMPLES / "classify_files.py"), str(tmp_path / "m.kpo"), file]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith(f"cannot read {file!r}: {says}{' or directory' if 'No' in says else ''}.\n")
    assert len(done.stderr.splitlines()) == 1
