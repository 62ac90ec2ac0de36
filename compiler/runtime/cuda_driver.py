"""NVIDIA's driver by its own interface (cuda.h), through ctypes: no toolkit and no other library is needed.

Standard library and numpy only: measuring bundles carry this file to machines without Kompilo.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

LIBRARY = "libcuda.so.1"

# CUresult.
OUT_OF_MEMORY, NO_DEVICE, LAUNCH_TIMEOUT = 2, 100, 702
# A driver that is too old for the code, or code for another GPU (CUDA_ERROR_INVALID_IMAGE, NO_BINARY_FOR_GPU, ...).
UNLOADABLE = frozenset({200, 209, 218, 222, 300})
# After these (a kernel's faults, damaged memory) every call gives the same error, in this process for good.
LOST = frozenset({214, 220, 700, 702, 710, 714, 715, 716, 717, 718, 719})

# CUdevice_attribute.
_SMS, _L2_BYTES, _MAJOR, _MINOR = 16, 38, 75, 76
# CUfunction_attribute: a block may have more shared memory than 48 KiB only after asking.
_DYNAMIC_SHARED_BYTES, _NON_PORTABLE_CLUSTERS = 8, 14
_PLAIN_SHARED_BYTES = 48 << 10

# CUlaunchAttributeID, and CUlaunchAttribute: the number, four bytes of padding, a value of 64 bytes.
_CLUSTER = 4
_PORTABLE_CLUSTER = 8  # blocks

# CUtensorMapDataType by dtype; the sizes of the descriptor and of its alignment.
_TENSOR_MAP_TYPES = {
    "uint8": 0, "int8": 0, "uint16": 1, "uint32": 2, "int32": 3, "uint64": 4, "int64": 5, "float16": 6, "float32": 7,
    "float64": 8, "bfloat16": 9, "float8_e4m3fn": 0, "float8_e5m2": 0,
}  # fmt: skip
TENSOR_MAP_BYTES, TENSOR_MAP_ALIGNMENT = 128, 64

Load = Callable[[str], Any]


class CudaError(Exception):
    """A call of the driver's that failed: `code` is its CUresult, the text its name and meaning."""

    def __init__(self, code: int, name: str, meaning: str):
        super().__init__(f"{name}: {meaning}" if meaning else name)
        self.code = code


def cuda_version(number: int) -> str:
    """ "13.0" of 13000."""
    return f"{number // 1000}.{number % 1000 // 10}"


class Driver:
    """The driver's library, initialised. OSError if it is not there, CudaError if it cannot be used."""

    library_name = LIBRARY
    other_names: tuple[str, ...] = ()  # tried in turn where the first is not there
    maker = "NVIDIA"

    def __init__(self, load: Load = ctypes.CDLL):
        self.library = self._load(load)
        self.call("cuInit", 0)

    def _load(self, load: Load) -> Any:
        try:
            return load(self.library_name)
        except OSError:
            for name in self.other_names:
                with suppress(OSError):
                    return load(name)
            raise

    def function(self, name: str) -> Any:
        """The library's function of that name."""
        return getattr(self.library, name)

    @property
    def interface(self) -> str:
        """What the driver was made for, "CUDA 13.0"."""
        return f"CUDA {cuda_version(self.version)}"

    def call(self, function: str, *arguments: Any) -> None:
        """Call `function`; CudaError unless it succeeds."""
        code = self.function(function)(*arguments)
        if code:
            raise CudaError(code, *self._words(code))

    def _words(self, code: int) -> tuple[str, str]:
        words = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            failed = self.function(function)(code, ctypes.byref(text))
            words.append("" if failed or not text.value else text.value.decode("utf-8", "replace"))
        return words[0] or f"error {code}", words[1]

    @property
    def version(self) -> int:
        """The CUDA version that the driver was made for: 13000 for 13.0."""
        value = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(value))
        return value.value

    @property
    def devices(self) -> int:
        """Number of GPUs."""
        value = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(value))
        return value.value

    def name(self, device: int) -> str:
        """What the driver calls GPU number `device`: "NVIDIA H200"."""
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, len(text), self._handle(device))
        return text.value.decode("utf-8", "replace")

    def capability(self, device: int) -> str:
        """The compute capability, "9.0"."""
        return f"{self._attribute(device, _MAJOR)}.{self._attribute(device, _MINOR)}"

    def sms(self, device: int) -> int:
        """Number of streaming multiprocessors."""
        return self._attribute(device, _SMS)

    def l2_bytes(self, device: int) -> int:
        """Size of the second-level cache."""
        return self._attribute(device, _L2_BYTES)

    def _handle(self, device: int) -> ctypes.c_int:
        handle = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(handle), device)
        return handle

    def _attribute(self, device: int, number: int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), number, self._handle(device))
        return value.value

    def context(self, device: int) -> Context:
        """The primary context of a GPU, made current in this thread."""
        return Context(self, self._handle(device))


