"""Candidates whose kernels take descriptors of tiles, or leave partial sums to a second kernel, on the stand-in."""

from __future__ import annotations

import ctypes

import pytest

from kompilo.compiler.launches import Tiles
from kompilo.compiler.runtime.cuda_driver import Driver
from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.tune.bands import truth
from kompilo.compiler.tune.device.candidate import build_device_kernel
from kompilo.compiler.tune.device.parts import read_program, write_parts
from kompilo.compiler.tune.device.runner import DeviceRun
from kompilo.compiler.tune.measure.operands import random_operands
from kompilo.compiler.tune.record import Point
from kompilo.targets.gpu.templates.tensor_core_matmul import PipelineMatmul, TensorCoreMatmul
from kompilo.targets.gpu.templates.tensor_core_pipeline_tile import PipelineTile
from kompilo.targets.gpu.templates.tensor_core_tile import TensorTile

from gpu.fake_cuda import folder
from gpu.shim_support import needs_shim
from shim_target import ShimTarget

pytestmark = needs_shim

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
    "tiles": Point(PipelineMatmul.name, PipelineMatmul.version, PipelineTile(64, 64, 1, 3).config()),
    "tiles_and_parts": Point(PipelineMatmul.name, PipelineMatmul.version, PipelineTile(64, 64, 1, 3, split=2).config()),
    "parts": Point(TensorCoreMatmul.name, TensorCoreMatmul.version, TensorTile(32, 32, 32, 1, 2, 3, split=3).config()),
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
        assert run.check(truth(OPERATOR, inputs)) < 1e-4
