"""Plans are never worse than the best device alone, fit memory, keep deadlines, and narrow no more than is allowed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.errors import UsageError
from kompilo.compiler.plan.cluster import Cluster, Link, Node
from kompilo.compiler.plan.grouping import cuts_of, group, reordered
from kompilo.compiler.plan.heft import heft
from kompilo.compiler.plan.plan import NARROW, Plan, Route, alone, equal_split
from kompilo.compiler.plan.planner import OBJECTIVES, Wish, make_plan, slow_links
from kompilo.compiler.plan.simulate import simulate
from kompilo.compiler.plan.throughput import loads, pipelines
from kompilo.compiler.plan.work import INPUT, TimedWork, Value, WorkGraph, WorkNode

from plan_support import chain, cluster, device, graphs, timed, timed_graphs

FEW = settings(max_examples=12, deadline=None, derandomize=True)


@FEW
@given(timed_graphs(), st.sampled_from(list(OBJECTIVES)))
def test_plans_are_never_worse_than_the_best_device_alone(work, objective):
    planned = make_plan(work, Wish(objective, steps=40))
    for judged in planned.singles:
        assert planned.best.score <= judged.score
    planned.best.plan.check(work.graph, work.cluster)


@FEW
@given(timed_graphs(most=6), st.lists(st.floats(0.3, 1.2), min_size=3, max_size=3), st.sampled_from(list(OBJECTIVES)))
def test_memory_of_every_device_holds(work, parts, objective):
    """Memories in which some devices cannot hold the model alone; perhaps all of them together cannot."""
    whole = work.graph.weight_bytes + sum(v.size for v in work.graph.values)
    devices = [replace(d, memory_bytes=whole * p) for d, p in zip(work.cluster.devices, parts, strict=False)]
    small = TimedWork(
        work.graph, replace(work.cluster, devices=tuple(devices)), work.seconds, work.calls, work.predictions
    )
    if any(simulate(small, alone(small, d)).fits for d in range(len(devices))):
        peaks = make_plan(small, Wish(objective, steps=30)).best.outcome.peak_bytes
    else:
        try:
            peaks = make_plan(small, Wish(objective, steps=30)).best.outcome.peak_bytes
        except UsageError:
            return
    assert all(p <= d.memory_bytes for p, d in zip(peaks, small.cluster.devices, strict=True))


@FEW
@given(timed_graphs(most=6))
def test_heft_predicts_what_the_simulation_shows_where_links_are_idle(work):
    """HEFT serves links in the order of ranks, the simulation as tensors come: without transfers both agree."""
    free = Cluster(work.cluster.devices, links=tuple(
        (pair, replace(link, latency_s=0.0, bytes_per_s=1e18)) for pair, link in work.cluster.links
    ))  # fmt: skip
    work = TimedWork(work.graph, free, work.seconds, work.calls, work.predictions)
    count = len(free.devices)
    placement = heft(work, range(count), [d.memory_bytes for d in free.devices])
    assert placement is not None
    outcome = simulate(work, Plan((Route(placement.stages()),)))
    times = work.durations()
    assert outcome.makespan <= sum(max(times[n]) for n in range(len(times))) * (1 + 1e-9)
    assert sorted(placement.order) == list(range(len(times)))


def test_branches_run_side_by_side():
    """A fork of two equal branches on two equal devices takes little more than one of them."""
    nodes = tuple(WorkNode(n, "conv2d", 1e7 if n in "ab" else 1e4, 0.0) for n in ("s", "a", "b", "j"))
    values = (Value(0, 1e3, (1, 2)), Value(1, 1e3, (3,)), Value(2, 1e3, (3,)), Value(3, 1e3, is_result=True))
    work = timed(WorkGraph("fork", nodes, values), cluster([device("d0"), device("d1")], 1e-5, 1e9))
    planned = make_plan(work, Wish())
    assert planned.best.outcome.makespan < 0.51 * planned.singles[0].outcome.makespan
    assert len(planned.best.plan.devices) == 2


def test_insertion_fills_gaps():
    """A short node of low rank goes into the gap in which its device waits for another's result."""
    nodes = tuple(WorkNode(f"n{k}", "x", f, 0.0) for k, f in enumerate((4e6, 4e6, 1e6)))
    values = (Value(0, 1, (1,)), Value(1, 1, is_result=True), Value(2, 1, is_result=True))
    seconds = np.array([[9.0, 2.0], [2.0, 9.0], [1.0, 9.0]])
    work = TimedWork(
        WorkGraph("gap", nodes, values), cluster([device("d0"), device("d1")], 0, 1e9), seconds, np.ones(3)
    )
    placement = heft(work, (0, 1), [1e12, 1e12])
    assert placement is not None
    assert placement.devices == (1, 0, 0)
    assert simulate(work, Plan((Route(placement.stages()),))).makespan == pytest.approx(4.0)


