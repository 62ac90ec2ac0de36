"""Runtimes in worker processes: same inputs, their answers, and how failures come back."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kompilo.compiler.errors import KompiloError, ModelError, UsageError
from kompilo.compiler.peers.base import find_peer, is_installed
from kompilo.compiler.peers.client import WorkerProcess
from kompilo.compiler.peers.fixed_model import fix_model_shapes
from kompilo.compiler.peers.measure import geometric_mean, measure, pick_cores

needs_onnxruntime = pytest.mark.skipif(not is_installed("onnxruntime"), reason="onnxruntime is not installed")


@pytest.fixture
def square(tmp_path):
    """y = x * x with a dynamic first dimension."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["y"])], "square", [x], [y])
    path = tmp_path / "square.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_the_reference_evaluator_is_a_peer(square):
    peer = find_peer("reference")
    peer.load(square, 1)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(peer.outputs({"x": x})["y"], x * x)


@needs_onnxruntime
def test_runtimes_are_measured_in_their_own_processes(square):
    models = {"onnxruntime": square, "reference": square}
    found = measure(models, {"x": np.ones((2, 3), np.float32)}, threads=1, seconds=0.01)
    assert [t.runtime for t in found.timings] == ["onnxruntime", "reference"]
    assert all(0 < t.min_ms <= t.median_ms <= t.p90_ms and t.runs >= 6 for t in found.timings)
    assert found.ratios == ()


def test_outputs_come_back_by_name(square, tmp_path):
    x = np.full((1, 3), 3, np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    with WorkerProcess("reference") as worker:
        worker.load(square, 1, [])
        worker.set_inputs(tmp_path / "in.npz")
        outputs = worker.outputs(tmp_path / "out.npz")
    np.testing.assert_array_equal(outputs["y"], x * x)


@needs_onnxruntime
def test_a_model_that_a_runtime_rejects_is_a_model_error(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with WorkerProcess("onnxruntime") as worker, pytest.raises(ModelError, match="ONNX Runtime cannot load 'bad.onnx'"):
        worker.load(tmp_path / "bad.onnx", 1, [])


def test_a_dead_worker_is_reported_with_its_signal(square):
    with WorkerProcess("reference") as worker:
        worker._process.kill()
        with pytest.raises(KompiloError, match="the reference process died of signal 9"):
            worker.load(square, 1, [])


def test_unknown_runtimes_and_too_many_threads_are_usage_errors():
    with pytest.raises(UsageError, match="unknown runtime 'tensorpond': expected one of onnxruntime"):
        find_peer("tensorpond")
    with pytest.raises(UsageError, match="found 100000"):
        pick_cores(100000)


def test_fixing_shapes_leaves_the_original_alone(square, tmp_path):
    fixed = fix_model_shapes(square, {"x": (4, 3)}, tmp_path / "fixed.onnx")
    dims = onnx.load(fixed).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [4, 3]
    assert fix_model_shapes(fixed, {"x": (4, 3)}, tmp_path / "again.onnx") == fixed
    assert onnx.load(square).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_geometric_mean():
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert np.isnan(geometric_mean([]))
