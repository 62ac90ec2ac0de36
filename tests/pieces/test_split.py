"""Models in pieces: what is cut, and that nothing is lost or computed twice."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_models import write_model

import kompilo
from kompilo.compiler.cli.main import run_command
from kompilo.compiler.errors import UsageError
from kompilo.compiler.frontend.host_import import import_program
from kompilo.compiler.passes.graph import Graph
from kompilo.compiler.pieces.split import split_program

from branching import branching_model, sample


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return branching_model(tmp_path_factory.mktemp("model") / "branching.onnx")


@pytest.fixture(scope="module")
def whole(model):
    return kompilo.load(kompilo.compile(model), threads=1)


@pytest.fixture(scope="module")
def cut(model):
    return kompilo.compile(model, pieces=4)


def anchors(program) -> list[str]:
    return [
        node.op
        for part in program.parts
        for node in Graph.of(part.mod).nodes
        if node.op in ("nn.conv2d", "matmul", "concat", "nn.relu", "sigmoid")
    ]


def test_results_are_those_of_the_whole(cut, whole, tmp_path):
    assert len(cut.segments) == 4
    cut.save(tmp_path / "cut.kpo")
    module = kompilo.load(tmp_path / "cut.kpo", threads=1)
    for seed in range(3):
        for found, expected in zip(module(sample(seed)), whole(sample(seed)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_every_operator_is_in_one_piece_with_its_epilogue(model):
    program = import_program(model)
    before = sorted(anchors(program))
    for limit in (2, 4, 20):
        parts = split_program(program, limit)
        assert len(parts.parts) <= limit
        assert sorted(anchors(parts)) == before
        for part in parts.parts:
            ops = [node.op for node in Graph.of(part.mod).nodes]
            assert ops.count("nn.relu") + ops.count("sigmoid") <= ops.count("nn.conv2d")
    assert len(split_program(program, 20).parts) > 4
    assert len(split_program(program, 1).parts) == 1
    assert split_program(program, 1).segments == ()


def test_branches_are_pieces_beside_each_other(model):
    """Of two pieces that read the same tensor neither waits for the other."""
    segments = split_program(import_program(model), 20).segments
    sources = [{spec.name for spec in segment.inputs} for segment in segments]
    made = [{spec.name for spec in segment.outputs} for segment in segments]
    pairs = [
        (a, b)
        for a in range(len(segments))
        for b in range(a + 1, len(segments))
        if sources[a] & sources[b] - {"x"} and not made[a] & sources[b]
    ]
    assert pairs


def test_images_cross_cuts_channels_last(cut):
    shapes = {spec.shape for segment in cut.segments for spec in segment.outputs if spec.name.startswith("cut")}
    assert shapes
    assert all(shape[1:3] == (13, 10) for shape in shapes if len(shape) == 4)
    assert {spec.name: spec.shape for s in cut.segments for spec in s.outputs}["kept"] == (1, 7, 13, 10)


def test_weights_are_there_once_for_all_pieces_and_targets(model, cut):
    both = kompilo.compile(model, target=["cpu", "cpu:x86-64-v2"], pieces=4)
    assert {(t.name, t.segment) for t in both.targets} == {(n, k) for n in ("cpu", "cpu:x86-64-v2") for k in range(4)}
    of_pieces = [index for t in both.targets if t.name == "cpu" for index in t.weights]
    assert sorted(of_pieces) == list(range(len(cut.weights)))  # each weight in one piece, none twice
    assert sum(w.nbytes for w in cut.weights) == sum(w.nbytes for w in kompilo.compile(model).weights)


def test_names_of_tensors_do_not_collide_with_the_models(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["cut0", "m"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "m"], ["cut1"]),
    ]
    specs = [(name, TensorProto.FLOAT, [3, 5]) for name in ("cut0", "cut1")]
    weights = {"m": np.eye(5, dtype=np.float32)}
    path = write_model(tmp_path / "m.onnx", nodes, specs[:1], specs[1:], weights)
    artifact = kompilo.compile(path, pieces=2)
    assert len(artifact.segments) == 2
    x = np.arange(-7, 8, dtype=np.float32).reshape(3, 5)
    np.testing.assert_allclose(kompilo.load(artifact)(x), np.maximum(x, 0))


def test_what_cannot_be_cut_is_refused(tmp_path, model):
    with pytest.raises(UsageError, match="fixed sizes, found open dimensions"):
        kompilo.compile(branching_model(tmp_path / "open.onnx", "h"), pieces=3)
    for pieces in (0, -1, 2.0, True):
        with pytest.raises(UsageError, match="pieces: expected an integer of at least 1"):
            kompilo.compile(model, pieces=pieces)
    specs = [(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "y")]
    same = write_model(tmp_path / "same.onnx", [helper.make_node("Identity", ["x"], ["y"])], specs[:1], specs[1:])
    np.testing.assert_array_equal(kompilo.load(kompilo.compile(same, pieces=2))(np.eye(2, dtype=np.float32)), np.eye(2))
    samples = {"x": np.zeros((2, 1, 3, 13, 10), np.float32)}
    with pytest.raises(UsageError, match="without calibration"):
        kompilo.compile(model, precision="int8", calibration=samples, pieces=2)


def test_the_command_line_cuts(model, tmp_path, capsys):
    assert onnx.load(model).graph.name == "small"
    out = tmp_path / "out.kpo"
    assert run_command(["compile", str(model), "--pieces", "3", "-o", str(out), "--json"]) == 0
    assert '"segments": 3' in capsys.readouterr().out
    assert run_command(["run", str(out)]) == 0
