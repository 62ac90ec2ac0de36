"""Fewer, larger nodes for the planners, and orders in which cutting a graph in two costs least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

import numpy as np

from .plan import WIDE, Plan, Stage
from .work import INPUT, TimedWork, Value, WorkGraph, WorkNode


@dataclass(frozen=True)
class Grouped:
    """Work whose node k stands for the nodes `groups[k]` of the `fine` work, in an order in which they can run."""

    work: TimedWork
    fine: TimedWork
    groups: tuple[tuple[int, ...], ...]

    def members(self, nodes: Sequence[int]) -> tuple[int, ...]:
        """The fine nodes of some nodes."""
        return tuple(sorted(m for n in nodes for m in self.groups[n]))

    def then(self, other: Grouped) -> Grouped:
        """`other`, a grouping of this one's work, as a grouping of the fine work."""
        return Grouped(other.work, self.fine, tuple(self.members(g) for g in other.groups))

    def expanded(self, plan: Plan) -> Plan:
        """`plan`, which is of the groups, for the fine work."""
        routes = tuple(
            replace(r, stages=tuple(Stage(s.device, self.members(s.nodes)) for s in r.stages)) for r in plan.routes
        )
        return replace(plan, routes=routes)


def group(work: TimedWork, limit: int) -> Grouped:
    """At most `limit` nodes, where the graph's form allows it.

    Joined are a node and its only successor, or its only predecessor: no cycle can come of that. The cheapest go first,
    so that groups become about equal.
    """
    graph = work.graph
    members: dict[int, list[int]] = {n: [n] for n in range(len(graph.nodes))}
    before = {n: graph.predecessors(n) for n in members}
    after = {n: graph.successors(n) for n in members}
    cost = dict(enumerate(work.seconds.min(axis=1)))
    pairs = [(cost[a] + cost[b], a, b) for a in members for b in after[a]]
    heapify(pairs)
    while len(members) > limit and pairs:
        known, a, b = heappop(pairs)
        if a not in members or b not in members or b not in after[a] or known != cost[a] + cost[b]:
            continue
        if len(after[a]) > 1 and len(before[b]) > 1:
            continue
        _join(a, b, members, before, after)
        cost[a] += cost[b]
        for other in before[a]:
            heappush(pairs, (cost[other] + cost[a], other, a))
        for other in after[a]:
            heappush(pairs, (cost[a] + cost[other], a, other))
    order = _topological(members, before, after)
    groups = tuple(tuple(sorted(members[n])) for n in order)
    return Grouped(work.grouped(groups, contracted(graph, groups)), work, groups)


def _join(
    a: int, b: int, members: dict[int, list[int]], before: dict[int, set[int]], after: dict[int, set[int]]
) -> None:
    """Put `b` into `a`."""
    members[a] += members.pop(b)
    for other in after[b]:
        before[other] = (before[other] - {b}) | {a}
    for other in before[b] - {a}:
        after[other] = (after[other] - {b}) | {a}
    before[a] |= before.pop(b) - {a}
    after[a] = (after[a] - {b}) | after.pop(b)


def _topological(members: dict[int, list[int]], before: dict[int, set[int]], after: dict[int, set[int]]) -> list[int]:
    """The groups in an order in which they can run; of those that can, the one whose first member is first."""
    missing = {n: len(before[n]) for n in members}
    ready = [(min(members[n]), n) for n in members if not missing[n]]
    heapify(ready)
    order = []
    while ready:
        _, n = heappop(ready)
        order.append(n)
        for m in after[n]:
            missing[m] -= 1
            if not missing[m]:
                heappush(ready, (min(members[m]), m))
    return order


def contracted(graph: WorkGraph, groups: Sequence[Sequence[int]]) -> WorkGraph:
    """`graph` with the nodes of each group as one; tensors that go the same way are one."""
    place = {n: k for k, g in enumerate(groups) for n in g}
    merged: dict[tuple[int, tuple[int, ...], str, bool], float] = {}
    for value in graph.values:
        producer = INPUT if value.producer == INPUT else place[value.producer]
        consumers = tuple(sorted({place[c] for c in value.consumers} - {producer}))
        if consumers or value.is_result:
            key = producer, consumers, value.dtype, value.is_result
            merged[key] = merged.get(key, 0.0) + value.size
    values = tuple(Value(p, size, c, dtype, result) for (p, c, dtype, result), size in merged.items())
    return WorkGraph(graph.name, tuple(_as_one(graph, g) for g in groups), values)