def test_replicas_reach_the_sum_of_unequal_devices():
    work = timed(chain([1e6] * 8, [1e3] * 9), cluster([device("d0"), device("d1", 3e9), device("d2", 7e9)], 1e-5, 1e9))
    planned = make_plan(work, Wish("throughput"))
    total = sum(1 / float(work.durations()[:, d].sum()) for d in range(3))
    assert 0.98 * total <= planned.best.outcome.throughput <= total * (1 + 1e-9)
    equal = simulate(work, equal_split(work), 400)
    assert planned.best.outcome.throughput > 1.3 * equal.throughput


def test_devices_that_hold_the_model_only_together_become_a_pipeline():
    devices = [device("d0", memory=6e6), device("d1", 2e9, memory=6e6)]
    work = timed(chain([1e6] * 9, [1e3] * 10, weights=1e6), cluster(devices, 1e-5, 1e9))
    planned = make_plan(work, Wish("throughput"))
    assert not any(j.fits for j in planned.singles)
    assert [len(s.nodes) for s in planned.best.plan.routes[0].stages] in ([3, 6], [6, 3], [4, 5], [5, 4])
    assert planned.best.outcome.throughput >= 1 / 4.1e-3
    with pytest.raises(UsageError, match="expected memory for 9.0 MB of weights .* found that it does not fit"):
        make_plan(timed(work.graph, cluster(devices[:1])), Wish("throughput"))


def test_requests_are_spread_so_that_a_shared_link_is_not_asked_too_much():
    """Two far devices share one link to the entry, which carries half of what they could do."""
    nodes = (Node("near"), Node("far", bus=Link("far", 1e-6, 1e10, True)))
    devices = tuple(replace(device(n), node=place) for n, place in (("d0", "near"), ("d1", "far"), ("d2", "far")))
    described = Cluster(devices, nodes, ((("near", "far"), Link("wire", 1e-4, 1e8)),), "d0")
    work = timed(chain([1e6], [1e5, 10]), described)
    planned = make_plan(work, Wish("throughput"))
    assert planned.best.outcome.throughput == pytest.approx(2000, rel=0.03)
    rated = pipelines(work, Plan(()))[0]
    names, table = loads(work, rated.plan)
    busy = table @ np.array([r.share for r in rated.plan.routes]) * rated.rate
    assert max(busy) == pytest.approx(1.0)
    assert busy[names.index("wire >")] == pytest.approx(1.0)


@FEW
@given(timed_graphs(most=6, devices=3))
def test_rates_are_kept_in_simulation(work):
    for rated in pipelines(reordered(work).work, Plan((), queue=8)):
        again = reordered(work).work
        outcome = simulate(again, rated.plan, 300)
        alone_on = [simulate(again, replace(rated.plan, routes=(replace(r, share=1.0),))) for r in rated.plan.routes]
        # Shares are whole requests, and pipelines are filled and emptied.
        extra = 3 * sum(o.makespan for o in alone_on)
        assert 300 / rated.rate * (1 - 1e-6) <= outcome.makespan <= 300 / rated.rate * 1.05 + extra


def test_many_devices_are_planned_level_by_level():
    nodes = tuple(Node(f"m{k}", f"s{k // 2}", Link(f"m{k}", 1e-6, 1e11, True)) for k in range(4))
    devices = tuple(
        replace(device(f"d{k}", 1e9 * (1 + k % 4), memory=5e6), node=f"m{k // 4}", kind=f"k{k % 4}") for k in range(16)
    )
    links = ((("m0", "m1"), Link("m0-m1", 1e-5, 1e10)), (("m2", "m3"), Link("m2-m3", 1e-5, 1e10)),
             (("s0", "s1"), Link("s0-s1", 1e-3, 1e8)))  # fmt: skip
    work = timed(chain([1e6] * 12, [1e4] * 13, weights=1e6), Cluster(devices, nodes, links))
    planned = make_plan(work, Wish("throughput"))
    total = sum(1 / float(work.durations()[:, d].sum()) for d in range(16))
    assert planned.best.outcome.throughput >= 0.93 * total
    assert planned.best.fits
    assert not any(j.fits for j in planned.singles)


def test_energy_is_saved_within_the_deadline():
    devices = [device("thrifty", 1e9, watts_active=1.0), device("fast", 1e10, watts_active=100.0)]
    work = timed(chain([1e6] * 10, [1e3] * 11), cluster(devices, 1e-6, 1e9))
    free = make_plan(work, Wish("energy"))
    assert [d.name for d in (work.cluster.devices[k] for k in free.best.plan.devices)] == ["thrifty"]
    bound = make_plan(work, Wish("energy", deadline_s=5.5e-3))
    assert bound.meets_deadline
    assert bound.best.outcome.makespan <= 5.5e-3
    fast = bound.singles[1].outcome.joules
    assert free.best.outcome.joules < bound.best.outcome.joules < 0.65 * fast
    late = make_plan(work, Wish("energy", deadline_s=1e-4))
    assert not late.meets_deadline
    assert late.best.outcome.makespan == pytest.approx(1e-3)


