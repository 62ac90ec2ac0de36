"""Kernels of a code object for AMD's GPUs as a module of TVM's, launched by HIP through ctypes.

TVM's host code looks a kernel up by name in the modules that its library imports, and calls it with the kernel's
arguments and the extents of the launch behind them. A module of functions at given addresses is what TVM calls a system
library: a prefix tells its functions from those of others, so artifacts may have kernels of the same names. Such a
module and the functions stay for good (some hundred bytes for each kernel); the code object leaves the GPU with the
last model that uses it.

Checked against a stand-in for HIP, not yet on a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
import weakref
from collections.abc import Callable
from ctypes import c_char_p, c_int32, c_int64, c_size_t, c_void_p
from operator import itemgetter
from typing import Any, NamedTuple

from ..device_code import DeviceCode, Kernel
from ..errors import ArtifactError
from .hip_device import GPU, HipDevice

# Where a launch parameter stands among those of hipModuleLaunchKernel: grid, block, bytes of shared memory.
_PLACES = {
    "blockIdx.x": 0, "blockIdx.y": 1, "blockIdx.z": 2, "threadIdx.x": 3, "threadIdx.y": 4, "threadIdx.z": 5,
    "tirx.use_dyn_shared_memory": 6,
}  # fmt: skip
_SHARED = 6
# Arguments come in 16 bytes each (TVMFFIAny), the value in the last 8: the low bytes of an integer's are the integer.
_AS_THEY_LIE = frozenset(
    ("handle", "int64", "uint64", "float64", "int32", "uint32", "int16", "uint16", "int8", "uint8", "bool")
)
_NARROWED = "float32"  # comes as float64
_WORDS, _VALUE = 2, 8
_KEPT = 64
_PREFIX = "__tvm_ffi_"  # TVM's, of all functions that it may call
_CALL = ctypes.CFUNCTYPE(ctypes.c_int, c_void_p, c_size_t, c_int32, c_void_p)  # TVMFFISafeCallType


class _Frame(NamedTuple):
    """Arguments at one address, where a caller has them each time: their words, and the pointers that HIP takes."""

    words: Any
    array: Any  # of pointers
    pointers: c_void_p  # to the array: ctypes takes 3 us longer for the array itself
    narrowed: list[tuple[Any, Any]]  # a float64 there, and the float32 that HIP gets


class _Interface:
    """Functions of TVM's library for foreign functions, called without giving up Python's lock: they take no time."""

    def __init__(self) -> None:
        library = ctypes.PyDLL(None)
        self.stream_of = library.TVMFFIEnvGetStream
        self.stream_of.restype = c_void_p
        self.fail = library.TVMFFIErrorSetRaisedFromCStr
        self.fail.argtypes, self.fail.restype = (c_char_p, c_char_p), None
        self.register = library.TVMFFIEnvModRegisterSystemLibSymbol
        self.register.argtypes = (c_char_p, c_void_p)


class _Launcher:
    """One kernel on GPU `number`; `function` is HIP's handle of it while it is loaded."""

    def __init__(self, kernel: Kernel, device: HipDevice, number: int, interface: _Interface) -> None:
        unknown = [tag for tag in kernel.launch if tag not in _PLACES]
        unknown += [dtype for dtype in kernel.arguments if dtype not in _AS_THEY_LIE and dtype != _NARROWED]
        if unknown:
            raise ArtifactError(f"the artifact's kernel {kernel.name} takes {unknown[0]}, which HIP cannot pass.")
        self.function: c_void_p | None = None
        self.kernel = kernel
        self.callback = _CALL(self._callback(device, number, interface))

    def _callback(self, device: HipDevice, number: int, interface: _Interface) -> Callable[..., int]:
        """What TVM calls, written for speed: a model has hundreds of launches.

        HIP's function has no declared types of arguments here: ctypes takes 3 us longer to convert eleven of them.
        """
        frames: dict[int, _Frame] = {}
        pending, hip = device.pending, device.hip
        launch = hip.driver.library["hipModuleLaunchKernel"]
        given = len(self.kernel.launch)  # extents; a 1 and a 0 behind them are for those that are not given
        known = {_PLACES[tag]: k for k, tag in enumerate(self.kernel.launch)}
        in_order = itemgetter(*(known.get(place, given + (place == _SHARED)) for place in range(len(_PLACES))))
        start = len(self.kernel.arguments) * _WORDS + 1
        frame_at, stream_of, fail = self._frame, interface.stream_of, interface.fail

        def call(_handle: int, address: int, count: int, result: int) -> int:
            try:
                if pending.error is not None or device.closed:
                    device.raise_pending()
                frame = frames.get(address)
                if frame is None:
                    if len(frames) >= _KEPT:
                        frames.clear()
                    frame = frames[address] = frame_at(address)
                words, _, pointers, narrowed = frame
                for wide, narrow in narrowed:
                    narrow.value = wide.value
                extents = in_order((*words[start::_WORDS], 1, 0))
                stream = stream_of(GPU, number)
                code = launch(self.function, *extents, stream and c_void_p(stream), pointers, None)
                if code:
                    raise hip.driver.error(code)
            except BaseException as error:
                if not isinstance(error, Exception):  # an interrupt is to arrive as one
                    pending.error = error
                fail(b"RuntimeError", (str(error) or type(error).__name__).encode())
                return -1
            return 0

        return call

    def _frame(self, address: int) -> _Frame:
        dtypes = self.kernel.arguments
        words = (c_int64 * (_WORDS * (len(dtypes) + len(self.kernel.launch)))).from_address(address)
        places = [address + _VALUE * (_WORDS * k + 1) for k in range(len(dtypes))]
        narrowed = []
        for k, dtype in enumerate(dtypes):
            if dtype == _NARROWED:
                narrow = ctypes.c_float()
                narrowed.append((ctypes.c_double.from_address(places[k]), narrow))
                places[k] = ctypes.addressof(narrow)
        array = (c_void_p * max(1, len(places)))(*places)
        return _Frame(words, array, c_void_p(ctypes.addressof(array)), narrowed)


