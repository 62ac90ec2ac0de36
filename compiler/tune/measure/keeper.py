"""The thread that keeps workers busy, one of them timing at any moment, and replaces those that die.

The thread that starts a process must outlive it, since the system kills workers when that thread ends: so one thread
starts them all, watches them, and ends with the pool.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Any

from ...device_code import Usage
from ...errors import KompiloError
from ...schedule.op_spec import OpSpec
from ..record import UNCHECKED, Measurement
from .job import Job
from .limits import OUT_OF_MEMORY
from .pace import SHARED, Reading
from .protocol import Setup, job_to_json
from .queue import JobQueue
from .seat import Seat, State

Result = tuple[Job, Measurement]

# Imports of TVM on a busy machine.
START_TIMEOUT_S = 120.0
# To make operands, and the result to compare with, once for an operator in each worker.
PREPARE_TIMEOUT_S = 120.0
MOST_FAILED_STARTS = 3
# A machine so busy that a worker gets less than half of a core lengthens its time limit up to this many times.
PATIENCE = 4
# How long a timing waits for its core to be free of other programs. When that was in vain it waits half as long the
# next time, down to the least.
LONGEST_WAIT_S, LEAST_WAIT_S = 0.4, 0.02
ENOUGH_READINGS = 10
# What another candidate may have caused by writing where it should not: such a failure must show in a fresh worker.
_SUSPICIOUS = ("crashed", "wrong_result", "run_failed", "out_of_memory", UNCHECKED)
# What a worker is at when it says that a phase begins.
_BEFORE = {"operands": State.BUILDING, "build": State.PREPARING, "run": State.BUILDING}


class Keeper(threading.Thread):
    """Runs jobs put into `inbox` on one worker for each of `setups` and puts what came of them into `outbox`.

    An exception in the outbox is the end: no worker could be started. `usual` is the reference's usual reading
    if that is known from earlier.
    """

    def __init__(self, setups: list[Setup], timeout_s: float, leak_limit: int, usual: Reading | None = None):
        super().__init__(name="kompilo-measure", daemon=True)
        self.inbox: SimpleQueue[Job] = SimpleQueue()
        self.outbox: SimpleQueue[Result | BaseException] = SimpleQueue()
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._timeout_s, self._leak_limit = timeout_s, leak_limit
        self._seats = [Seat(setup) for setup in setups]
        self._tried: dict[int, Reading] = {}
        self._usual = usual
        self._patience_s = LONGEST_WAIT_S
        self._best: dict[tuple[OpSpec, str], float] = {}
        self._unchecked: dict[OpSpec, str] = {}
        self._queue = JobQueue()
        self._waiting: deque[Seat] = deque()
        self._timing: Seat | None = None
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)

    @property
    def usual(self) -> Reading | None:
        """The reference's usual reading; None until all workers have tried it."""
        return self._usual

    def wake(self) -> None:
        """Have the inbox looked at."""
        os.write(self._wake_out, b"x")

    def stop(self) -> None:
        """Kill all workers and end."""
        self._closing = True
        self.wake()
        self.join()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def run(self) -> None:
        """Serve until `stop`, or until no worker can be started."""
        try:
            for seat in self._seats:
                self._start(seat)
            while not self._closing:
                self._turn()
        except BaseException as error:
            self.outbox.put(error)
        finally:
            for seat in self._seats:
                if hasattr(seat, "process"):
                    seat.process.kill()
            self._selector.close()

    def _turn(self) -> None:
        """Hand out work, then wait for the next event."""
        while True:
            try:
                self._queue.add(self.inbox.get_nowait())
            except Empty:
                break
        for seat in self._seats:
            if seat.state is State.IDLE:
                self._assign(seat)
        self._grant()
        deadlines = [seat.deadline for seat in self._seats if seat.deadline is not None]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                os.read(self._wake_in, 1 << 12)
            elif key.fileobj is key.data.process:
                self._listen(key.data)
        for seat in self._seats:
            if seat.deadline is not None and time.monotonic() >= seat.deadline:
                self._expire(seat)

    # Work.

    def _assign(self, seat: Seat) -> None:
        job, seat.again = seat.again, None
        if job is None:
            others = {s.last for s in self._seats if s is not seat and s.last is not None}
            job = self._queue.take(seat.last, others)
        if job is None:
            return
        if job.op in self._unchecked:
            self.outbox.put((job, Measurement(UNCHECKED, reason=self._unchecked[job.op], cache=job.cache)))
            self.wake()
            return
        self.spent["idle"] += seat.enter(State.BUILDING, self._timeout_s)
        seat.job, seat.last = job, job.op
        seat.jobs += 1
        seat.process.send({"do": "prepare", "job": job_to_json(job)})

    def _grant(self) -> None:
        """Let the worker that has waited longest time its candidate, if no other does."""
        if self._timing is None and self._waiting and self._usual is not None:
            self._timing = seat = self._waiting.popleft()
            self.spent["wait"] += seat.enter(State.TIMING, self._timeout_s)
            assert seat.job is not None
            rival = self._best.get((seat.job.op, seat.job.cache))
            request = {"do": "time", "usual": asdict(self._usual), "rival": rival, "patience": self._patience_s}
            seat.process.send(request)

    # What workers say.

    def _listen(self, seat: Seat) -> None:
        process = seat.process
        try:
            messages = process.receive()
        except ValueError as error:
            self._fail(seat, "crashed", f"answered with {error} while {seat.state.value}.", dead=True)
            return
        if messages is None:
            self._bury(seat)
            return
        for message in messages:
            if seat.process is not process:
                return  # the message before was the worker's last
            self._on_message(seat, message)

    def _on_message(self, seat: Seat, message: dict[str, Any]) -> None:
        handlers: dict[str, tuple[State, Callable[[Seat, dict[str, Any]], None]]] = {
            "ready": (State.STARTING, self._on_ready),
            "phase": (_BEFORE.get(str(message.get("phase")), State.IDLE), self._on_phase),
            "checked": (State.RUNNING, self._on_checked),
            "timed": (State.TIMING, self._on_timed),
            "failed": (seat.state, self._on_failed),
        }
        key = next((k for k in handlers if k in message), None)
        if key is None or seat.state is not handlers[key][0]:
            self._fail(seat, "crashed", f"answered out of turn while {seat.state.value}.", dead=True)
            return
        try:
            for part, seconds in message.pop("spent", {}).items():
                self.spent[str(part)] += float(seconds)
            handlers[key][1](seat, message)
        except (AttributeError, KeyError, TypeError, ValueError):  # a candidate writes where only its worker should
            self._fail(seat, "crashed", f"answered with nonsense while {seat.state.value}.", dead=True)

    def _on_ready(self, seat: Seat, message: dict[str, Any]) -> None:
        seat.failed_starts = 0
        self._tried[seat.setup.core] = Reading(**message["usual"])
        # Set once all workers have tried, and hardly ever changed thereafter: times of a session can be compared.
        if self._usual is None and all(s is seat or s.state is not State.STARTING for s in self._seats):
            self._usual = min(self._tried.values(), key=lambda reading: reading.ratio)
        self.spent["start"] += seat.enter(State.IDLE)

    def _on_phase(self, seat: Seat, message: dict[str, Any]) -> None:
        assert seat.deadline is not None
        if message["phase"] == "operands":
            seat.enter(State.PREPARING, PREPARE_TIMEOUT_S)
        elif message["phase"] == "build":
            seat.enter(State.BUILDING, self._timeout_s)
        else:
            seat.enter(State.RUNNING, seat.deadline - time.monotonic())

    def _on_checked(self, seat: Seat, _: dict[str, Any]) -> None:
        seat.enter(State.WAITING)
        self._waiting.append(seat)

    def _on_timed(self, seat: Seat, message: dict[str, Any]) -> None:
        timed, job = message["timed"], seat.job
        assert job is not None
        usage = Usage.from_json(message["usage"]) if message["usage"] else None
        measurement = Measurement(status="ok", cache=job.cache, usage=usage, **timed)
        self._learn_pace(Reading(**message["pace"]), int(message["readings"]), measurement.alone)
        key = job.op, job.cache
        if measurement.alone:  # others would be beaten by what only looks fast
            self._best[key] = min(timed["seconds"], self._best.get(key, timed["seconds"]))
        self._finish(seat, measurement)
        if message["leaked"] > self._leak_limit:
            self._restart(seat)

    def _learn_pace(self, pace: Reading, readings: int, alone: bool) -> None:
        """A ratio far below the usual tells that other programs were at work when that was taken.

        A few readings do not: where the clock changes between product and chain, their ratio means nothing.
        """
        assert self._usual is not None
        if readings >= ENOUGH_READINGS and pace.ratio * SHARED < self._usual.ratio:
            self._usual = pace
        self._patience_s = LONGEST_WAIT_S if alone else max(LEAST_WAIT_S, self._patience_s / 2)

    def _on_failed(self, seat: Seat, message: dict[str, Any]) -> None:
        self._fail(seat, message["failed"], message["reason"], message.get("error"))

    # What goes wrong.

    def _bury(self, seat: Seat) -> None:
        """A worker has died."""
        how, words = seat.process.cause_of_death()
        if seat.state is State.STARTING or seat.job is None:
            self._failed_start(seat, how, words)
            return
        full = any(w in words.lower() for w in OUT_OF_MEMORY)
        status = UNCHECKED if seat.state is State.PREPARING else "out_of_memory" if full else "crashed"
        self._fail(seat, status, f"{how} while {seat.state.value}" + (f": {words}" if words else "."), dead=True)

    def _expire(self, seat: Seat) -> None:
        if seat.state is State.STARTING:
            self._failed_start(seat, f"not ready after {START_TIMEOUT_S:g} s", "")
        elif seat.starved(PATIENCE * self._timeout_s):
            seat.deadline = time.monotonic() + self._timeout_s / 2
        else:
            lasted = time.monotonic() - seat.since
            status = UNCHECKED if seat.state is State.PREPARING else "timed_out"
            self._fail(seat, status, f"no end after {lasted:.0f} s while {seat.state.value}.", dead=True)

    def _fail(self, seat: Seat, status: str, reason: str, error: float | None = None, dead: bool = False) -> None:
        """The candidate of `seat` has failed; one that others may have harmed gets a second try in a fresh worker."""
        job = seat.job
        if job is None:
            self._restart(seat)
            return
        if status in _SUSPICIOUS and seat.jobs > 1:
            seat.job, seat.again, dead = None, job, True
        else:
            if status == UNCHECKED:
                self._unchecked[job.op] = reason
            self._finish(seat, Measurement(status=status, error=error, reason=reason, cache=job.cache))
        if dead:
            self._restart(seat)

    def _finish(self, seat: Seat, measurement: Measurement) -> None:
        assert seat.job is not None
        self.outbox.put((seat.job, measurement))
        self._release(seat)
        seat.job = None
        seat.enter(State.IDLE)

    def _failed_start(self, seat: Seat, how: str, words: str) -> None:
        seat.failed_starts += 1
        if seat.failed_starts >= MOST_FAILED_STARTS:
            raise KompiloError(f"no worker process for {seat.setup.target} could be started: {how}: {words}")
        self._restart(seat)

    def _release(self, seat: Seat) -> None:
        """Take `seat` out of the turn of those who time."""
        if self._timing is seat:
            self._timing = None
        if seat in self._waiting:
            self._waiting.remove(seat)

    def _restart(self, seat: Seat) -> None:
        self._release(seat)
        self._selector.unregister(seat.process)
        seat.process.kill()
        self._start(seat)

    def _start(self, seat: Seat) -> None:
        seat.start(START_TIMEOUT_S)
        self._selector.register(seat.process, selectors.EVENT_READ, seat)
