"""Plans for as many requests per second as possible: pipelines, and pipelines side by side.

The graph, in an order whose cuts are small, is a chain to `pipeline`, which divides the devices among pipelines and the
chain among their devices. What it does not know is that pipelines share links: a linear programme then finds the share
of requests of each pipeline, on all devices and links together, and may mix in pipelines whose cuts are one node off,
which balances stages better than whole nodes do. Links that were asked too much of are made to look slower, and all is
done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from .cluster import Cluster
from .grouping import Cuts, cuts_of
from .layout import lay_out
from .linear import most
from .pipeline import Flow, LinkSeconds, Single, Team, Unit, states
from .plan import NARROW, Plan, Route, Stage, alone
from .work import TimedWork

# Vectors that a team of single devices looks at where only whole chains matter, and where all segments do.
_MOST_STATES, _MOST_INNER_STATES = 512, 96
# Nodes of a chain in either case; more take the square, or the cube, of their number.
MOST_NODES, MOST_INNER_NODES = 256, 96
_ROUNDS = 4
# How many plans the routes of all others are added to, and the part of a memory that their weights may take.
_UNITED, _FOR_WEIGHTS = 2, 0.95
# What is gained at least by keeping weights of a node on two devices.
_LEAST_GAIN = 1e-3
_OVERLOAD = 1.001
# So that segments of views only have a rate.
_LEAST_SECONDS = 1e-12


@dataclass(frozen=True)
class Rated:
    """A plan with the requests per second that its devices and links allow, and which of them is the limit."""

    plan: Plan
    rate: float
    limit: str


def needs_levels(cluster: Cluster) -> bool:
    """Whether there are too many devices to look at all at once: nodes, then, become units."""
    counts: dict[object, int] = {}
    for device in cluster.devices:
        key = device.facts, device.node
        counts[key] = counts.get(key, 0) + 1
    return states(list(counts.values())) > _MOST_STATES


def pipelines(work: TimedWork, template: Plan) -> list[Rated]:
    """Plans worth simulating, the most promising first; `template` gives all but their routes.

    The nodes of `work` are in an order in which they may be cut. Empty if the devices together do not hold the model.
    """
    cuts = cuts_of(work.graph)
    slower: dict[str, float] = {}
    found: list[Rated] = []
    for devices in _device_sets(work.cluster):
        slower.clear()
        for _ in range(_ROUNDS):
            flows = _solve(work, cuts, template, devices, slower)
            if not flows:
                break
            plan = _as_plan(template, flows)
            rated = _rated(work, plan)
            found += [rated, _refined(work, rated)]
            asked = _overloaded(work, plan, sum(rate for rate, _ in flows))
            if not asked:
                break
            for name, load in asked.items():
                slower[name] = slower.get(name, 1.0) * load
    found.sort(key=lambda r: -r.rate)
    united = [_united(work, rated, found) for rated in found[:_UNITED]]
    return list({r.plan: r for r in sorted([*united, *found], key=lambda r: -r.rate)}.values())


def _united(work: TimedWork, base: Rated, found: Sequence[Rated]) -> Rated:
    """`base` with all routes of the other plans, and of each device alone, that weights leave room for."""
    devices = work.cluster.devices
    others = [r for rated in found for r in rated.plan.routes] + [alone(work, d).routes[0] for d in range(len(devices))]
    held = [set(base.plan.nodes_on(d)) for d in range(len(devices))]
    routes = {r.stages: r for r in base.plan.routes}
    for route in others:
        more = [held[d] | {n for s in route.stages if s.device == d for n in s.nodes} for d in range(len(devices))]
        weights = [sum(work.graph.nodes[n].weight_bytes for n in nodes) for nodes in more]
        room = all(w <= d.memory_bytes * _FOR_WEIGHTS for w, d in zip(weights, devices, strict=True))
        if route.stages not in routes and room:
            routes[route.stages], held = route, more
    share = 1 / len(routes)
    return _rated(work, replace(base.plan, routes=tuple(replace(r, share=share) for r in routes.values())))


def _device_sets(cluster: Cluster) -> list[tuple[int, ...]]:
    """All devices; those of each site; those with the entry's node."""
    everything = tuple(range(len(cluster.devices)))
    sites: dict[str, list[int]] = {}
    for d in everything:
        sites.setdefault(cluster.site_of(d), []).append(d)
    return list(dict.fromkeys([everything, *(tuple(s) for s in sites.values())]))


