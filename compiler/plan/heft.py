"""HEFT: heterogeneous earliest finish time, with insertion (Topcuoglu, Hariri and Wu 2002).

Nodes are placed in the order of their upward rank (the longest way from them to the end, in mean times), each on the
device where it finishes first, in the earliest gap there that holds it. Transfers take turns on their links; a tensor
goes to a device once. A device without room for a node's weights is passed over.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from .plan import Narrow, Stage, sent_bytes, stages_of
from .work import INPUT, TimedWork

Slot = tuple[float, float]


@dataclass(frozen=True)
class Placement:
    """A device for each node, and the order in which they start."""

    devices: tuple[int, ...]
    order: tuple[int, ...]

    def stages(self) -> tuple[Stage, ...]:
        """A stage for each node."""
        return stages_of(self.devices, self.order)


def heft(work: TimedWork, allowed: Sequence[int], room: Sequence[float], narrow: Narrow = ()) -> Placement | None:
    """A placement on the devices `allowed`, which have `room` bytes for weights each; None if they do not hold them.

    `narrow` is as in a plan.
    """
    state = _State(work, room, narrow)
    ranks = _upward_ranks(work, allowed)
    for node in sorted(range(len(work.graph.nodes)), key=lambda n: (-ranks[n], n)):
        options = [state.option(node, d) for d in allowed if state.room[d] >= work.graph.nodes[node].weight_bytes]
        if not options:
            return None
        state.place(node, min(options, key=lambda o: (o.finish, o.device)))
    order = sorted(range(len(ranks)), key=lambda n: (state.start[n], state.finish[n], -ranks[n], n))
    return Placement(tuple(state.device), _possible(work, order))


def _possible(work: TimedWork, wanted: Sequence[int]) -> tuple[int, ...]:
    """`wanted`, with nodes that take no time behind what they need."""
    place = {n: k for k, n in enumerate(wanted)}
    done: list[int] = []
    seen: set[int] = set()

    def visit(node: int) -> None:
        if node not in seen:
            seen.add(node)
            for before in sorted(work.graph.predecessors(node), key=place.__getitem__):
                visit(before)
            done.append(node)

    for node in wanted:
        visit(node)
    return tuple(done)


def _upward_ranks(work: TimedWork, allowed: Sequence[int]) -> list[float]:
    graph, cluster = work.graph, work.cluster
    mean = work.durations()[:, list(allowed)].mean(axis=1)
    pairs = [(a, b) for a in allowed for b in allowed if a != b]
    links = [cluster.joined(a, b).link for a, b in pairs]
    # Of two nodes all choices of devices are as likely; on the same one nothing is sent.
    part = 1 / len(allowed) ** 2
    per_byte = part * sum(1 / link.bytes_per_s for link in links)
    latency = part * sum(link.latency_s for link in links)
    ranks = [0.0] * len(graph.nodes)
    for node in reversed(range(len(graph.nodes))):
        onwards = [
            graph.values[v].size * per_byte + latency + ranks[c]
            for v in graph.outputs_of[node]
            for c in graph.values[v].consumers
        ]
        ranks[node] = float(mean[node]) + max(onwards, default=0.0)
    return ranks


@dataclass(frozen=True)
class _Option:
    device: int
    start: float
    finish: float
    sent: tuple[tuple[int, float, float], ...]  # value, when its link begins, when it is there


class _State:
    def __init__(self, work: TimedWork, room: Sequence[float], narrow: Narrow):
        self.work, self.room, self.narrow = work, list(room), dict(narrow)
        self.durations = work.durations().tolist()
        count = len(work.graph.nodes)
        self.device, self.start, self.finish = [0] * count, [0.0] * count, [0.0] * count
        self.slots: list[list[Slot]] = [[] for _ in work.cluster.devices]
        self.there: dict[tuple[int, int], float] = {}
        self.link_free: dict[tuple[str, bool], float] = {}

    def option(self, node: int, device: int) -> _Option:
        """When `node` could run on `device`."""
        ready, sent = 0.0, []
        free = dict[tuple[str, bool], float]()
        for number in self.work.graph.inputs_of[node]:
            value = self.work.graph.values[number]
            source = self.work.cluster.entry_index if value.producer == INPUT else self.device[value.producer]
            made = 0.0 if value.producer == INPUT else self.finish[value.producer]
            if source in (None, device):
                ready = max(ready, made)
            elif (number, device) in self.there:
                ready = max(ready, self.there[number, device])
            elif source is not None:
                way = self.work.cluster.joined(source, device)
                begin = max(made, free.get(way.resource, self.link_free.get(way.resource, 0.0)))
                narrowed = self.narrow.get(way.link.name)
                end = begin + sent_bytes(value, narrowed) / way.link.bytes_per_s
                free[way.resource] = end
                sent.append((number, end, end + way.link.latency_s))
                ready = max(ready, end + way.link.latency_s)
        takes = self.durations[node][device]
        start = _gap(self.slots[device], ready, takes)
        return _Option(device, start, start + takes, tuple(sent))

    def place(self, node: int, option: _Option) -> None:
        """Put `node` where `option` says."""
        self.device[node], self.start[node], self.finish[node] = option.device, option.start, option.finish
        self.room[option.device] -= self.work.graph.nodes[node].weight_bytes
        insort(self.slots[option.device], (option.start, option.finish))
        for number, end, there in option.sent:
            value = self.work.graph.values[number]
            source = self.work.cluster.entry_index if value.producer == INPUT else self.device[value.producer]
            assert source is not None
            self.link_free[self.work.cluster.joined(source, option.device).resource] = end
            self.there[number, option.device] = there


def _gap(slots: Sequence[Slot], ready: float, takes: float) -> float:
    """The earliest moment from `ready` on at which nothing in `slots` (ascending) runs for `takes` seconds."""
    start = ready
    for begin, end in slots:
        if start + takes <= begin:
            return start
        start = max(start, end)
    return start
