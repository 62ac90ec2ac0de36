"""The command line on models some operators of which stay on the host."""

import json

import numpy as np
import onnx
import pytest
from host_models import BOOL, FLOAT, STRING, model, node, optional, sentences, sequence, tensor
from onnx import helper

from kompilo.compiler.runtime import host_operators


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("host") / "words.onnx"
    onnx.save(sentences(), path)
    return path


@pytest.fixture
def artifact(kompilo, words):
    path = words.with_suffix(".kpo")
    if not path.exists():
        assert kompilo("compile", words, "-o", path, "--no-records").code == 0
    return path


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """A sequence and an optional in, a sequence, an optional and strings out."""
    nodes = [
        node("SequenceInsert", "q x", "more"),
        node("Identity", "o", "same"),
        node("OptionalHasElement", "o", "there"),
        node("Identity", "s", "text"),
    ]
    inputs = [sequence("q", FLOAT), tensor("x", FLOAT, [2]), optional("o", FLOAT, ["n"]), tensor("s", STRING, ["m"])]
    outputs = [
        sequence("more", FLOAT),
        optional("same", FLOAT),
        tensor("there", BOOL, None),
        tensor("text", STRING, None),
    ]
    path = tmp_path_factory.mktemp("lists") / "lists.onnx"
    onnx.save(model(nodes, inputs, outputs), path)
    return path


def test_compile_lists_what_stays_on_the_host(kompilo, words, tmp_path):
    outcome = kompilo("compile", words, "-o", tmp_path / "m.kpo", "--no-records")
    assert outcome.code == 0
    assert "On the host, in the onnx package's evaluator: 3 operators" in outcome.out
    assert "no target looks up n-grams" in outcome.out
    assert "a run goes through 3 segments" in outcome.out
    summary = json.loads(kompilo("compile", words, "-o", tmp_path / "m.kpo", "--no-records", "--json").out)
    assert summary["segments"] == 3
    assert [o["operator"] for o in summary["host_operators"]] == [
        "StringNormalizer",
        "TfIdfVectorizer",
        "ai.onnx.ml.LabelEncoder",
    ]


def test_no_host(fails, words, tmp_path):
    text = fails("compile", words, "-o", tmp_path / "m.kpo", "--no-host")
    assert "StringNormalizer node 'CLEAN' cannot be compiled: its input 'words' holds strings" in text
    assert "hint: allow operators on the host: without --no-host" in text
    assert not (tmp_path / "m.kpo").exists()


def test_inspect(kompilo, words, artifact):
    for file in (words, artifact):
        outcome = kompilo("inspect", file)
        assert outcome.code == 0
        assert "On the host, in the onnx package's evaluator: 3 operators" in outcome.out
        assert "its output 'label' holds strings" in outcome.out
    assert "segment 1: cpu-" in kompilo("inspect", artifact).out
    facts = json.loads(kompilo("inspect", artifact, "--json").out)
    assert [segment["on_host"] for segment in facts["segments"]] == [True, False, True]
    assert facts["format_version"] == 2
    facts = json.loads(kompilo("inspect", words, "--json").out)
    support = {o["operator"]: o["support"] for o in facts["operators"]}
    assert (support["MatMul"], support["TfIdfVectorizer"]) == ("direct", "on the host")
    assert facts["unsupported"] == []
    text = kompilo("inspect", words, "--ir", "import").out
    assert "# Segment 0: on the host" in text
    assert "R.matmul" in text


def test_what_runs_decide(kompilo, tmp_path):
    """An `If` on data is listed apart from operators on the host, and --no-host allows it."""
    branches = [
        helper.make_graph([node(op, "x", op)], "branch", [], [onnx.ValueInfoProto(name=op)]) for op in ("Exp", "Neg")
    ]
    one = helper.make_node("If", ["c"], ["y"], "choice", then_branch=branches[0], else_branch=branches[1])
    path, artifact = tmp_path / "m.onnx", tmp_path / "m.kpo"
    onnx.save(model([one], [tensor("x", FLOAT, ["n"]), tensor("c", BOOL, [])], [tensor("y", FLOAT, ["n"])]), path)
    outcome = kompilo("compile", path, "-o", artifact, "--no-records", "--no-host")
    assert outcome.code == 0
    assert "Decided in each run, between compiled segments: 1 operator" in outcome.out
    facts = json.loads(kompilo("inspect", artifact, "--json").out)
    assert facts["host_operators"] == []
    assert facts["decided_operators"] == [
        {"segment": 2, "operator": "If", "node": "choice", "reason": "its condition is data"}
    ]
    assert [segment["decided_in_runs"] for segment in facts["segments"]] == [False, False, True]
    assert "Decided in each run" in kompilo("inspect", artifact).out
    operators = json.loads(kompilo("inspect", path, "--json").out)["operators"]
    assert [(o["operator"], o["support"]) for o in operators] == [("If", "decided in each run")]
    done = kompilo("run", artifact, "--input", "x=[1]", "--input", "c=true", "--output", tmp_path / "y.npz")
    assert done.code == 0
    assert np.load(tmp_path / "y.npz")["y"] == pytest.approx([np.e], rel=1e-6)