class _Code:
    """A code object on one GPU: TVM's module of its kernels, and how many models use it."""

    def __init__(self, tvm_ffi: Any, device: HipDevice, code: DeviceCode, number: int) -> None:
        self._device, self._code, self._number = device, code.code, number
        self._handle: int | None = None
        self._users = 0
        interface = _Interface()
        self._launchers = [_Launcher(kernel, device, number, interface) for kernel in code.kernels]
        prefix = f"kompilo.rocm.{_digest(code)}.{number}."
        for launcher in self._launchers:
            symbol = f"{_PREFIX}{prefix}{launcher.kernel.name}".encode()
            interface.register(symbol, ctypes.cast(launcher.callback, c_void_p))
        self.module = tvm_ffi.system_lib(prefix)

    def enter(self) -> None:
        """One more user; CudaError if the GPU does not take the code."""
        if not self._users:
            self._load()
        self._users += 1

    def leave(self) -> None:
        """One user less."""
        with _lock:
            self._users -= 1
            if self._users or self._handle is None or self._device.closed:
                return
            for launcher in self._launchers:
                launcher.function = None
            self._device.hip.functions["hipSetDevice"](self._number)
            self._device.hip.functions["hipModuleUnload"](self._handle)
            self._handle = None

    def _load(self) -> None:
        hip, handle, function = self._device.hip, c_size_t(), c_size_t()
        hip("hipSetDevice", self._number)
        hip("hipModuleLoadData", ctypes.byref(handle), self._code)
        self._handle = handle.value
        for launcher in self._launchers:
            hip("hipModuleGetFunction", ctypes.byref(function), self._handle, launcher.kernel.name.encode())
            launcher.function = c_void_p(function.value)


_codes: dict[tuple[str, int], _Code] = {}
_lock = threading.RLock()  # a model may be given back while another one is loaded in the same thread


def load_kernels(tvm_ffi: Any, device: HipDevice, code: DeviceCode, number: int, user: object) -> Any:
    """TVM's module of the kernels in `code` on GPU `number`, loaded as long as `user` lives.

    Raises CudaError if the GPU does not take the code, ArtifactError if a kernel is of a kind that HIP does not know.
    """
    key = _digest(code), number
    with _lock:
        if key not in _codes:
            _codes[key] = _Code(tvm_ffi, device, code, number)
        found = _codes[key]
        found.enter()
    weakref.finalize(user, found.leave).atexit = False
    return found.module


def _digest(code: DeviceCode) -> str:
    """What tells code objects apart: their bytes, and how kernels are called."""
    return hashlib.sha256(code.code + repr(code.kernels).encode()).hexdigest()[:32]
