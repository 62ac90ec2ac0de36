"""A plan made ready for simulation: stages with what they wait for, and a channel for each tensor that is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .cluster import Cluster
from .grouping import inner_peak
from .plan import Plan, Route, sent_bytes
from .work import INPUT, TimedWork, Value


@dataclass(frozen=True)
class Buffer:
    """A tensor where it was made: `uses` stages and transfers read it there."""

    number: int
    size: float
    uses: int


@dataclass
class Channel:
    """A tensor's way from one device to another on one route.

    `seconds` it keeps the way number `way` busy with `sent` bytes, `delay` seconds later it is there. `readers` stages
    read it there, and wait for it (`wakes`); 0 for results. `counted`: it takes memory of the target, `size` bytes.
    """

    number: int
    way: int
    source: int
    target: int
    size: float
    sent: float
    seconds: float
    delay: float
    label: str
    wakes: tuple[int, ...] = ()
    counted: bool = True
    source_buffer: Buffer | None = None

    @property
    def readers(self) -> int:
        """How many stages read it."""
        return len(self.wakes)


@dataclass
class LaidStage:
    """A stage: `makes` are buffers that outlive it, `reads` those of its device that it reads."""

    device: int
    seconds: float
    working: float
    label: str
    makes: list[Buffer] = field(default_factory=list)
    reads: list[Buffer] = field(default_factory=list)
    sends: list[int] = field(default_factory=list)
    receives: list[int] = field(default_factory=list)
    followers: list[int] = field(default_factory=list)


@dataclass
class LaidRoute:
    """A route: `missing` counts what each stage waits for, `sources` are channels from the caller, `results` to it."""

    stages: list[LaidStage]
    missing: list[int]
    sources: list[int]
    results: int


@dataclass
class Layout:
    """All routes, channels and ways (`way_names` by number), the bytes of weights on each device, and how many buffers
    there are."""

    routes: list[LaidRoute]
    channels: list[Channel]
    way_names: list[str]
    weights: list[float]
    buffers: int

    @property
    def ways(self) -> int:
        """How many ways are in use."""
        return len(self.way_names)


def lay_out(work: TimedWork, plan: Plan) -> Layout:
    """`plan`, which fits `work`, as the simulator takes it."""
    graph = work.graph
    weights = [sum(graph.nodes[n].weight_bytes for n in plan.nodes_on(d)) for d in range(len(work.cluster.devices))]
    maker = _Maker(work, plan)
    routes = [maker.route(r) for r in plan.routes]
    return Layout(routes, maker.channels, maker.names, weights, maker.buffers)


class _Maker:
    def __init__(self, work: TimedWork, plan: Plan):
        self.work, self.plan = work, plan
        self.durations = work.durations(plan.micro_batches).tolist()
        self.narrow = dict(plan.narrow)
        self.channels: list[Channel] = []
        self.names: list[str] = []
        self.buffers = 0
        self._ways: dict[tuple[str, bool], int] = {}

    def route(self, route: Route) -> LaidRoute:
        graph, parts = self.work.graph, self.plan.micro_batches
        stages = [
            LaidStage(
                s.device,
                sum(self.durations[n][s.device] for n in s.nodes),
                inner_peak(graph, s.nodes) / parts,
                graph.nodes[s.nodes[0]].name if s.nodes else "",
            )
            for s in route.stages
        ]
        place = {n: k for k, s in enumerate(route.stages) for n in s.nodes}
        waits: list[set[int]] = [set() for _ in stages]
        for k, earlier in _previous_on_device(route):
            waits[k].add(earlier)
        laid = LaidRoute(stages, [], [], 0)
        for value in graph.values:
            self._value(value, laid, place, waits)
        for k, earlier_ones in enumerate(waits):
            for earlier in earlier_ones:
                stages[earlier].followers.append(k)
        laid.missing = [len(w) + len(s.receives) for w, s in zip(waits, stages, strict=True)]
        return laid

    def _value(self, value: Value, laid: LaidRoute, place: dict[int, int], waits: list[set[int]]) -> None:
        """What becomes of one tensor."""
        entry = self.work.cluster.entry_index
        origin = None if value.producer == INPUT else place[value.producer]
        readers = sorted({place[c] for c in value.consumers} - {origin})
        source = entry if origin is None else laid.stages[origin].device
        if source is None:
            return  # inputs are where they are needed
        by_device: dict[int, list[int]] = {}
        for reader in readers:
            by_device.setdefault(laid.stages[reader].device, []).append(reader)
        local = by_device.pop(source, [])
        returns = value.is_result and entry not in (None, source)
        size = value.size / self.plan.micro_batches
        buffer = None
        if origin is not None and (readers or value.is_result):
            buffer = Buffer(self.buffers, size, len(local) + len(by_device) + returns)
            self.buffers += 1
            laid.stages[origin].makes.append(buffer)
            for reader in local:
                waits[reader].add(origin)
                laid.stages[reader].reads.append(buffer)
        for device, there in by_device.items():
            self._send(value, laid, origin, source, device, buffer, tuple(there))
        if returns and entry is not None:
            self._send(value, laid, origin, source, entry, buffer, ())
            laid.results += 1

    def _send(
        self,
        value: Value,
        laid: LaidRoute,
        origin: int | None,
        source: int,
        target: int,
        buffer: Buffer | None,
        readers: tuple[int, ...],
    ) -> None:
        size = value.size / self.plan.micro_batches
        way = self.work.cluster.joined(source, target)
        sent = sent_bytes(value, self.narrow.get(way.link.name)) / self.plan.micro_batches
        delay = way.link.latency_s
        if sent < size:  # a conversion reads and writes the tensor once on either side
            devices = self.work.cluster.devices
            delay += (size + sent) * (1 / devices[source].bytes_per_s + 1 / devices[target].bytes_per_s)
        number = len(self.channels)
        label = "input" if origin is None else laid.stages[origin].label
        channel = Channel(
            number, self._way(source, target), source, target, size, sent, sent / way.link.bytes_per_s, delay, label,
            readers, bool(readers), buffer,
        )  # fmt: skip
        self.channels.append(channel)
        for reader in readers:
            laid.stages[reader].receives.append(number)
        (laid.sources if origin is None else laid.stages[origin].sends).append(number)

    def _way(self, source: int, target: int) -> int:
        way = self.work.cluster.joined(source, target)
        if way.resource not in self._ways:
            self._ways[way.resource] = len(self.names)
            self.names.append(_way_name(self.work.cluster, source, target))
        return self._ways[way.resource]


def _previous_on_device(route: Route) -> Sequence[tuple[int, int]]:
    last: dict[int, int] = {}
    found = []
    for k, stage in enumerate(route.stages):
        if stage.device in last:
            found.append((k, last[stage.device]))
        last[stage.device] = k
    return found


def _way_name(cluster: Cluster, source: int, target: int) -> str:
    """ "one-two >" and "one-two <" for the two directions of a link, the bare name for a bus."""
    way = cluster.joined(source, target)
    return way.link.name if way.link.shared else f"{way.link.name} {'>' if way.forward else '<'}"
