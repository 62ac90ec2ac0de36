"""Plans for devices of this machine: each piece of an artifact is timed on each device, and the plan is run and timed.

The planners and the simulator are those of described clusters; what is measured takes the place of descriptions. What a
plan was predicted to give is compared with what it gives, and the best single device, run as well, is taken instead
where it is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..artifact.artifact import Artifact
from ..plan.cluster import Cluster, Device, Link, Node
from ..plan.plan import Plan
from ..plan.plan import Route as PlanRoute
from ..plan.planner import Planned, Wish, make_plan
from ..plan.work import INPUT, Prediction, TimedWork, Value, WorkGraph, WorkNode
from ..runtime.executor.arena import Place, places_of
from ..runtime.executor.measure import Source, latency, measure_pieces, throughput
from ..runtime.executor.pipeline import Pipeline
from ..runtime.executor.placement import Placement, Route, Stage, pieces_of, side_by_side
from ..runtime.links import Link as MeasuredLink
from ..segments import Segment

MEASURED = "measured here"
# Medians of a second differ by about so much from one second to the next on an idle machine.
MEASURED_ERROR = 0.03
_NODE = "this machine"
_READY_S = 120.0

Ask = Callable[[Pipeline, Mapping[str, np.ndarray], float], float]


@dataclass(frozen=True)
class Verified:
    """A placement that was run: `figure` is requests per second or the seconds of one ("throughput", "latency"),
    `predicted` what the simulation said, `alone` the figures of each device with the whole model, `planned` the plan
    and its alternatives, and `measured` the figure of its best plan, which `placement` is unless a device alone won."""

    placement: Placement
    planned: Planned
    figure: float
    measured: float
    predicted: float
    alone: tuple[float, ...]


def measured_plan(
    source: Source,
    devices: Sequence[str],
    inputs: Mapping[str, np.ndarray],
    link: MeasuredLink,
    objective: str,
    memory_bytes: float,
    seconds: float,
) -> Verified:
    """The best plan of "latency" or "throughput" for `devices`, by measuring for about `seconds` in each step.

    Raises UsageError and ArtifactError as Pipeline does.
    """
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    pieces = pieces_of(artifact)
    together = objective == "throughput"
    times, handover = measure_pieces(source, devices, inputs, seconds, together)
    work = _work(artifact, pieces, devices, times, _joined(link, handover), memory_bytes)
    planned = make_plan(work, Wish(objective))
    placement = _placement(planned.best.plan, work, devices, times)
    ask = throughput if together else latency
    alone = []
    for number in range(len(devices)):
        single = _only(side_by_side(devices, len(pieces)), number, times)
        alone.append(_run(source, single, inputs, seconds, ask))
    best = max(range(len(devices)), key=lambda d: alone[d] if together else -alone[d])
    outcome = planned.best.outcome
    predicted = outcome.throughput if together else outcome.makespan
    lone = placement.single
    figure = measured = _run(source, placement, inputs, seconds, ask) if lone is None else alone[lone]
    if (alone[best] > figure) if together else (alone[best] < figure):
        placement, figure = _only(side_by_side(devices, len(pieces)), best, times), alone[best]
    placement = replace(placement, predicted={objective: predicted, f"measured {objective}": figure})
    return Verified(placement, planned, figure, measured, predicted, tuple(alone))


def _run(source: Source, placement: Placement, inputs: Mapping[str, np.ndarray], seconds: float, ask: Ask) -> float:
    with Pipeline(source, plan=placement) as pipeline:
        if placement.single is None:
            pipeline.wait_ready(_READY_S)
        return ask(pipeline, inputs, seconds)


def _only(placement: Placement, device: int, times: Sequence[Sequence[float]]) -> Placement:
    """Of a placement side by side the route of one device."""
    return replace(placement, routes=(placement.routes[device],), seconds=tuple(tuple(row) for row in times))


def _joined(link: MeasuredLink, handover: float) -> Link:
    """What a tensor takes from one worker to another: the dispatcher hears of it and tells the next."""
    return Link("shared memory", max(link.latency_s, handover), link.bytes_per_s)


def _work(
    artifact: Artifact,
    pieces: Sequence[Segment],
    devices: Sequence[str],
    times: Sequence[Sequence[float]],
    link: Link,
    memory_bytes: float,
) -> TimedWork:
    """The pieces as nodes, with the tensors between them, on devices that take the measured times."""
    first = artifact.targets[0].name
    weights = [
        sum(
            float(artifact.weights[i].nbytes)
            for t in artifact.targets
            if t.name == first and (t.segment or 0) == k
            for i in (range(len(artifact.weights)) if t.weights is None else t.weights)
        )
        for k in range(len(pieces))
    ]
    places = places_of(pieces)
    nodes = tuple(WorkNode(f"piece {k}", "piece", 0.0, 1.0, weights[k]) for k in range(len(pieces)))
    values = tuple(_values(artifact, pieces, places))
    cluster = Cluster(
        tuple(Device(name, "cores", 1.0, 1.0, memory_bytes, _NODE) for name in devices),
        (Node(_NODE, bus=link if len(devices) > 1 else None),),
    )
    seconds = np.array(times)
    predictions = tuple(tuple(Prediction(s, MEASURED, MEASURED_ERROR) for s in row) for row in times)
    return TimedWork(WorkGraph("the artifact", nodes, values), cluster, seconds, np.ones(len(pieces)), predictions)


def _values(artifact: Artifact, pieces: Sequence[Segment], places: Mapping[str, Place]) -> list[Value]:
    results = {spec.name for spec in artifact.outputs}
    makers = {spec.name: k for k, piece in enumerate(pieces) for spec in piece.outputs}
    readers: dict[str, list[int]] = {}
    for k, piece in enumerate(pieces):
        for spec in piece.inputs:
            readers.setdefault(spec.name, []).append(k)
    return [
        Value(makers.get(name, INPUT), float(place.nbytes), tuple(readers.get(name, ())), place.dtype, name in results)
        for name, place in places.items()
        if name in readers or name in results
    ]


def _placement(plan: Plan, work: TimedWork, devices: Sequence[str], times: Sequence[Sequence[float]]) -> Placement:
    routes = tuple(_route(route, work.graph) for route in plan.routes if route.share > 0)
    return Placement(tuple(devices), routes, tuple(tuple(row) for row in times))


def _route(route: PlanRoute, graph: WorkGraph) -> Route:
    """The route with stages joined where that makes nobody wait: one device's, one behind the other, of which the first
    has no other readers and the second needs nothing that the first does not need."""
    stages: list[Stage] = []
    for stage in route.stages:
        nodes = tuple(stage.nodes)
        last = stages[-1] if stages else None
        if last is not None and last.device == stage.device and _follows(last.pieces, nodes, graph):
            stages[-1] = Stage(stage.device, last.pieces + nodes)
        else:
            stages.append(Stage(stage.device, nodes))
    return Route(tuple(stages))


def _follows(first: Sequence[int], second: Sequence[int], graph: WorkGraph) -> bool:
    inside = {*first, *second}
    needed = {p for n in first for p in graph.predecessors(n)} | set(first)
    readers = {r for n in first for r in graph.successors(n)}
    return all(graph.predecessors(n) <= needed | set(second) for n in second) and readers <= inside
