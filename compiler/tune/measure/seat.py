"""A place for one worker at a time, and what its worker is doing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum

from ...schedule.op_spec import OpSpec
from .job import Job
from .process import WorkerProcess
from .protocol import Setup


class State(Enum):
    """What a worker is doing; the value says it in a sentence."""

    STARTING = "starting"
    IDLE = "waiting for work"
    PREPARING = "its operands and the result to compare with were made"
    BUILDING = "being built"
    RUNNING = "running"
    WAITING = "waiting for its turn"
    TIMING = "being timed"


@dataclass
class Seat:
    """One core with the worker that runs on it.

    `job` is what the worker is at; `again` a job that failed in a worker that others had used, for the next one;
    `jobs` how many this worker has begun; `failed_starts` how often in a row no worker came up.
    """

    setup: Setup
    process: WorkerProcess = field(init=False)
    state: State = State.STARTING
    since: float = 0.0
    deadline: float | None = None
    job: Job | None = None
    again: Job | None = None
    last: OpSpec | None = None
    jobs: int = 0
    failed_starts: int = 0
    _begun: float = 0.0
    _used: float = 0.0

    def start(self, timeout_s: float) -> None:
        """Start a worker."""
        self.process = WorkerProcess(self.setup)
        self.job, self.jobs, self.last = None, 0, None
        self.enter(State.STARTING, timeout_s)

    def enter(self, state: State, timeout_s: float | None = None) -> float:
        """Change the state, with a time limit or none; returns how long the last one has taken."""
        now = time.monotonic()
        lasted = now - self.since
        self.state, self.since = state, now
        if state in (State.PREPARING, State.BUILDING, State.TIMING):
            self._begun, self._used = now, self.process.processor_seconds()
        self.deadline = None if timeout_s is None else now + timeout_s
        return lasted

    def starved(self, most_s: float) -> bool:
        """Whether the worker has used less than half of the time since it began, though it wants to work.

        Others have then kept it from working; but after `most_s` seconds that is no excuse any more.
        """
        lasted = time.monotonic() - self._begun
        used = self.process.processor_seconds() - self._used
        return lasted < most_s and used < lasted / 2 and self.process.wants_processor()
