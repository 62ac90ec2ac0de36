"""Planned throughput on described clusters of unequal accelerators, against the sum of what each does alone and against
an equal split. All of it is simulated; see docs/planning.md.

    python benchmarks/plan_study.py [--json FILE]

The models are the fused operators of zoo models as `kompilo compile` makes them, with their FLOPs and bytes. Two are
derived from MiniLM-L3: its operators, as often as wanted one after another, with a width that is larger by a factor
(FLOPs and weights grow by its square, tensors by itself). No model of that size is built or run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kompilo.compiler.plan.cluster import Cluster, Link, Node
from kompilo.compiler.plan.cluster_file import read_cluster
from kompilo.compiler.plan.explain import bound
from kompilo.compiler.plan.plan import Plan, Route, alone, equal_split
from kompilo.compiler.plan.planner import Wish, make_plan
from kompilo.compiler.plan.simulate import simulate
from kompilo.compiler.plan.work import INPUT, TimedWork, Value, WorkGraph
from kompilo.compiler.predict.model import work_of_model
from kompilo.compiler.schedule.target import find_target

CLUSTER = Path(__file__).with_name("clusters") / "six_kinds.toml"
# Four machines like each of the file's, with the same devices each.
COPIES = 4
REQUESTS = 2000
MAX_ERROR = 0.005


def widened(graph: WorkGraph, factor: float) -> WorkGraph:
    """The graph with tensors `factor` times as wide: products and their weights grow by its square."""
    nodes = []
    for n in graph.nodes:
        grows = factor**2 if n.spec else factor
        weights, read = n.weight_bytes * grows, min(n.weight_bytes, n.moved_bytes)
        moved = (n.moved_bytes - read) * factor + read * grows
        nodes.append(replace(n, flops=n.flops * grows, weight_bytes=weights, moved_bytes=moved, spec=""))
    return replace(graph, nodes=tuple(nodes), values=tuple(replace(v, size=v.size * factor) for v in graph.values))


def batched(graph: WorkGraph, size: int) -> WorkGraph:
    """The graph, which is of one image, for `size` of them."""
    nodes = tuple(
        replace(
            n,
            flops=n.flops * size,
            moved_bytes=max(n.moved_bytes - n.weight_bytes, 0.0) * size + n.weight_bytes,
            spec="",
        )
        for n in graph.nodes
    )
    return replace(graph, nodes=nodes, values=tuple(replace(v, size=v.size * size) for v in graph.values))


def up_to(graph: WorkGraph, last: int) -> WorkGraph:
    """The graph without what comes behind the node `last`, whose result is the only one."""
    values = [
        replace(v, consumers=tuple(c for c in v.consumers if c <= last), is_result=v.producer == last)
        for v in graph.values
        if v.producer <= last
    ]
    return WorkGraph(graph.name, graph.nodes[: last + 1], tuple(values))


def stacked(graph: WorkGraph, times: int) -> WorkGraph:
    """The graph up to its largest result, `times` times one after another; from the second on that result takes the
    place of what the look-up of words gives, and the look-up is left out."""
    result = max((v for v in graph.values if v.is_result), key=lambda v: v.size)
    graph = up_to(graph, result.producer)
    lookup = next(k for k, n in enumerate(graph.nodes) if n.name == "take")
    result = next(v for v in graph.values if v.is_result)
    nodes, values = list(graph.nodes), [v for v in graph.values if v is not result]
    last = replace(result, is_result=False)
    for _ in range(times - 1):
        place = {k: len(nodes) + k - (k > lookup) for k in range(len(graph.nodes)) if k != lookup}
        nodes += [n for k, n in enumerate(graph.nodes) if k != lookup]
        for v in graph.values:
            consumers = tuple(place[c] for c in v.consumers if c != lookup)
            if v.producer == lookup:
                values.append(replace(last, consumers=(*last.consumers, *consumers)))
            elif v is result:
                last = Value(place[v.producer], v.size, consumers, v.dtype)
            elif consumers:
                values.append(
                    replace(v, producer=INPUT if v.producer == INPUT else place[v.producer], consumers=consumers)
                )
    values.append(replace(last, is_result=True))
    return WorkGraph(graph.name, tuple(nodes), tuple(values))


def models() -> dict[str, WorkGraph]:
    """The graphs of the study by name."""
    cpu = find_target("cpu:znver4")
    resnet = work_of_model("zoo:resnet50", cpu, records=False).graph
    minilm = work_of_model("zoo:minilm_l3", cpu, dict.fromkeys(_MINILM_INPUTS, (1, 128)), records=False).graph
    return {
        "ResNet-50, batch 8": batched(resnet, 8),
        "24 layers, width 6144": widened(stacked(minilm, 8), 16),
        "48 layers, width 6144": widened(stacked(minilm, 16), 16),
    }


_MINILM_INPUTS = ("input_ids", "attention_mask")


def many_machines(described: Cluster, copies: int = COPIES) -> Cluster:
    """`copies` machines like each of the cluster's nodes, at the same sites; links of a site join all its machines."""
    devices, nodes, links = [], [], []
    for node in described.nodes:
        for k in range(copies):
            assert node.bus is not None
            name = f"{node.name}{k}"
            nodes.append(Node(name, node.site, replace(node.bus, name=name)))
            mine = [d for d in described.devices if d.node == node.name]
            devices += [replace(d, name=f"{d.name}{k}", node=name) for d in mine]
    by_ends = {frozenset(pair): link for pair, link in described.links}
    for i, a in enumerate(nodes):
        for b in nodes[i + 1 :]:
            if a.site == b.site:
                link = by_ends.get(frozenset((a.name[:-1], b.name[:-1])), by_ends[frozenset(("a", "b"))])
                links.append(((a.name, b.name), Link(f"{a.name}-{b.name}", link.latency_s, link.bytes_per_s)))
    links += [(pair, link) for pair, link in described.links if pair == ("north", "south")]
    return Cluster(tuple(devices), tuple(nodes), tuple(links), f"{described.entry}0" if described.entry else "")


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    model: str
    cluster: str
    entry: str
    upper: float
    planned: float
    equal: float
    routes: int
    seconds: float

    @property
    def of_upper(self) -> float:
        """Planned throughput as a part of the sum of what devices do alone."""
        return self.planned / self.upper

    @property
    def over_equal(self) -> float:
        """Planned throughput relative to that of an equal split."""
        return self.planned / self.equal


