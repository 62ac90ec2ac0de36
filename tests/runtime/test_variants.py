"""One artifact with code for several GPUs and CPUs: which is taken, and what is said where none runs."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from tiny_programs import affine

from kompilo.compiler.artifact.artifact import Artifact
from kompilo.compiler.artifact.records import TargetCode
from kompilo.compiler.device_code import DeviceCode, Kernel
from kompilo.compiler.errors import ArtifactError, KompiloError, UsageError
from kompilo.compiler.runtime import choice, devices, library
from kompilo.compiler.runtime.accelerator import Accelerator
from kompilo.compiler.runtime.cuda_driver import LOST, UNLOADABLE, CudaError
from kompilo.compiler.runtime.devices import Device, Missing
from kompilo.compiler.runtime.gpu_failures import failure_of
from kompilo.compiler.runtime.hip_driver import HipDriver

CPU = affine().targets[0]


def gpu(name: str, key: str, *archs: str) -> TargetCode:
    kernel = Kernel("k", ("handle",), ("blockIdx.x",))
    code = tuple(DeviceCode("hsaco" if a.startswith("gfx") else "cubin", a, b"ELF", (kernel,)) for a in archs)
    return dataclasses.replace(CPU, name=name, key=key, device=code, cpu_features=())


A100 = gpu("cuda:sm_80", "cuda-a100", "sm_80")
A10 = gpu("cuda:a10", "cuda-a10", "sm_86")
RTX = gpu("cuda:rtx3090", "cuda-rtx3090", "sm_86")
H100 = gpu("cuda:sm_90", "cuda-h100", "sm_90")
HOPPER = gpu("cuda:h200", "cuda-h200", "sm_90a")
MI300 = gpu("rocm:mi300x", "rocm-mi300x", "gfx942")


def artifact(*targets: TargetCode) -> Artifact:
    return Artifact(affine().inputs, affine().outputs, targets, affine().weights, {})


@pytest.fixture
def machine(monkeypatch):
    """`machine(cuda=Device(...), several or a reason)` says what is here; a kind that is not named is missing."""

    def has(**kinds):
        def find(kind, number=0):
            found = kinds.get(kind.name, f"this machine has no {kind.name} driver ({kind.driver})")
            if isinstance(found, str):
                raise Missing(found)
            there = {d.number: d for d in (found if isinstance(found, tuple) else (found,))}
            if number not in there:
                raise Missing(f"this machine has {len(there)} {kind.name} devices, and none of number {number}")
            return there[number]

        monkeypatch.setattr(choice, "find_device", find)

    return has


@pytest.mark.parametrize(
    ("device", "targets", "taken"),
    [
        (Device(0, "NVIDIA A100-SXM4-80GB", "8.0"), (CPU, A10, H100, A100), A100),
        (Device(0, "NVIDIA A10", "8.6"), (A100, RTX, A10, CPU), A10),
        (Device(0, "NVIDIA GeForce RTX 3090", "8.6"), (A100, A10, RTX), RTX),
        (Device(0, "NVIDIA L4", "8.9"), (A100, A10, RTX), A10),
        (Device(0, "NVIDIA H200", "9.0"), (A100, H100, HOPPER), HOPPER),
        (Device(0, "NVIDIA H200", "9.0"), (H100, A100), H100),
        (Device(0, "NVIDIA B200", "10.0"), (H100, A100, HOPPER, CPU), CPU),
    ],
)
def test_the_newest_code_that_runs_is_taken(machine, device, targets, taken):
    machine(cuda=device)
    assert choice.choose_target(artifact(*targets), "auto") == (taken, 0)


def test_the_second_gpu(machine):
    machine(cuda=Device(1, "NVIDIA H200", "9.0"))
    assert choice.choose_target(artifact(H100, CPU), "cuda:1") == (H100, 1)
    with pytest.raises(UsageError, match="device 'rocm:1': expected auto or one of"):
        choice.choose_target(artifact(H100, CPU), "rocm:1")


def test_auto_takes_the_first_gpu_that_runs_the_code(machine):
    small, large, larger = Device(0, "Tesla T4", "7.5"), Device(1, "NVIDIA A10", "8.6"), Device(2, "NVIDIA H200", "9.0")
    machine(cuda=(small, large, larger))
    assert choice.choose_target(artifact(H100, A100, CPU), "auto") == (A100, 1)
    assert choice.choose_target(artifact(H100, CPU), "auto") == (H100, 2)
    assert choice.problem_of(H100) is None
    with pytest.raises(ArtifactError, match=r"this machine's GPU \(Tesla T4\) has the version 7.5"):
        choice.choose_target(artifact(H100, CPU), "cuda")  # GPU number 0
    machine(cuda=(small, large))
    assert choice.choose_target(artifact(H100, CPU), "auto") == (CPU, 0)
    with pytest.raises(ArtifactError, match=r"this machine's GPU \(Tesla T4\) has the version 7.5"):
        choice.choose_target(artifact(H100), "auto")


def test_gpus_of_two_makers(machine):
    both = artifact(H100, MI300, CPU)
    machine(rocm=Device(0, "AMD Instinct MI300X", "gfx942:sramecc+"))
    assert choice.choose_target(both, "auto") == (MI300, 0)
    machine()
    assert choice.choose_target(both, "auto") == (CPU, 0)


NONE = "this machine has no cuda driver (libcuda.so.1)"


@pytest.mark.parametrize(
    ("found", "targets", "sentence", "hint"),
    [
        (NONE, (H100, CPU), "the artifact was built for cuda-h100, but this machine has no cuda driver (libcuda.so.1).",
         "load it with device='cpu'."),
        (NONE, (A100, H100), "the artifact was built for cuda-a100 and cuda-h100, but this machine has no cuda driver "
         "(libcuda.so.1).", "compile the model for cpu as well, and load it anywhere."),
        ("this machine has no cuda device", (H100, CPU), "the artifact was built for cuda-h100, but this machine has "
         "no cuda device.", "load it with device='cpu'."),
        (Device(0, "Tesla T4", "7.5"), (A100, H100, CPU), "the artifact was built for sm_80 and sm_90, but this "
         "machine's GPU (Tesla T4) has the version 7.5.", "load it with device='cpu'."),
        (Device(0, "NVIDIA H200", "9.0"), (A100,), "the artifact was built for sm_80, but this machine's GPU (NVIDIA "
         "H200) has the version 9.0.", "compile the model for cpu as well, and load it anywhere."),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_and_the_cpu_offered(machine, found, targets, sentence, hint):
    machine(cuda=found)
    with pytest.raises(ArtifactError) as caught:
        choice.choose_target(artifact(*targets), "cuda")
    assert (caught.value.message, caught.value.hint) == (sentence, hint)
    assert choice.problem_of(targets[0]) is not None
    assert choice.problem_of(CPU) is None


class FakeDriver:
    """The driver's library as far as it is asked who is there."""

    def __init__(self, status=0, count=1, version=13000):
        self.status, self.count, self.made_for = status, count, version

    def __call__(self):
        if isinstance(self.status, Exception):
            raise self.status
        return self

    maker = "NVIDIA"
    devices = property(lambda self: self.count)
    version = property(lambda self: self.made_for)

    def name(self, number):
        return f"GPU {number}"

    def capability(self, number):
        return "8.0"


