"""The parts of the executor by themselves: routes, times, slots, deadlines, packets, places in memory."""

import os
import selectors
import socket
import threading
import time
from concurrent.futures import Future
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.runtime.core_sets import CoreSet
from kompilo.compiler.runtime.executor import times as times_module
from kompilo.compiler.runtime.executor.arena import Arena, Place, as_json, from_json, places_of
from kompilo.compiler.runtime.executor.dispatcher import Dispatcher
from kompilo.compiler.runtime.executor.messages import DONE, RUN, Message, Orders, pack, unpack
from kompilo.compiler.runtime.executor.placement import Placement, Route, Stage
from kompilo.compiler.runtime.executor.process import Given, State, WorkerProcess
from kompilo.compiler.runtime.executor.requests import Deadlines, Request, Slots, urgency_of
from kompilo.compiler.runtime.executor.routes import Routes
from kompilo.compiler.runtime.executor.times import StageTimes
from kompilo.compiler.segments import Segment
from kompilo.compiler.tensor_spec import TensorSpec
from kompilo.errors import DeadlineError, KompiloError, UsageError


def spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape or (3, 5), dtype)


@st.composite
def graphs(draw):
    """Pieces, each of which reads some of what is there before it, and a legal route through them."""
    count = draw(st.integers(1, 7))
    pieces = []
    for k in range(count):
        known = ["x", *(f"t{j}" for j in range(k))]
        read = draw(st.sets(st.sampled_from(known), min_size=1, max_size=3))
        pieces.append(Segment(tuple(spec(name) for name in sorted(read)), (spec(f"t{k}"),)))
    order = list(range(count))
    devices = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    cuts = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    stages: list[Stage] = []
    for k in order:
        if stages and stages[-1].device == devices[k] and cuts[k]:
            stages[-1] = Stage(devices[k], (*stages[-1].pieces, k))
        else:
            stages.append(Stage(devices[k], (k,)))
    return pieces, Route(tuple(stages))


@settings(max_examples=150, deadline=None)
@given(graphs(), st.lists(st.floats(0, 1), min_size=3, max_size=3), st.sets(st.integers(0, 2), min_size=1))
def test_stages_wait_for_what_they_read_and_write_what_others_read(found, busy, ready):
    pieces, route = found
    routes = Routes(Placement(("a", "b", "c"), (route,)), pieces, [f"t{len(pieces) - 1}"])
    for stage in routes.stages:
        inside = {f"t{p}" for p in stage.pieces}
        read = {s.name for p in stage.pieces for s in pieces[p].inputs} - inside - {"x"}
        assert read == {n for n in read for b in stage.before if n in routes.stages[b].writes}
        assert all(
            stage.before.count(b) == 1 and routes.stages.index(stage) in routes.stages[b].after for b in stage.before
        )
        assert set(stage.writes) <= inside
    times = StageTimes([[0.1, 0.2, 0.4] for _ in routes.stages])
    usable = [d in ready for d in range(3)]
    choice = routes.best(busy, usable, times)
    assert set(choice.where) == set(range(len(routes.stages)))
    assert set(choice.where.values()) <= ready
    assert all(choice.where[n] == s.device for n, s in enumerate(routes.stages) if usable[s.device])
    assert choice.end >= max(choice.busy[d] for d in set(choice.where.values())) - 1e-9


def test_the_route_that_is_done_first_is_taken():
    piece = [Segment((spec("x"),), (spec("y"),))]
    placement = Placement(("fast", "slow"), (Route((Stage(0, (0,)),)), Route((Stage(1, (0,)),))), ((1.0, 3.0),))
    routes = Routes(placement, piece, ["y"])
    times = StageTimes(routes.planned(placement))
    chosen = [routes.best(busy, [True, True], times).where for busy in ([0, 0], [1.9, 0], [2.1, 0], [5.0, 3.0])]
    assert chosen == [{0: 0}, {0: 0}, {1: 1}, {0: 0}]
    assert routes.best([0, 0], [False, True], times).where[0] == 1