def equal(work: TimedWork) -> float:
    """The better of two equal splits: all devices get as many requests, or as many operations of each request.

    Memory that the second would need beyond what there is is not held against it.
    """
    devices = range(len(work.cluster.devices))
    found = [simulate(work, replace(equal_split(work), queue=64), REQUESTS).throughput]
    everywhere = Plan(tuple(Route(alone(work, d).routes[0].stages, 1 / len(devices)) for d in devices))
    outcome = simulate(work, everywhere, REQUESTS)
    return max([*found, outcome.throughput] if outcome.fits else found)


def study(graph: WorkGraph, name: str, described: Cluster, max_error: float = 0.0) -> Case:
    """One case; tensors may be narrowed on slow links within `max_error`."""
    entry = f"at {described.entry}" if described.entry else "anywhere"
    if max_error:
        entry += f", error {max_error:.1%}"
    work = TimedWork.predict(graph, described)
    began = time.perf_counter()
    planned = make_plan(work, Wish("throughput", max_error=max_error))
    took = time.perf_counter() - began
    outcome, plan = planned.best.outcome, planned.best.plan
    cluster = f"{len(described.devices)} devices"
    return Case(name, cluster, entry, bound(planned), outcome.throughput, equal(work), len(plan.routes), took)


def cases() -> list[Case]:
    """All rows."""
    here = read_cluster(CLUSTER)
    anywhere = replace(here, entry="")
    found = []
    for name, graph in models().items():
        found += [study(graph, name, anywhere), study(graph, name, here), study(graph, name, here, MAX_ERROR)]
        found.append(study(graph, name, many_machines(anywhere)))
    return found


def table(found: Sequence[Case]) -> str:
    """The cases as a Markdown table."""
    head = (
        "| model | cluster | requests arrive | sum alone, 1/s | planned, 1/s | of the sum | equal split, 1/s | factor |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for c in found:
        rates = f"{c.upper:.4g} | {c.planned:.4g} | {c.of_upper:.1%} | {c.equal:.4g} | {c.over_equal:.2f}"
        lines.append(f"| {c.model} | {c.cluster} | {c.entry} | {rates} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table; with --json write all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = cases()
    print(table(found))
    for c in found:
        print(f"{c.model}, {c.cluster}, {c.entry}: {c.routes} routes, planned in {c.seconds:.1f} s")
    if options.json:
        facts: list[dict[str, Any]] = [vars(c) for c in found]
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
