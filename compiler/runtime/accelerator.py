"""A GPU at run time: an artifact's kernels on it, and memory there.

Written after the interfaces of CUDA and of TVM's runtime, and not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from ..artifact.records import TargetCode
from ..device_code import TENSOR_MAP, DeviceCode, Kernel
from ..element_types import array_dtype, carrier
from ..errors import ArtifactError, InputError, KompiloError
from ..knobs import Knobs
from .devices import Kind, kind_of, load_runtime
from .gpu_failures import failure_of
from .hip_device import HipDevice, hip_device
from .hip_kernels import load_kernels

# kDLCPU; TVM's allocators: one that gives buffers back, and one that keeps them for the next call.
_CPU, _NAIVE, _POOLED = 1, 1, 2
# Larger arrays are copied from and to pageable memory, by the driver's own way.
_MOST_PINNED = 256 << 20


class Pinned:
    """Host memory that stays where it is: a `tensor`, and the same memory as an `array`."""

    def __init__(self, tensor: Any, shape: Sequence[int], dtype: np.dtype) -> None:
        self.tensor = tensor
        size = math.prod(shape) * dtype.itemsize
        memory = (ctypes.c_ubyte * size).from_address(tensor.data_ptr())
        self.array = np.ctypeslib.as_array(memory).view(dtype).reshape(tuple(shape))


class Forked(KompiloError):
    """The process was forked since it used the GPU."""


class Accelerator:
    """GPU `number` of a kind, ready for use; `hint` tells users what to do where it fails.

    `turn` is held while a call asks for work: TVM gives buffers back for others to use when their last kernel is
    queued, and no other work may be queued while the kernels of a graph are captured. For the first reason calls on one
    stream wait for those on another: not by that stream's handle, whose owner may have ended it since, but by a stream
    of our own that waits for each work on it.
    """

    turn = threading.Lock()  # one for all models: they share TVM's memory
    _streams: ClassVar[dict[tuple[int, int], int]] = {}  # the stream last used by device type and number
    _followers: ClassVar[dict[tuple[int, int], int]] = {}  # our own, which waits for all on others; 0 if there is none

    def __init__(
        self, tvm_ffi: Any, kind: Kind, number: int = 0, hint: str | None = None, own: HipDevice | None = None
    ) -> None:
        self.kind, self.number, self.hint = kind, number, hint
        self._process = os.getpid()
        self.device = tvm_ffi.device(kind.name, number)
        self._shape, self._dtype = tvm_ffi.Shape, tvm_ffi.dtype
        self._own = own
        lookup = self._lookup(tvm_ffi)
        self._allocate = lookup("runtime.TVMTensorAllocWithScope")
        self._upload = lookup("runtime.TVMTensorCopyFromBytes")
        self._download = lookup("runtime.TVMTensorCopyToBytes")
        self._copy = lookup("runtime.TVMTensorCopyFromTo")
        self._synchronize = lookup("runtime.Device_StreamSync")
        self._make_stream = lookup("runtime.Device_StreamCreate")
        self._wait_for = lookup("runtime.Device_StreamSyncFromTo")  # by an event that is recorded at once
        self._stream = tvm_ffi.use_raw_stream
        self._host = tvm_ffi.device(kind.host_type, number) if kind.host_type else None
        # Whether graphs of kernels are used where an artifact has them.
        self.captures = kind.name == "cuda" and Knobs.from_environment().cuda_graphs

    def _lookup(self, tvm_ffi: Any) -> Callable[[str], Any]:
        """Functions of TVM's by name, which raise what failed on the way where the device is our own."""
        own = self._own
        if own is None:
            return tvm_ffi.get_global_func

        def checked(name: str) -> Any:
            function = tvm_ffi.get_global_func(name)

            def call(*arguments: Any) -> Any:
                result = function(*arguments)
                own.raise_pending()
                return result

            return call

        return checked

    def check(self) -> None:
        """Raises what failed on the way of the work asked for in this thread, where TVM could not."""
        if self._own is not None:
            self._own.raise_pending()

    def check_process(self) -> None:
        """Raises Forked in a child of the process that the GPU was made ready in."""
        if os.getpid() != self._process:
            found = "a GPU does not survive a fork of the process, and this one was forked since the model was loaded."
            raise Forked(found, self.hint)

    @property
    def devices(self) -> tuple[int, ...]:
        """The devices of a virtual machine, with their allocators: the GPU, and the CPU that drives it."""
        allocator = _POOLED if self._own is None else _NAIVE  # there the pool is our own
        return (self.kind.device_type, self.number, allocator, _CPU, 0, _POOLED)

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> Any:
        """A tensor of unset memory."""
        return self._allocate(self._shape(shape), self._dtype(carrier(dtype.name)), self.device, None)

    def upload(self, array: np.ndarray, tensor: Any = None) -> Any:
        """`array` as a tensor: `tensor`, which has its shape and dtype, or a new one."""
        array = np.ascontiguousarray(array)
        tensor = self.empty(array.shape, array.dtype) if tensor is None else tensor
        if array.nbytes:
            self._upload(tensor, array.ctypes.data_as(ctypes.c_void_p), array.nbytes)
        return tensor

    def pinned(self, shape: Sequence[int], dtype: np.dtype) -> Pinned | None:
        """Host memory that copies need no detour for; None where there is none, or where it would be too much."""
        if self._host is None or not 0 < math.prod(shape) * dtype.itemsize <= _MOST_PINNED:
            return None
        return Pinned(
            self._allocate(self._shape(shape), self._dtype(carrier(dtype.name)), self._host, None), shape, dtype
        )

    def copy(self, source: Any, target: Any) -> None:
        """Copy from one tensor to another of the same size, in the order of the GPU's work; returns at once."""
        self._copy(source, target)

    @contextmanager
    def on(self, stream: int) -> Iterator[None]:
        """Work asked for in this context goes to the CUDA stream of that handle, 0 for the default one.

        The caller has the turn.
        """
        key = self.kind.device_type, self.number
        last, self._streams[key] = self._streams.get(key, 0), stream
        if last != stream:
            self._synchronize(self.device, self._followers[key] if last else 0)
        with self._stream(self.device, stream):
            if not stream:
                yield
                return
            if key not in self._followers:
                self._followers[key] = self._make_stream(self.device) or 0
            try:
                yield
            finally:
                self._follow(stream, self._followers[key])

    def _follow(self, stream: int, follower: int) -> None:
        """Let `follower` wait for what is queued on `stream` by now; where there is no follower, wait here."""
        if follower:
            self._wait_for(self.device, stream, follower)
        else:
            self._synchronize(self.device, stream)

    def synchronize(self) -> None:
        """Wait for the default stream; errors of its kernels are raised here."""
        self._synchronize(self.device, 0)

    def upload_weights(self, weights: Sequence[np.ndarray]) -> list[Any]:
        """Tensors of a model's weights; ArtifactError if the GPU has no room for them."""
        try:
            with self.turn:
                return [self.upload(weight) for weight in weights]
        except Exception as error:  # tvm_ffi raises the type that the C++ side names
            size = sum(weight.nbytes for weight in weights)
            what = f"the model's {f'{size / 2**20:.0f} MiB' if size >= 2**20 else f'{size} bytes'} of weights"
            failure = self.failure(error)
            if isinstance(failure, InputError):
                raise ArtifactError(f"the GPU has not enough memory for {what}.", self.hint) from None
            reason = failure.message if failure else f"{str(error).strip().splitlines()[-1]}."
            raise ArtifactError(f"{what} cannot be copied to the GPU: {reason}", self.hint) from None

    def failure(self, error: Exception) -> KompiloError | None:
        """What to raise for an `error` that the GPU's driver tells; None if it is of another kind."""
        return failure_of(error, self.hint)

    def download(self, tensor: Any) -> np.ndarray:
        """What `tensor` holds, in an array of its own."""
        array = np.empty(tuple(tensor.shape), array_dtype(str(tensor.dtype)))
        if array.nbytes:
            self._download(tensor, array.ctypes.data_as(ctypes.c_void_p), array.nbytes)
        return array


