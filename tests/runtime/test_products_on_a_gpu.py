"""Products that take more than pointers: descriptors of tiles, and workspaces between two kernels, from end to end.

Artifacts are loaded on the stand-ins of NVIDIA's libraries; see docs/gpu-checks.md.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import kompilo
from kompilo.compiler.artifact.artifact import Artifact

from gpu.fake_cuda import environment
from gpu.shim_support import needs_shim
from shim_target import install_shim_targets

pytestmark = needs_shim
ROWS, DEPTH, COLUMNS = 72, 1096, 64
LAYERS = 3

RUNS = """
import os, sys
import numpy as np, kompilo
model = kompilo.load(sys.argv[1])
for seed in (1, 2, 3):
    x = np.random.default_rng(seed).standard_normal((72, 1096)).astype("f2")
    np.save(f"{os.environ['OUT']}/{seed}.npy", model(x))
"""


def weights() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(DEPTH, COLUMNS), *[(COLUMNS, COLUMNS)] * (LAYERS - 1)]
    return [(rng.standard_normal(shape) / 8).astype("f2") for shape in shapes]


def model() -> bytes:
    """Fully connected layers of float16."""
    nodes = []
    for k in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [f"y{k}" if k else "x", f"w{k}"], [f"p{k}"]))
        nodes.append(helper.make_node("Relu", [f"p{k}"], [f"y{k + 1}"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [ROWS, DEPTH])],
        [helper.make_tensor_value_info(f"y{LAYERS}", TensorProto.FLOAT16, [ROWS, COLUMNS])],
        [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights())],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    made.ir_version = 10
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    """For an H200 as the stand-in has it."""
    place = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        install_shim_targets(place / "path", patch)
        made = kompilo.compile(model(), target="shim:h200", records=False)
    (gpu,) = made.targets
    products = [o for o in gpu.operators if o.kind == "matmul"]
    assert {o.template for o in products} == {"matmul_pipeline"}
    assert any("split=1" not in o.config for o in products), "one of them has parts of K added up"
    path = place / "model.kpo"
    target = dataclasses.replace(gpu, name="cuda:sm_90")
    Artifact(made.inputs, made.outputs, (target,), made.weights, {}).save(path)
    return path


@pytest.mark.parametrize("graphs", ["1", "0"])
def test_an_artifact_runs(artifact, tmp_path, graphs):
    settings = {"arch": "9.0", "name": "NVIDIA H200"}
    env = {**environment(tmp_path / "log", **settings), "OUT": str(tmp_path), "KOMPILO_CUDA_GRAPHS": graphs}
    command = [sys.executable, "-P", "-c", RUNS, str(artifact)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    for seed in (1, 2, 3):
        expected = np.random.default_rng(seed).standard_normal((ROWS, DEPTH)).astype("f2").astype("f8")
        for w in weights():
            expected = np.maximum(expected @ w.astype("f8"), 0).astype("f2").astype("f8")
        found = np.load(tmp_path / f"{seed}.npy")
        assert np.max(np.abs(found - expected)) <= 4e-3 * np.max(np.abs(expected))
    lines = (tmp_path / "log").read_text().splitlines()
    assert any(line.startswith("tiles 64x64") for line in lines)
    assert any(line.startswith("captured") for line in lines) == (graphs == "1")
