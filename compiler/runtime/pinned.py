"""A loaded model on a set of CPU cores: calls run on these cores alone, whichever thread makes them."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from ..errors import KompiloError, UsageError
from .core_sets import CoreSet
from .module import Module

_MASK_BYTES = 128  # room for the kernel's 1024 CPUs


class PinnedModule(Module):
    """A model on the cores of `cores`; see Module.

    With one thread a call binds its caller to the cores, and gives the caller its former ones back, which takes 7 us; a
    caller that is bound to them already is not touched (1 us). With several, a thread of this module's own makes the
    calls, one at a time: TVM's workers belong to the thread that they work for, and keep the cores that it has when
    they are made.
    """

    def __init__(self, inner: Module, cores: CoreSet) -> None:
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self.artifact, self.target, self.threads = inner.artifact, inner.target, inner.threads
        self.cores = cores
        self._inner = inner
        self._output_names, self._names, self._count = inner._output_names, inner._names, inner._count
        self._mask = _mask_of(cores.cpus)
        self._threads: dict[int, ThreadPoolExecutor] = {}  # by the process that it is in

    @property
    def runs_on(self) -> str:
        """The key of the target whose code runs, and the cores."""
        return f"{self._inner.runs_on} on {self.cores.name}"

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Runs the model on its cores; arguments, result and errors as for Module."""
        if self._inner.threads > 1:
            return self._bound_thread().submit(self._inner, *values, **named).result()
        get, put = _affinity_calls()
        before = ctypes.create_string_buffer(_MASK_BYTES)
        if get(0, _MASK_BYTES, before) >= 0 and before.raw == self._mask.raw:
            return self._inner(*values, **named)
        if put(0, _MASK_BYTES, self._mask) < 0:
            raise KompiloError(f"the system does not let this thread run on {self.cores.name}.")
        try:
            return self._inner(*values, **named)
        finally:
            put(0, _MASK_BYTES, before)

    def _bound_thread(self) -> ThreadPoolExecutor:
        """The thread that makes this process's calls: a forked child has none of its parent's."""
        process = os.getpid()
        found = self._threads.get(process)
        if found is None:
            cpus = self.cores.cpus
            made = ThreadPoolExecutor(1, f"kompilo-{self.cores.name}", lambda: os.sched_setaffinity(0, cpus))
            weakref.finalize(self, made.shutdown, wait=False)
            found = self._threads.setdefault(process, made)  # the one of several first callers; no other is started
        return found

    def enqueue(self, *values: Any, stream: int = 0, **named: Any) -> Any:
        """UsageError: the model is on the CPU."""
        raise UsageError("enqueue: expected a model that is loaded on a GPU, found one on the CPU.")


def _mask_of(cpus: Sequence[int]) -> Any:
    """The CPUs as the kernel's mask of bits."""
    bits = sum(1 << cpu for cpu in cpus)
    return ctypes.create_string_buffer(bits.to_bytes(_MASK_BYTES, "little"), _MASK_BYTES)


@cache
def _affinity_calls() -> tuple[Any, Any]:
    """The C library's functions that read and set the calling thread's CPUs, called with Python's lock held."""
    library = ctypes.PyDLL(None)
    try:
        return library.sched_getaffinity, library.sched_setaffinity
    except AttributeError:
        raise KompiloError("expected Linux for devices such as cpu:0, found a system without affinity.") from None
