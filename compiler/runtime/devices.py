"""The GPUs of this machine: what is there, what is missing, and whether an artifact's code runs on it.

Written after the interfaces of CUDA and of TVM's runtime, and not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifact.records import TargetCode
from ..device_code import arch_order, gpu_words, runs_on
from ..errors import ArtifactError, KompiloError
from .cuda_driver import NO_DEVICE, CudaError, cuda_version
from .hip_device import hip_device
from .hip_driver import HipDriver, driver_class
from .library import ensure_runtime, find_runtime


@dataclass(frozen=True)
class Device:
    """A GPU: its number, what its driver calls it, and its version: compute capability, or architecture (AMD)."""

    number: int
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}, {self.version}"


@dataclass(frozen=True)
class Kind:
    """A maker's GPUs as TVM sees them; `device_type` is DLPack's number, `driver` the library that comes with it.

    `drivers` are further names of that library, which are tried behind the first.
    `host_type` is DLPack's number of host memory that its copies need no detour for, 0 where there is none.
    `support` are libraries that TVM's own one needs besides, which may lie in wheels; `least_driver` is the oldest
    version of CUDA whose driver those work with (13000 for 13.0). `default_stream` is what the DLPack protocol calls
    the stream that TVM's work goes to unless it is told another: for CUDA 1, for ROCm 0 (1 and 2 are not allowed).
    `has_own`: where TVM's own library is not there, which no wheel has for ROCm, `hip_device` stands in for it.
    """

    name: str
    device_type: int
    format: str
    runtime: str
    driver: str
    support: tuple[str, ...] = ()
    least_driver: int = 0
    host_type: int = 0
    drivers: tuple[str, ...] = ()
    default_stream: int = 1
    has_own: bool = False

    def load_driver(self) -> bool:
        """Loads the first of the driver's names that is there, for all; False if none is."""
        return any(_is_loaded(name) for name in (self.driver, *self.drivers))


KINDS = {
    "cubin": Kind("cuda", 2, "cubin", "libtvm_runtime_cuda.so", "libcuda.so.1", ("libcudart.so.13",), 13000, 3),
    "hsaco": Kind(
        "rocm",
        10,
        "hsaco",
        "libtvm_runtime_rocm.so",
        HipDriver.library_name,
        drivers=HipDriver.other_names,
        host_type=11,
        default_stream=0,
        has_own=True,
    ),
}
_SUPPORT_FOLDERS = ("nvidia/cu13/lib", "nvidia/cuda_runtime/lib")
# Processes that made a driver ready: this one, and those it was forked from.
_users: set[int] = set()


class Missing(KompiloError):
    """This machine has no GPU of a kind that could be used: the message is the end of a sentence, "it has no ..."."""


def kind_of(target: TargetCode) -> Kind | None:
    """What the code of `target` runs on; None for a CPU."""
    return KINDS[target.device[0].format] if target.device else None


def find_device(kind: Kind, number: int = 0) -> Device:
    """GPU number `number` of `kind`. Raises Missing where there is no runtime, driver or device, or behind a fork."""
    if is_forked():
        raise Missing("a GPU does not survive a fork, and this process was forked from one that had found its GPU")
    if not kind.has_own and not _has_library(kind):
        raise Missing(f"TVM's {kind.name} runtime, {kind.runtime}, is not installed")
    device = _probe(kind, number)
    _users.add(os.getpid())
    return device


def is_forked() -> bool:
    """Whether this process was forked from one that had made a GPU's driver ready: here it does nothing more."""
    return any(process != os.getpid() for process in _users)


def best_for(device: Device, targets: Sequence[TargetCode]) -> TargetCode | None:
    """Of targets for one kind of GPU that with the newest architecture that `device` runs; None if it runs none.

    Of several for the same architecture the one made for a GPU of that name ("cuda:a10" on an NVIDIA A10), else the
    first.
    """
    fitting = [t for t in targets if all(runs_on(code.arch, device.version) for code in t.device)]
    words = gpu_words(device.name)

    def merit(target: TargetCode) -> tuple[Any, ...]:
        names = target.key.partition("-")[2], target.name.partition(":")[2]
        return arch_order(target.device[0].arch), any(name in words for name in names)

    return max(fitting, key=merit, default=None)


def load_runtime(kind: Kind) -> Any:
    """The module tvm_ffi with TVM's library for `kind` of GPU loaded, or what stands in for it.

    Raises KompiloError if that fails.
    """
    tvm_ffi = ensure_runtime()
    if _loaded(tvm_ffi, kind):
        return tvm_ffi
    if kind.has_own and not _has_library(kind):
        try:
            hip_device(tvm_ffi)
        except (OSError, CudaError) as error:
            raise ArtifactError(f"AMD's driver cannot be used: {error}.") from None
        return tvm_ffi
    path = find_runtime().with_name(kind.runtime)
    kind.load_driver()  # TVM's own library says what it misses
    for library in kind.support:
        _load_beside(library, path)
    try:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ArtifactError(f"TVM's runtime for {kind.name} cannot be loaded: {error}.") from None
    return tvm_ffi


def refusal(targets: Sequence[TargetCode], reason: str) -> ArtifactError:
    """That code for `targets` does not run here, for a reason."""
    keys = " and ".join(t.key for t in targets)
    return ArtifactError(f"the artifact was built for {keys}, but {reason}.")


def _probe(kind: Kind, number: int) -> Device:
    drivers = driver_class(kind.name)
    try:
        driver = drivers()
    except OSError:
        raise Missing(f"this machine has no {kind.name} driver ({kind.driver})") from None
    except CudaError as error:
        if error.code == NO_DEVICE:
            raise Missing(f"this machine has no {kind.name} device") from None
        raise Missing(f"{drivers.maker}'s driver does not work ({error})") from None
    _check_count(kind, driver.devices, number)
    if driver.version < kind.least_driver:
        found, wanted = cuda_version(driver.version), cuda_version(kind.least_driver)
        raise Missing(f"this machine's driver is for CUDA {found} where TVM's runtime needs one for {wanted} or later")
    return Device(number, driver.name(number), driver.capability(number))


def _check_count(kind: Kind, count: int, number: int) -> None:
    if count == 0:
        raise Missing(f"this machine has no {kind.name} device")
    if number >= count:
        raise Missing(f"this machine has {count} {kind.name} devices, and none of number {number}")


def _has_library(kind: Kind) -> bool:
    """Whether TVM's own library for such GPUs is loaded, or lies beside its runtime."""
    return find_runtime().with_name(kind.runtime).is_file() or _loaded(ensure_runtime(), kind)


def _loaded(tvm_ffi: Any, kind: Kind) -> bool:
    return tvm_ffi.get_global_func(f"ffi.Module.create.{kind.name}", allow_missing=True) is not None


def _load_beside(library: str, runtime: Path) -> None:
    """Loads `library` from the system or from a wheel beside TVM's; TVM's own library says what it misses."""
    packages = runtime.parent.parent.parent
    any(_is_loaded(name) for name in (library, *(str(packages / folder / library) for folder in _SUPPORT_FOLDERS)))


def _is_loaded(library: str) -> bool:
    """Loads a library whose symbols all others then see; False if it is not there."""
    try:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
