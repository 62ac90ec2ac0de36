"""The simulator against schedules worked out in other ways, and what must hold for any of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.errors import UsageError
from kompilo.compiler.plan.layout import lay_out
from kompilo.compiler.plan.plan import Plan, Route, alone, equal_split, stages_of
from kompilo.compiler.plan.simulate import route_numbers, simulate
from kompilo.compiler.plan.work import INPUT, TimedWork

from plan_support import FLOPS, ROOM, SIZES, chain, cluster, device, graphs, one_route, timed, timed_graphs

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


def worked_out(work: TimedWork, placed: list[int]) -> float:
    """The makespan of one request whose nodes run in ascending order on the devices `placed`.

    Always commits what can begin first: of the nodes that are next on their device and of the transfers, those of one
    link in the order in which their tensors were made.
    """
    graph, described = work.graph, work.cluster
    entry = described.entry_index
    done: dict[object, float] = {}
    free: dict[object, float] = {}
    todo: list[tuple[object, int, object]] = [("node", n, None) for n in range(len(graph.nodes))]
    for number, value in enumerate(graph.values):
        source = entry if value.producer == INPUT else placed[value.producer]
        targets = dict.fromkeys(placed[c] for c in value.consumers)
        if value.is_result and entry is not None:
            targets[entry] = None
        todo += [("send", number, t) for t in targets if source is not None and t != source]

    def ready(kind: object, number: int, target: object) -> float | None:
        """When all that an activity needs is there; None if that is not known yet."""
        if kind == "send":
            producer = graph.values[number].producer
            return 0.0 if producer == INPUT else done.get(("node", producer))
        needs = [("node", n) for n in range(number) if placed[n] == placed[number]]
        for v in graph.inputs_of[number]:
            producer = graph.values[v].producer
            source = entry if producer == INPUT else placed[producer]
            if source is not None and source != placed[number]:
                needs.append(("send", v, placed[number]))
            elif producer != INPUT:
                needs.append(("node", producer))
        return max((done[n] for n in needs), default=0.0) if all(n in done for n in needs) else None

    while todo:
        options = []
        for order, (kind, number, target) in enumerate(todo):
            since = ready(kind, number, target)
            if since is None:
                continue
            if kind == "send":
                producer = graph.values[number].producer
                resource = described.joined(entry if producer == INPUT else placed[producer], target).resource
            else:
                resource = placed[number]
            options.append((max(since, free.get(resource, 0.0)), since, order, resource))
        begin, _, order, resource = min(options, key=lambda o: o[:3])
        kind, number, target = todo.pop(order)
        if kind == "send":
            producer = graph.values[number].producer
            link = described.joined(entry if producer == INPUT else placed[producer], target).link
            free[resource] = begin + graph.values[number].size / link.bytes_per_s
            done["send", number, target] = free[resource] + link.latency_s
        else:
            free[resource] = done["node", number] = begin + float(work.durations()[number, placed[number]])
    return max(done.values())


@EXAMPLES
@given(timed_graphs(), st.data())
def test_one_request_is_scheduled_as_worked_out_by_hand(work, data):
    count = len(work.cluster.devices)
    placed = [data.draw(st.integers(0, count - 1)) for _ in work.graph.nodes]
    plan = Plan((Route(stages_of(placed)),))
    assert simulate(work, plan).makespan == pytest.approx(worked_out(work, placed), rel=1e-9)


@EXAMPLES
@given(timed_graphs(), st.integers(1, 6), st.data())
def test_nothing_is_faster_than_work_and_the_longest_way_allow(work, requests, data):
    placed = [data.draw(st.integers(0, len(work.cluster.devices) - 1)) for _ in work.graph.nodes]
    outcome = simulate(work, Plan((Route(stages_of(placed)),)), requests)
    times = [float(work.durations()[n, d]) for n, d in enumerate(placed)]
    longest: list[float] = []
    for n, takes in enumerate(times):
        longest.append(takes + max((longest[p] for p in work.graph.predecessors(n)), default=0.0))
    busiest = max(sum(t for t, d in zip(times, placed, strict=True) if d == k) for k in set(placed))
    assert outcome.makespan >= max(longest) * (1 - 1e-9)
    assert outcome.makespan >= busiest * requests * (1 - 1e-9)
    assert max(outcome.device_use) <= 1 + 1e-9


@EXAMPLES
@given(
    st.lists(FLOPS, min_size=2, max_size=4), st.lists(SIZES, min_size=5, max_size=5), st.integers(1, 12),
    st.integers(1, 3), st.floats(0, 1e-2),
)  # fmt: skip
def test_pipelines_wait_for_places_as_the_recurrence_says(flops, sizes, requests, queue, latency):
    """A blocking flow shop: each stage and each link is a machine, with `queue` places on both sides of a link."""
    count = len(flops)
    work = timed(
        chain(flops, [0.0, *sizes[: count - 1], 0.0]),
        cluster([device(f"d{k}", 1e9 * (k + 1)) for k in range(count)], latency, 1e8),
    )
    outcome = simulate(work, one_route(*((k, [k]) for k in range(count)), queue=queue), requests, trace=True)
    takes = [float(work.durations()[k, k]) for k in range(count)]
    sends = [s / 1e8 for s in sizes[: count - 1]]
    ran = [[0.0] * requests for _ in range(count)]
    sent = [[0.0] * requests for _ in range(count - 1)]
    for i in range(requests):
        for s in range(count):
            begins = [ran[s][i - 1] if i else 0.0]
            if s:
                begins.append(sent[s - 1][i] + latency)
            if s < count - 1 and i >= queue:
                begins.append(sent[s][i - queue])
            ran[s][i] = max(begins) + takes[s]
            if s < count - 1:
                inbox = ran[s + 1][i - queue] if i >= queue else 0.0
                sent[s][i] = max(ran[s][i], sent[s][i - 1] if i else 0.0, inbox) + sends[s]
    assert outcome.makespan == pytest.approx(ran[-1][-1], rel=1e-9)
    assert outcome.most_waiting <= queue


@EXAMPLES
@given(timed_graphs(devices=3), st.integers(1, 25), st.integers(1, 3), st.integers(1, 3), st.data())
def test_queues_and_memory_are_bounded_however_many_requests_come(work, requests, queue, parts, data):
    placed = [data.draw(st.integers(0, len(work.cluster.devices) - 1)) for _ in work.graph.nodes]
    plan = Plan((Route(stages_of(placed)),), parts, queue)
    outcome = simulate(work, plan, requests)
    assert outcome.most_waiting <= queue
    layout = lay_out(work, plan)
    most = list(layout.weights)
    for place in range(len(most)):
        stages = [s for s in layout.routes[0].stages if s.device == place]
        most[place] += sum(queue * b.size for s in stages for b in s.makes)
        most[place] += sum(queue * c.size for c in layout.channels if c.target == place)
        most[place] += max((s.working for s in stages), default=0.0)
    assert all(peak <= m * (1 + 1e-9) for peak, m in zip(outcome.peak_bytes, most, strict=True))


def test_memory_of_a_pipeline_does_not_grow_with_requests():
    work = timed(chain([1e6, 9e6], [1e6, 1e6, 1e3], weights=5e6), cluster([device("fast", 1e10), device("slow")]))
    plan = one_route((0, [0]), (1, [1]), queue=2)
    few, many = simulate(work, plan, 8), simulate(work, plan, 200)
    assert few.peak_bytes == pytest.approx(many.peak_bytes)
    # Weights; on the fast device two results that wait, on the slow one two that came, and its own result.
    assert many.peak_bytes == pytest.approx((5e6 + 2e6, 5e6 + 2e6 + 1e3))
    assert simulate(work, replace(plan, queue=5), 200).peak_bytes[0] == pytest.approx(5e6 + 5e6)


@EXAMPLES
@given(st.lists(FLOPS, min_size=3, max_size=3), st.lists(SIZES, min_size=4, max_size=4), st.floats(1.0, 4.0),
       st.integers(0, 2), st.integers(1, 10))  # fmt: skip
def test_a_faster_device_or_link_never_makes_a_pipeline_slower(flops, sizes, factor, which, requests):
    graph, plan = chain(flops, sizes), one_route((0, [0]), (1, [1]), (2, [2]))
    speeds = [1e9, 2e9, 3e9]
    before = timed(graph, cluster([device(f"d{k}", s) for k, s in enumerate(speeds)], rate=1e8, entry="d0"))
    speeds[which] *= factor
    faster = timed(graph, cluster([device(f"d{k}", s) for k, s in enumerate(speeds)], rate=1e8, entry="d0"))
    wider = timed(graph, cluster([device(f"d{k}", s) for k, s in enumerate(speeds)], rate=1e8 * factor, entry="d0"))
    times = [simulate(w, plan, requests).makespan for w in (before, faster, wider)]
    assert times[0] * (1 + 1e-9) >= times[1]
    assert times[1] * (1 + 1e-9) >= times[2]


@EXAMPLES
@given(graphs(), st.integers(1, 4))
def test_on_one_device_requests_follow_each_other(graph, requests):
    work = timed(graph, cluster([device("d0", watts_idle=10.0, watts_active=100.0, price_per_hour=3.6)], entry="d0"))
    whole = float(work.durations().sum())
    outcome = simulate(work, alone(work, 0), requests)
    assert outcome.makespan == pytest.approx(whole * requests)
    assert outcome.joules == pytest.approx(100 * whole)
    assert outcome.cost == pytest.approx(whole / 1000)
    assert outcome.peak_bytes[0] >= graph.weight_bytes


def test_idle_time_of_devices_in_use_counts_as_energy():
    described = cluster([device("d0", watts_active=100.0), device("d1", watts_idle=7.0, watts_active=50.0)], 0.0, 1e9)
    work = timed(chain([1e6, 1e6], [0, 1e6, 0]), described)
    outcome = simulate(work, one_route((0, [0]), (1, [1])))
    # 1 ms on either device and 1 ms between them; the first draws nothing when idle.
    assert outcome.makespan == pytest.approx(3e-3)
    assert outcome.joules == pytest.approx(100e-3 + 50e-3 + 7 * 2e-3)
    assert simulate(work, alone(work, 0)).joules == pytest.approx(200e-3)


def test_micro_batches_overlap_transfers_with_work_but_read_weights_again():
    graph = chain([8e6, 8e6], [0, 8e6, 0], weights=1e6)
    slow = [replace(device(n), bytes_per_s=1e9) for n in ("d0", "d1")]
    work = timed(graph, cluster(slow, 0.0, 1e9))
    plan = one_route((0, [0]), (1, [1]))
    whole, parts = simulate(work, plan).makespan, simulate(work, replace(plan, micro_batches=4)).makespan
    assert whole == pytest.approx(24e-3)
    assert parts == pytest.approx((2 + 2 + 2 + 3 * 2) * 1e-3)
    # Below a millisecond there is no sense in dividing: so long the weights take.
    assert work.durations(64)[0, 0] == pytest.approx(1e-3)


def test_narrow_transfers_take_less_of_the_link_and_time_to_convert():
    described = cluster([replace(device(n), bytes_per_s=1e10) for n in ("d0", "d1")], 0.0, 1e9)
    work = timed(chain([1e6, 1e6], [0, 8e6, 0]), described)
    plan = one_route((0, [0]), (1, [1]))
    wide, narrow = simulate(work, plan), simulate(work, replace(plan, narrow=(("d0-d1", "int8"),)))
    assert wide.makespan == pytest.approx(10e-3)
    assert narrow.makespan == pytest.approx(2e-3 + 2e-3 + 2 * 10e6 / 1e10)
    assert narrow.way_use[0][1] < wide.way_use[0][1]


def test_requests_in_flight_are_limited():
    work = timed(chain([1e6, 1e6], [0, 1, 0]), cluster([device("d0"), device("d1")], 0.0, 1e12))
    plan = one_route((0, [0]), (1, [1]))
    assert simulate(work, plan, 10).makespan == pytest.approx(11e-3, rel=1e-4)
    one = simulate(work, plan, 10, in_flight=1)
    assert one.makespan == pytest.approx(20e-3, rel=1e-4)
    assert one.latency == pytest.approx(2e-3, rel=1e-4)


def test_events_of_a_resource_do_not_overlap_and_add_up():
    work = timed(chain([1e6] * 6, [1e5] * 7), cluster([device("d0"), device("d1", 2e9)], entry="d1"))
    outcome = simulate(work, equal_split(work), 9, trace=True)
    busy: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for event in outcome.events:
        busy.setdefault((event.kind, event.resource), []).append((event.start, event.end))
    assert set(busy) == {("run", 0), ("run", 1), ("transfer", 0), ("transfer", 1)}
    for spans in busy.values():
        spans.sort()
        assert all(a[1] <= b[0] + 1e-15 for a, b in pairwise(spans))
    for d in (0, 1):
        total = sum(e - s for s, e in busy["run", d])
        assert total / outcome.makespan == pytest.approx(outcome.device_use[d])


@EXAMPLES
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.integers(0, 60))
def test_routes_get_their_shares(weights, count):
    shares = [w / sum(weights) for w in weights]
    chosen = route_numbers(shares, count)
    for r, share in enumerate(shares):
        assert abs(chosen.count(r) - share * count) < len(shares)


def test_a_tensor_goes_to_a_device_once():
    work = timed(chain([1e6] * 3, [0, 1e6, 1e3, 0]), cluster([device("d0"), device("d1")]))
    forked = replace(work.graph, values=(*work.graph.values[:1], replace(work.graph.values[1], consumers=(1, 2)),
                                         *work.graph.values[2:]))  # fmt: skip
    work = timed(forked, work.cluster)
    layout = lay_out(work, one_route((0, [0]), (1, [1]), (1, [2])))
    assert [c.size for c in layout.channels] == [1e6]
    assert layout.channels[0].wakes == (1, 2)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (one_route((0, [0])), "expected 2 operators once on each route, found 1"),
        (one_route((0, [0, 1]), (1, [1])), "expected 2 operators once on each route, found 3"),
        (one_route((1, [1]), (0, [0])), "expected 'n0' to run before 'n1'"),
        (one_route((7, [0, 1])), "on known devices"),
        (one_route((0, [0, 1]), queue=0), "at least 1 micro-batch and places in queues"),
        (Plan((Route(one_route((0, [0, 1])).routes[0].stages, 0.5),)), "shares that add up to 1"),
        (one_route((0, [0, 1]), narrow=(("d0-d1", "int3"),)), "expected to narrow to one of float16, int8"),
    ],
)
def test_plans_that_do_not_fit_the_work_are_refused(plan, message):
    work = timed(chain([1e6, 1e6], [0, 1, 0]), cluster([device("d0"), device("d1", memory=ROOM)]))
    with pytest.raises(UsageError, match=message):
        simulate(work, plan)
