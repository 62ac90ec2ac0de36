"""A discrete-event simulation of a plan: what runs where and when, and what that comes to.

- A device runs one stage at a time. Of those that can start it takes the one of the earliest request, and for one
  request the stages in the order of the plan.
- A link carries one transfer at a time each way, the earliest request's first; transfers overlap with computing.
- Of each tensor a device keeps those of at most `queue` requests: where it is made, from the start of the stage that
  makes it until it is sent and the stages of that device that read it are done; where it is sent to, from the start of
  the transfer until the last stage that reads it there is done. Without a place nothing starts: that is the
  back-pressure that bounds memory.
- Requests pass each stage in their order, so that the earliest unfinished one always finds places free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

from .layout import Channel, Layout, lay_out
from .outcome import Event, Simulation, outcome_of
from .plan import Plan
from .work import TimedWork

_STAGE_DONE, _LINK_FREE, _ARRIVED = range(3)


def simulate(
    work: TimedWork, plan: Plan, requests: int = 1, in_flight: int | None = None, trace: bool = False
) -> Simulation:
    """Run `requests` requests that are all there at the start, at most `in_flight` of them begun at a time.

    With `trace` the events are kept. Raises UsageError if the plan does not fit the work.
    """
    plan.check(work.graph, work.cluster)
    run = _Run(work, plan, requests, in_flight, trace)
    run.go()
    return outcome_of(work, plan, run)


def route_numbers(shares: Sequence[float], count: int) -> list[int]:
    """Which route each of `count` requests takes: always the one that is furthest behind its share."""
    taken = [0] * len(shares)
    chosen = []
    for k in range(count):
        best = max(range(len(shares)), key=lambda r: (shares[r] * (k + 1) - taken[r], -r))
        taken[best] += 1
        chosen.append(best)
    return chosen


class _Run:
    """The state of a simulation. An item is a micro-batch; items of one request follow each other."""

    def __init__(self, work: TimedWork, plan: Plan, requests: int, in_flight: int | None, trace: bool):
        self.parts = plan.micro_batches
        self.layout: Layout = lay_out(work, plan)
        self.queue = plan.queue
        self.routes = [r for r in route_numbers([r.share for r in plan.routes], requests) for _ in range(self.parts)]
        self.items = len(self.routes)
        self.window = self.items if in_flight is None else max(1, in_flight) * self.parts
        self.now = 0.0
        self.trace = trace
        self.events: list[Event] = []
        self.began, self.finished = [0.0] * self.items, [0.0] * self.items
        count = len(work.cluster.devices)
        self.device_busy, self.device_free = [0.0] * count, [True] * count
        self.ready: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        ways = self.layout.ways
        self.way_busy, self.way_free = [0.0] * ways, [True] * ways
        self.pending: list[dict[int, deque[tuple[int, float]]]] = [{} for _ in range(ways)]
        channels = self.layout.channels
        self.inbox, self.held = [0] * len(channels), [0] * self.layout.buffers
        self.most_waiting = 0
        self.memory = list(self.layout.weights)
        self.peak = list(self.memory)
        self._heap: list[tuple[float, int, int, int, int]] = []
        self._serial = 0
        self._missing: dict[int, list[int]] = {}
        self._left: dict[int, int] = {}
        self._readers: dict[tuple[int, int], int] = {}
        self._kept: dict[tuple[int, int], int] = {}
        self._previous = self._same_route()
        self._following = {p: i for i, p in enumerate(self._previous) if p is not None}
        self._admitted = 0
        self._done: set[int] = set()
        self._open = 0
        self._stirred_devices: set[int] = set()
        self._stirred_ways: set[int] = set()

    def _same_route(self) -> list[int | None]:
        last: dict[int, int] = {}
        found = []
        for item, route in enumerate(self.routes):
            found.append(last.get(route))
            last[route] = item
        return found

    def go(self) -> None:
        """Run until every item is finished."""
        self._admit()
        self._settle()
        while self._heap:
            self.now = self._heap[0][0]
            while self._heap and self._heap[0][0] == self.now:
                _, _, kind, item, what = heappop(self._heap)
                (self._stage_done, self._link_free, self._arrived)[kind](item, what)
            self._settle()
        if len(self._done) < self.items:
            raise RuntimeError(f"the simulation came to a halt with {self.items - len(self._done)} items unfinished")

    def _settle(self) -> None:
        """Start what can start now that all events of this moment are known."""
        while self._stirred_devices or self._stirred_ways:
            if self._stirred_ways:
                self._send(min(self._stirred_ways))
            else:
                self._dispatch(min(self._stirred_devices))

    def _at(self, when: float, kind: int, item: int, what: int) -> None:
        heappush(self._heap, (when, self._serial, kind, item, what))
        self._serial += 1

    def _admit(self) -> None:
        while self._admitted < self.items and self._open < self.window:
            item = self._admitted
            self._admitted += 1
            self._open += 1
            self.began[item] = self.now
            route = self.layout.routes[self.routes[item]]
            previous = self._previous[item]
            missing = list(route.missing)
            # The stages behind which this item still has to wait for the one before it on the route.
            waits = self._missing.get(previous, ()) if previous is not None else ()
            for k, left in enumerate(waits):
                missing[k] += left >= 0
            if previous in self._done:
                self._missing.pop(previous, None)
            self._missing[item] = missing
            self._left[item] = len(route.stages) + route.results
            for channel in route.sources:
                self._offer(item, channel)
            for k, left in enumerate(missing):
                if left == 0:
                    self._enqueue(item, k)

    def _enqueue(self, item: int, stage: int) -> None:
        device = self.layout.routes[self.routes[item]].stages[stage].device
        heappush(self.ready[device], (item, stage))
        self._stirred_devices.add(device)

    def _dispatch(self, device: int) -> None:
        """Start the earliest stage that is ready and has places for its results."""
        self._stirred_devices.discard(device)
        if not self.device_free[device]:
            return
        waiting = []
        while self.ready[device]:
            item, number = heappop(self.ready[device])
            stage = self.layout.routes[self.routes[item]].stages[number]
            if all(self.held[b.number] < self.queue for b in stage.makes):
                self._start(item, number, device)
                break
            waiting.append((item, number))
        for entry in waiting:
            heappush(self.ready[device], entry)

    def _start(self, item: int, number: int, device: int) -> None:
        stage = self.layout.routes[self.routes[item]].stages[number]
        self.device_free[device] = False
        for buffer in stage.makes:
            self._kept[item, buffer.number] = buffer.uses
            self.held[buffer.number] += 1
            self.most_waiting = max(self.most_waiting, self.held[buffer.number])
        self._allocate(device, stage.working + sum(b.size for b in stage.makes))
        self.device_busy[device] += stage.seconds
        if self.trace:
            self.events.append(Event("run", device, stage.label, item, self.now, self.now + stage.seconds))
        self._at(self.now + stage.seconds, _STAGE_DONE, item, number)

    def _stage_done(self, item: int, number: int) -> None:
        route = self.layout.routes[self.routes[item]]
        stage = route.stages[number]
        self.device_free[stage.device] = True
        self._missing[item][number] = -1
        self._allocate(stage.device, -stage.working)
        for buffer in stage.makes:
            if not buffer.uses:
                self._release(item, buffer.number, stage.device, buffer.size, 0)
        for buffer in stage.reads:
            self._release(item, buffer.number, stage.device, buffer.size, 1)
        for c in stage.receives:
            self._read(item, self.layout.channels[c])
        for c in stage.sends:
            self._offer(item, c)
        for follower in stage.followers:
            self._satisfy(item, follower)
        following = self._following.get(item)
        if following is not None and following < self._admitted:
            self._satisfy(following, number)
        self._finish(item)
        self._stirred_devices.add(stage.device)

    def _satisfy(self, item: int, stage: int) -> None:
        missing = self._missing[item]
        missing[stage] -= 1
        if missing[stage] == 0:
            self._enqueue(item, stage)

    def _release(self, item: int, buffer: int, device: int, size: float, uses: int) -> None:
        self._kept[item, buffer] -= uses
        if self._kept[item, buffer] <= 0:
            del self._kept[item, buffer]
            self.held[buffer] -= 1
            self._allocate(device, -size)
            self._stirred_devices.add(device)

    def _read(self, item: int, channel: Channel) -> None:
        key = item, channel.number
        self._readers[key] -= 1
        if not self._readers[key]:
            del self._readers[key]
            self._empty_inbox(channel)

    def _empty_inbox(self, channel: Channel) -> None:
        self.inbox[channel.number] -= 1
        self._allocate(channel.target, -channel.size if channel.counted else 0.0)
        self._stirred_ways.add(channel.way)

    def _offer(self, item: int, number: int) -> None:
        """The tensor of a channel is there to be sent."""
        way = self.layout.channels[number].way
        self.pending[way].setdefault(number, deque()).append((item, self.now))
        self._stirred_ways.add(way)

    def _send(self, way: int) -> None:
        """Start the earliest transfer whose receiver has a place for it."""
        self._stirred_ways.discard(way)
        if not self.way_free[way]:
            return
        able = [(waiting[0], c) for c, waiting in self.pending[way].items() if self.inbox[c] < self.queue]
        if able:
            (item, _), number = min(able)
            self.pending[way][number].popleft()
            if not self.pending[way][number]:
                del self.pending[way][number]
            self._transfer(item, self.layout.channels[number])

    def _transfer(self, item: int, channel: Channel) -> None:
        self.way_free[channel.way] = False
        self.inbox[channel.number] += 1
        self.most_waiting = max(self.most_waiting, self.inbox[channel.number])
        self._readers[item, channel.number] = channel.readers
        if channel.counted:
            self._allocate(channel.target, channel.size)
        self.way_busy[channel.way] += channel.seconds
        if self.trace:
            until = self.now + channel.seconds
            self.events.append(Event("transfer", channel.way, channel.label, item, self.now, until, channel.sent))
        self._at(self.now + channel.seconds, _LINK_FREE, item, channel.number)

    def _link_free(self, item: int, number: int) -> None:
        channel = self.layout.channels[number]
        self.way_free[channel.way] = True
        if channel.source_buffer is not None:
            self._release(item, channel.source_buffer.number, channel.source, channel.source_buffer.size, 1)
        self._at(self.now + channel.delay, _ARRIVED, item, number)
        self._stirred_ways.add(channel.way)

    def _arrived(self, item: int, number: int) -> None:
        channel = self.layout.channels[number]
        if channel.readers:
            for stage in channel.wakes:
                self._satisfy(item, stage)
        else:
            del self._readers[item, number]
            self._empty_inbox(channel)
            self._finish(item)

    def _finish(self, item: int) -> None:
        self._left[item] -= 1
        if self._left[item]:
            return
        self.finished[item] = self.now
        self._done.add(item)
        del self._left[item]
        following = self._following.get(item)
        if following is None or following < self._admitted:
            del self._missing[item]
        self._open -= 1
        self._admit()

    def _allocate(self, device: int, size: float) -> None:
        self.memory[device] += size
        if self.memory[device] > self.peak[device]:
            self.peak[device] = self.memory[device]
