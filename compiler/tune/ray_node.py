"""What runs on a node of a Ray cluster: a pool of workers that measures one candidate at a time.

It knows nothing of Ray: `ray_pool` makes an actor of it. Jobs and measurements travel as JSON values.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import asdict
from typing import Any

from ..errors import KompiloError
from ..schedule.target import find_target
from ..version import VERSION
from .measure.job import Job
from .measure.pool import MOST_WORKERS, MeasurePool, usable_cores
from .measure.protocol import job_from_json

# The longest time that a node keeps its results to itself, while new jobs for it wait.
LONGEST_EXCHANGE_S = 0.25


class MeasureNode:
    """Measures for a session that tunes target `target_name`, whose key is `key`, on up to `workers` cores.

    `timeout_s` is as for `MeasurePool`.
    """

    def __init__(self, target_name: str, key: str, version: str, workers: int, timeout_s: float | None):
        self._target_name, self._key, self._version = target_name, key, version
        self._workers = max(1, min(workers, MOST_WORKERS, len(usable_cores())))
        self._timeout_s = timeout_s
        self._pool: MeasurePool | None = None
        self._numbers: dict[Job, deque[int]] = defaultdict(deque)

    def open(self) -> dict[str, Any]:
        """Start workers: {"workers": how many}, or {"refused": why this machine must not measure for the session}."""
        try:
            reason = self._unfit()
            if reason:
                return {"refused": reason}
            self._pool = MeasurePool(self._target_name, self._workers, self._timeout_s)
            self._pool.__enter__()
        except KompiloError as error:
            return {"refused": error.message}
        return {"workers": self._workers}

    def _unfit(self) -> str:
        if self._version != VERSION:
            return f"expected Kompilo {self._version}, found {VERSION}."
        # What this machine is, not what it can generate code for.
        found = find_target(self._target_name.partition(":")[0]).spec.key
        return "" if found == self._key else f"expected target {self._key}, found {found}."

    def exchange(self, jobs: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
        """Take numbered jobs; give what has been measured since the last call, waiting a moment for the first.

        Returns {"done": [(number, measurement)], "spent": seconds by part, "reference_s": the reference kernel's usual
        time here, or None}, or {"refused": why nothing can be measured here any more}.
        """
        assert self._pool is not None, "a node is opened before it gets jobs"
        for number, data in jobs:
            job = job_from_json(data)
            self._numbers[job].append(number)
            self._pool.submit(job)
        done: list[tuple[int, dict[str, Any]]] = []
        deadline = time.monotonic() + LONGEST_EXCHANGE_S
        try:
            # Once there is something to tell, only what is there already is told with it.
            while (left := 0.0 if done else deadline - time.monotonic()) >= 0:
                job, measurement = next(self._pool.results(left))
                done.append((self._numbers[job].popleft(), asdict(measurement)))
                if not self._numbers[job]:
                    del self._numbers[job]
        except StopIteration:
            pass
        except KompiloError as error:
            return {"refused": error.message}
        return {"done": done, "spent": dict(self._pool.spent), "reference_s": self._pool.reference_s}

    def close(self) -> None:
        """End the workers in order, so that this machine remembers its pace."""
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None