def _solve(work: TimedWork, cuts: Cuts, template: Plan, devices: Sequence[int], slower: dict[str, float]) -> list[Flow]:
    """The best pipelines, by node numbers; empty if there are none."""
    narrow = dict(template.narrow)

    def one(source: int, target: int) -> np.ndarray:
        way = work.cluster.joined(source, target)
        factor = NARROW[narrow[way.link.name]][0] if way.link.name in narrow else 1.0
        sent = cuts.bytes_over - cuts.wide_over * (1 - factor)
        return sent / way.link.bytes_per_s * slower.get(way.link.name, 1.0)

    def link(sources: Sequence[int], targets: Sequence[int]) -> np.ndarray:
        return np.max([one(a, b) for a in sources for b in targets], axis=0)

    tables = {d: _segments(work, cuts, template, d, slower) for d in devices}
    root = _organised(work.cluster, tables, link)
    end = len(work.graph.nodes)
    return root.flows(0, end) if np.isfinite(root.table()[0, end]) else []


def _organised(cluster: Cluster, tables: Mapping[int, np.ndarray], link: LinkSeconds) -> Team:
    """One team of all devices, or, where they are too many, of teams: those of nodes, and of sites.

    Devices of equal facts can stand for each other in one node only, nodes of equal devices at one site.
    """
    found = {d: cluster.devices[d] for d in tables}
    singles = [Single(d, tables[d], (found[d].facts, found[d].node)) for d in found]
    if states(_class_counts(singles)) <= _MOST_STATES:
        return Team(singles, link, from_start=True)
    nodes: dict[tuple[str, str], list[Unit]] = {}
    for d in found:
        site = cluster.site_of(d)
        nodes.setdefault((site, found[d].node), []).append(Single(d, tables[d], (found[d].facts, site)))
    units = [_team(members, link) for members in nodes.values()]
    if states(_class_counts(units)) > _MOST_STATES:
        sites: dict[str, list[Unit]] = {}
        for (site, _), unit in zip(nodes, units, strict=True):
            sites.setdefault(site, []).append(unit)
        units = [_team(members, link) for members in sites.values()]
    while states(_class_counts(units)) > _MOST_STATES:
        units = [_team(units[k : k + 2], link) for k in range(0, len(units), 2)]
    return Team(units, link, from_start=True)


def _team(members: list[Unit], link: LinkSeconds) -> Unit:
    """The members as one unit; in several levels where they are too many."""
    while states(_class_counts(members)) > _MOST_INNER_STATES:
        members = [_team(members[k : k + 4], link) for k in range(0, len(members), 4)]
    return members[0] if len(members) == 1 else Team(members, link)


def _class_counts(units: Sequence[Unit]) -> list[int]:
    counts: dict[object, int] = {}
    for unit in units:
        counts[unit.signature] = counts.get(unit.signature, 0) + 1
    return list(counts.values())


def _segments(work: TimedWork, cuts: Cuts, template: Plan, device: int, slower: dict[str, float]) -> np.ndarray:
    """Seconds of each segment [i, j) on `device`, with what comes from and goes to the entry; inf without memory."""
    parts, cluster, graph = template.micro_batches, work.cluster, work.graph
    sums = np.concatenate([[0.0], np.cumsum(work.durations(parts)[:, device])]) * parts
    weights = np.concatenate([[0.0], np.cumsum([n.weight_bytes for n in graph.nodes])])
    count = len(sums)
    seconds = np.maximum(sums[None, :] - sums[:, None], _LEAST_SECONDS)
    # While a segment runs it holds what is live there; queues at both ends hold what crosses its cuts.
    live = _range_max(cuts.live + np.array([*(n.working_bytes for n in graph.nodes), 0.0])) / parts
    queued = (cuts.bytes_over[:, None] + cuts.bytes_over[None, :]) / parts * template.queue
    memory = weights[None, :] - weights[:, None] + live + queued
    seconds[memory > cluster.devices[device].memory_bytes] = inf
    seconds[np.tril_indices(count)] = inf
    entry = cluster.entry_index
    if entry is not None and entry != device:
        there, back = cluster.joined(entry, device).link, cluster.joined(device, entry).link
        inputs = graph.input_bytes / there.bytes_per_s * slower.get(there.name, 1.0)
        results = graph.result_bytes / back.bytes_per_s * slower.get(back.name, 1.0)
        seconds[0] = np.maximum(seconds[0], inputs)
        seconds[:, -1] = np.maximum(seconds[:, -1], results)
    return seconds


