"""Small clusters and graphs, and hypothesis strategies for them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from kompilo.compiler.plan.cluster import Cluster, Device, Link
from kompilo.compiler.plan.plan import Plan, Route, Stage
from kompilo.compiler.plan.work import INPUT, TimedWork, Value, WorkGraph, WorkNode

ROOM = 1e12


def device(name: str, speed: float = 1e9, memory: float = ROOM, **facts: object) -> Device:
    """A device of `speed` operations per second, and of memory so fast that it does not count."""
    return Device(name, facts.pop("kind", name), speed, 1e15, memory, **facts)


def cluster(devices: list[Device], latency: float = 1e-4, rate: float = 1e9, entry: str = "") -> Cluster:
    """Devices of which any two have a link of their own."""
    pairs = [(a.name, b.name) for k, a in enumerate(devices) for b in devices[k + 1 :]]
    links = tuple((pair, Link("-".join(pair), latency, rate)) for pair in pairs)
    return Cluster(tuple(devices), links=links, entry=entry)


def chain(flops: list[float], sizes: list[float], weights: float = 0.0, name: str = "chain") -> WorkGraph:
    """Nodes one after another; `sizes` are of the input, of what lies between them, and of the result."""
    nodes = tuple(WorkNode(f"n{k}", "conv2d", f, 0.0, weights) for k, f in enumerate(flops))
    last = len(nodes)
    values = [Value(k - 1, s, (k,) if k < last else (), is_result=k == last) for k, s in enumerate(sizes)]
    return WorkGraph(name, nodes, tuple(values))


def one_route(*stages: tuple[int, list[int]], **facts: object) -> Plan:
    """A plan of (device, nodes) pairs."""
    return Plan((Route(tuple(Stage(d, tuple(nodes)) for d, nodes in stages)),), **facts)


FLOPS = st.floats(1e5, 1e7)
SIZES = st.floats(1e3, 1e7)


@st.composite
def graphs(draw: st.DrawFn, most: int = 7) -> WorkGraph:
    """Graphs of up to `most` nodes, branches and joins included; what nobody reads is a result."""
    count = draw(st.integers(1, most))
    nodes = tuple(WorkNode(f"n{k}", "matmul", draw(FLOPS), 0.0, draw(SIZES)) for k in range(count))
    values = [Value(INPUT, draw(SIZES), tuple(draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=2))))]
    for k in range(count):
        later = st.sets(st.integers(k + 1, count - 1), max_size=3) if k + 1 < count else st.just(set())
        consumers = tuple(sorted(draw(later)))
        values.append(Value(k, draw(SIZES), consumers, is_result=not consumers))
    return WorkGraph("graph", nodes, tuple(values))


@st.composite
def clusters(draw: st.DrawFn, least: int = 1, most: int = 3) -> Cluster:
    """Up to `most` unequal devices with links of their own; requests arrive at one of them, or anywhere."""
    count = draw(st.integers(least, most))
    devices = [
        device(f"d{k}", draw(st.floats(1e8, 1e10)), watts_idle=draw(st.floats(0, 50)), watts_active=100.0)
        for k in range(count)
    ]
    entry = draw(st.sampled_from(["", "d0"]))
    return cluster(devices, draw(st.floats(0, 1e-3)), draw(st.floats(1e7, 1e10)), entry)


def timed(graph: WorkGraph, described: Cluster) -> TimedWork:
    """Times by the roofline."""
    return TimedWork.predict(graph, described)


@st.composite
def timed_graphs(draw: st.DrawFn, most: int = 7, devices: int = 3) -> TimedWork:
    """A graph on a cluster, with times that are not proportional: some devices are better at some nodes."""
    work = timed(draw(graphs(most)), draw(clusters(most=devices)))
    factors = draw(st.lists(st.floats(0.3, 3.0), min_size=work.seconds.size, max_size=work.seconds.size))
    seconds = work.seconds * np.array(factors).reshape(work.seconds.shape)
    return TimedWork(work.graph, work.cluster, seconds, work.calls, work.predictions)
