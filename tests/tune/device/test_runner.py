"""Candidates on the stand-in of the driver: results, guards, times, and every argument that a launch may have."""

from __future__ import annotations

import ctypes
import dataclasses

import numpy as np
import operators
import pytest

from kompilo.compiler.launches import DeviceProgram, Launch, Number, Place, Tiles
from kompilo.compiler.runtime.cuda_driver import Context, CudaError, Driver
from kompilo.compiler.tune.bands import Truth, truth
from kompilo.compiler.tune.device.candidate import build_device_kernel
from kompilo.compiler.tune.device.parts import pack, read_program, write_parts
from kompilo.compiler.tune.device.runner import DeviceRun, RunFailure
from kompilo.compiler.tune.measure.operands import random_operands
from kompilo.compiler.tune.measure.timing import Sampling
from kompilo.compiler.tune.reference import Expected
from kompilo.compiler.tune.task import points_of

import shim_target
from gpu.fake_cuda import folder, shim_code
from gpu.shim_support import needs_shim
from shim_target import ConductTarget, ShimTarget, matmul, point

pytestmark = needs_shim
CACHE = 1 << 16


@pytest.fixture(scope="module")
def driver() -> Driver:
    return Driver(lambda name: ctypes.CDLL(str(folder() / name)))


@pytest.fixture(scope="module")
def gpu(driver) -> Context:
    return driver.context(0)


@pytest.fixture(autouse=True)
def _no_conduct(monkeypatch):
    monkeypatch.setattr(shim_target, "_act", "good")


def run_of(gpu, act="good"):
    op, target = matmul(), ConductTarget.from_preset("a100")
    kernel = build_device_kernel(op, point(act), target)
    inputs = random_operands(op, 0)
    packed = [kernel.packers[k](a) if k in kernel.packers else a for k, a in enumerate(inputs)]
    return DeviceRun(gpu, kernel.program, packed, ((5, 17), "float32"), [0], CACHE), truth(op, inputs)


def test_what_the_driver_tells(driver):
    assert (driver.version, driver.devices, driver.name(0)) == (13000, 1, "NVIDIA A100-SXM4-80GB")
    assert (driver.capability(0), driver.sms(0), driver.l2_bytes(0)) == ("8.0", 108, 40 << 20)


def test_a_right_candidate_is_checked_and_timed(gpu):
    run, expected = run_of(gpu)
    with run:
        assert run.check(expected) < 1e-5
        cold, warm = (run.time(c, Sampling(budget_s=0.02)) for c in (True, False))
    # The stand-in's clock: 5 us a launch and 1 ns a thread, of which there are 2 x 64.
    assert cold.seconds == warm.seconds == pytest.approx(5.128e-6, rel=1e-3)
    assert cold.samples >= 1


@pytest.mark.parametrize(
    "op",
    [operators.conv2d(9, 5, 12, 3, 2), operators.conv2d(7, 6, 6, 3, 1, 6), operators.pool2d(9, 6)],
    ids=["conv2d", "depthwise", "pool2d"],
)
def test_operators_travel_as_parts(gpu, tmp_path, op):
    """Each operator's default candidate, written as a bundle has it, read back and run: weights packed by tables."""
    target = ShimTarget.from_preset("a100")
    parts = write_parts(op, build_device_kernel(op, points_of(op, target)[0], target), tmp_path)
    read = lambda name: (tmp_path / name).read_bytes()  # noqa: E731
    inputs = random_operands(op, 0)
    packed = [pack(parts, k, array, read) for k, array in enumerate(inputs)]
    assert [name.endswith(".gather") for name in parts["packed"].values()] == [True] * ("conv" in op.kind)
    output = tuple(int(d) for d in op.output.shape), op.output.dtype
    with DeviceRun(gpu, read_program(parts, read), packed, output, [0], CACHE) as run:
        assert run.check(truth(op, inputs)) < 1e-5