def test_cost_counts_the_devices_in_use():
    devices = [device("cheap", 1e9, price_per_hour=1.0), device("dear", 2e9, price_per_hour=10.0)]
    work = timed(chain([1e6] * 4, [1e3] * 5), cluster(devices))
    planned = make_plan(work, Wish("cost"))
    assert planned.best.name == "cheap"
    assert planned.best.outcome.cost == pytest.approx(4e-3 / 3600)


def test_slow_links_narrow_tensors_within_the_error():
    """The small device can help only if what goes there is narrowed."""
    nodes = tuple(WorkNode(n, "x", 1e6, 0.0) for n in "sabj")
    values = (Value(0, 11e5, (1, 2)), Value(1, 11e5, (3,)), Value(2, 11e5, (3,)), Value(3, 1e3, is_result=True))
    work = timed(WorkGraph("fork", nodes, values), cluster([device("d0"), device("d1")], 1e-6, 1e9))
    wide = make_plan(work, Wish())
    half = make_plan(work, Wish(max_error=NARROW["float16"][1]))
    byte = make_plan(work, Wish(max_error=0.01))
    assert [len(p.best.plan.devices) for p in (wide, half, byte)] == [1, 2, 2]
    assert half.best.plan.narrow == (("d0-d1", "float16"),)
    assert byte.best.plan.narrow == (("d0-d1", "int8"),)
    # What goes there for one branch, and comes from the other: one transfer on each way.
    assert half.best.error == pytest.approx(NARROW["float16"][1])
    assert byte.best.error == pytest.approx(NARROW["int8"][1])
    assert len(make_plan(work, Wish(max_error=0.9 * NARROW["float16"][1])).best.plan.devices) == 1


def test_only_float32_is_narrowed():
    work = timed(chain([1e6, 1e6], [0, 1e6, 0]), cluster([device("d0"), device("d1")]))
    whole = replace(work.graph, values=tuple(replace(v, dtype="int32") for v in work.graph.values))
    plan = equal_split(work)
    narrow = replace(plan, narrow=(("d0-d1", "int8"),))
    exact = timed(whole, work.cluster)
    assert simulate(exact, narrow).makespan == simulate(exact, plan).makespan
    assert simulate(work, narrow).makespan < simulate(work, plan).makespan


def test_slow_links_are_those_nearer_to_the_slowest():
    nodes = (Node("m0", bus=Link("m0", 0, 1e10, True)), Node("m1"))
    devices = tuple(replace(device(n), node=m) for n, m in (("d0", "m0"), ("d1", "m0"), ("d2", "m1")))
    described = Cluster(devices, nodes, ((("m0", "m1"), Link("m0-m1", 1e-3, 1e8)),))
    assert slow_links(described) == ("m0-m1",)
    assert slow_links(cluster([device("a"), device("b")])) == ("a-b",)


@FEW
@given(graphs(most=9), st.integers(1, 9))
def test_grouping_keeps_the_work_and_what_is_between(graph, limit):
    work = timed(graph, cluster([device("d0"), device("d1", 3e9)]))
    grouped = group(work, limit)
    assert sorted(n for g in grouped.groups for n in g) == list(range(len(graph.nodes)))
    assert grouped.work.seconds.sum(axis=0) == pytest.approx(work.seconds.sum(axis=0))
    assert grouped.work.graph.weight_bytes == pytest.approx(graph.weight_bytes)
    assert grouped.work.graph.result_bytes == pytest.approx(graph.result_bytes)
    plan = equal_split(grouped.work)
    coarse, fine = simulate(grouped.work, plan, 3), simulate(work, grouped.expanded(plan), 3)
    assert fine.makespan == pytest.approx(coarse.makespan)


@FEW
@given(graphs(most=9))
def test_another_order_has_no_larger_cuts(graph):
    work = timed(graph, cluster([device("d0")]))
    before, after = cuts_of(graph), cuts_of(reordered(work).work.graph)
    assert after.bytes_over.sum() <= before.bytes_over.sum() * (1 + 1e-9)
    over = [
        sum(v.size for v in graph.values if v.producer < k <= max(v.consumers, default=INPUT))
        for k in range(len(graph.nodes) + 1)
    ]
    assert before.bytes_over == pytest.approx(np.array(over))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"objective": "speed"}, "objective: expected one of latency, throughput, energy, cost, found 'speed'"),
        ({"deadline_s": 0.0}, "deadline: expected more than 0 seconds, found 0.0"),
        ({"max_error": 1.5}, "max error: expected at least 0 and below 1, found 1.5"),
        ({"micro_batches": ()}, "micro-batches: expected numbers of at least 1"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(wish, message):
    with pytest.raises(UsageError, match=message):
        Wish(**wish)
