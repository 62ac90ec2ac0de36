"""A device's worker as the dispatcher sees it: a process, the socket to it, and the stages that it was given."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from ...errors import DeviceError
from ..core_sets import CoreSet
from .messages import DROP, RUN, Message, Orders, pack, receive, send_orders
from .requests import Request

_START_S = 120.0
# A worker is given up that is silent for the patience and so many times what its stages should take.
_TIMES_LONGER = 20
MOST_STARTS = 3


class State(Enum):
    """Whether a worker takes work."""

    STARTING = auto()
    READY = auto()
    DOWN = auto()


@dataclass(eq=False)
class Given:
    """A stage that a worker was given: the stage's number, what it is part of, and the seconds that it shall take."""

    request: Request
    stage: int
    seconds: float


class WorkerProcess:
    """The worker of `device` number `number`, which gets the open `files`; the dispatcher's thread alone uses it."""

    def __init__(self, number: int, device: CoreSet, orders: Orders, files: tuple[int, ...] = ()) -> None:
        self.number, self.device = number, device
        self._orders, self._files = orders, (orders.arena, *files)
        self.state = State.DOWN
        self.given: dict[int, Given] = {}
        self.heard = time.monotonic()
        self.started_at = 0.0
        self.failures = 0
        self.restarts = 0
        self.proved = False  # whether it was ready once
        self.problem = ""
        self.end: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's number; None while there is none."""
        return self._process.pid if self._process is not None else None

    def busy_for(self, urgency: float, now: float) -> float:
        """Seconds until what it has that is as urgent is done; what is less urgent lets others pass."""
        ahead = sum(given.seconds for given in self.given.values() if given.request.urgency <= urgency)
        return max(0.0, ahead - (now - self.heard)) if ahead else 0.0

    def start(self) -> None:
        """Start the process and tell it what to do. Raises DeviceError if the system has no room for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "kompilo.compiler.runtime.executor.worker", str(theirs.fileno())]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno(), *self._files]
                )
            self.end = ours
            send_orders(ours, self._orders)
        except OSError as error:
            ours.close()
            self.end = None
            raise DeviceError(f"its process cannot be started ({error.strerror or error})") from None
        ours.setblocking(False)
        self.state = State.STARTING
        self.started_at = self.heard = time.monotonic()

    def run(self, task: int, given: Given) -> None:
        """Give the worker a stage. Raises OSError if it does not take it."""
        assert self.end is not None, "stages go to workers that are ready"
        if not self.given:
            self.heard = time.monotonic()
        self.given[task] = given
        request = given.request
        self.end.send(pack(Message(RUN, task, request.slot, given.stage, request.urgency)))

    def drop(self, request: Request) -> None:
        """Tell the worker not to begin what it has of a request."""
        for task, given in self.given.items():
            if given.request is request and self.end is not None:
                with suppress(OSError):  # its end is noticed elsewhere
                    self.end.send(pack(Message(DROP, task)))

    def silence(self, now: float, patience: float) -> str | None:
        """How long the worker has not answered, in words, if that is too long."""
        if self.state is State.STARTING and now - self.started_at > _START_S:
            return f"it was not ready after {_START_S:.0f} s"
        if self.state is State.READY and self.given:
            longest = max(given.seconds for given in self.given.values())
            if now - self.heard > patience + _TIMES_LONGER * longest:
                return f"it did not answer for {now - self.heard:.1f} s"
        return None

    @property
    def is_lost(self) -> bool:
        """Whether a worker that never was ready was started so often that it will not be started again."""
        return self.state is State.DOWN and not self.proved and self.restarts > MOST_STARTS

    def messages(self) -> list[Message | None]:
        """What the worker has said since; None as the last where the socket has ended."""
        found: list[Message | None] = []
        while self.end is not None:
            try:
                found.append(receive(self.end))
            except BlockingIOError:
                return found
            except OSError:
                found.append(None)
            if found[-1] is None:
                return found
        return found

    def stop(self) -> list[Given]:
        """End the process at once; returns the stages that it still had."""
        if self.end is not None:
            self.end.close()
            self.end = None
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        self.state = State.DOWN
        lost, self.given = list(self.given.values()), {}
        return lost


def no_device(workers: Sequence[WorkerProcess]) -> DeviceError:
    """That none of `workers` could be started, and why."""
    told = "; ".join(f"{worker.device}: {worker.problem}" for worker in workers)
    return DeviceError(f"no device is left to run the model ({told}).")