@pytest.mark.parametrize(
    ("driver", "number", "words"),
    [
        (FakeDriver(OSError("libcuda.so.1")), 0, r"has no cuda driver \(libcuda.so.1\)"),
        (FakeDriver(CudaError(100, "CUDA_ERROR_NO_DEVICE", "")), 0, "has no cuda device"),
        (FakeDriver(CudaError(3, "CUDA_ERROR_X", "why")), 0, r"driver does not work \(CUDA_ERROR_X: why\)"),
        (FakeDriver(count=0), 0, "has no cuda device"),
        (FakeDriver(count=2), 2, "has 2 cuda devices, and none of number 2"),
        (FakeDriver(version=12040), 0, "driver is for CUDA 12.4 where TVM's runtime needs one for 13.0 or later"),
    ],
)
def test_every_way_to_lack_a_gpu(monkeypatch, driver, number, words):
    monkeypatch.setattr(devices, "driver_class", lambda kind: driver)
    with pytest.raises(Missing, match=words):
        devices.find_device(devices.KINDS["cubin"], number)


def test_a_gpu_that_is_there(monkeypatch):
    monkeypatch.setattr(devices, "driver_class", lambda kind: FakeDriver(count=2))
    assert devices.find_device(devices.KINDS["cubin"], 1) == Device(1, "GPU 1", "8.0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CUDA: out of memory", "the GPU has not enough memory for inputs of these sizes."),
        ("cuMemAlloc failed with error: CUDA_ERROR_OUT_OF_MEMORY", "the GPU has not enough memory for inputs of these"),
        ("CUDA: the launch timed out and was terminated", "a kernel ran longer than this machine allows its GPU"),
        ("CUDALaunch Error: CUDA_ERROR_LAUNCH_TIMEOUT", "a kernel ran longer than this machine allows its GPU"),
        ("CUDA: an illegal memory access was encountered", "a kernel read or wrote memory that is not its own"),
        ("CUDA: unspecified launch failure", "a kernel failed on the GPU; the process must be started again."),
        ("CUDA Runtime Error: cudaErrorUnknown (717)", "a kernel used an address of another kind of the GPU's memory"),
        ("CUDA: device-side assert triggered", "a check in a kernel failed on the GPU; the process must be started"),
        ("ROCM HIP Error: hipErrorLaunchTimeOut", "allows its GPU, and was ended; the process must be started again."),
        ("CUDA: context is destroyed", "the GPU's driver failed (CUDA: context is destroyed)."),
    ],
)
def test_what_fails_on_the_gpu_is_said_and_the_cpu_offered(text, said):
    accelerator = Accelerator(library.ensure_runtime(), devices.Kind("cpu", 1, "", "", ""), 0, "use the CPU.")
    failure = accelerator.failure(RuntimeError(text))
    assert isinstance(failure, KompiloError)
    assert said in failure.message
    assert failure.hint == "use the CPU."
    assert accelerator.failure(RuntimeError("something else")) is None


