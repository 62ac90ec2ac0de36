"""AMD's driver by the interface that ROCm calls HIP (hip_runtime_api.h), whose functions are CUDA's by other names.

Arguments and codes of errors are the same for all that is used here, so a context of `cuda_driver` works on it.
Standard library only: measuring bundles carry this file. Checked against a stand-in, not yet on a GPU.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

from .cuda_driver import CudaError, Driver

# hipDeviceAttribute_t.
_L2_BYTES, _SMS = 19, 63
# The architecture stands in a structure whose layout differs from version to version: it is looked for.
_PROPERTIES = ("hipGetDevicePropertiesR0600", "hipGetDeviceProperties")
_ROOM = 1 << 14
_ARCH = re.compile(rb"gfx[0-9a-f]{3,5}(?::[a-z0-9+:-]+)?")

_NAMES = {
    "cuInit": "hipInit", "cuDriverGetVersion": "hipDriverGetVersion", "cuDeviceGetCount": "hipGetDeviceCount",
    "cuDeviceGet": "hipDeviceGet", "cuDeviceGetName": "hipDeviceGetName",
    "cuDeviceGetAttribute": "hipDeviceGetAttribute", "cuDevicePrimaryCtxRetain": "hipDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2": "hipDevicePrimaryCtxRelease", "cuCtxSetCurrent": "hipCtxSetCurrent",
    "cuStreamCreate": "hipStreamCreateWithFlags", "cuStreamDestroy_v2": "hipStreamDestroy",
    "cuStreamSynchronize": "hipStreamSynchronize", "cuMemAlloc_v2": "hipMalloc", "cuMemFree_v2": "hipFree",
    "cuMemHostAlloc": "hipHostMalloc", "cuMemcpyHtoDAsync_v2": "hipMemcpyHtoDAsync",
    "cuMemcpyDtoHAsync_v2": "hipMemcpyDtoHAsync", "cuMemcpyDtoDAsync_v2": "hipMemcpyDtoDAsync",
    "cuMemsetD8Async": "hipMemsetD8Async", "cuModuleLoadData": "hipModuleLoadData",
    "cuModuleUnload": "hipModuleUnload", "cuModuleGetFunction": "hipModuleGetFunction",
    "cuLaunchKernel": "hipModuleLaunchKernel", "cuEventCreate": "hipEventCreateWithFlags",
    "cuEventRecord": "hipEventRecord", "cuEventDestroy_v2": "hipEventDestroy",
    "cuEventElapsedTime": "hipEventElapsedTime", "cuGetErrorName": "hipDrvGetErrorName",
    "cuGetErrorString": "hipDrvGetErrorString",
}  # fmt: skip


class HipDriver(Driver):
    """AMD's driver, initialised. OSError if it is not there, CudaError (with HIP's words) if it cannot be used."""

    library_name = "libamdhip64.so"
    # Distributions leave the plain name to a package for developers.
    other_names = ("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5")
    maker = "AMD"

    def function(self, name: str) -> Any:
        """HIP's function for CUDA's `name`; KeyError for one that GPUs of AMD do without."""
        return getattr(self.library, _NAMES[name])

    def error(self, code: int) -> CudaError:
        """What a call that gave `code` failed with."""
        return CudaError(code, *self._words(code))

    @property
    def interface(self) -> str:
        """ "HIP 6.2"."""
        return f"HIP {self.version // 10_000_000}.{self.version // 100_000 % 100}"

    def capability(self, device: int) -> str:
        """The architecture, "gfx942:sramecc+:xnack-"; "" where the driver does not tell."""
        room = ctypes.create_string_buffer(_ROOM)
        names = [name for name in _PROPERTIES if hasattr(self.library, name)]
        if not names or getattr(self.library, names[0])(room, device):
            return ""
        found = _ARCH.search(room.raw)
        return found.group().decode() if found else ""

    def sms(self, device: int) -> int:
        """Number of compute units."""
        return self._attribute(device, _SMS)

    def l2_bytes(self, device: int) -> int:
        """Size of the second-level cache."""
        return self._attribute(device, _L2_BYTES)


_DRIVERS: dict[str, type[Driver]] = {"cuda": Driver, "rocm": HipDriver}


def driver_class(kind: str) -> type[Driver]:
    """The driver of the GPUs that targets of `kind` ("cuda", "rocm") are for."""
    return _DRIVERS[kind]
