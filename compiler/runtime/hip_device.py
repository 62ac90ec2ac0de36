"""AMD's GPUs as a kind of device of TVM's, by HIP through ctypes: memory, copies, streams.

TVM's wheels have no runtime library for these GPUs. Its virtual machine asks a device interface for all that it needs
of a GPU besides kernels (`hip_kernels`), so an interface from Python does.

What fails in a callback is kept, since it cannot be raised there: memory that could not be had gets an address that
nothing is done with, further copies and launches of the thread do nothing, and the error is raised at the next launch
or by `raise_pending`, whatever comes first. Callbacks run with Python's lock held, so TVM must hold no lock of its own
around them: that is why the virtual machine gets TVM's allocator without a pool, and the pool is here.

Checked against a stand-in for HIP, not yet on a GPU.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import os
import threading
from collections.abc import Callable
from ctypes import c_int, c_size_t, c_uint, c_void_p
from typing import Any

from ..errors import KompiloError
from .cuda_driver import OUT_OF_MEMORY, CudaError
from .device_interface import DeviceInterface
from .hip_driver import HipDriver
from .library import on_clear

GPU, HOST = 10, 11  # kDLROCM, kDLROCMHost
NAMES = {GPU: "rocm", HOST: "rocm_host"}
_PAGE = 4096
# Stands for memory that could not be had: neither null, which is what arrays without elements have, nor unaligned.
_NOWHERE = 1 << 20
_TO_GPU, _FROM_GPU, _WITHIN, _ANYHOW = 1, 2, 3, 4  # hipMemcpyKind
_WAYS = {(False, True): _TO_GPU, (True, False): _FROM_GPU, (True, True): _WITHIN, (False, False): _ANYHOW}
_NON_BLOCKING = 1  # hipStreamNonBlocking
_NO_TIMING = 2  # hipEventDisableTiming

_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "hipSetDevice": (c_int,),
    "hipMalloc": (c_void_p, c_size_t),
    "hipFree": (c_size_t,),
    "hipHostMalloc": (c_void_p, c_size_t, c_uint),
    "hipHostFree": (c_size_t,),
    "hipMemcpyAsync": (c_size_t, c_size_t, c_size_t, c_int, c_void_p),
    "hipMemcpyPeerAsync": (c_size_t, c_int, c_size_t, c_int, c_size_t, c_void_p),
    "hipStreamCreateWithFlags": (c_void_p, c_uint),
    "hipStreamDestroy": (c_void_p,),
    "hipStreamSynchronize": (c_void_p,),
    "hipStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "hipEventCreateWithFlags": (c_void_p, c_uint),
    "hipEventRecord": (c_void_p, c_void_p),
    "hipEventDestroy": (c_void_p,),
    "hipModuleLoadData": (c_void_p, ctypes.c_char_p),
    "hipModuleUnload": (c_void_p,),
    "hipModuleGetFunction": (c_void_p, c_void_p, ctypes.c_char_p),
}


class Pending(threading.local):
    """What failed in this thread and was not raised yet."""

    error: BaseException | None = None

    def take(self) -> BaseException | None:
        """The error, which then counts as raised."""
        error, self.error = self.error, None
        return error


class _Pool:
    """Memory of one GPU that the virtual machine has given back, kept for what comes next.

    Lists are never taken out of the dictionary, and their operations are atomic: no lock is held while TVM or the
    collector of garbage gives memory back in the midst of anything.
    """

    def __init__(self, hip: Hip, number: int) -> None:
        self._hip, self._number = hip, number
        self._sizes: dict[int, int] = {}  # of memory that comes back here
        self._idle: dict[int, list[int]] = {}  # addresses by size

    def take(self, size: int, pooled: bool) -> int:
        """The address of `size` bytes, whose place is here when they are given back if they are `pooled`."""
        if not size:
            return 0
        if not pooled:
            return self._allocate(size)
        size = -(-size // _PAGE) * _PAGE
        try:
            return self._idle[size].pop()
        except (KeyError, IndexError):
            address = self._allocate(size)
            self._sizes[address] = size
            return address

    def give(self, address: int) -> None:
        """Take memory back."""
        size = self._sizes.get(address)
        if size is None:
            self._release(address)
        else:
            self._idle.setdefault(size, []).append(address)

    def clear(self) -> None:
        """Give the GPU what is not in use."""
        for addresses in list(self._idle.values()):
            while addresses:
                address = addresses.pop()
                self._sizes.pop(address, None)
                self._release(address)

    def _allocate(self, size: int) -> int:
        address = c_size_t()
        self._hip("hipSetDevice", self._number)
        try:
            self._hip("hipMalloc", ctypes.byref(address), size)
        except CudaError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            self.clear()
            self._hip("hipMalloc", ctypes.byref(address), size)
        return address.value

    def _release(self, address: int) -> None:
        self._hip("hipSetDevice", self._number)
        self._hip("hipFree", address)


class Hip:
    """HIP's functions by name: `hip("hipFree", address)`; CudaError where one fails."""

    def __init__(self, driver: HipDriver) -> None:
        self.driver = driver
        self.functions: dict[str, Any] = {}
        for name, arguments in _PROTOTYPES.items():
            function = driver.library[name]
            function.argtypes = arguments
            self.functions[name] = function

    def __call__(self, name: str, *arguments: Any) -> None:
        code = self.functions[name](*arguments)
        if code:
            raise self.driver.error(code)


