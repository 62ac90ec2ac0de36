"""Models become artifacts with real code objects, which survive the file and are refused where they cannot run."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper, numpy_helper
from tvm import te

import kompilo
from kompilo.compiler.artifact.artifact import Artifact
from kompilo.compiler.cli.inspect import _artifact_facts
from kompilo.compiler.device_code import runs_on
from kompilo.compiler.errors import ArtifactError
from kompilo.compiler.runtime.accelerator import Accelerator, metadata
from kompilo.compiler.runtime.call import Program
from kompilo.compiler.runtime.device_call import DeviceExecution
from kompilo.compiler.runtime.devices import Kind
from kompilo.compiler.runtime.library import ensure_runtime, load_executable
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.lowering import split
from kompilo.targets.gpu.resources import resources_of_code_object, resources_of_cubin
from kompilo.targets.gpu.target import gpu_module

READERS = {"cubin": resources_of_cubin, "hsaco": resources_of_code_object}


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return kompilo.compile("zoo:mnist", target=["cpu", "cuda:sm_80", "rocm:gfx942"])


def has_driver(library: str = "libcuda.so.1") -> bool:
    import ctypes

    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [1, 2], ids=["cuda", "rocm"])
def test_every_kernel_is_in_a_code_object_and_none_spills(artifact, number):
    target = artifact.targets[number]
    found = {}
    for code in target.device:
        assert code.arch == target.name.split(":")[1]
        resources = READERS[code.format](code.code)
        assert set(resources) == {k.name for k in code.kernels}
        found |= resources
    assert len(found) >= len(target.operators)
    assert not [name for name, r in found.items() if r.spills_bytes]


def open_sizes() -> onnx.ModelProto:
    """Convolutions of open sizes, which are formulas of the input's behind each stride."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "w1": (8, 1, 5, 5), "w2": (16, 8, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w1"], ["b"], strides=[2, 2], pads=[2, 2, 2, 2], group=8),
        helper.make_node("Conv", ["b", "w2"], ["c"], strides=[2, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype("f4"), n) for n, s in shapes.items()]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "open_sizes", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("name", ["cuda:sm_90", "rocm:gfx1100"])
def test_open_sizes(name):
    target = kompilo.compile(open_sizes(), target=name).targets[0]
    found = {}
    for code in target.device:
        found |= READERS[code.format](code.code)
    assert {o.kind for o in target.operators} >= {"conv2d"}
    assert len(found) >= 3
    assert not [kernel for kernel, used in found.items() if used.spills_bytes]


def test_templates_take_the_anchors(artifact):
    for target in artifact.targets[1:]:
        templates = {o.kind: o.template for o in target.operators}
        kind = "matrix_core" if target.name.startswith("rocm") else None  # CDNA's multiply float32
        assert templates["conv2d"] == f"conv2d_{kind or 'implicit'}"
        assert templates["pool2d"] == "pool2d"
        assert templates["matmul"] == f"matmul_{kind or 'simt'}"


def test_device_code_survives_the_file(artifact, tmp_path):
    artifact.save(tmp_path / "m.kpo")
    opened = Artifact.open(tmp_path / "m.kpo")
    assert [t.device for t in opened.targets] == [t.device for t in artifact.targets]
    assert "device0.cubin" in (tmp_path / "m.kpo").read_bytes().decode("latin-1")


@pytest.mark.skipif(has_driver(), reason="this machine has NVIDIA's driver")
def test_without_a_driver_the_cpu_is_offered(artifact):
    with pytest.raises(ArtifactError, match=r"no cuda driver \(libcuda.so.1\)\. Hint: load it with device='cpu'"):
        kompilo.load(artifact, device="cuda")
    alone = Artifact(artifact.inputs, artifact.outputs, artifact.targets[1:2], artifact.weights, {})
    with pytest.raises(ArtifactError, match="no cuda driver.*compile the model for cpu as well"):
        kompilo.load(alone)
    assert kompilo.load(artifact).target.name == "cpu"


@pytest.mark.skipif(has_driver("libamdhip64.so"), reason="this machine has AMD's driver")
def test_without_amd_s_driver_the_cpu_is_offered(artifact):
    with pytest.raises(ArtifactError, match=r"no rocm driver \(libamdhip64.so\)\. Hint: load it with device='cpu'"):
        kompilo.load(artifact, device="rocm")


@pytest.mark.parametrize(
    ("arch", "version", "fits"),
    [
        ("sm_80", "8.0", True), ("sm_80", "8.6", True), ("sm_86", "8.0", False), ("sm_80", "9.0", False),
        ("sm_90", "9.0", True), ("sm_90a", "9.0", True), ("sm_90a", "9.1", False), ("sm_120", "12.0", True),
        ("gfx942", "gfx942", True), ("gfx942", "gfx942:sramecc+", True), ("gfx90a", "gfx942", False),
    ],
)  # fmt: skip
def test_architectures(arch, version, fits):
    assert runs_on(arch, version) is fits


def test_signatures_are_read_by_the_runtime(artifact):
    read = ensure_runtime().get_global_func("runtime.LoadMetaDataFromJSON")
    for code in (code for target in artifact.targets for code in target.device):
        assert set(read(metadata(code))) == {k.name for k in code.kernels}


def test_execution_through_device_memory(artifact):
    """The CPU stands in for a GPU: inputs and weights are copied to its memory, results from there."""
    tvm_ffi = ensure_runtime()
    cpu = artifact.targets[0]
    device = Accelerator(tvm_ffi, Kind("cpu", 1, "", "", ""))
    weights = artifact.weights if cpu.weights is None else [artifact.weights[i] for i in cpu.weights]
    program = Program(tvm_ffi, load_executable(cpu.library), cpu.entry, artifact.inputs, weights, device)
    call = DeviceExecution(program, device).bind()
    module = kompilo.load(artifact, device="cpu")
    rng = np.random.default_rng(0)
    for batch in (1, 3, 3):
        x = rng.standard_normal((batch, *artifact.inputs[0].shape[1:])).astype("f4")
        np.testing.assert_array_equal(call([x]), module(x))


def test_inspect_shows_the_variants(artifact, tmp_path):
    artifact.save(tmp_path / "m.kpo")
    cpu, cuda, rocm = _artifact_facts(Artifact.open(tmp_path / "m.kpo"), tmp_path / "m.kpo", "ok")["targets"]
    assert [{d["arch"] for d in t["device"]} for t in (cpu, cuda, rocm)] == [set(), {"sm_80"}, {"gfx942"}]
    assert sum(d["kernels"] for d in cuda["device"]) >= len(cuda["operators"])
    assert cpu["problem_here"] is None
    assert "no rocm driver" in rocm["problem_here"]
    # Each packs for its own kernels: those of the CPU, of CUDA without tensor cores, of AMD's matrix units.
    assert 0 < rocm["weights"]["own_bytes"] < rocm["weights"]["bytes"]
    assert 0 < cpu["weights"]["own_bytes"] < cpu["weights"]["bytes"]


def test_kernels_of_cuda_say_that_one_block_of_an_sm_will_do():
    """Or NVIDIA's assembler spills for a second one."""
    target = CudaTarget.from_preset("sm_80")
    x = te.placeholder((512,), "float32", "x")
    func = te.create_prim_func([x, te.compute((512,), lambda i: x[i] * 2.0)])
    mod = gpu_module(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target)
    source = target.source(split(mod, target.tvm_target()).device)
    assert re.search(r"__launch_bounds__\(\d+, 1\)", source)
