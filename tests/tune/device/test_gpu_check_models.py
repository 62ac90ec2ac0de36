"""The benchmark for real GPUs, what needs no stand-in: networks in other batches than their files', numbers of GPUs."""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import kompilo
from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.model_source import zoo

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "gpu"


@pytest.fixture
def module(monkeypatch):
    """Imports a file of the benchmark, which is a folder of programs and no package."""
    monkeypatch.syspath_prepend(str(BENCHMARK))
    for name in ("models", "rivals", "batch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in ("models", "rivals", "batch"):
        sys.modules.pop(name, None)


def classifier(constant_node: bool = False) -> onnx.ModelProto:
    """As exporters of old write them: one sample, a target of Reshape that says so, weights reshaped with it."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((6, 3, 3, 3)).astype("float32"),
        "bias": rng.standard_normal((1, 6, 1)).astype("float32"),
        "as_bias": np.array([1, 6, 1, 1]),
        "dense": rng.standard_normal((5, 6)).astype("float32"),
        "flat": np.array([1, 6]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Reshape", ["bias", "as_bias"], ["b"]),
        helper.make_node("Add", ["c", "b"], ["s"]),
        helper.make_node("AveragePool", ["s"], ["p"], kernel_shape=[4, 3]),
        helper.make_node("Reshape", ["p", "flat"], ["f"]),
        helper.make_node("Gemm", ["f", "dense"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["y"]),
    ]
    if constant_node:
        nodes.insert(0, helper.make_node("Constant", [], ["flat"], value=numpy_helper.from_array(weights.pop("flat"))))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 9, 7])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.checker.check_model(made)
    return made


@pytest.mark.parametrize("constant_node", [False, True])
def test_a_batch_computes_what_its_samples_do(module, constant_node):
    runtime = pytest.importorskip("onnxruntime")
    one = classifier(constant_node)
    seven = module("batch").with_batch(one, 7)
    x = np.random.default_rng(1).standard_normal((7, 3, 9, 7)).astype("float32")

    def run(model: onnx.ModelProto, value: np.ndarray) -> np.ndarray:
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": value})[0]

    singles = np.concatenate([run(one, sample[None]) for sample in x])
    assert np.ptp(singles, axis=0).max() > 1e-2  # samples differ
    np.testing.assert_allclose(run(seven, x), singles, rtol=1e-5, atol=1e-6)


def test_resnet50_comes_in_every_batch_of_the_benchmark(module):
    models = module("models")
    zoo_name, shapes = models.NETWORKS["ResNet-50"]
    source = onnx.load(zoo().find(zoo_name).path())
    for batch in models.BATCHES:
        imported = import_model(module("batch").with_batch(source, batch), shapes(batch))
        assert [tuple(spec.shape) for spec in imported.outputs] == [(batch, 1000)]


def test_kompilo_loads_on_the_same_gpu(module, tmp_path, monkeypatch):
    models = module("models")
    made = kompilo.compile(classifier(), target="cpu", records=False)
    made.save(tmp_path / "model.kpo")
    with zipfile.ZipFile(tmp_path / models.FILE, "w") as files:
        files.write(tmp_path / "model.kpo", "first, batch 1")
        files.write(tmp_path / "model.kpo", "second, batch 1")

    def load(artifact: object, device: str) -> None:
        raise RuntimeError(f"loaded on {device}")

    monkeypatch.setattr(kompilo, "load", load)
    said: list[str] = []
    models.serve(tmp_path, "rocm", 2, 1, said.append)
    assert [json.loads(line) for line in said] == [
        {"name": "second, batch 1", "problems": ["RuntimeError: loaded on rocm:2"]}
    ]


def test_torch_takes_the_same_gpu(module, monkeypatch):
    chosen: list[int] = []
    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(is_available=lambda: True, set_device=chosen.append)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    rivals = module("rivals")
    assert list(rivals.find(None, "cuda", 3, 1e-3)) == ["torch"]
    assert chosen == [3]


def test_cublas_stands_beside_nvidias_gpus_alone(module, monkeypatch):
    rivals = module("rivals")
    monkeypatch.setattr(rivals, "torch_on", lambda device: None)
    monkeypatch.setattr(rivals, "_cublas", lambda: "cuBLAS")
    assert list(rivals.find(None, "cuda", 0, 1e-3)) == ["cuBLAS"]
    assert not rivals.find(None, "rocm", 0, 1e-3)