class HipDevice:
    """The callbacks of TVM's device interface for all GPUs of AMD's, and their pinned host memory."""

    def __init__(self, hip: Hip) -> None:
        self.hip, self.pending = hip, Pending()
        self._pools: dict[int, _Pool] = {}
        self.closed = False
        failed = _NOWHERE
        self._callbacks: dict[str, tuple[Callable[..., Any], Any]] = {
            "attribute": (self._attribute, None),
            "allocate": (self._allocate, failed),
            "allocate_shaped": (self._allocate_shaped, failed),
            "free": (self._free, None),
            "create_stream": (self._create_stream, 0),
            "free_stream": (self._free_stream, None),
            "synchronize": (self._synchronize, None),
            "follow": (self._follow, None),
            "copy": (self._copy, None),
        }
        functions = {name: self._guarded(*pair) for name, pair in self._callbacks.items()}
        self.interface = DeviceInterface({**functions, "set_device": self._set_device()})

    def _guarded(self, function: Callable[..., Any], otherwise: Any) -> Callable[..., Any]:
        """`function` as a callback, whose error is kept."""
        pending = self.pending

        def callback(_: int, *arguments: Any) -> Any:
            try:
                return function(*arguments)
            except BaseException as error:
                if pending.error is None:
                    pending.error = error
                return otherwise

        return callback

    def raise_pending(self) -> None:
        """Raises what failed in this thread since the last time; KompiloError where nothing is done any more."""
        if self.closed:
            raise KompiloError("a GPU of AMD's does nothing more for a process that is about to end, or was forked.")
        if self.pending.error is not None:
            error = self.pending.take()
            assert error is not None
            raise error

    def clear(self) -> None:
        """Give all GPUs what their pools keep; a forked child has no part in that."""
        if self.closed:
            return
        for pool in list(self._pools.values()):
            pool.clear()

    def close(self) -> None:
        """TVM's calls do nothing from now on, and whoever runs a model is told so."""
        self.closed = True
        self.interface.close()

    def _pool(self, number: int) -> _Pool:
        pool = self._pools.get(number)
        if pool is None:
            pool = self._pools.setdefault(number, _Pool(self.hip, number))
        return pool

    def _set_device(self) -> Callable[..., None]:
        """The callback that comes before every launch, so it is short: a closure over local names."""
        set_device, pending, error = self.hip.functions["hipSetDevice"], self.pending, self.hip.driver.error

        def callback(_: int, device: int) -> None:
            try:
                code = set_device(device >> 32)
                if code:
                    raise error(code)
            except BaseException as found:
                pending.error = pending.error or found

        return callback

    def _attribute(self, device: int, what: int, result: int) -> None:
        read = _ATTRIBUTES.get(what)
        if read is not None:
            cells = (ctypes.c_int64 * 2).from_address(result)  # of a TVMFFIAny: type 1 is an integer
            cells[0], cells[1] = 1, read(self.hip.driver, device >> 32)

    def _allocate(self, device: int, size: int, _alignment: int, _dtype: int) -> int:
        return self._memory(device, size, pooled=True)

    def _allocate_shaped(self, device: int, rank: int, shape: int, dtype: int, _scope: int) -> int:
        """Memory of a tensor: weights and inputs, which go back to the GPU at once when they are given back."""
        elements = math.prod((ctypes.c_int64 * rank).from_address(shape)) if rank else 1
        bits, lanes = dtype >> 8 & 0xFF, dtype >> 16 & 0xFFFF
        return self._memory(device, (elements * bits * lanes + 7) // 8, pooled=False)

    def _memory(self, device: int, size: int, pooled: bool) -> int:
        number = device >> 32
        if device & 0xFFFFFFFF == GPU:
            return self._pool(number).take(size, pooled)
        address = c_size_t()
        if size:
            self.hip("hipSetDevice", number)
            self.hip("hipHostMalloc", ctypes.byref(address), size, 0)
        return address.value

    def _free(self, device: int, address: int) -> None:
        """A failure is of no use to anybody: what made the GPU fail is told elsewhere."""
        if address in (0, _NOWHERE):
            return
        try:
            if device & 0xFFFFFFFF == GPU:
                self._pool(device >> 32).give(address)
            else:
                self.hip("hipHostFree", address)
        except CudaError:
            return

    def _create_stream(self, device: int) -> int:
        stream = c_size_t()
        self.hip("hipSetDevice", device >> 32)
        self.hip("hipStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        return stream.value

    def _free_stream(self, device: int, stream: int | None) -> None:
        self.hip("hipSetDevice", device >> 32)
        self.hip("hipStreamDestroy", stream)

    def _synchronize(self, device: int, stream: int | None) -> None:
        self.hip("hipSetDevice", device >> 32)
        self.hip("hipStreamSynchronize", stream)

    def _follow(self, device: int, first: int | None, second: int | None) -> None:
        """The second stream waits for what is on the first by now."""
        event = c_void_p()
        self.hip("hipSetDevice", device >> 32)
        self.hip("hipEventCreateWithFlags", ctypes.byref(event), _NO_TIMING)
        try:
            self.hip("hipEventRecord", event, first)
            self.hip("hipStreamWaitEvent", second, event, 0)
        finally:
            self.hip("hipEventDestroy", event)

    def _copy(
        self, source: int, source_offset: int, target: int, target_offset: int, size: int,
        source_device: int, target_device: int, _dtype: int, stream: int | None,
    ) -> None:  # fmt: skip
        if self.pending.error is not None or not size:
            return
        source, target = source + source_offset, target + target_offset
        way = source_device & 0xFFFFFFFF == GPU, target_device & 0xFFFFFFFF == GPU
        first, second = source_device >> 32, target_device >> 32
        self.hip("hipSetDevice", first if way[0] else second)
        if all(way) and first != second:
            self.hip("hipMemcpyPeerAsync", target, second, source, first, size, stream)
        else:
            self.hip("hipMemcpyAsync", target, source, size, _WAYS[way], stream)


# TVM's DeviceAttrKind: whether a device is there, its compute units, its second-level cache.
_ATTRIBUTES: dict[int, Callable[[HipDriver, int], int]] = {
    0: lambda driver, number: int(number < driver.devices),
    7: HipDriver.sms,
    13: HipDriver.l2_bytes,
}

_made: HipDevice | None = None
_making = threading.Lock()


def hip_device(tvm_ffi: Any) -> HipDevice:
    """The one implementation of this process, made known to TVM.

    Raises ArtifactError where TVM's interface is another, OSError or CudaError where HIP is not there or fails.
    """
    global _made
    with _making:
        if _made is None:
            made = HipDevice(Hip(HipDriver()))
            address = made.interface.address
            for name in NAMES.values():
                tvm_ffi.register_global_func(f"device_api.{name}", lambda: c_void_p(address))
            look = tvm_ffi.get_global_func("runtime.GetDeviceAttr")
            for device_type in NAMES:  # TVM asks for the object with a lock of its own held: better now than later
                look(device_type, 0, 0)
            on_clear(made.clear)
            atexit.register(made.close)
            os.register_at_fork(after_in_child=made.close)
            _made = made
    return _made
