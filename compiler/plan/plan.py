"""A plan: which device runs which operators, in which order, for which part of the requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .cluster import Cluster
from .work import INPUT, TimedWork, Value, WorkGraph

# What float32 tensors may be sent as: (bytes for each of four, error relative to the tensor's largest element).
# float16 rounds to 11 bits; int8 has 127 steps up to the largest, and is half a step off at most.
WIDE = "float32"
NARROW = {"float16": (0.5, 2.0**-11), "int8": (0.25, 0.5 / 127)}


# (link, type) pairs.
Narrow = tuple[tuple[str, str], ...]


def sent_bytes(value: Value, dtype: str | None) -> float:
    """Bytes of a tensor on a link that narrows to `dtype`; None if it does not."""
    return value.size * (NARROW[dtype][0] if dtype and value.dtype == WIDE else 1.0)


@dataclass(frozen=True)
class Stage:
    """Nodes that a device runs one after another for a request; results leave when the last one is done."""

    device: int
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Route:
    """All nodes of the graph in stages, listed in an order in which they can run; `share` of the requests go this way.

    Of several stages on one device the earlier is run first for a request.
    """

    stages: tuple[Stage, ...]
    share: float = 1.0

    @property
    def devices(self) -> tuple[int, ...]:
        """The devices in use, in the order of first use."""
        return tuple(dict.fromkeys(s.device for s in self.stages))


@dataclass(frozen=True)
class Plan:
    """Routes whose shares add up to 1.

    A request is divided into `micro_batches` equal parts. Of each tensor a device keeps those of `queue` parts at
    most. Over the links named in `narrow` float32 tensors go as the type named with it.
    """

    routes: tuple[Route, ...]
    micro_batches: int = 1
    queue: int = 2
    narrow: Narrow = ()

    @property
    def devices(self) -> tuple[int, ...]:
        """The devices in use, ascending."""
        return tuple(sorted({d for r in self.routes for d in r.devices}))

    def nodes_on(self, device: int) -> tuple[int, ...]:
        """The nodes that `device` runs for some request, ascending: whose weights it holds."""
        return tuple(sorted({n for r in self.routes for s in r.stages if s.device == device for n in s.nodes}))

    def check(self, graph: WorkGraph, cluster: Cluster) -> None:
        """Raises UsageError unless every route runs every node once, in a possible order, on devices that exist."""
        if self.micro_batches < 1 or self.queue < 1:
            found = f"{self.micro_batches} and {self.queue}"
            raise UsageError(f"plan: expected at least 1 micro-batch and places in queues, found {found}.")
        if (
            not self.routes
            or any(r.share < 0 for r in self.routes)
            or abs(sum(r.share for r in self.routes) - 1) > 1e-6
        ):
            raise UsageError(f"plan: expected shares that add up to 1, found {[r.share for r in self.routes]}.")
        for dtype in dict(self.narrow).values():
            if dtype not in NARROW:
                raise UsageError(f"plan: expected to narrow to one of {', '.join(NARROW)}, found {dtype!r}.")
        for route in self.routes:
            _check_route(route, graph, cluster)


def _check_route(route: Route, graph: WorkGraph, cluster: Cluster) -> None:
    place = {n: k for k, stage in enumerate(route.stages) for n in stage.nodes}
    listed = sum(len(s.nodes) for s in route.stages)
    if sorted(place) != list(range(len(graph.nodes))) or listed != len(place):
        raise UsageError(f"plan: expected {len(graph.nodes)} operators once on each route, found {listed} of them.")
    for stage in route.stages:
        if not 0 <= stage.device < len(cluster.devices) or list(stage.nodes) != sorted(stage.nodes):
            raise UsageError(f"plan: expected stages of ascending operators on known devices, found {stage}.")
    for value in graph.values:
        for consumer in value.consumers:
            if value.producer != INPUT and place[value.producer] > place[consumer]:
                names = graph.nodes[value.producer].name, graph.nodes[consumer].name
                raise UsageError(f"plan: expected {names[0]!r} to run before {names[1]!r}, found it behind.")


def alone(work: TimedWork, device: int) -> Plan:
    """The whole model on one device."""
    return Plan((Route((Stage(device, tuple(range(len(work.graph.nodes)))),)),))


def stages_of(assigned: Sequence[int], order: Sequence[int] | None = None) -> tuple[Stage, ...]:
    """A stage for each node, on the devices `assigned`, run in `order`."""
    return tuple(Stage(assigned[n], (n,)) for n in (range(len(assigned)) if order is None else order))


def equal_split(work: TimedWork, devices: Sequence[int] | None = None) -> Plan:
    """A pipeline over the devices in their order, with about as many operations for each: what one does by hand."""
    graph = work.graph
    devices = range(len(work.cluster.devices)) if devices is None else devices
    flops = [n.flops or 1.0 for n in graph.nodes]
    total, done = sum(flops), 0.0
    parts: list[list[int]] = [[] for _ in devices]
    for node, amount in enumerate(flops):
        middle = (done + amount / 2) / total
        parts[min(int(middle * len(parts)), len(parts) - 1)].append(node)
        done += amount
    return Plan((Route(tuple(Stage(d, tuple(p)) for d, p in zip(devices, parts, strict=True) if p)),))
