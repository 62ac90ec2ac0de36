"""`kompilo compile --value NAME=VALUE`, and `kompilo verify` of what it made."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper


@pytest.fixture
def path(tmp_path):
    """y = x * k + b, of three elements."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in INPUTS.items()]
    nodes = [helper.make_node("Mul", ["x", "k"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])])
    file = tmp_path / "line.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


INPUTS = {"x": [3], "k": [], "b": [3]}


def test_numbers_lists_and_files(kompilo, path, tmp_path):
    np.save(tmp_path / "b.npy", np.array([1, 0, -1], np.float32))
    out = tmp_path / "line.kpo"
    outcome = kompilo(
        "compile", path, "-o", out, "--no-records", "--value", "k=2.5", "--value", f"b={tmp_path / 'b.npy'}", "--json"
    )
    assert [spec["name"] for spec in json.loads(outcome.out)["inputs"]] == ["x"]
    assert kompilo("run", out, "--input", "x=[1,2,3]", "--output", tmp_path / "y.npz").code == 0
    with np.load(tmp_path / "y.npz") as found:
        np.testing.assert_allclose(found["y"], [3.5, 5, 6.5])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["k"], "expected --value NAME=VALUE, found 'k'"),
        (["k=two"], "expected a number, [1,2,3] or FILE.npy for input 'k', found 'two'"),
        (["k=1", "k=2"], "the value of input 'k' is given twice"),
        (["b=none.npy"], "there is no file 'none.npy' for input 'b'"),
        (["q=1"], "A value is given for input 'q', which the model does not have"),
    ],
)
def test_what_is_no_value(kompilo, path, tmp_path, option, message):
    words = [word for text in option for word in ("--value", text)]
    outcome = kompilo("compile", path, "-o", tmp_path / "o.kpo", *words)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())


def test_verify_takes_the_values_of_the_artifact(kompilo, path, tmp_path):
    out = tmp_path / "line.kpo"
    assert kompilo("compile", path, "-o", out, "--no-records", "--value", "k=2.5", "--value", "b=[1,0,-1]").code == 0
    for against in ("onnxruntime", "reference"):
        outcome = kompilo("verify", out, path, "--against", against, "--samples", 2, "--json")
        assert (outcome.code, json.loads(outcome.out)["passes"]) == (0, True)
    assert kompilo("verify", out, path, "--value", "k=2.25").code == 1
    outcome = kompilo("verify", out, path, "--value", "x=1")
    assert outcome.code == 2
    assert "--value x: expected an input that the artifact has a value of, which are 'k', 'b'." in joined(outcome.err)


def test_verify_of_many_values_asks_for_them(kompilo, tmp_path):
    """y = x + b, of 17 elements: one more than an artifact tells."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [17]) for name in "xby"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "b"], ["y"])], "g", infos[:2], infos[2:])
    model, out, b = tmp_path / "m.onnx", tmp_path / "m.kpo", tmp_path / "b.npy"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    np.save(b, np.arange(17, dtype=np.float32))
    assert kompilo("compile", model, "-o", out, "--no-records", "--value", f"b={b}").code == 0
    outcome = kompilo("verify", out, model)
    assert outcome.code == 2
    assert "the artifact does not tell the value of input 'b', found 'float32 (17,)'." in joined(outcome.err)
    assert kompilo("verify", out, model, "--value", f"b={b}").code == 0


def joined(text):
    return " ".join(text.split())


def test_bench_gives_peers_the_values_of_the_artifact(kompilo, path, tmp_path):
    out = tmp_path / "line.kpo"
    assert kompilo("compile", path, "-o", out, "--no-records", "--value", "k=2.5", "--value", "b=[1,0,-1]").code == 0
    outcome = kompilo("bench", out, "--model", path, "--against", "onnxruntime", "--seconds", "0.01", "--json")
    assert outcome.code == 0, outcome
    assert "onnxruntime" in outcome.out
