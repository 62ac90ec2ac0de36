"""Builds candidates for elsewhere in worker processes: one that aborts a compiler, or never ends, loses its own."""

from __future__ import annotations

import os
import selectors
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import KompiloError
from ..measure.job import Job
from ..measure.pool import GIB, MOST_WORKERS, usable_cores
from ..measure.process import WorkerProcess
from ..measure.protocol import Setup, job_to_json

_START_S = 120.0
_BUILD_S = 120.0
_MOST_FAILED_STARTS = 3


@dataclass
class _Seat:
    setup: Setup
    process: WorkerProcess
    deadline: float
    ready: bool = False
    job: Job | None = None


class BuildPool:
    """Workers that build for `target_name` and write files to `folder`; use it as a context manager."""

    def __init__(self, target_name: str, folder: Path, workers: int | None = None):
        cores = usable_cores()
        count = min(len(cores), MOST_WORKERS, workers or MOST_WORKERS)
        self._setups = [Setup(os.getpid(), target_name, core, 4 * GIB) for core in cores[:count]]
        self._folder = folder
        self._selector = selectors.DefaultSelector()
        self._seats: list[_Seat] = []
        self._failed_starts = 0

    def __enter__(self) -> BuildPool:
        self._seats = [self._start(setup) for setup in self._setups]
        return self

    def __exit__(self, *_: object) -> None:
        for seat in self._seats:
            seat.process.kill()
        self._selector.close()

    def build(self, jobs: Iterable[Job], until: float | None = None) -> Iterator[tuple[Job, dict[str, Any]]]:
        """Jobs with {"built": parts} or {"failed": status, "reason": ...} as they end.

        None is begun once time.monotonic() is past `until`. KompiloError if no worker process can be started.
        """
        waiting = iter(jobs)
        ready: deque[Job] = deque()
        while True:
            for seat in self._seats:
                if seat.ready and seat.job is None:
                    if not ready and (until is None or time.monotonic() < until):
                        ready.extend(job for job in [next(waiting, None)] if job is not None)
                    if ready:
                        self._assign(seat, ready.popleft())
            if not any(seat.job for seat in self._seats) and all(seat.ready for seat in self._seats):
                return
            yield from self._wait()

    def _assign(self, seat: _Seat, job: Job) -> None:
        seat.job, seat.deadline = job, time.monotonic() + _BUILD_S
        seat.process.send({"do": "build", "job": job_to_json(job), "folder": str(self._folder)})

    def _wait(self) -> Iterator[tuple[Job, dict[str, Any]]]:
        busy = [seat.deadline for seat in self._seats if seat.job or not seat.ready]
        for key, _ in self._selector.select(max(0.0, min(busy) - time.monotonic())):
            yield from self._listen(key.data)
        for seat in self._seats:
            if (seat.job or not seat.ready) and time.monotonic() >= seat.deadline:
                yield from self._lost(seat, "timed_out", f"no end after {_BUILD_S:g} s while being built.")

    def _listen(self, seat: _Seat) -> Iterator[tuple[Job, dict[str, Any]]]:
        try:
            messages = seat.process.receive()
        except ValueError as error:
            yield from self._lost(seat, "crashed", f"answered with {error} while being built.")
            return
        if messages is None:
            how, words = seat.process.cause_of_death()
            yield from self._lost(seat, "crashed", f"{how} while being built" + (f": {words}" if words else "."))
            return
        for message in messages:
            if "ready" in message:
                seat.ready, self._failed_starts = True, 0
            elif seat.job is not None:
                job, seat.job = seat.job, None
                yield job, message

    def _lost(self, seat: _Seat, status: str, reason: str) -> Iterator[tuple[Job, dict[str, Any]]]:
        """Replace a worker, and give up the candidate that it was at."""
        if not seat.ready:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS:
                raise KompiloError(f"no worker process for {seat.setup.target} could be started: {reason}")
        self._selector.unregister(seat.process)
        seat.process.kill()
        job = seat.job
        place = self._seats.index(seat)
        self._seats[place] = self._start(seat.setup)
        if job is not None:
            yield job, {"failed": status, "reason": reason}

    def _start(self, setup: Setup) -> _Seat:
        seat = _Seat(setup, WorkerProcess(setup), time.monotonic() + _START_S)
        self._selector.register(seat.process, selectors.EVENT_READ, seat)
        return seat
