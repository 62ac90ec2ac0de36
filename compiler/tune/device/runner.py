"""Runs a compiled candidate on a GPU by the driver's interface, checks its result, and times it by the GPU's clock.

Numpy and the driver only: measuring bundles carry this file to machines without Kompilo and TVM. Not yet run on a GPU:
the tests run it against a stand-in for the driver.

A sample is the time between two events around the candidate's kernels. The events are queued behind work that takes
longer than queueing does, so that neither launch nor host is in the sample. Before each sample of a "cold" job the
second-level cache is overwritten and the activations are written again: as within a model, they are in cache where they
fit, and weights are not.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...launches import Argument, DeviceProgram, Number, Place
from ...runtime.cuda_driver import LAUNCH_TIMEOUT, LOST, OUT_OF_MEMORY, Context, CudaError
from ...runtime.cuda_driver import UNLOADABLE as UNLOADABLE_CODES
from ..bands import Truth
from ..measure.timing import Sampling, Timing, spread
from ..numbers import carrier, widen

_GUARD = 1024  # bytes on both sides of an array
_CANARY = 0xA5
_SCRATCH_BYTE = 0xFF  # NaN, or -1
# Samples are queued in batches that take about as long.
_BATCH_S = 10e-3
_MOST_IN_BATCH = 32
# Without a cache to overwrite, launching may take longer than the kernels: then many runs make a sample.
_WARM_SAMPLE_S = 200e-6
_RESOLUTION_S = 0.5e-6

UNLOADABLE = "unloadable"
_STATUSES = {OUT_OF_MEMORY: "out_of_memory", LAUNCH_TIMEOUT: "timed_out"}
_CTYPES: dict[str, Any] = {
    "int8": ctypes.c_int8, "uint8": ctypes.c_uint8, "bool": ctypes.c_uint8, "int16": ctypes.c_int16,
    "uint16": ctypes.c_uint16, "int32": ctypes.c_int32, "uint32": ctypes.c_uint32, "int64": ctypes.c_int64,
    "uint64": ctypes.c_uint64, "float32": ctypes.c_float, "float64": ctypes.c_double,
}  # fmt: skip


class RunFailure(Exception):
    """What is wrong with a candidate: a status of records, one sentence, and whether the GPU's context is lost.

    The status may also be UNLOADABLE: the driver does not take the code, which says nothing about the candidate.
    """

    def __init__(self, status: str, reason: str, error: float | None = None, lost: bool = False):
        super().__init__(reason)
        self.status, self.reason, self.error, self.lost = status, reason, error, lost


@dataclass(frozen=True)
class _Memory:
    address: int
    bytes: int


class DeviceRun:
    """A candidate on the GPU with its operands; use it as a context manager, which frees them.

    Args:
        inputs: the function's parameters but for the last, packed as the candidate takes them.
        output: shape and dtype of the last.
        activations: numbers of the inputs that are not weights.
        cache_bytes: size of the GPU's second-level cache.

    Raises:
        RunFailure: the code cannot be loaded, or the GPU has no room for it.
    """

    def __init__(
        self, context: Context, program: DeviceProgram, inputs: Sequence[np.ndarray],
        output: tuple[tuple[int, ...], str], activations: Sequence[int], cache_bytes: int,
    ):  # fmt: skip
        self._context, self._program = context, program
        self._output, self._dtype = np.empty(output[0], carrier(output[1])), output[1]
        self._activations, self._cache_bytes = tuple(activations), cache_bytes
        self._arrays: list[_Memory] = []
        self._owned: list[int] = []
        self._module: Any = None
        self._flush: int | None = None
        self._backups: dict[int, int] = {}
        self._events: list[tuple[Any, Any]] = []
        try:
            self._module = context.load(program.code)
        except CudaError as error:
            if error.code in UNLOADABLE_CODES:
                raise RunFailure(UNLOADABLE, f"the GPU: {error}.") from None
            raise _failure(error) from None
        try:
            for array in inputs:
                self._add(array.nbytes)
                context.upload(self._arrays[-1].address, np.ascontiguousarray(array))
            for size in (self._output.nbytes, *program.scratch):
                self._add(size)
            self._launches = [self._launcher(launch) for launch in program.launches]
        except CudaError as error:
            self.close()
            raise _failure(error) from None

    def __enter__(self) -> DeviceRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free what the candidate has; a context that a kernel has broken frees nothing more."""
        with suppress(CudaError):
            for address in self._owned:
                self._context.free(address)
            for event in (e for pair in self._events for e in pair):
                self._context.forget(event)
            if self._module is not None:
                self._context.unload(self._module)
        self._owned, self._events, self._module = [], [], None

    def check(self, expected: Truth) -> float:
        """Run once; the relative error of the result.

        Raises RunFailure: a kernel failed, the result is wrong, or bytes beside the arrays were written.
        """
        try:
            self._fetch()
            intact = self._intact()
        except CudaError as error:
            raise _failure(error) from None
        found = widen(self._output, self._dtype)
        relative, value, index = expected.worst(found)
        if index is not None:
            raise RunFailure(
                "wrong_result",
                f"element {list(index)}: expected {value:.7g}, found "
                f"{float(found[index]):.7g} (error {relative:.1e} of the largest value).",
                relative if np.isfinite(relative) else None,
            )
        if not intact:
            raise RunFailure("wrong_result", "bytes beside an array were written.")
        return relative

    def time(self, cold: bool, sampling: Sampling) -> Timing:
        """Seconds of a run by the GPU's clock. Raises RunFailure if a kernel fails."""
        try:
            if cold:
                self._prepare_flush()
            return self._sample(cold, sampling)
        except CudaError as error:
            raise _failure(error) from None

    def sample(self, repeat: int) -> float:
        """Seconds of a run, the mean of `repeat` that follow each other; for what is compared with others in turns."""
        try:
            return self._batch(1, repeat, False)[0]
        except CudaError as error:
            raise _failure(error) from None

    def result(self) -> np.ndarray:
        """The numbers, as float64, that one more run gives. Raises RunFailure if a kernel fails."""
        try:
            self._fetch()
        except CudaError as error:
            raise _failure(error) from None
        return widen(self._output, self._dtype)

    def _fetch(self) -> None:
        output = self._arrays[len(self._arrays) - 1 - len(self._program.scratch)]
        self._context.fill(output.address, _SCRATCH_BYTE, output.bytes)
        self._run()
        self._context.download(self._output, output.address)

    def _sample(self, cold: bool, sampling: Sampling) -> Timing:
        began = time.perf_counter()
        first = self._batch(1, 1, cold)[0]  # code is fetched, and the clock begins to rise
        lasted = max(time.perf_counter() - began, 1e-6)
        count = int(min(_MOST_IN_BATCH, max(1, _BATCH_S / lasted)))
        repeat = 1 if cold else math.ceil(_WARM_SAMPLE_S / first)
        began = time.perf_counter()
        samples = self._batch(count, repeat, cold)
        while not sampling.enough(samples, spread(samples)) and time.perf_counter() - began < sampling.budget_s:
            samples += self._batch(count, repeat, cold)
        known = spread(samples) if len(samples) > 1 else None
        return Timing(statistics.median(samples), known, len(samples), 1.0)

    def _batch(self, count: int, repeat: int, cold: bool) -> list[float]:
        """Seconds of a run in `count` samples of `repeat` runs each."""
        context = self._context
        while len(self._events) < count:
            self._events.append((context.event(), context.event()))
        pairs = self._events[:count]
        for start, end in pairs:
            if cold:
                self._make_cold()
            context.mark(start)
            for _ in range(repeat):
                self._run()
            context.mark(end)
        context.synchronize()
        return [max(_RESOLUTION_S, context.seconds(start, end)) / repeat for start, end in pairs]

    def _run(self) -> None:
        for launch in self._launches:
            launch()

    def _prepare_flush(self) -> None:
        """Memory to overwrite the cache with, and copies of the activations to write them again from."""
        if self._flush is None:
            self._flush = self._allocate(2 * self._cache_bytes)
            for k in self._activations:
                memory = self._arrays[k]
                self._backups[k] = self._allocate(memory.bytes)
                self._context.copy(self._backups[k], memory.address, memory.bytes)

    def _make_cold(self) -> None:
        assert self._flush is not None, "prepared before the first sample"
        self._context.fill(self._flush, 0, 2 * self._cache_bytes)
        for k, backup in self._backups.items():
            self._context.copy(self._arrays[k].address, backup, self._arrays[k].bytes)

    def _allocate(self, size: int) -> int:
        address = self._context.allocate(size)
        self._owned.append(address)
        return address

    def _add(self, size: int) -> None:
        """A further array between guards."""
        start = self._allocate(size + 2 * _GUARD)
        self._context.fill(start, _CANARY, size + 2 * _GUARD)
        self._arrays.append(_Memory(start + _GUARD, size))

    def _intact(self) -> bool:
        """Whether the bytes beside all arrays are as they were."""
        guard = np.empty(_GUARD, np.uint8)
        for memory in self._arrays:
            for address in (memory.address - _GUARD, memory.address + memory.bytes):
                self._context.download(guard, address)
                if (guard != _CANARY).any():
                    return False
        return True

    def _launcher(self, launch: Any) -> Any:
        function = self._context.function(self._module, launch.kernel, launch.shared_bytes, launch.cluster)
        arguments = [self._argument(a) for a in launch.arguments]
        return self._context.launcher(
            function, launch.grid, launch.block, launch.shared_bytes, arguments, launch.cluster
        )

    def _argument(self, argument: Argument) -> Any:
        if isinstance(argument, Place):
            return ctypes.c_uint64(self._address(argument))
        if isinstance(argument, Number):
            if argument.dtype == "float16":
                return ctypes.c_uint16(int(np.float16(argument.value).view(np.uint16)))
            return _CTYPES[argument.dtype](argument.value)
        place = self._address(argument.place)
        layout = (argument.sizes, argument.strides, argument.box, argument.steps)
        flags = (argument.interleave, argument.swizzle, argument.promotion, argument.fill)
        return self._context.tensor_map(argument.dtype, place, *layout, *flags)

    def _address(self, place: Place) -> int:
        return self._arrays[place.array].address + place.offset


def _failure(error: CudaError) -> RunFailure:
    status = _STATUSES.get(error.code, "crashed" if error.code in LOST else "run_failed")
    return RunFailure(status, f"the GPU: {error}.", lost=error.code in LOST)
