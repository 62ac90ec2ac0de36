"""Measures candidates side by side, each in a process of its own that may die of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty
from types import TracebackType

from ...errors import UsageError
from ...knobs import Knobs
from ...schedule.target import find_target
from ..record import Measurement
from .job import CACHES, Job
from .keeper import Keeper
from .memory import cold_file
from .pace_memory import remember, remembered
from .protocol import Setup

__all__ = ["Job", "MeasurePool"]

GIB = 1 << 30
# More workers than this build faster than one at a time can be timed.
MOST_WORKERS = 8
# Compilers for devices are slower, and so are results of operators that only a device is meant for.
_TIMEOUT_S, _DEVICE_TIMEOUT_S = 10.0, 60.0


class MeasurePool:
    """Builds, checks and times candidates for `target_name` in worker processes, each pinned to a core of its own.

    Building goes on in all workers at once, timing in one at a time. A candidate that crashes, takes longer than
    `timeout_s` (10 seconds; a minute for devices) to be built and checked or to be timed (more where the machine is too
    busy to let it work), needs more than `memory_limit_bytes` or gives a wrong result is measured as failed, with a
    reason. A failure that another candidate may have caused counts only if it shows in a fresh worker too. Workers are
    also replaced when they have leaked more than `leak_limit_bytes` over time. Use the pool as a context manager;
    workers die with its process.

    Args:
        target_name: as for `find_target`.
        workers: at most one for each usable core (default: that many, up to 8), threads of one core counting once.

    Raises:
        TargetError: there is no such target.
        UsageError: `workers` is less than 1 or more than the usable cores.
    """

    def __init__(
        self,
        target_name: str,
        workers: int | None = None,
        timeout_s: float | None = None,
        memory_limit_bytes: int = 4 * GIB,
        leak_limit_bytes: int = GIB,
    ):
        target = find_target(target_name)
        cores = usable_cores()
        count = min(len(cores), MOST_WORKERS) if workers is None else workers
        if not 1 <= count <= len(cores):
            raise UsageError(f"workers: expected 1 to {len(cores)} (usable cores), found {count}.")
        self._cold = cold_file(target.spec)
        shared = self._cold.fileno() if self._cold is not None else -1
        setups = [Setup(os.getpid(), target_name, core, memory_limit_bytes, cold_file=shared) for core in cores[:count]]
        self._memory = Knobs.from_environment().cache / "tune" / ("device" if target.drives_device else "")
        limit = timeout_s or (_DEVICE_TIMEOUT_S if target.drives_device else _TIMEOUT_S)
        self._keeper = Keeper(setups, limit, leak_limit_bytes, remembered(self._memory))
        self._outstanding = 0

    def __enter__(self) -> MeasurePool:
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.stop()
        if self._cold is not None:
            self._cold.close()
        if self._keeper.usual is not None:
            remember(self._memory, self._keeper.usual)

    @property
    def spent(self) -> Mapping[str, float]:
        """Seconds of worker time so far: operands, build, pack, run, check, time; wait (for the turn to time), idle."""
        return dict(self._keeper.spent)

    @property
    def reference_s(self) -> float | None:
        """Seconds of the reference that times are scaled to; None until all workers have tried it."""
        return self._keeper.usual.seconds if self._keeper.usual else None

    def submit(self, job: Job) -> None:
        """Have `job` measured; returns at once. UsageError if its `cache` is not one of CACHES."""
        if job.cache not in CACHES:
            raise UsageError(f"cache: expected one of {', '.join(CACHES)}, found {job.cache!r}.")
        self._outstanding += 1
        self._keeper.inbox.put(job)
        self._keeper.wake()

    def results(self, timeout_s: float | None = None) -> Iterator[tuple[Job, Measurement]]:
        """Jobs with what came of them, in the order in which they end, until none is left or `timeout_s` are over.

        More jobs may be submitted meanwhile. Raises KompiloError if no worker process can be started.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._outstanding:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                result = self._keeper.outbox.get(timeout=left)
            except Empty:
                return
            if isinstance(result, BaseException):
                raise result
            self._outstanding -= 1
            yield result


def usable_cores() -> list[int]:
    """A processor number of each core that this process may use: threads of one core would slow each other down."""
    usable = os.sched_getaffinity(0)
    first: dict[str, int] = {}
    for cpu in sorted(usable):
        siblings = str(cpu)
        with suppress(OSError):
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        first.setdefault(siblings, cpu)
    return list(first.values())
