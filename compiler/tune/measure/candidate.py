"""The life of one candidate inside a worker: built, run once and compared, then timed."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm

from ...errors import KompiloError
from ...schedule.target import find_target
from ..record import UNCHECKED
from .builder import Kernel, build_kernel
from .job import Job
from .limits import OUT_OF_MEMORY
from .memory import ColdMemory, Guarded, cold_bytes, guarded
from .operands import OperandCache, Operands
from .pace import Pace, Reference
from .protocol import Failure, Setup
from .timing import Sampling, Timing, measure, undisturbed

# Constant operands smaller than this stay in cache: a bias.
_LEAST_COLD = 4096
# What a result of integers holds before the candidate runs.
_UNSET = 85
# Sets of arguments made for one candidate.
_MOST_SETS = 256


@dataclass(frozen=True)
class Prepared:
    """A candidate that is known to be right; `arguments` as it was called with, `packed` those made for it alone."""

    job: Job
    kernel: Kernel
    operands: Operands
    arguments: list[np.ndarray]
    packed: list[Guarded]
    error: float


class Bench:
    """Holds the target, the reference kernel and the operands that candidates share."""

    def __init__(self, setup: Setup):
        self.target = find_target(setup.target)
        self.reference = Reference()
        self._operands = OperandCache()
        self._cold_file = setup.cold_file
        self._cold = self.cold_memory()
        self._prepared: Prepared | None = None
        self._spent: dict[str, float] = {}
        _ = self.target.templates  # loads them

    def cold_memory(self) -> ColdMemory:
        """Memory larger than the last cache, the same for all workers of a pool."""
        return ColdMemory(cold_bytes(self.target.spec), self._cold_file)

    @property
    def kept_bytes(self) -> int:
        """Bytes of memory that are kept for later candidates on purpose."""
        return self._operands.nbytes + self._cold.nbytes

    @property
    def error(self) -> float:
        """The relative error of the prepared candidate."""
        return self._prepared.error if self._prepared else 0.0

    def take_spent(self) -> dict[str, float]:
        """Seconds spent on each part since the last question."""
        spent, self._spent = self._spent, {}
        return spent

    def prepare(self, job: Job, note: Callable[[str], None]) -> None:
        """Build the candidate, run it once and compare its result; `note("run")` before the run.

        What makes operands, and the result to compare with, stands between `note("operands")` and `note("build")`.
        Raises Failure, which says what is wrong with the candidate, or that there is nothing to compare it with.
        """
        self._prepared = None
        if (job.op, job.seed) not in self._operands:
            note("operands")
            with self._part("operands", UNCHECKED):
                self._operands.get(job.op, job.seed)
            note("build")
        operands = self._operands.get(job.op, job.seed)
        with self._part("build", "build_failed"):
            kernel = build_kernel(job.op, job.point, self.target)
        with self._part("pack", "build_failed"):
            packed = {k: guarded(np.asarray(pack(operands.inputs[k]))) for k, pack in kernel.packers.items()}
        arguments = [packed[k].array if k in packed else a for k, a in enumerate(operands.inputs)]
        output = operands.output
        output.array.fill(np.nan if output.array.dtype.kind == "f" else _UNSET)
        note("run")
        with self._part("run", "run_failed"):
            kernel.function(*map(_tensor, arguments), _tensor(output.array))
        with self._part("check", "run_failed"):
            error = _check(operands)
        self._prepared = Prepared(job, kernel, operands, arguments, list(packed.values()), error)

    def time(self, pace: Pace, rival: float | None, patience_s: float) -> Timing:
        """Time the prepared candidate on the core that `pace` knows.

        `rival` is the best time of the operator so far: what is far slower need not be known exactly. `patience_s` is
        how long to wait for the core to be free of other programs.
        """
        with self._part("time", "run_failed"), undisturbed():
            self._cold.rewind()
            return measure(self.caller(self._cold), pace, Sampling(rival=rival, patience_s=patience_s))

    def caller(self, cold: ColdMemory) -> Caller:
        """Calls of the prepared candidate, which outlive `forget`; weights come from `cold`, for cold jobs."""
        assert self._prepared is not None, "a candidate is prepared before it is timed"
        return Caller(self._prepared, cold)

    def forget(self) -> None:
        """Let the prepared candidate go."""
        self._prepared = None

    @contextmanager
    def _part(self, name: str, status: str) -> Iterator[None]:
        """Adds up the time of a part; what goes wrong in it becomes a Failure of `status`."""
        began = time.perf_counter()
        try:
            yield
        except Failure:
            raise
        except Exception as error:
            full = isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY)
            raise Failure("out_of_memory" if full and status != UNCHECKED else status, _sentence(error)) from None
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + time.perf_counter() - began


class Caller:
    """Calls a prepared candidate, each time with the next copy of its weights."""

    def __init__(self, prepared: Prepared, cold: ColdMemory):
        self._prepared = prepared  # the code and its operands
        self._function = prepared.kernel.function
        self._sets = _argument_sets(prepared, cold)
        self._next = itertools.cycle(self._sets)

    def __call__(self) -> object:
        """Compute the result once."""
        return self._function(*next(self._next))

    def go_on_at(self, place: float) -> None:
        """Continue with the copy at `place`, from 0 for the first to less than 1 behind the last."""
        first = math.ceil(place * len(self._sets)) % len(self._sets)
        self._next = itertools.cycle(self._sets[first:] + self._sets[:first])

    def after(self, place: float, calls: int) -> float:
        """Where `calls` calls from `place` on lead to."""
        return (math.ceil(place * len(self._sets)) + calls) / len(self._sets) % 1.0


def _argument_sets(prepared: Prepared, memory: ColdMemory) -> list[tuple[Any, ...]]:
    """Arguments of successive calls: as they are, or with each call's weights from memory that is in no cache."""
    arguments = [_tensor(a) for a in (*prepared.arguments, prepared.operands.output.array)]
    job = prepared.job
    cold = [
        k
        for k, constant in enumerate(job.op.constant)
        if constant and job.cache == "cold" and prepared.arguments[k].nbytes >= _LEAST_COLD
    ]
    if not cold:
        return [tuple(arguments)]
    sets = []
    copies = memory.copies(sum(prepared.arguments[k].nbytes for k in cold))
    for _ in range(min(_MOST_SETS, copies)):
        for k in cold:
            arguments[k] = _tensor(memory.take(prepared.arguments[k]))
        sets.append(tuple(arguments))
    return sets


def _check(operands: Operands) -> float:
    """The relative error of the result in `operands.output`; Failure if that is wrong."""
    found = operands.output.array
    error, expected, index = operands.expected.worst(found)
    if index is not None:
        if np.isnan(expected) and np.isnan(found[index]):
            raise Failure("wrong_result", f"element {list(index)} was not written.")
        raise Failure(
            "wrong_result",
            f"element {list(index)}: expected {expected:.7g}, found {float(found[index]):.7g} (error {error:.1e} "
            f"of the largest value).",
            error if np.isfinite(error) else None,
        )
    if operands.output.overrun():
        raise Failure("wrong_result", "bytes beside the output were written.")
    return error


def _tensor(array: np.ndarray) -> Any:
    return tvm.runtime.from_dlpack(array)


def _sentence(error: BaseException) -> str:
    """The first line of what an error says, with its kind; TVM's errors end with it after a traceback of C++."""
    if isinstance(error, KompiloError | MemoryError):
        return str(error).strip() or "out of memory."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if not line.startswith(("Traceback", "File", "["))), lines[0] if lines else "")
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
