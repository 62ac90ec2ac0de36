"""The life of one candidate for a GPU inside a worker: built at any time, run, compared and timed in its turn.

Building needs no GPU, so that workers which build for another machine never ask the driver.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...device_code import Usage
from ...errors import KompiloError
from ...runtime.cuda_driver import Context, CudaError
from ...runtime.hip_driver import driver_class
from ...schedule.op_spec import OpSpec
from ...schedule.roofline import Roofline
from ...schedule.target import find_target
from ..bands import Truth, truth
from ..measure.job import Job
from ..measure.operands import random_operands
from ..measure.pace import Pace, Reading
from ..measure.protocol import Failure, Setup
from ..measure.timing import Sampling, Timing
from ..record import UNCHECKED
from ..reference import supported
from .candidate import DeviceKernel, activations, build_device_kernel, default_point
from .parts import write_parts
from .pruning import reason_against
from .roofline import measured
from .runner import UNLOADABLE, DeviceRun, RunFailure

# Bytes of operands and expected results that a worker keeps.
_KEEP = 1 << 30
# What a worker ends with when a kernel has broken its GPU's context.
_EXIT_LOST = 3


@dataclass(frozen=True)
class _Prepared:
    job: Job
    kernel: DeviceKernel
    inputs: list[np.ndarray]
    expected: Truth


class _NoPace:
    """A GPU's events are its own clock: nothing is read beside a candidate."""

    def usual(self) -> Reading:
        return self.read()

    def read(self) -> Reading:
        return Reading(1.0, 1.0)


