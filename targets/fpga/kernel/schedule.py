"""When each value of an iteration is computed: modulo scheduling of a nest's graph.

Iteration i starts at cycle i * II, and node v at i * II + time[v]; its value is there `latency(v)` cycles later. II
is the smallest from the nest's target on for which, as in ScaleHLS, (1) loads and stores of one bank find a cycle of
their own modulo II
(a port each way) and (2) each value that is carried from one iteration to a later one is there in time.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass

from ....compiler.errors import KompiloError
from .affine import Affine
from .graph import Graph, Node
from .ops import OPS

# Cycles from an address to the data: registers are wires; block RAM and UltraRAM have output registers.
READ_LATENCY = {"register": 0, "lutram": 1, "bram": 2, "uram": 3}
_MAX_II = 4096
_PASSES = 200


@dataclass(frozen=True)
class Schedule:
    """Start of each node within an iteration; `depth` cycles from the start of an iteration to its last effect."""

    graph: Graph
    ii: int
    times: tuple[int, ...]
    depth: int

    @property
    def cycles(self) -> int:
        """From the start of the first iteration to the last effect of the last, if nothing stalls."""
        return self.ii * (self.graph.nest.trip - 1) + self.depth

    def ready(self, node: int) -> int:
        """When the value of `node` is there."""
        return self.times[node] + latency(self.graph.nodes[node])


def latency(node: Node) -> int:
    """Cycles from the start of a node to its value."""
    if node.kind in ("const", "position", "lane", "store", "push"):
        return 0
    if node.kind == "load":
        assert node.array is not None
        return READ_LATENCY[node.array.memory]
    if node.kind in ("pop", "lookup"):
        return 1
    return OPS[node.op if node.kind == "acc" else node.kind].latency[node.dtype.is_float]


def schedule(graph: Graph) -> Schedule:
    """The schedule with the smallest II; KompiloError if there is none up to 4096."""
    first = max(graph.nest.ii, _port_bound(graph), _recurrence_bound(graph))
    for ii in range(first, max(first, _MAX_II) + 1):
        times = _Attempt(graph, ii).run()
        if times is not None:
            effects = graph.of_kind("store", "push")
            return Schedule(graph, ii, tuple(times), max(times[e] for e in effects) + 1)
    raise KompiloError(
        f"FPGA kernel, nest {graph.nest.name}: expected an initiation interval below {_MAX_II}, found none."
    )


def _port_bound(graph: Graph) -> int:
    counts = Counter((n.kind, n.port) for n in graph.nodes if n.kind in ("load", "store") and not _wires(n))
    return max(counts.values(), default=1)


def _wires(node: Node) -> bool:
    """Whether a load is from a register, which any number may read at once."""
    return node.kind == "load" and node.array is not None and node.array.memory == "register"


def _recurrence_bound(graph: Graph) -> int:
    return max((math.ceil(latency(n) / n.distance) for n in graph.nodes if n.kind == "acc"), default=1)


def carried(graph: Graph, store: Node, load: Node) -> int:
    """Iterations after which a load may read what an iteration has stored: the least such number, at least 1.

    Exact where both are at one affine position that tells its variables apart; 1 otherwise.
    """
    if store.address != load.address or not _injective(store.address, graph.nest.extents):
        return 1
    inside = 1
    for loop in reversed(graph.nest.loops):
        if loop.extent > 1 and not store.address.coefficient(loop.var):
            return inside
        inside *= loop.extent
    return inside  # never read again


def _injective(address: Affine, extents: dict[str, int]) -> bool:
    reach = 0
    for v, c in sorted(address.terms, key=lambda term: abs(term[1])):
        if abs(c) <= reach:
            return False
        reach += abs(c) * (extents[v] - 1)
    return True


class _Attempt:
    """Least times for one II: raised until nothing demands more, or given up."""

    def __init__(self, graph: Graph, ii: int):
        self.graph, self.ii = graph, ii
        self.times = [0] * len(graph.nodes)
        stores = graph.of_kind("store")
        loads = graph.of_kind("load")
        nodes = graph.nodes
        self.pairs = [
            (s, r, carried(graph, nodes[s], nodes[r])) for s in stores for r in loads if nodes[s].port == nodes[r].port
        ]
        # Stores to one bank, each with the next; and the last with the first of the next iteration.
        ports = {nodes[s].port: [r for r in stores if nodes[r].port == nodes[s].port] for s in stores}
        self.writes = [own for own in ports.values() if len(own) > 1]

    def run(self) -> list[int] | None:
        for _ in range(_PASSES):
            before = list(self.times)
            self._forward()
            self._memory()
            if self.times == before:
                return self.times
        return None

    def _forward(self) -> None:
        taken: set[tuple[str, tuple[str, tuple[int, ...]], int]] = set()
        for k, node in enumerate(self.graph.nodes):
            time = self.times[k]
            for a in node.args:
                time = max(time, self.times[a] + latency(self.graph.nodes[a]))
            if node.kind in ("load", "store") and not _wires(node):
                while (node.kind, node.port, time % self.ii) in taken:
                    time += 1
                taken.add((node.kind, node.port, time % self.ii))
            self.times[k] = time

    def _memory(self) -> None:
        for store, load, distance in self.pairs:
            # A load samples the memory in the cycle it starts, a store changes it at the end of its own.
            self.times[store] = max(self.times[store], self.times[load])
            self.times[load] = max(self.times[load], self.times[store] + 1 - self.ii * distance)
        for stores in self.writes:
            for before, after in itertools.pairwise(stores):
                self.times[after] = max(self.times[after], self.times[before] + 1)
            self.times[stores[0]] = max(self.times[stores[0]], self.times[stores[-1]] + 1 - self.ii)
