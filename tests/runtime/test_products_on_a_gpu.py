"""Products that take more than pointers: descriptors of tiles, and workspaces between two kernels, from end to end.

Artifacts are loaded, and candidates measured, on the stand-ins of NVIDIA's libraries; see docs/gpu-checks.md.
"""

from __future__ import annotations

import ctypes
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
from kompilo.compiler.launches import Tiles
from kompilo.compiler.runtime.cuda_driver import Driver
from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.tune.device.candidate import build_device_kernel
from kompilo.compiler.tune.device.parts import read_program, write_parts
from kompilo.compiler.tune.device.runner import DeviceRun
from kompilo.compiler.tune.measure.operands import random_operands
from kompilo.compiler.tune.record import Point
from kompilo.compiler.tune.reference import evaluate
from kompilo.targets.gpu.templates.tensor_core_matmul import PipelineMatmul, TensorCoreMatmul
from kompilo.targets.gpu.templates.tensor_core_pipeline_tile import PipelineTile
from kompilo.targets.gpu.templates.tensor_core_pipeline_tile import config_of as pipeline_config
from kompilo.targets.gpu.templates.tensor_core_tile import TensorTile
from kompilo.targets.gpu.templates.tensor_core_tile import config_of as tensor_config

from gpu.fake_cuda import environment, folder
from gpu.shim_support import needs_shim
from shim_target import ShimTarget, install_shim_targets

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


OPERATOR = OpSpec(
    "matmul",
    (TensorType((70, 264), "float16"), TensorType((264, 72), "float16")),
    (False, True),
    (("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1))),
    TensorType((70, 72), "float32"),
    TensorType((70, 72), "float32"),
    (),
)
POINTS = {
    "tiles": Point(PipelineMatmul.name, PipelineMatmul.version, pipeline_config(PipelineTile(64, 64, 1, 3))),
    "tiles_and_parts": Point(
        PipelineMatmul.name, PipelineMatmul.version, pipeline_config(PipelineTile(64, 64, 1, 3, split=2))
    ),
    "parts": Point(
        TensorCoreMatmul.name, TensorCoreMatmul.version, tensor_config(TensorTile(32, 32, 32, 1, 2, 3, split=3))
    ),
}


@pytest.mark.parametrize("name", POINTS)
def test_a_candidate_travels_and_is_measured(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA_ARCH", "9.0")
    target = ShimTarget.from_preset("h200")
    kernel = build_device_kernel(OPERATOR, POINTS[name], target)
    parts = write_parts(OPERATOR, kernel, tmp_path)
    program = read_program(parts, lambda file: (tmp_path / file).read_bytes())
    assert len(program.launches) == (2 if "parts" in name else 1)
    assert len(program.scratch) == (1 if "parts" in name else 0)
    assert any(isinstance(a, Tiles) for launch in program.launches for a in launch.arguments) == ("tiles" in name)
    inputs = random_operands(OPERATOR, 0)
    packed = [kernel.packers[k](a) if k in kernel.packers else a for k, a in enumerate(inputs)]
    gpu = Driver(lambda library: ctypes.CDLL(str(folder() / library))).context(0)
    with DeviceRun(gpu, program, packed, ((70, 72), "float32"), [0], 1 << 16) as run:
        assert run.check(evaluate(OPERATOR, inputs)) < 1e-4