def _range_max(values: np.ndarray) -> np.ndarray:
    """The greatest of values[i..j] at (i, j), j >= i."""
    count = len(values)
    table = np.zeros((count, count))
    for i in range(count):
        table[i, i:] = np.maximum.accumulate(values[i:])
    return table


def _as_plan(template: Plan, flows: Sequence[Flow]) -> Plan:
    total = sum(rate for rate, _ in flows)
    routes = [Route(tuple(Stage(d, tuple(range(i, j))) for d, i, j in pieces), rate / total) for rate, pieces in flows]
    return replace(template, routes=tuple(routes))


def loads(work: TimedWork, plan: Plan) -> tuple[list[str], np.ndarray]:
    """Names of devices and ways, and the seconds that a request of each route takes of them: (resources, routes)."""
    layout = lay_out(work, plan)
    devices = [d.name for d in work.cluster.devices]
    table = np.zeros((len(devices) + layout.ways, len(plan.routes)))
    for r, route in enumerate(layout.routes):
        numbers = {*route.sources}
        for stage in route.stages:
            table[stage.device, r] += stage.seconds
            numbers |= {*stage.sends}
        for number in numbers:
            channel = layout.channels[number]
            table[len(devices) + channel.way, r] += channel.seconds
    return [*devices, *layout.way_names], table * plan.micro_batches


def _rated(work: TimedWork, plan: Plan) -> Rated:
    """`plan` with the shares that serve most; routes without a share are left out."""
    names, table = loads(work, plan)
    x = most(table)
    routes = [replace(r, share=float(s / x.sum())) for r, s in zip(plan.routes, x, strict=True) if s > 1e-9 * x.sum()]
    total = sum(r.share for r in routes)
    rated = replace(plan, routes=tuple(replace(r, share=r.share / total) for r in routes))
    return Rated(rated, float(x.sum()), names[int(np.argmax(table @ x))])


def _refined(work: TimedWork, rated: Rated) -> Rated:
    """With pipelines mixed in whose cuts are one node off, where devices hold the weights and that serves more."""
    routes = list(rated.plan.routes)
    for route in rated.plan.routes:
        routes += _shifted(route)
    mixed = _rated(work, replace(rated.plan, routes=tuple(replace(r, share=1 / len(routes)) for r in routes)))
    better = mixed.rate > rated.rate * (1 + _LEAST_GAIN)
    return mixed if better and _weights_fit(work, mixed.plan) else rated


def _shifted(route: Route) -> list[Route]:
    found = []
    for k, (a, b) in enumerate(zip(route.stages, route.stages[1:], strict=False)):
        if len(a.nodes) > 1:
            pair = Stage(a.device, a.nodes[:-1]), Stage(b.device, (a.nodes[-1], *b.nodes))
            found.append(Route((*route.stages[:k], *pair, *route.stages[k + 2 :])))
        if len(b.nodes) > 1:
            pair = Stage(a.device, (*a.nodes, b.nodes[0])), Stage(b.device, b.nodes[1:])
            found.append(Route((*route.stages[:k], *pair, *route.stages[k + 2 :])))
    return found


def _weights_fit(work: TimedWork, plan: Plan) -> bool:
    layout = lay_out(work, plan)
    return all(w <= d.memory_bytes * _FOR_WEIGHTS for w, d in zip(layout.weights, work.cluster.devices, strict=True))


def _overloaded(work: TimedWork, plan: Plan, rate: float) -> dict[str, float]:
    """Links that more is asked of than they carry at `rate` requests per second, and how much more."""
    names, table = loads(work, plan)
    asked = rate * table @ np.array([r.share for r in plan.routes])
    found: dict[str, float] = {}
    for name, load in list(zip(names, asked, strict=True))[len(work.cluster.devices) :]:
        link = name.rstrip(" <>")
        if load > _OVERLOAD:
            found[link] = max(found.get(link, 0.0), float(load))
    return found
