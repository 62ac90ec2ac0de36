"""Which worker gets which job: jobs of one operator go to one worker, which then has its operands at hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from ...schedule.op_spec import OpSpec
from .job import Job


class JobQueue:
    """Waiting jobs by operator; operators in the order in which they came, jobs of an operator likewise."""

    def __init__(self) -> None:
        self._jobs: dict[OpSpec, deque[Job]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def add(self, job: Job) -> None:
        """Put `job` behind the others of its operator."""
        self._jobs.setdefault(job.op, deque()).append(job)

    def take(self, last: OpSpec | None, others: Collection[OpSpec]) -> Job | None:
        """The next job for a worker that had `last` before, while other workers are busy with `others`.

        It stays with its operator, or gets one that nobody is busy with, or shares the one with the most jobs.
        """
        if not self._jobs:
            return None
        if last not in self._jobs:
            free = [op for op in self._jobs if op not in others]
            last = free[0] if free else max(self._jobs, key=lambda op: len(self._jobs[op]))
        assert last is not None
        queue = self._jobs[last]
        job = queue.popleft()
        if not queue:
            del self._jobs[last]
        return job