def _after_fork() -> None:
    """The thread that had the turn does not go on in the child."""
    Accelerator.turn = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def attach(executable: Any, target: TargetCode, number: int = 0, hint: str | None = None) -> Accelerator | None:
    """Give the executable's host code the kernels that it launches; the GPU to run on, None for a CPU.

    The caller knows that GPU `number` is there and runs the code.

    Raises:
        ArtifactError: TVM's library for the GPU, or the code, cannot be loaded.
    """
    kind = kind_of(target)
    if kind is None:
        return None
    tvm_ffi = load_runtime(kind)
    create = tvm_ffi.get_global_func(f"ffi.Module.create.{kind.name}", allow_missing=True)
    own = hip_device(tvm_ffi) if create is None else None
    accelerator = Accelerator(tvm_ffi, kind, number, hint, own)
    libraries = list(executable.imports) or [executable]
    for code in target.device:
        try:
            if own is not None:
                kernels = load_kernels(tvm_ffi, own, code, number, accelerator)
            else:
                read = tvm_ffi.get_global_func("runtime.LoadMetaDataFromJSON")
                kernels = create(code.code, code.format, read(metadata(code)), {})
        except Exception as error:  # tvm_ffi raises the type that the C++ side names
            failure = accelerator.failure(error)
            if failure is not None:
                raise failure from None
            reason = str(error).strip().splitlines()[-1].rstrip(".")
            raise ArtifactError(f"the artifact's {kind.name} code cannot be loaded: {reason}.", hint) from None
        for library in libraries:
            library.import_module(kernels)
    return accelerator


def metadata(code: DeviceCode) -> str:
    """The kernels' signatures in the JSON that TVM reads."""
    return json.dumps({"tvm_version": "0.1.0", "func_info": {k.name: _signature(k) for k in code.kernels}})


def _signature(kernel: Kernel) -> dict[str, Any]:
    """Descriptors of tiles are handles with a tag: what they point to is passed by value."""
    tiles = [argument == TENSOR_MAP for argument in kernel.arguments]
    types = ["handle" if tiled else argument for tiled, argument in zip(tiles, kernel.arguments, strict=True)]
    signature = {"name": kernel.name, "arg_types": types, "launch_param_tags": list(kernel.launch)}
    return signature | ({"arg_extra_tags": [int(tiled) for tiled in tiles]} if any(tiles) else {})