def test_memory_is_given_back(gpu, driver, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    run, expected = run_of(gpu)
    with run:
        run.check(expected)
        run.time(True, Sampling(budget_s=0.0))
    words = (tmp_path / "log").read_text().split("\n")
    allocated = sorted(w.split()[1] for w in words if w.startswith("allocate"))
    assert allocated == sorted(w.split()[1] for w in words if w.startswith("free"))
    assert len(allocated) == 5  # two operands, the result, what overwrites the cache, a copy of the activations
    assert str(2 * CACHE) in allocated


def test_a_wrong_result_names_its_element(gpu):
    run, expected = run_of(gpu, "wrong")
    with run, pytest.raises(RunFailure, match=r"element \[0, 0\]: expected .*, found ") as caught:
        run.check(expected)
    assert caught.value.status == "wrong_result"
    assert not caught.value.lost


def test_a_launch_that_the_driver_refuses(gpu):
    run, expected = run_of(gpu, "launch:701")
    with run, pytest.raises(RunFailure, match="LAUNCH_OUT_OF_RESOURCES: too many resources requested") as caught:
        run.check(expected)
    assert (caught.value.status, caught.value.lost) == ("run_failed", False)


def test_no_memory(gpu, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA_MEMORY", "3000")
    with pytest.raises(RunFailure, match="CUDA_ERROR_OUT_OF_MEMORY: out of memory") as caught:
        run_of(gpu)
    assert caught.value.status == "out_of_memory"


def test_code_that_is_none(gpu):
    program = DeviceProgram("cubin", "sm_80", b"nothing", ())
    with pytest.raises(RunFailure, match="CUDA_ERROR_INVALID_IMAGE") as caught:
        DeviceRun(gpu, program, [], ((1,), "float32"), [], CACHE)
    assert caught.value.status == "unloadable"


SOURCE = """
extern "C" __global__ void fill(float* out, int n, float value, long long step, int beyond) {
    extern __shared__ float kept[];
    kept[threadIdx.x] = value;
    __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n + beyond) out[i] = kept[threadIdx.x] + float(step) * i;
}
extern "C" __global__ void twice(const float* in, float* out) { out[threadIdx.x] = 2 * in[threadIdx.x]; }
"""
KERNELS = {"fill": ("handle", "int32", "float32", "int64", "int32"), "twice": ("handle", "handle")}


def program_of(beyond: int) -> DeviceProgram:
    """Seven numbers into a scratch buffer, by two blocks, and twice those into the result."""
    numbers = (Number("int32", 7), Number("float32", 0.25), Number("int64", 3), Number("int32", beyond))
    fill = Launch("fill", (2, 1, 1), (4, 1, 1), (1, 1, 1), 16, (Place(1), *numbers))
    twice = Launch("twice", (1, 1, 1), (7, 1, 1), (1, 1, 1), 0, (Place(1), Place(0)))
    return DeviceProgram("cubin", "sm_80", shim_code(SOURCE, KERNELS.items()), (fill, twice), (28,))


@pytest.mark.parametrize("beyond", [0, 1])
def test_scratch_buffers_numbers_and_what_lies_beside(gpu, beyond):
    wanted = 2 * (0.25 + 3.0 * np.arange(7))
    expected = Truth((((), Expected(wanted, np.full(7, 1e-6), float(wanted.max()))),))
    with DeviceRun(gpu, program_of(beyond), [], ((7,), "float32"), [], CACHE) as run:
        if beyond:
            with pytest.raises(RunFailure, match="bytes beside an array were written"):
                run.check(expected)
        else:
            assert run.check(expected) == 0.0


def test_clusters_and_large_shared_memory(gpu, monkeypatch, tmp_path):
    (fill, _) = program_of(0).launches
    large = dataclasses.replace(fill, shared_bytes=60 << 10, cluster=(2, 1, 1))
    program = dataclasses.replace(program_of(0), launches=(large,), scratch=(28,))
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    with DeviceRun(gpu, program, [], ((7,), "float32"), [], CACHE) as run:
        run._run()
    assert "launch fill 2 1 1 4 1 1 61440" in (tmp_path / "log").read_text()
    too_large = dataclasses.replace(large, shared_bytes=200 << 10)
    with pytest.raises(RunFailure, match="INVALID_VALUE"):
        DeviceRun(gpu, dataclasses.replace(program, launches=(too_large,)), [], ((7,), "float32"), [], CACHE)


def test_descriptors_of_tiles_go_to_the_driver(gpu):
    """The stand-in refuses them by the name that the driver gives: it has no copy engine."""
    with pytest.raises(CudaError, match="CUDA_ERROR_NOT_SUPPORTED"):
        gpu.tensor_map("float16", 4096, (64, 64), (128,), (64, 8), (1, 1), 0, 3, 2, 0)


def test_launches_as_json():
    tiles = Tiles("float16", Place(0, 64), (64, 64), (128,), (64, 8), (1, 1), 0, 3, 2, 0)
    launch = Launch("k", (1, 2, 3), (4, 5, 6), (1, 1, 1), 99, (Place(1, 8), Number("float32", 0.5), tiles))
    assert Launch.from_json(launch.to_json()) == launch


def test_pinned_memory(gpu, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    array = gpu.pinned((3, 5), np.dtype("float32"))
    array[...] = 7
    address = gpu.allocate(array.nbytes)
    gpu.upload(address, array)
    back = np.zeros((3, 5), "f4")
    gpu.download(back, address)
    gpu.free(address)
    np.testing.assert_array_equal(back, array)
    assert "copy up 60 pinned stream" in (tmp_path / "log").read_text()
