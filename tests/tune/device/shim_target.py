"""NVIDIA's targets with kernels that the stand-in of the driver runs on the CPU, and one whose candidates misbehave."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper, numpy_helper

from kompilo.compiler.device_code import DeviceCode, Usage
from kompilo.compiler.launches import DeviceProgram
from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.schedule.target_spec import TargetSpec
from kompilo.compiler.schedule.template import Candidate, Config, Space, Template
from kompilo.compiler.tune.record import Point
from kompilo.targets.cuda.source import generate
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.lowering import Split, host_code, nan_keeping_extremes, split
from kompilo.targets.gpu.target import gpu_module
from kompilo.targets.gpu.templates.matmul_simt import MatmulSimt
from kompilo.targets.rocm.target import RocmTarget

from gpu.fake_cuda import shim_code

# What a candidate's kernels do; the words of the stand-in's faults.
ACTS = ("good", "wrong", "hang", "crash", "launch:701", "kernel:719")
# What building one does.
BUILDS = ("abort", "refuse", "spill")
_act = "good"
HERE = Path(__file__).parent


class ShimTarget(CudaTarget):
    """An NVIDIA GPU as the stand-in has it; its kernels run on the CPU."""

    probe_bytes, probe_side = 1 << 20, 48

    def device_code(self, mod: tvm.ir.IRModule) -> tuple[str, bytes]:
        kernels = [(k.name, k.arguments) for k in Split(mod, mod).kernels]
        return "cubin", shim_code(self.source(mod), kernels, "" if _act == "good" else _act)

    def usage(self, program: DeviceProgram) -> Usage | None:
        """As the config of a candidate that misbehaves says it; no machine code tells."""
        if _act == "spill":
            return Usage(registers=255, spill_bytes=400, shared_bytes=0, occupancy=0.25, limit="registers")
        return Usage(registers=40, spill_bytes=0, shared_bytes=4096, occupancy=0.75, limit="registers")


class RocmShimTarget(RocmTarget):
    """An AMD GPU of 32 threads to a warp: the same TIR, as CUDA C++, since nothing here runs AMD's instructions."""

    def device_target(self) -> dict[str, Any]:
        return CudaTarget.from_preset("sm_80").device_target()

    def device_code(self, mod: tvm.ir.IRModule) -> tuple[str, bytes]:
        kernels = [(k.name, k.arguments) for k in Split(mod, mod).kernels]
        return "hsaco", shim_code(generate(nan_keeping_extremes(mod), self.tvm_target()), kernels)

    def compile_kernels(self, mod: tvm.ir.IRModule) -> tuple[tvm.runtime.Module, tuple[DeviceCode, ...]]:
        """Whole models have AMD's host code, which launches the kernels that CUDA C++ has of the same TIR."""
        scheduled = gpu_module(mod, self)
        host_target = self.host_target()
        amd, other = (
            split(scheduled, tvm.target.Target(device, host=host_target))
            for device in (RocmTarget.device_target(self), self.device_target())
        )
        assert amd.kernels == other.kernels
        host = host_code(amd.host, host_target)
        if other.device is None:
            return host, ()
        form, code = self.device_code(other.device)
        return host, (DeviceCode(form, self.spec.code_arch, code, other.kernels),)

    def usage(self, program: DeviceProgram) -> Usage | None:
        """No machine code tells."""
        return None


class ConductTemplate(Template):
    """The plain matmul with one config for each way to misbehave."""

    name = "conduct"
    version = 1

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        if op.kind != "matmul":
            return None
        return Space(Config.of(act="good"), tuple(Config.of(act=act) for act in (*ACTS, *BUILDS)))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        global _act
        _act = str(config["act"])
        if _act == "abort":
            os.kill(os.getpid(), signal.SIGABRT)
            time.sleep(10)
        if _act == "refuse":
            raise RuntimeError("as asked")
        space = MatmulSimt().match(op, target)
        assert space is not None
        return MatmulSimt().build(op, target, space.default)


class ConductTarget(ShimTarget):
    """The same GPU with that template alone."""

    @property
    def templates(self) -> tuple[Template, ...]:  # type: ignore[override]
        return (ConductTemplate(),)


def matmul() -> OpSpec:
    """(5, 29) x constant (29, 17)."""
    perms = (("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1)))
    inputs = TensorType((5, 29), "float32"), TensorType((29, 17), "float32")
    result = TensorType((5, 17), "float32")
    return OpSpec("matmul", inputs, (False, True), perms, result, result, ())


def point(act: str) -> Point:
    """The point that behaves as `act` says."""
    return Point(ConductTemplate.name, ConductTemplate.version, Config.of(act=act))


def install_shim_targets(place: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes the targets `shim` and `conduct` known to this process and to those it starts."""
    info = place / "shim-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shim\nVersion: 1.0\n")
    entries = (
        "shim = shim_target:ShimTarget\nrocmshim = shim_target:RocmShimTarget\nconduct = shim_target:ConductTarget\n"
    )
    (info / "entry_points.txt").write_text(f"[kompilo.targets]\n{entries}")
    folders = [str(HERE), str(HERE.parents[1]), str(place)]
    for folder in folders:
        patch.syspath_prepend(folder)
    old = os.environ.get("PYTHONPATH")
    patch.setenv("PYTHONPATH", os.pathsep.join([*folders, *([old] if old else [])]))


def model_of(rows: int = 5, depth: int = 29, columns: int = 17, dtype: str = "float32") -> bytes:
    """y = x w."""
    weight = np.random.default_rng(0).standard_normal((depth, columns)).astype(dtype)
    element = helper.np_dtype_to_tensor_dtype(weight.dtype)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", element, [rows, depth])],
        [helper.make_tensor_value_info("y", element, [rows, columns])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