def test_times_are_learnt_and_half_forgotten(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(times_module.time, "monotonic", lambda: now[0])
    times = StageTimes([[0.1, None], [None, None]])
    assert times.seconds(0, 0) == 0.1
    assert times.seconds(0, 1) == 0.1  # as on the device that is known
    for _ in range(40):
        times.note(0, 0, 1.0)
    assert times.seconds(0, 0) == pytest.approx(1.0)
    now[0] += 5.0
    assert times.seconds(0, 0) == pytest.approx(0.55)
    now[0] += 1000.0
    assert times.seconds(0, 0) == pytest.approx(0.1)
    times.note(1, 1, 0.25)
    assert times.seconds(1, 1) == times.seconds(1, 0) == 0.25
    assert times.latest(0) == [1.0] * 40


def test_slots_go_to_the_most_urgent_and_some_are_left_for_them():
    slots = Slots(4)
    soon = time.monotonic() + 0.05
    assert {slots.take("batch", urgency_of("batch"), None) for _ in range(2)} < {0, 1, 2, 3}
    with pytest.raises(DeadlineError):
        slots.take("batch", urgency_of("batch"), soon)
    normal = slots.take("normal", urgency_of("normal"), None)
    with pytest.raises(DeadlineError):
        slots.take("normal", urgency_of("normal"), time.monotonic() + 0.05)
    slots.take("interactive", urgency_of("interactive"), None)
    order = []

    def wait_for(name: str, urgency: float) -> None:
        slots.take("interactive", urgency, None)
        order.append(name)

    threads = [threading.Thread(target=wait_for, args=(name, at)) for name, at in (("late", 9e9), ("early", 1.0))]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 5
    while len(slots._waiting) < 2 and time.monotonic() < until:
        time.sleep(0.005)
    slots.give(normal)
    threads[1].join(5)
    assert order == ["early"]
    slots.give(normal)
    threads[0].join(5)
    assert order == ["early", "late"]
    slots.close(KompiloError("closed."))
    with pytest.raises(KompiloError, match="closed"):
        slots.take("normal", 0.0, None)


def test_deadlines_are_told_once_and_forgotten_when_a_request_is_over():
    deadlines = Deadlines()
    requests = [Request(Future(), 0, 0.0, float(k), k) for k in range(1000)]
    for request in requests:
        deadlines.add(request)
        if request.number % 2:
            request.finish(1)
    assert len(deadlines._heap) < 800
    assert [r.number for r in deadlines.due(9.5)] == [0, 2, 4, 6, 8]
    assert deadlines.due(9.5) == []
    assert deadlines.next >= 10.0
    assert requests[1].future.result() == 1


@given(st.integers(0, 4), st.integers(0, 2**63), st.integers(0, 2**32 - 1), st.floats(allow_nan=False), st.text())
def test_packets_keep_what_they_are_given(kind, task, slot, value, text):
    message = Message(kind, task, slot, 7, value, text.encode(errors="replace").decode())
    assert unpack(pack(message)) == message
    assert len(pack(Message(RUN, text="x" * 10**6))) <= 1 << 16


def test_tensors_have_places_of_their_own_that_all_processes_see():
    pieces = [
        Segment((spec("a", 3, 7, dtype="int8"), spec("e", 0, 4)), (spec("b", 5, dtype="bfloat16"), spec("c"))),
        Segment((spec("b", 5, dtype="bfloat16"),), (spec("d", dtype="bool"),)),
    ]
    places = places_of(pieces)
    assert from_json(as_json(places)) == places
    assert all(place.offset % 64 == 0 for place in places.values())
    ends = sorted((p.offset, p.offset + p.nbytes) for p in places.values())
    assert all(first[1] <= second[0] for first, second in pairwise(ends))
    mine = Arena(places, 3)
    other = Arena(from_json(as_json(places)), 3, mine.descriptor)
    for slot in range(3):
        for k, name in enumerate(places):
            mine.view(slot, name)[...] = (slot + k) % 2
    for slot in range(3):
        for k, name in enumerate(places):
            view = other.view(slot, name)
            assert view.shape == places[name].shape
            assert view.ctypes.data % 64 == 0 or not view.size
            np.testing.assert_array_equal(view.astype(np.float32), np.full(view.shape, (slot + k) % 2, np.float32))
    mine.close()
    mine.close()


@pytest.mark.parametrize(("offset", "slots"), [(1 << 59, 4), (1 << 61, 4), (1 << 40, 1 << 60)])
def test_memory_that_the_system_does_not_have(offset, slots):
    """Too much for an address space, for a file, and for an integer; no descriptor stays open."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(KompiloError, match=f"there is no memory for {slots} requests in flight"):
        Arena({"x": Place(offset, (3, 5), "float32")}, slots)
    assert os.listdir("/proc/self/fd") == before


def test_a_worker_that_ends_behind_its_answer_is_started_again_once():
    """The answer and the end are read at once; the stage behind the answer goes to the same worker, in vain."""
    pieces = [Segment((spec("a"),), (spec("b"),)), Segment((spec("b"),), (spec("c"),))]
    placement = Placement(("cpu:0", "cpu:1"), (Route((Stage(0, (0,)), Stage(0, (1,)))),))
    routes = Routes(placement, pieces, ["c"])
    orders = Orders("x", [0], None, 0, 1, [], [])
    workers = [WorkerProcess(k, CoreSet((k,)), orders) for k in range(2)]
    dispatcher = Dispatcher(workers, routes, StageTimes(routes.planned(placement)), Slots(4), lambda slot: None, 1.0)
    worker = workers[0]
    worker.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker.end.setblocking(False)
    worker.state, worker.proved = State.READY, True
    dispatcher._selector.register(worker.end, selectors.EVENT_READ, worker)
    request = Request(Future(), 0, 0.0, None, 1)
    request.where, request.missing, request.left, request.running = {0: 0, 1: 0}, {0: 0, 1: 1}, 2, 1
    worker.run(1, Given(request, 0, 0.1))
    theirs.send(pack(Message(DONE, 1, 0, 0, 0.1)))
    theirs.recv(1 << 16)
    theirs.close()
    try:
        dispatcher._hear(worker)
        assert worker.state is State.DOWN
        assert worker.restarts == len(dispatcher._restarts) == 1
        assert dispatcher._stranded == [(request, 1)]
        assert request.running == 0
    finally:
        dispatcher._end()


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "-1.0", "1e999"])
def test_plans_with_impossible_times(seconds, tmp_path):
    path = tmp_path / "plan.json"
    Placement(("cpu:0",), (Route((Stage(0, (0,)),)),), ((0.5,),)).save(path)
    assert Placement.read(path).seconds == ((0.5,),)
    path.write_text(path.read_text().replace("0.5", seconds))
    with pytest.raises(UsageError, match="expected finite times of 0 s or more, found (nan|inf|-1.0)"):
        Placement.read(path)
    path.write_text(path.read_text().replace('"device": 0', '"device": 1e999'))
    with pytest.raises(UsageError, match="expected a file that kompilo plan wrote"):
        Placement.read(path)