def test_run_with_strings(kompilo, fails, artifact, tmp_path):
    outcome = kompilo("run", artifact, "--input", 'words=["the","A","b"]', "-o", tmp_path / "y.npz")
    assert outcome.code == 0, outcome
    with np.load(tmp_path / "y.npz") as results:
        assert results["label"].item() == "x"
        assert results["prob"].shape == (3,)
    facts = json.loads(kompilo("run", artifact, "--input", 'words=["b"]', "--json").out)
    assert [(o["name"], o["dtype"]) for o in facts["outputs"]] == [("prob", "float32"), ("label", "string")]
    assert "nothing can be drawn for input words: string[n]" in fails("run", artifact)
    assert "expected strings, found int" in fails("run", artifact, "--input", "words=[1]")
    assert "expected a value of words: string[n], found 'b'" in fails("run", artifact, "--input", "words=b")


def test_run_with_sequences_and_optionals(kompilo, fails, lists, tmp_path):
    path = tmp_path / "lists.kpo"
    assert kompilo("compile", lists, "-o", path, "--no-records").code == 0
    options = ["--input", "q=[[1],[2,3]]", "--input", "x=[4,5]", "--input", 's=["a"]']
    outcome = kompilo("run", path, *options, "--input", "o=null", "-o", tmp_path / "y.npz")
    assert outcome.code == 0, outcome
    assert "more: a sequence of 3" in outcome.out
    assert "same: none" in outcome.out
    with np.load(tmp_path / "y.npz") as results:
        assert set(results) == {"more.0", "more.1", "more.2", "there", "text"}
        assert results["more.2"].tolist() == [4, 5]
    assert kompilo("run", path, *options, "--input", "o=[1,2,3]").code == 0
    assert "nothing can be drawn for input q: sequence(float32)" in fails("run", path)
    assert "expected a value of q: sequence(float32)" in fails("run", path, "--input", "q=[[1],[2,", *options[2:])


def test_verify_and_bench(kompilo, fails, words, artifact, lists, tmp_path):
    given = ("--input", 'words=["the","A","b"]', "--against", "reference")
    outcome = kompilo("verify", artifact, words, *given)
    assert outcome.code == 0, outcome
    assert "label" in outcome.out
    assert "bench: expected a model whose inputs and outputs are tensors of numbers" in fails("bench", artifact)
    assert kompilo("compile", lists, "-o", tmp_path / "l.kpo", "--no-records").code == 0
    assert "verify: expected a model whose inputs and outputs are tensors, found" in fails(
        "verify", tmp_path / "l.kpo", lists
    )


def test_an_operator_that_fails_in_a_run(kompilo, fails, tmp_path):
    path, made = tmp_path / "at.onnx", tmp_path / "at.kpo"
    inputs = [sequence("q", FLOAT), tensor("k", onnx.TensorProto.INT64, [])]
    onnx.save(model([node("SequenceAt", "q k", "y")], inputs, [tensor("y", FLOAT, None)]), path)
    assert kompilo("compile", path, "-o", made, "--no-records").code == 0
    text = fails("run", made, "--input", "q=[[1]]", "--input", "k=7")
    assert "SequenceAt node 'Y' cannot run on these inputs: position 7 of a sequence of 1" in text


def test_ctrl_c_in_an_operator_on_the_host(kompilo, artifact, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(host_operators.StringNormalizer, "_run", interrupt)
    outcome = kompilo("run", artifact, "--input", 'words=["a"]')
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