class DeviceBench:
    """Holds the target, the operands that candidates share and, from the first turn on, the GPU."""

    reference = _NoPace()

    def __init__(self, setup: Setup):
        self.target = find_target(setup.target)
        self.error = 0.0
        self.usage: Usage | None = None
        self._operands: OrderedDict[tuple[OpSpec, int], tuple[list[np.ndarray], Truth]] = OrderedDict()
        self._prepared: _Prepared | None = None
        self._context: Context | None = None
        self._cache_bytes = 0
        self._spent: dict[str, float] = {}
        # The least time of an operator's candidates of a template, and what that one takes.
        self._fastest: dict[tuple[OpSpec, str], tuple[float, Usage | None]] = {}
        _ = self.target.templates  # loads them

    @property
    def kept_bytes(self) -> int:
        """Bytes of memory that are kept for later candidates on purpose."""
        return sum(_bytes(*kept) for kept in self._operands.values())

    def take_spent(self) -> dict[str, float]:
        """Seconds spent on each part since the last question."""
        spent, self._spent = self._spent, {}
        return spent

    def prepare(self, job: Job, note: Callable[[str], None]) -> None:
        """Build the candidate and make what it is compared with; it runs in its turn only.

        Raises Failure, which says what is wrong with it.
        """
        self._prepared = None
        if (job.op, job.seed) not in self._operands:
            note("operands")
            with self._part("operands", UNCHECKED):
                self._operands_of(job)
            note("build")
        inputs, expected = self._operands_of(job)
        with self._part("build", "build_failed"):
            kernel = self._built(job)
        with self._part("pack", "build_failed"):
            packed = [np.asarray(kernel.packers[k](a)) if k in kernel.packers else a for k, a in enumerate(inputs)]
        self._prepared = _Prepared(job, kernel, packed, expected)
        note("run")

    def time(self, pace: Pace, rival: float | None, patience_s: float) -> Timing:
        """Run the prepared candidate, compare its result, and time it. A kernel that fails ends the process."""
        prepared = self._prepared
        assert prepared is not None, "a candidate is prepared before it is timed"
        pace.read()
        job, op = prepared.job, prepared.job.op
        output = tuple(int(d) for d in op.output.shape), op.output.dtype
        try:
            with self._part("run", "run_failed"):
                context = self._gpu()
                run = DeviceRun(
                    context, prepared.kernel.program, prepared.inputs, output, activations(op), self._cache_bytes
                )
            with run:
                with self._part("check", "run_failed"):
                    self.error = run.check(prepared.expected)
                with self._part("time", "run_failed"):
                    timing = run.time(job.cache == "cold", Sampling(rival=rival))
        except RunFailure as failure:
            if failure.lost:
                _end(str(failure))
            status = "run_failed" if failure.status == UNLOADABLE else failure.status
            raise Failure(status, str(failure), failure.error) from None
        self.usage = prepared.kernel.usage
        key = op, job.point.template
        self._fastest[key] = min((timing.seconds, self.usage), self._fastest.get(key, (math.inf, None)), key=_seconds)
        return timing

    def roofline(self) -> Roofline:
        """The rates of the GPU here. Raises Failure."""
        with self._part("roofline", "run_failed"):
            return measured(self.target)

    def build(self, job: Job, folder: str) -> dict[str, Any]:
        """Build a candidate for elsewhere; its files go to `folder`, and what a bundle says of it is returned."""
        with self._part("build", "build_failed"):
            kernel = self._built(job)
        with self._part("pack", "build_failed"):
            return write_parts(job.op, kernel, Path(folder))

    def _built(self, job: Job) -> DeviceKernel:
        """The compiled candidate; Failure if what its code takes speaks against running it."""
        kernel = build_device_kernel(job.op, job.point, self.target)
        spec: Any = self.target.spec
        if kernel.usage is not None:
            best = self._fastest.get((job.op, job.point.template), (math.inf, None))[1]
            only = job.point == default_point(job.op, self.target)
            reason = reason_against(kernel.usage, spec.shared_bytes, best, only)
            if reason is not None:
                raise Failure("pruned", reason)
        return kernel

    def forget(self) -> None:
        """Let the prepared candidate go."""
        self._prepared = None

    def _gpu(self) -> Context:
        if self._context is None:
            try:
                driver = driver_class(self.target.spec.kind)()
                self._cache_bytes = driver.l2_bytes(0)
                self._context = driver.context(0)
            except (OSError, CudaError) as error:
                raise KompiloError(f"the GPU's driver does not work: {error}.") from None
        return self._context

    def _operands_of(self, job: Job) -> tuple[list[np.ndarray], Truth]:
        key = job.op, job.seed
        if key not in self._operands:
            if not supported(job.op):
                raise Failure(UNCHECKED, f"the reference does not know {job.op}.")
            inputs = random_operands(job.op, job.seed)
            self._operands[key] = inputs, truth(job.op, inputs)
            while len(self._operands) > 1 and self.kept_bytes > _KEEP:
                self._operands.popitem(last=False)
        self._operands.move_to_end(key)
        return self._operands[key]

    @contextmanager
    def _part(self, name: str, status: str) -> Iterator[None]:
        """Adds up the time of a part; what goes wrong in it becomes a Failure of `status`."""
        began = time.perf_counter()
        try:
            yield
        except (Failure, RunFailure):
            raise
        except MemoryError as error:
            words = str(error).strip() or "out of memory."
            raise Failure(status if status == UNCHECKED else "out_of_memory", words) from None
        except Exception as error:
            text = str(error) if isinstance(error, KompiloError) else _last_line(error)
            raise Failure(status, text) from None
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + time.perf_counter() - began


def _seconds(timed: tuple[float, Usage | None]) -> float:
    return timed[0]


def _bytes(inputs: list[np.ndarray], expected: Truth) -> int:
    return sum(a.nbytes for a in inputs) + expected.nbytes


def _end(reason: str) -> NoReturn:
    """End the worker, with the reason as its last words: the GPU does nothing more for this process."""
    print(reason, file=sys.stderr, flush=True)
    os._exit(_EXIT_LOST)


def _last_line(error: BaseException) -> str:
    """The kind of an error and what it says; TVM's come with a traceback before that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__