def _as_one(graph: WorkGraph, members: Sequence[int]) -> WorkNode:
    if len(members) == 1:
        return graph.nodes[members[0]]
    nodes = [graph.nodes[m] for m in members]
    heaviest = max(nodes, key=lambda n: (n.flops, n.moved_bytes))
    return replace(
        heaviest,
        name=f"{nodes[0].name} .. {nodes[-1].name}",
        flops=sum(n.flops for n in nodes),
        moved_bytes=sum(n.moved_bytes for n in nodes),
        weight_bytes=sum(n.weight_bytes for n in nodes),
        working_bytes=inner_peak(graph, members),
        spec="",
    )


def inner_peak(graph: WorkGraph, members: Sequence[int]) -> float:
    """The most bytes that running `members` in order takes beside what comes in, what goes out, and weights."""
    inside = set(members)
    uses: dict[int, int] = {}
    for m in members:
        for v in graph.outputs_of[m]:
            value = graph.values[v]
            if not value.is_result and value.consumers and inside.issuperset(value.consumers):
                uses[v] = len(set(value.consumers))
    live = peak = 0.0
    for m in sorted(members):
        live += sum(graph.values[v].size for v in graph.outputs_of[m] if v in uses)
        peak = max(peak, live + graph.nodes[m].working_bytes)
        for v in graph.inputs_of[m]:
            if v in uses:
                uses[v] -= 1
                live -= 0.0 if uses[v] else graph.values[v].size
    return peak


@dataclass(frozen=True)
class Cuts:
    """What cutting a graph before place k of its order means, k from 0 to the number of nodes; arrays of that length
    plus one. `bytes_over` cross the cut (of them `wide_over` of float32, which may be narrowed); what the caller brings
    crosses until its last use, and results cross until the end only in `live`, which counts all that must be kept."""

    bytes_over: np.ndarray
    wide_over: np.ndarray
    live: np.ndarray


def cuts_of(graph: WorkGraph) -> Cuts:
    """The cuts of `graph` in the order of its nodes."""
    count = len(graph.nodes)
    over, wide, live = np.zeros(count + 1), np.zeros(count + 1), np.zeros(count + 1)
    for value in graph.values:
        first, last = value.producer + 1, max(value.consumers, default=value.producer)
        over[first : last + 1] += value.size
        if value.dtype == WIDE:
            wide[first : last + 1] += value.size
        live[first : count + 1 if value.is_result else last + 1] += value.size
    return Cuts(over, wide, live)


def reordered(work: TimedWork) -> Grouped:
    """The work in the order whose cuts are smallest: as it is, or always the node next that leaves least to be kept."""
    graph = work.graph
    identity = tuple((n,) for n in range(len(graph.nodes)))
    groups = tuple((n,) for n in _least_live(graph))
    other = contracted(graph, groups)
    if cuts_of(other).bytes_over.sum() >= cuts_of(graph).bytes_over.sum():
        groups, other = identity, graph
    return Grouped(work.grouped(groups, other), work, groups)


def _least_live(graph: WorkGraph) -> list[int]:
    before = [graph.predecessors(n) for n in range(len(graph.nodes))]
    missing = [len(b) for b in before]
    uses = [len(set(v.consumers)) for v in graph.values]
    ready = {n for n, m in enumerate(missing) if not m}
    order = []
    while ready:
        best = min(ready, key=lambda n: (_growth(graph, n, uses), n))
        ready.remove(best)
        order.append(best)
        for v in graph.inputs_of[best]:
            uses[v] -= 1
        for m in graph.successors(best):
            missing[m] -= 1
            if not missing[m]:
                ready.add(m)
    return order


def _growth(graph: WorkGraph, node: int, uses: Sequence[int]) -> float:
    """How many bytes more are to be kept when `node` has run."""
    made = sum(graph.values[v].size for v in graph.outputs_of[node])
    return made - sum(graph.values[v].size for v in graph.inputs_of[node] if uses[v] == 1)
