"""The thread that gives stages to workers, takes their answers, and does again what one of them lost.

All state but the inbox belongs to this thread. A request is answered once, by `Request.finish`; its slot of memory is
free again when no worker has a stage of it any more. A worker that ends, or is silent for too long, is killed before
its stages are done elsewhere: nobody writes into a slot that was given to another request.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from math import inf

from ...errors import DeadlineError, DeviceError, KompiloError
from .messages import DONE, READY, Message
from .process import Given, State, WorkerProcess, no_device
from .requests import Deadlines, Request, Slots, closed
from .routes import Routes, quickest
from .times import StageTimes

# Stages that a worker has at a time: one that runs, and one so that it does not wait for us.
_DEPTH = 2
# Requests that are looked at for a route ahead of their turn, for each worker.
_WINDOW = 4
_TICK_S = 0.1
_MOST_FAILURES, _TRIES = 3, 4  # of a worker in a row; of a request, for each device
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0

Collect = Callable[[int], object]  # the result in a slot


class Dispatcher(threading.Thread):
    """Runs until `stop`; `accept` may be called from any thread.

    Args:
        workers: not started yet.
        routes, times: what may run where, and how long it takes.
        slots, collect: where slots go back to, and what makes the result of one.
        patience: seconds of silence after which a worker is taken for hanging.
    """

    def __init__(
        self,
        workers: Sequence[WorkerProcess],
        routes: Routes,
        times: StageTimes,
        slots: Slots,
        collect: Collect,
        patience: float,
    ) -> None:
        super().__init__(name="kompilo-dispatcher", daemon=True)
        self.workers, self.routes, self.times = list(workers), routes, times
        self._slots, self._collect, self._patience = slots, collect, patience
        self._inbox: deque[Request] = deque()
        self._open = threading.Lock()  # held while others wake the thread, and when it closes what they wake it by
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._pending: list[tuple[float, int, Request]] = []
        self._queues: list[list[tuple[float, int, Request, int]]] = [[] for _ in self.workers]
        self._deadlines = Deadlines()
        self._stranded: list[tuple[Request, int]] = []
        self._restarts: list[tuple[float, int]] = []
        self._serial = count(1)
        self._hungry = True
        self._stopping = threading.Event()
        self.counts = {"answered": 0, "failed": 0, "late": 0, "cancelled": 0, "repeated": 0}
        self.done = [0] * len(self.workers)
        self.busy = [0.0] * len(self.workers)

    def accept(self, request: Request) -> None:
        """Take a request, or look again at one that was cancelled."""
        with self._open:
            self._inbox.append(request)
            if self._wake < 0:
                if not request.number:
                    request.finish(error=closed())
            elif self._hungry or request.number or request.urgent:
                os.eventfd_write(self._wake, 1)

    def settled(self) -> bool:
        """Whether every worker is ready, or will not be started again."""
        return all(worker.state is State.READY or worker.is_lost for worker in self.workers)

    def stop(self) -> None:
        """End the workers and the thread; requests in flight fail."""
        self._stopping.set()
        with self._open:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self:
            self.join()

    def run(self) -> None:
        """The thread's work."""
        try:
            for worker in self.workers:
                self._start(worker)
            while not self._stopping.is_set():
                self._turn()
        finally:
            self._end()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._timeout()):
            if key.data is None:
                os.eventfd_read(self._wake)
            else:
                self._hear(key.data)
        while self._inbox:
            self._receive(self._inbox.popleft())
        self._look_at_clocks(time.monotonic())
        self._admit()
        # Being woken for requests that no worker has room for costs as much as the rest of what is done for them. Who
        # hands one in looks at this flag behind the inbox, and we at the inbox behind the flag: none is missed.
        self._hungry = any(worker.state is not State.READY or len(worker.given) < _DEPTH for worker in self.workers)

    def _timeout(self) -> float | None:
        if self._inbox:
            return 0.0
        next_time = min([self._deadlines.next, *(when for when, _ in self._restarts)])
        timeout = None if next_time == inf else max(0.0, next_time - time.monotonic())
        if any(worker.given or worker.state is State.STARTING for worker in self.workers):
            timeout = _TICK_S if timeout is None else min(timeout, _TICK_S)
        return timeout

    # Requests

    def _receive(self, request: Request) -> None:
        if request.number:
            self._give_up(request)  # it was cancelled
            return
        request.number = next(self._serial)
        if all(worker.is_lost for worker in self.workers):
            self._fail(request, no_device(self.workers))
        else:
            heappush(self._pending, (request.urgency, request.number, request))
            self._deadlines.add(request)

    def _admit(self) -> None:
        """Give routes to the requests that wait, the most urgent first, as far as their devices have room for more."""
        usable = [worker.state is State.READY for worker in self.workers]
        if not any(usable) or not self._pending:
            return
        ahead = [0.0] * len(self.workers)
        kept: list[tuple[float, int, Request]] = []
        now = time.monotonic()
        while self._pending and len(kept) < _WINDOW * len(self.workers):
            entry = heappop(self._pending)
            request = entry[2]
            if request.is_given_up:
                self._settle(request)
                continue
            if not any(ok and self._has_room(d, request) for d, ok in enumerate(usable)):
                kept.append(entry)  # nor is there any for the less urgent ones behind it
                break
            busy = [w.busy_for(request.urgency, now) + a for w, a in zip(self.workers, ahead, strict=True)]
            choice = self.routes.best(busy, usable, self.times)
            first = [n for n in self.routes.members[choice.route] if not self.routes.stages[n].before]
            if all(self._has_room(choice.where[n], request) for n in first):
                request.where = choice.where
                self._begin(request, choice.route, first)
            else:
                kept.append(entry)
                ahead = [a + end - start for a, end, start in zip(ahead, choice.busy, busy, strict=True)]
        for entry in kept:
            heappush(self._pending, entry)

    def _has_room(self, device: int, request: Request) -> bool:
        """Whether a device has a place for a request: those of less urgent ones do not count."""
        given = self.workers[device].given.values()
        as_urgent = sum(g.request.urgency <= request.urgency for g in given)
        return as_urgent + len(self._queues[device]) < _DEPTH

    def _begin(self, request: Request, route: int, first: Sequence[int]) -> None:
        members = self.routes.members[route]
        request.missing = {n: len(self.routes.stages[n].before) for n in members}
        request.left = len(members)
        for stage in first:
            self._give(request, stage)

    def _give(self, request: Request, stage: int) -> None:
        """A stage whose operands are there goes to its device, or to another if that is not ready or has failed."""
        if request.is_given_up:
            self._settle(request)
            return
        device = request.where[stage]
        if self.workers[device].state is not State.READY or device in request.refused:
            usable = self._usable_for(request)
            if usable is None:
                self._stranded.append((request, stage))
                return
            now = time.monotonic()
            busy = [worker.busy_for(request.urgency, now) for worker in self.workers]
            device = request.where[stage] = quickest(stage, busy, usable, self.times)
        worker = self.workers[device]
        if len(worker.given) >= _DEPTH and not self._has_room(device, request):
            heappush(self._queues[device], (request.urgency, next(self._serial), request, stage))
            return
        request.running += 1
        try:
            worker.run(next(self._serial), Given(request, stage, self.times.seconds(stage, device)))
        except OSError:
            self._down(worker, "it does not take work any more")

    def _usable_for(self, request: Request) -> list[bool] | None:
        """The devices that are ready, those that failed for this request only if no other is; None if none is ready."""
        ready = [worker.state is State.READY for worker in self.workers]
        fresh = [is_ready and d not in request.refused for d, is_ready in enumerate(ready)]
        if any(fresh):
            return fresh
        return ready if any(ready) else None

    def _stage_done(self, request: Request, stage: int) -> None:
        if request.is_given_up:
            self._settle(request)
            return
        request.left -= 1
        if not request.left:
            try:
                result = self._collect(request.slot)
            except MemoryError:
                self._fail(request, KompiloError("there is not enough memory for the model's results."))
                return
            self.counts["answered"] += 1
            request.finish(result)
            self._settle(request)
            return
        for follower in self.routes.stages[stage].after:
            request.missing[follower] -= 1
            if not request.missing[follower]:
                self._give(request, follower)

    def _again(self, request: Request, stage: int, device: int, problem: str) -> None:
        """Do a stage again that `device` did not do."""
        if request.is_given_up:
            self._settle(request)
            return
        request.failures += 1
        request.refused.add(device)
        if request.failures > _TRIES * len(self.workers):
            self._fail(request, DeviceError(f"every device failed to run the model: {problem}"))
            return
        self.counts["repeated"] += 1
        self._give(request, stage)

    def _fail(self, request: Request, error: KompiloError) -> None:
        if not request.is_given_up:
            self.counts["failed"] += 1
        request.finish(error=error)
        self._give_up(request)

    def _give_up(self, request: Request) -> None:
        """Nobody waits for a request any more: workers shall not begin what they have of it."""
        if not request.over and request.future.cancelled():
            self.counts["cancelled"] += 1
            request.over = True
        for worker in self.workers:
            worker.drop(request)
        self._settle(request)

    def _settle(self, request: Request) -> None:
        """Free the slot of a request that is over once no worker uses it."""
        if not request.over and request.future.cancelled():
            request.over = True
        if request.over and not request.running and request.slot >= 0:
            slot, request.slot = request.slot, -1
            self._slots.give(slot)

    # Workers

    def _start(self, worker: WorkerProcess) -> None:
        try:
            worker.start()
        except DeviceError as error:
            self._down(worker, error.message)
            return
        assert worker.end is not None, "a started worker has a socket"
        self._selector.register(worker.end, selectors.EVENT_READ, worker)

    def _hear(self, worker: WorkerProcess) -> None:
        end = worker.end
        for message in worker.messages():
            if worker.end is not end:
                return  # what was said before has ended it already
            if message is None:
                self._down(worker, worker.problem or "its process ended")
                return
            worker.heard = time.monotonic()
            if message.kind == READY:
                worker.state, worker.proved = State.READY, True
                self._retry_stranded()
            elif message.task:
                self._answered(worker, message)
            else:
                worker.problem = message.text  # it could not load the model, and ends
        self._refill(worker)

    def _answered(self, worker: WorkerProcess, message: Message) -> None:
        given = worker.given.pop(message.task, None)
        if given is None:
            return
        request = given.request
        request.running -= 1
        if message.kind == DONE:
            worker.failures = worker.restarts = 0
            self.done[worker.number] += 1
            self.busy[worker.number] += message.value
            self.times.note(given.stage, worker.number, message.value)
            self._stage_done(request, given.stage)
            return
        if request.is_given_up:
            self._settle(request)
            return
        worker.failures += 1
        worker.problem = message.text
        self._again(request, given.stage, worker.number, message.text)
        if worker.failures >= _MOST_FAILURES:
            self._down(worker, message.text)

    def _refill(self, worker: WorkerProcess) -> None:
        queue = self._queues[worker.number]
        while queue and worker.state is State.READY and len(worker.given) < _DEPTH:
            _, _, request, stage = heappop(queue)
            self._give(request, stage)

    def _down(self, worker: WorkerProcess, problem: str) -> None:
        """End a worker, have what it had done elsewhere, and start it again after a pause, unless that was in vain."""
        if worker.end is not None:
            self._selector.unregister(worker.end)
        lost = worker.stop()
        worker.problem = problem
        worker.failures = 0
        worker.restarts += 1
        if not worker.is_lost:
            pause = min(_FIRST_PAUSE_S * 2**worker.restarts, _LONGEST_PAUSE_S)
            self._restarts.append((time.monotonic() + pause, worker.number))
        queue, self._queues[worker.number] = self._queues[worker.number], []
        for given in lost:
            given.request.running -= 1
            self._again(given.request, given.stage, worker.number, f"{worker.device}: {problem}.")
        for _, _, request, stage in queue:
            self._give(request, stage)
        if all(other.is_lost for other in self.workers):
            self._fail_all(no_device(self.workers))

    def _retry_stranded(self) -> None:
        stranded, self._stranded = self._stranded, []
        for request, stage in stranded:
            self._give(request, stage)

    def _look_at_clocks(self, now: float) -> None:
        for request in self._deadlines.due(now):
            self.counts["late"] += 1
            request.finish(error=DeadlineError("the deadline passed before the model was done."))
            self._give_up(request)
        due = [number for when, number in self._restarts if when <= now]
        self._restarts = [(when, number) for when, number in self._restarts if when > now]
        for number in due:
            self._start(self.workers[number])
        for worker in self.workers:
            silence = worker.silence(now, self._patience)
            if silence is not None:
                self._down(worker, silence)

    # The end

    def _fail_all(self, error: KompiloError) -> None:
        """Fail every request that waits or is stranded; others fail with their workers."""
        waiting = [request for _, _, request in self._pending] + [request for request, _ in self._stranded]
        self._pending.clear()
        self._stranded.clear()
        for request in waiting:
            self._fail(request, error)

    def _end(self) -> None:
        error = closed()
        self._slots.close(error)
        with self._open:
            self._selector.close()
            os.close(self._wake)
            self._wake = -1
        waiting = [request for request in self._inbox if not request.number]
        for worker in self.workers:
            for given in worker.stop():
                given.request.running -= 1
                self._fail(given.request, error)
        for queue in self._queues:
            for _, _, request, _ in queue:
                self._fail(request, error)
        for request in waiting:
            self._fail(request, error)
        self._fail_all(error)
