"""Requests in flight, how urgent they are, and the slots of memory that bound their number."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Any

from ...errors import DeadlineError, KompiloError, UsageError

# Seconds that a class lets others go first: a request is as urgent as one that came so much later with none to give.
# As all age alike, none waits for ever.
PRIORITIES = {"interactive": 0.0, "normal": 0.5, "batch": 5.0}
# Slots that a class leaves to more urgent ones.
_LEFT_FREE = {"interactive": 0, "normal": 1, "batch": 2}
_MOST_DEADLINES = 256


@dataclass(eq=False)
class Request:
    """A request: its slot, the time (monotonic) of its deadline, and how far it is.

    `urgency` is a time; the least goes first. `missing` counts for each stage of the route those it waits for, `where`
    is the device that each was given to. `running` are stages that a worker has, `refused` devices that failed.
    """

    future: Future[Any]
    slot: int
    urgency: float
    deadline: float | None
    number: int = 0
    where: dict[int, int] = field(default_factory=dict)
    missing: dict[int, int] = field(default_factory=dict)
    left: int = 0
    running: int = 0
    refused: set[int] = field(default_factory=set)
    failures: int = 0
    over: bool = False

    def finish(self, result: Any = None, error: BaseException | None = None) -> None:
        """Answer the request, unless it was answered or cancelled before."""
        if self.over:
            return
        self.over = True
        if self.future.set_running_or_notify_cancel():
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)

    @property
    def urgent(self) -> bool:
        """Whether it cannot wait for the dispatcher's next look at the inbox: more urgent than others, or due."""
        return self.deadline is not None or self.urgency <= time.monotonic()

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self.over or self.future.cancelled()


class Deadlines:
    """Requests by the time that they have; those that are over are forgotten, as their results belong to others."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []

    @property
    def next(self) -> float:
        """The first deadline; infinite if there is none."""
        return self._heap[0][0] if self._heap else inf

    def add(self, request: Request) -> None:
        """Remember a request, if it has a deadline."""
        if request.deadline is None:
            return
        if len(self._heap) >= _MOST_DEADLINES:
            self._heap = [entry for entry in self._heap if not entry[2].over]
            heapify(self._heap)
        heappush(self._heap, (request.deadline, request.number, request))

    def due(self, now: float) -> list[Request]:
        """The requests that are too late; each is told once."""
        late = []
        while self._heap and self._heap[0][0] <= now:
            request = heappop(self._heap)[2]
            if not request.is_given_up:
                late.append(request)
        return late


class Slots:
    """Slots that are free, given out to the most urgent of those who wait."""

    def __init__(self, total: int) -> None:
        self._lock = threading.Lock()
        self._free = list(range(total))
        self._total = total
        self._waiting: list[tuple[float, int, _Waiter]] = []
        self._serial = count()
        self._closed: KompiloError | None = None

    def take(self, priority: str, urgency: float, deadline: float | None) -> int:
        """A slot, as soon as there is one.

        Raises:
            DeadlineError: there was none until `deadline` (monotonic).
        """
        waiter = _Waiter(min(_LEFT_FREE[priority], self._total - 1))
        with self._lock:
            heappush(self._waiting, (urgency, next(self._serial), waiter))
            self._serve()
        try:
            if waiter.slot is None:
                waiter.event.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except BaseException:  # Ctrl-C
            self._leave(waiter)
            if waiter.slot is not None:
                self.give(waiter.slot)
            raise
        self._leave(waiter)
        if waiter.slot is not None:
            return waiter.slot
        if self._closed is not None:
            raise self._closed
        raise DeadlineError("the deadline passed while the request waited for a place in the queue.")

    def _leave(self, waiter: _Waiter) -> None:
        """The waiter gets no slot any more, if it has none."""
        with self._lock:
            waiter.gone = waiter.slot is None

    def give(self, slot: int) -> None:
        """The slot is free again."""
        with self._lock:
            self._free.append(slot)
            self._serve()

    def close(self, error: KompiloError) -> None:
        """All who wait, now or later, get `error`."""
        with self._lock:
            self._closed = error
            for _, _, waiter in self._waiting:
                waiter.event.set()
            self._waiting.clear()

    def _serve(self) -> None:
        """Give slots to those who wait; one who must leave some free does not hold up those behind it who need not."""
        if self._closed is not None:
            for _, _, waiter in self._waiting:
                waiter.event.set()
            self._waiting.clear()
        held = []
        while self._free and self._waiting:
            entry = heappop(self._waiting)
            waiter = entry[2]
            if waiter.gone:
                continue
            if len(self._free) <= waiter.leaves:
                held.append(entry)
                continue
            waiter.slot = self._free.pop()
            waiter.event.set()
        for entry in held:
            heappush(self._waiting, entry)


class _Waiter:
    """One who waits for a slot, while `leaves` others stay free."""

    def __init__(self, leaves: int) -> None:
        self.leaves = leaves
        self.event = threading.Event()
        self.slot: int | None = None
        self.gone = False


def urgency_of(priority: str) -> float:
    """The urgency of a request that comes now. Raises UsageError for an unknown class."""
    if priority not in PRIORITIES:
        raise UsageError(f"priority: expected one of {', '.join(PRIORITIES)}, found {priority!r}.")
    return time.monotonic() + PRIORITIES[priority]


def deadline_of(seconds: float | None) -> float | None:
    """The time (monotonic) `seconds` from now. Raises UsageError unless it is a number above 0."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise UsageError(f"deadline: expected seconds above 0, found {seconds!r}.")
    return time.monotonic() + seconds


def closed() -> KompiloError:
    """What a request that is in flight at the end fails with."""
    return KompiloError("the pipeline was closed before the request was done.")
