"""GPUs at run time: TVM's library for them, whether one fits an artifact's code, and memory on it.

Written after the interfaces of CUDA and of TVM's runtime, and not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact.records import TargetCode
from ..device_code import DeviceCode
from ..errors import ArtifactError, KompiloError
from .library import ensure_runtime, find_runtime

_CPU, _POOLED = 1, 2  # kDLCPU, and TVM's allocator that keeps freed buffers for the next call
# Attributes of TVM's devices.
_EXISTS, _VERSION, _NAME = 0, 4, 5


@dataclass(frozen=True)
class Kind:
    """A maker's GPUs as TVM sees them; `device_type` is DLPack's number, `driver` the library that comes with it."""

    name: str
    device_type: int
    format: str
    runtime: str
    driver: str
    support: tuple[str, ...]


# `support` are libraries that TVM's own one needs beside the driver, which may lie in wheels of NVIDIA's.
KINDS = {
    "cubin": Kind("cuda", 2, "cubin", "libtvm_runtime_cuda.so", "libcuda.so.1", ("libcudart.so.13",)),
    "hsaco": Kind("rocm", 10, "hsaco", "libtvm_runtime_rocm.so", "libamdhip64.so", ()),
}
_SUPPORT_FOLDERS = ("nvidia/cu13/lib", "nvidia/cuda_runtime/lib")
_CUDA_ARCH = re.compile(r"sm_(\d+)(\d)([af]?)")


class Accelerator:
    """GPU number 0 of a kind, ready for use."""

    def __init__(self, tvm_ffi: Any, kind: Kind) -> None:
        self.kind = kind
        self.device = tvm_ffi.device(kind.name, 0)
        self._shape, self._dtype = tvm_ffi.Shape, tvm_ffi.dtype
        lookup = tvm_ffi.get_global_func
        self._allocate = lookup("runtime.TVMTensorAllocWithScope")
        self._upload = lookup("runtime.TVMTensorCopyFromBytes")
        self._download = lookup("runtime.TVMTensorCopyToBytes")

    @property
    def devices(self) -> tuple[int, ...]:
        """The devices of a virtual machine, with their allocators: the GPU, and the CPU that drives it."""
        return (self.kind.device_type, 0, _POOLED, _CPU, 0, _POOLED)

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> Any:
        """A tensor of unset memory."""
        return self._allocate(self._shape(shape), self._dtype(dtype.name), self.device, None)

    def upload(self, array: np.ndarray, tensor: Any = None) -> Any:
        """`array` as a tensor: `tensor`, which has its shape and dtype, or a new one."""
        array = np.ascontiguousarray(array)
        tensor = self.empty(array.shape, array.dtype) if tensor is None else tensor
        if array.nbytes:
            self._upload(tensor, array.ctypes.data_as(ctypes.c_void_p), array.nbytes)
        return tensor

    def download(self, tensor: Any) -> np.ndarray:
        """What `tensor` holds, in an array of its own."""
        array = np.empty(tuple(tensor.shape), np.dtype(str(tensor.dtype)))
        if array.nbytes:
            self._download(tensor, array.ctypes.data_as(ctypes.c_void_p), array.nbytes)
        return array


def kind_of(target: TargetCode) -> Kind | None:
    """What the code of `target` runs on; None for a CPU."""
    return KINDS[target.device[0].format] if target.device else None


def check_accelerator(target: TargetCode) -> None:
    """Raises ArtifactError, naming what is missing, if this machine has no GPU that runs the code of `target`."""
    kind = kind_of(target)
    if kind is None:
        return
    tvm_ffi = ensure_runtime()
    _load_runtime(tvm_ffi, kind, target)
    attribute = tvm_ffi.get_global_func("runtime.GetDeviceAttr")
    if not attribute(kind.device_type, 0, _EXISTS):
        raise ArtifactError(f"the artifact was built for {target.key}, but this machine has no {kind.name} device.")
    version = str(attribute(kind.device_type, 0, _VERSION))
    name = str(attribute(kind.device_type, 0, _NAME))
    for code in target.device:
        if not runs_on(code.arch, version):
            raise ArtifactError(
                f"the artifact was built for {code.arch}, but this machine's GPU ({name}) has the version {version}.",
                "compile the model for this GPU.",
            )


def runs_on(arch: str, version: str) -> bool:
    """Whether code for `arch` ("sm_80") runs on a GPU of the compute capability `version` ("8.6").

    Code runs on the same major version and the same or a later minor one; "sm_90a" on exactly 9.0. Other makers' names
    must agree.
    """
    found = _CUDA_ARCH.fullmatch(arch)
    if found is None:
        return arch.partition(":")[0] == version.partition(":")[0]
    major, minor = (int(part) for part in [*version.split("."), "0"][:2])
    wanted = int(found[1]), int(found[2])
    if found[3] == "a":
        return (major, minor) == wanted
    return major == wanted[0] and minor >= wanted[1]


def attach(executable: Any, target: TargetCode) -> Accelerator | None:
    """Give the executable's host code the kernels that it launches; the GPU to run on, None for a CPU.

    Raises:
        ArtifactError: no driver, no GPU, or one of another architecture.
    """
    kind = kind_of(target)
    if kind is None:
        return None
    check_accelerator(target)
    tvm_ffi = ensure_runtime()
    create = tvm_ffi.get_global_func(f"ffi.Module.create.{kind.name}")
    read = tvm_ffi.get_global_func("runtime.LoadMetaDataFromJSON")
    libraries = list(executable.imports) or [executable]
    for code in target.device:
        try:
            kernels = create(code.code, code.format, read(metadata(code)), {})
        except Exception as error:  # tvm_ffi raises the type that the C++ side names
            reason = str(error).strip().splitlines()[-1]
            raise ArtifactError(f"the artifact's {kind.name} code cannot be loaded: {reason}.") from None
        for library in libraries:
            library.import_module(kernels)
    return Accelerator(tvm_ffi, kind)


def metadata(code: DeviceCode) -> str:
    """The kernels' signatures in the JSON that TVM reads."""
    functions = {
        k.name: {"name": k.name, "arg_types": list(k.arguments), "launch_param_tags": list(k.launch)}
        for k in code.kernels
    }
    return json.dumps({"tvm_version": "0.1.0", "func_info": functions})


def _load_runtime(tvm_ffi: Any, kind: Kind, target: TargetCode) -> None:
    """Loads TVM's library for `kind` of GPU."""
    if tvm_ffi.get_global_func(f"ffi.Module.create.{kind.name}", allow_missing=True) is not None:
        return
    path = find_runtime().with_name(kind.runtime)
    if not path.is_file():
        raise ArtifactError(
            f"the artifact was built for {target.key}, but TVM's {kind.name} runtime, {kind.runtime}, is not installed."
        )
    try:
        ctypes.CDLL(kind.driver, ctypes.RTLD_GLOBAL)
    except OSError:
        raise ArtifactError(
            f"the artifact was built for {target.key}, but this machine has no {kind.name} driver ({kind.driver})."
        ) from None
    for library in kind.support:
        _load_support(library, path)
    try:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise KompiloError(f"TVM's runtime for {kind.name} cannot be loaded: {error}.") from None


def _load_support(library: str, runtime: Path) -> None:
    """Loads `library` from the system or from a wheel beside TVM's; TVM's own library says what it misses."""
    packages = runtime.parent.parent.parent
    for name in (library, *(str(packages / folder / library) for folder in _SUPPORT_FOLDERS)):
        try:
            ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
            return
        except OSError:
            continue