class Loader:
    """A system that has one library of AMD's driver, or none."""

    def __init__(self, name: str | None) -> None:
        self.name, self.asked = name, []

    def __call__(self, name, mode=0):
        self.asked.append(name)
        if name != self.name:
            raise OSError(f"{name}: cannot open shared object file")
        return SimpleNamespace(hipInit=lambda _: 0)


AMD_NAMES = ["libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"]


@pytest.mark.parametrize("name", AMD_NAMES)
def test_the_driver_of_amd_by_any_of_its_names(monkeypatch, name):
    load, wanted = Loader(name), AMD_NAMES[: AMD_NAMES.index(name) + 1]
    assert hasattr(HipDriver(load).library, "hipInit")
    assert load.asked == wanted
    load = Loader(name)
    monkeypatch.setattr(devices.ctypes, "CDLL", load)
    assert devices.KINDS["hsaco"].load_driver()
    assert load.asked == wanted


def test_no_driver_of_amd(monkeypatch):
    with pytest.raises(OSError, match="libamdhip64.so: cannot open"):
        HipDriver(Loader(None))
    monkeypatch.setattr(devices, "driver_class", lambda kind: lambda: HipDriver(Loader(None)))
    with pytest.raises(Missing, match=r"this machine has no rocm driver \(libamdhip64.so\)"):
        devices.find_device(devices.KINDS["hsaco"])


@pytest.mark.parametrize("code", sorted(LOST | UNLOADABLE))
def test_errors_that_end_a_process_say_so(code):
    """Those after which a driver does nothing more are the ones that ask for a new process."""
    failure = failure_of(RuntimeError(f"CUDA Runtime Error: cudaErrorUnknown ({code})"), "use the CPU.")
    assert failure is not None
    assert failure.hint == "use the CPU."
    assert failure.message.endswith("; the process must be started again.") == (code in LOST)
    assert "driver failed" not in failure.message


def test_weights_that_the_gpu_has_no_room_for():
    accelerator = Accelerator(library.ensure_runtime(), devices.Kind("cpu", 1, "", "", ""), 0, "use the CPU.")

    def full(array, tensor=None):
        raise RuntimeError("CUDA: out of memory")

    accelerator.upload = full  # type: ignore[method-assign]
    with pytest.raises(ArtifactError, match="not enough memory for the model's 256 bytes of weights. Hint: use"):
        accelerator.upload_weights(affine().weights)
