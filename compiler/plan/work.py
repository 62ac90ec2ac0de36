"""The work of one request: fused operators, the tensors between them, and how long each takes on each device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..errors import UsageError
from .cluster import Cluster, Device

# Where a predicted time comes from, best first.
RECORD, COST_MODEL, ROOFLINE, VIEW = "record", "cost model", "roofline", "no work"
INPUT = -1


@dataclass(frozen=True)
class WorkNode:
    """A fused operator, or several: `flops` operations on `moved_bytes` of memory, weights (`weight_bytes`) included.

    `working_bytes` is what it needs beside operands, results and weights. `dtype` names the rate of its arithmetic;
    `spec` is the text of its OpSpec, where it has one.
    """

    name: str
    kind: str
    flops: float
    moved_bytes: float
    weight_bytes: float = 0.0
    working_bytes: float = 0.0
    dtype: str = "float32"
    spec: str = ""

    def __post_init__(self) -> None:
        for what in ("flops", "moved_bytes", "weight_bytes", "working_bytes"):
            if not 0 <= getattr(self, what) < float("inf"):
                raise UsageError(f"operator {self.name!r}: expected {what} of at least 0, found {getattr(self, what)}.")


@dataclass(frozen=True)
class Value:
    """A tensor of `size` bytes that the node `producer` makes (`INPUT`: the caller) for the nodes `consumers`.

    Results of the model go back to the caller.
    """

    producer: int
    size: float
    consumers: tuple[int, ...] = ()
    dtype: str = "float32"
    is_result: bool = False


@dataclass(frozen=True)
class WorkGraph:
    """The operators of one request in an order in which they can run, and the tensors between them.

    UsageError if a consumer comes before its producer, or numbers name no node.
    """

    name: str
    nodes: tuple[WorkNode, ...]
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise UsageError(f"{self.name}: expected at least one operator to plan, found none.")
        for value in self.values:
            ends = (value.producer, *value.consumers)
            if not all(INPUT <= end < len(self.nodes) for end in ends) or any(c <= value.producer for c in ends[1:]):
                raise UsageError(f"{self.name}: expected tensors to go to later operators, found {ends}.")
            if not value.size >= 0:
                raise UsageError(f"{self.name}: expected tensors of at least 0 bytes, found {value.size}.")

    @cached_property
    def inputs_of(self) -> tuple[tuple[int, ...], ...]:
        """For each node the numbers of the values it consumes."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for number, value in enumerate(self.values):
            for consumer in dict.fromkeys(value.consumers):
                found[consumer].append(number)
        return tuple(map(tuple, found))

    @cached_property
    def outputs_of(self) -> tuple[tuple[int, ...], ...]:
        """For each node the numbers of the values it produces."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for number, value in enumerate(self.values):
            if value.producer != INPUT:
                found[value.producer].append(number)
        return tuple(map(tuple, found))

    @property
    def input_bytes(self) -> float:
        """Bytes that a request brings."""
        return sum(v.size for v in self.values if v.producer == INPUT)

    @property
    def result_bytes(self) -> float:
        """Bytes that go back to the caller."""
        return sum(v.size for v in self.values if v.is_result)

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return sum(n.weight_bytes for n in self.nodes)

    def predecessors(self, node: int) -> set[int]:
        """The nodes that `node` needs results of."""
        return {self.values[v].producer for v in self.inputs_of[node]} - {INPUT}

    def successors(self, node: int) -> set[int]:
        """The nodes that need results of `node`."""
        return {c for v in self.outputs_of[node] for c in self.values[v].consumers}


@dataclass(frozen=True)
class Prediction:
    """A predicted time in seconds, where it comes from, and by which part of it one has to expect it to be wrong."""

    seconds: float
    source: str
    error: float


# Three quarters of operators are nearer to the roofline with the described part of it (benchmarks/plan_errors.py).
ROOFLINE_ERROR = 0.55

Predictor = Callable[[WorkNode, Device], Prediction | None]


def by_roofline(node: WorkNode, device: Device) -> Prediction:
    """The time that the rates of `device` allow, divided by the part of them that operators of this kind reach."""
    if not node.flops and not node.moved_bytes:
        return Prediction(0.0, VIEW, 0.0)
    least = device.roofline.least_seconds(node.flops, node.moved_bytes, node.dtype)
    return Prediction(least / device.part_of_roofline(node.kind), ROOFLINE, ROOFLINE_ERROR)


@dataclass(frozen=True)
class TimedWork:
    """A graph on a cluster. `seconds` is float64 of shape (nodes, devices), without the overhead of calls;
    `calls` of shape (nodes,) tells how many operators each node calls."""

    graph: WorkGraph
    cluster: Cluster
    seconds: np.ndarray
    calls: np.ndarray
    predictions: tuple[tuple[Prediction, ...], ...] = field(default=(), repr=False)

    @classmethod
    def predict(cls, graph: WorkGraph, cluster: Cluster, predictors: Sequence[Predictor] = ()) -> TimedWork:
        """Times by the first of `predictors` that knows an operator on a device, else by the roofline."""
        rows = tuple(
            tuple(_first(node, device, predictors) for device in cluster.devices) for node in graph.nodes
        )  # fmt: skip
        seconds = np.array([[p.seconds for p in row] for row in rows])
        calls = np.array([0 if all(p.source == VIEW for p in row) else 1 for row in rows], float)
        return cls(graph, cluster, seconds, calls, rows)

    @cached_property
    def overheads(self) -> np.ndarray:
        """Seconds that calls cost beside their work, shape (nodes, devices)."""
        return self.calls[:, None] * np.array([d.overhead_s for d in self.cluster.devices])[None, :]

    @cached_property
    def weight_seconds(self) -> np.ndarray:
        """Seconds to read the weights once, shape (nodes, devices): what a smaller batch does not save."""
        weights = np.array([n.weight_bytes for n in self.graph.nodes])
        return np.minimum(weights[:, None] / np.array([d.bytes_per_s for d in self.cluster.devices]), self.seconds)

    def durations(self, micro_batches: int = 1) -> np.ndarray:
        """Seconds of each node on each device for one of `micro_batches` equal parts of a request."""
        return np.maximum(self.seconds / micro_batches, self.weight_seconds) + self.overheads

    def grouped(self, groups: Sequence[Sequence[int]], graph: WorkGraph) -> TimedWork:
        """The same for `graph`, whose nodes are `groups` of nodes of this one."""
        seconds = np.array([self.seconds[list(g)].sum(axis=0) for g in groups])
        calls = np.array([self.calls[list(g)].sum() for g in groups])
        return TimedWork(graph, self.cluster, seconds, calls)

    def expected_error(self, assigned: Sequence[tuple[int, int]]) -> tuple[float, dict[str, float]]:
        """The error to expect of the time of (node, device) pairs, were all errors of one sign; parts by source."""
        found = [self.predictions[n][d] for n, d in assigned]
        total = sum(p.seconds for p in found) or 1.0
        parts: dict[str, float] = {}
        for p in found:
            parts[p.source] = parts.get(p.source, 0.0) + p.seconds / total
        return sum(p.error * p.seconds for p in found) / total, {k: v for k, v in parts.items() if v > 0}


def _first(node: WorkNode, device: Device, predictors: Sequence[Predictor]) -> Prediction:
    for predictor in predictors:
        found = predictor(node, device)
        if found is not None:
            return found
    return by_roofline(node, device)