class Context:
    """Memory, modules, launches and events of one GPU. Addresses are integers; CudaError where a call fails."""

    def __init__(self, driver: Driver, device: ctypes.c_int):
        self.driver, self._device = driver, device
        self._context = ctypes.c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        driver.call("cuCtxSetCurrent", self._context)
        stream = ctypes.c_void_p()
        driver.call("cuStreamCreate", ctypes.byref(stream), 1)  # CU_STREAM_NON_BLOCKING
        self.stream = stream

    def close(self) -> None:
        """Give the context back; the driver then frees all that it holds."""
        self.driver.call("cuStreamDestroy_v2", self.stream)
        self.driver.call("cuDevicePrimaryCtxRelease_v2", self._device)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes of device memory, a multiple of 256."""
        address = ctypes.c_uint64()
        self.driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self.driver.call("cuMemFree_v2", ctypes.c_uint64(address))

    def pinned(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """Host memory that copies need no detour for; it lasts as long as the context."""
        size = max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        address = ctypes.c_void_p()
        self.driver.call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 0)
        assert address.value is not None
        memory = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(address.value))
        return memory[: size if np.prod(shape) else 0].view(dtype).reshape(tuple(shape))

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device; on return it is there."""
        if array.nbytes:
            size = ctypes.c_size_t(array.nbytes)
            pointer = ctypes.c_void_p(array.ctypes.data)
            self.driver.call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), pointer, size, self.stream)
            self.synchronize()

    def download(self, array: np.ndarray, address: int) -> None:
        """Fill a contiguous array from the device."""
        if array.nbytes:
            size = ctypes.c_size_t(array.nbytes)
            pointer = ctypes.c_void_p(array.ctypes.data)
            self.driver.call("cuMemcpyDtoHAsync_v2", pointer, ctypes.c_uint64(address), size, self.stream)
            self.synchronize()

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within the device, later, in the stream's order."""
        arguments = (ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(size), self.stream)
        self.driver.call("cuMemcpyDtoDAsync_v2", *arguments)

    def fill(self, address: int, byte: int, size: int) -> None:
        """Set `size` bytes, later, in the stream's order."""
        arguments = (ctypes.c_uint64(address), ctypes.c_ubyte(byte), ctypes.c_size_t(size), self.stream)
        self.driver.call("cuMemsetD8Async", *arguments)

    def load(self, code: bytes) -> Any:
        """A module of the kernels in a cubin."""
        module = ctypes.c_void_p()
        self.driver.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(code))
        return module

    def unload(self, module: Any) -> None:
        """Forget a module."""
        self.driver.call("cuModuleUnload", module)

    def function(self, module: Any, name: str, shared_bytes: int = 0, cluster: Sequence[int] = (1, 1, 1)) -> Any:
        """A kernel of a module, for launches with `shared_bytes` of dynamic shared memory in clusters of blocks."""
        function = ctypes.c_void_p()
        self.driver.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        if shared_bytes > _PLAIN_SHARED_BYTES:
            self.driver.call("cuFuncSetAttribute", function, _DYNAMIC_SHARED_BYTES, shared_bytes)
        if int(np.prod(cluster)) > _PORTABLE_CLUSTER:
            self.driver.call("cuFuncSetAttribute", function, _NON_PORTABLE_CLUSTERS, 1)
        return function

    def launcher(
        self,
        function: Any,
        grid: Sequence[int],
        block: Sequence[int],
        shared_bytes: int,
        arguments: Sequence[Any],
        cluster: Sequence[int] = (1, 1, 1),
    ) -> Callable[[], None]:
        """A launch in the context's stream, ready to be done any number of times. `arguments` are ctypes values."""
        values = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        call = self.driver.call
        if int(np.prod(cluster)) > 1:
            config, attribute = _launch_config(grid, block, shared_bytes, self.stream, cluster)
            plan: tuple[Any, ...] = ("cuLaunchKernelEx", ctypes.byref(config), function, values, None)
            keep: Any = (arguments, config, attribute)
        else:  # also known to drivers before CUDA 11.8
            plan = ("cuLaunchKernel", function, *grid, *block, shared_bytes, self.stream, values, None)
            keep = arguments

        def launch() -> None:
            call(*plan)

        launch.keeps = keep  # type: ignore[attr-defined] # what `values` points to
        return launch

    def tensor_map(
        self, dtype: str, address: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int],
        steps: Sequence[int], interleave: int, swizzle: int, promotion: int, fill: int,
    ) -> Any:  # fmt: skip
        """A descriptor of tiles for the copy engine (cuTensorMapEncodeTiled), as a launch takes it.

        `sizes`, `box` and `steps` are in elements, innermost first; `strides` in bytes, without the innermost.
        """
        rank = len(sizes)
        room = (ctypes.c_ubyte * (TENSOR_MAP_BYTES + TENSOR_MAP_ALIGNMENT))()
        start = -ctypes.addressof(room) % TENSOR_MAP_ALIGNMENT
        encoded = (ctypes.c_ubyte * TENSOR_MAP_BYTES).from_buffer(room, start)
        self.driver.call(
            "cuTensorMapEncodeTiled",
            encoded,
            _TENSOR_MAP_TYPES[dtype],
            rank,
            ctypes.c_void_p(address),
            (ctypes.c_uint64 * rank)(*sizes),
            (ctypes.c_uint64 * max(1, rank - 1))(*strides),
            (ctypes.c_uint32 * rank)(*box),
            (ctypes.c_uint32 * rank)(*steps),
            interleave,
            swizzle,
            promotion,
            fill,
        )
        return encoded

    def event(self) -> Any:
        """A point in time that a stream can mark."""
        event = ctypes.c_void_p()
        self.driver.call("cuEventCreate", ctypes.byref(event), 0)
        return event

    def forget(self, event: Any) -> None:
        """Give an event back."""
        self.driver.call("cuEventDestroy_v2", event)

    def mark(self, event: Any) -> None:
        """Mark the time when all work so far is done."""
        self.driver.call("cuEventRecord", event, self.stream)

    def seconds(self, first: Any, last: Any) -> float:
        """Time between two marks that have been reached (resolution about half a microsecond)."""
        value = ctypes.c_float()
        self.driver.call("cuEventElapsedTime", ctypes.byref(value), first, last)
        return value.value * 1e-3

    def synchronize(self) -> None:
        """Wait for the stream; errors of its kernels are raised here."""
        self.driver.call("cuStreamSynchronize", self.stream)


class _LaunchAttribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("value", ctypes.c_uint * 16)]


class _LaunchConfig(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_LaunchAttribute)),
        ("count", ctypes.c_uint),
    ]


def _launch_config(
    grid: Sequence[int], block: Sequence[int], shared_bytes: int, stream: Any, cluster: Sequence[int]
) -> tuple[_LaunchConfig, Any]:
    """CUlaunchConfig, and what it points to."""
    attribute = _LaunchAttribute(_CLUSTER)
    attribute.value[:3] = list(cluster)
    sizes = (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block)
    return _LaunchConfig(*sizes, shared_bytes, stream, ctypes.pointer(attribute), 1), attribute
