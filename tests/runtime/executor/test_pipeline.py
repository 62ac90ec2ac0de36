"""Pipelines of unequal devices: results, routes, priorities, deadlines, back-pressure, and what is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest

import kompilo
from kompilo.compiler.runtime.executor.placement import Placement, Route, Stage
from kompilo.errors import DeadlineError, InputError, KompiloError, UsageError

from branching import sample


def check(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def pause(pipeline) -> None:
    for pid in pipeline.workers.values():
        os.kill(pid, signal.SIGSTOP)


def go_on(pipeline) -> None:
    for pid in pipeline.workers.values():
        os.kill(pid, signal.SIGCONT)


def legal_route(rng, pieces) -> Route:
    """Pieces in a random order in which they can run, on random devices, neighbours on one device in one stage."""
    left, known, stages = set(range(len(pieces))), {"x"}, []
    while left:
        able = [p for p in left if all(s.name in known for s in pieces[p].inputs)]
        piece = int(rng.choice(sorted(able)))
        left.remove(piece)
        known.update(s.name for s in pieces[piece].outputs)
        device = int(rng.integers(2))
        if stages and stages[-1].device == device:
            stages[-1] = Stage(device, (*stages[-1].pieces, piece))
        else:
            stages.append(Stage(device, (piece,)))
    return Route(tuple(stages))


def test_many_threads_share_two_devices(pipeline, devices, expected):
    both = pipeline(devices)
    both.wait_ready(60)
    errors = []

    def work(seed: int) -> None:
        try:
            for k in range(15):
                number = (seed + k) % 8
                check(both(sample(number)), expected[number])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    told = both.statistics()
    assert told["requests"] == {"answered": 90, "failed": 0, "late": 0, "cancelled": 0, "repeated": 0}
    assert all(device["stages"] > 0 for device in told["devices"].values())
    named = both.run({"x": sample(1)})
    check([named["y"], named["kept"]], expected[1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_legal_placement_gives_the_same_results(pipeline, devices, artifact, expected, seed, tmp_path):
    rng = np.random.default_rng(seed)
    pieces = kompilo.load(artifact, device="cpu", threads=1).artifact.segments
    placement = Placement(tuple(devices), tuple(legal_route(rng, pieces) for _ in range(2)))
    placement.save(tmp_path / "plan.json")
    planned = pipeline(plan=tmp_path / "plan.json")
    assert planned.placement == placement
    results = [planned.submit(sample(k % 8)) for k in range(16)]
    for k, future in enumerate(results):
        check(future.result(60), expected[k % 8])


def test_a_single_device_is_called_without_a_worker(pipeline, devices, expected):
    single = pipeline(devices[1:])
    check(single(sample(2)), expected[2])
    assert single._executor is None
    check(single.submit(sample(3)).result(60), expected[3])
    assert single.statistics()["requests"]["answered"] == 1


def test_an_artifact_of_a_whole_model_and_inputs_that_do_not_fit(devices, tmp_path, artifact):
    with kompilo.Pipeline(kompilo.load(artifact, device="cpu").artifact, devices) as from_memory:
        for wrong in (np.zeros((1, 3, 13, 10)), np.zeros((1, 3, 13, 9), np.float32)):
            with pytest.raises(InputError, match="input 'x': expected float32"):
                from_memory(wrong)
        with pytest.raises(InputError, match="takes 1 inputs"):
            from_memory.submit(sample(), sample())
        with pytest.raises(UsageError, match="priority: expected one of interactive"):
            from_memory.submit(sample(), priority="high")
        with pytest.raises(UsageError, match="deadline: expected seconds above 0"):
            from_memory.submit(sample(), deadline=0)
        # None of them took a place for good.
        assert all(from_memory.submit(sample()).result(60) for _ in range(20))


def test_urgent_requests_go_first_and_batches_are_not_forgotten(pipeline, devices):
    """On one device, whose worker has two of the batch when the urgent requests come."""
    single = pipeline(devices[:1], in_flight=16)
    single.submit(sample()).result(60)
    order = []
    pause(single)
    futures = []
    for k in range(12):
        priority = "batch" if k < 9 else "interactive"
        futures.append(single.submit(sample(), priority=priority))
        futures[-1].add_done_callback(lambda _, priority=priority: order.append(priority))
    go_on(single)
    assert wait(futures, 60).not_done == set()
    # The worker may have begun one of the batch, and begins its second while the third urgent one is on its way.
    assert max(k for k, priority in enumerate(order) if priority == "interactive") <= 4
    assert order.count("batch") == 9


def test_requests_fail_at_their_deadline_and_the_next_are_answered(pipeline, devices, expected):
    both = pipeline(devices)
    both.wait_ready(60)
    pause(both)
    start = time.monotonic()
    late = [both.submit(sample(), deadline=0.3) for _ in range(4)]
    for future in late:
        with pytest.raises(DeadlineError, match="deadline passed"):
            future.result(10)
    assert 0.25 < time.monotonic() - start < 10
    go_on(both)
    for k in range(8):
        check(both(sample(k)), expected[k])
    assert both.statistics()["requests"]["late"] == 4


def test_cancelled_requests_free_their_places(pipeline, devices, expected):
    both = pipeline(devices, in_flight=4)
    both.wait_ready(60)
    pause(both)
    futures = [both.submit(sample(), priority="interactive") for _ in range(4)]
    assert all(future.cancel() for future in futures)
    with pytest.raises(CancelledError):
        futures[0].result(1)
    go_on(both)
    for k in range(6):
        check(both(sample(k)), expected[k])
    assert both.statistics()["requests"]["answered"] == 6


def test_no_more_requests_are_taken_than_there_are_places(pipeline, devices, expected):
    both = pipeline(devices, in_flight=3)
    both.wait_ready(60)
    pause(both)
    held = [both.submit(sample(k), priority="interactive") for k in range(3)]
    with pytest.raises(DeadlineError, match="waited for a place in the queue"):
        both.submit(sample(), deadline=0.2)
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(both.submit(sample(3))))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    go_on(both)
    thread.join(60)
    for k, future in enumerate([*held, *waiting]):
        check(future.result(60), expected[k])


def test_callbacks_cannot_wait_for_the_thread_that_calls_them(pipeline, devices, expected):
    both = pipeline(devices)
    found = []

    def again(future) -> None:
        try:
            both.submit(sample())
        except UsageError as error:
            found.append(error.message)

    future = both.submit(sample(1))
    future.add_done_callback(again)
    check(future.result(60), expected[1])
    check(both(sample(2)), expected[2])
    assert len(found) == 1
    assert "found a callback of a future" in found[0]


def test_closing_fails_what_is_in_flight_and_ends_the_workers(pipeline, devices):
    both = pipeline(devices)
    both.wait_ready(60)
    pids = list(both.workers.values())
    pause(both)
    futures = [both.submit(sample()) for _ in range(5)]
    both.close()
    both.close()
    for future in futures:
        with pytest.raises(KompiloError, match="closed before the request was done"):
            future.result(5)
    with pytest.raises(KompiloError, match="the pipeline is closed"):
        both.submit(sample())
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_waiting_for_devices_ends_when_the_pipeline_is_closed(pipeline, devices):
    both = pipeline(devices)
    until = time.monotonic() + 30
    while None in both.workers.values() and time.monotonic() < until:
        time.sleep(0.002)
    pause(both)  # before they have loaded the model
    told = []

    def wait_ready() -> None:
        try:
            both.wait_ready()
        except KompiloError as error:
            told.append(error.message)

    thread = threading.Thread(target=wait_ready, daemon=True)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    both.close()
    thread.join(20)
    assert told == ["the pipeline is closed."]


def test_one_device_does_not_answer_behind_the_end(pipeline, devices, expected):
    single = pipeline(devices[:1])
    check(single(sample(2)), expected[2])
    single.close()
    for call in (single, lambda x: single.run({"x": x})):
        with pytest.raises(KompiloError, match="the pipeline is closed"):
            call(sample(2))


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for its parent to take notice, which may take long when it is not ours."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


SCRIPT = """
import signal, sys, time
import kompilo
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have it ignored
pipeline = kompilo.Pipeline(sys.argv[1], sys.argv[2])
pipeline.wait_ready(60)
print(*pipeline.workers.values(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_made_them(artifact, devices, number):
    command = [sys.executable, "-P", "-c", SCRIPT, str(artifact), ",".join(devices)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        pids = process.stdout.readline().split()
        assert len(pids) == 2
        process.send_signal(number)
        process.wait(20)
    until = time.monotonic() + 10
    while not all(map(has_ended, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert all(map(has_ended, pids))


def test_a_pipeline_that_nobody_holds_ends_its_workers(artifact, devices):
    held = kompilo.Pipeline(artifact, devices)
    held.wait_ready(60)
    pids = list(held.workers.values())
    del held
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_impossible_pipelines(artifact, devices, tmp_path):
    with pytest.raises(UsageError, match="expected devices or a plan"):
        kompilo.Pipeline(artifact)
    with pytest.raises(UsageError, match="cpu:znver5"):
        kompilo.Pipeline(artifact, [f"{devices[0].split('=')[0]}=cpu:znver5"])
    for in_flight in (0, True, 2.0, 65537, 10**30):
        with pytest.raises(UsageError, match="in_flight: expected an integer from 1 to 65,536"):
            kompilo.Pipeline(artifact, devices, in_flight=in_flight)
    whole = Stage(0, tuple(range(6)))
    for routes in (
        (),
        (Route((Stage(0, (0, 1)),)),),
        (Route((Stage(0, (5, 4, 3, 2, 1, 0)),)),),
        (Route((Stage(2, whole.pieces),)),),
    ):
        with pytest.raises(UsageError, match="plan: expected"):
            kompilo.Pipeline(artifact, plan=Placement(tuple(devices), routes))
    with pytest.raises(UsageError, match="expected those of the plan"):
        kompilo.Pipeline(artifact, devices[:1], Placement(tuple(devices), (Route((whole,)),)))
    (tmp_path / "plan.json").write_text('{"format": "kompilo-plan"}')
    for name in ("plan.json", "none.json"):
        with pytest.raises(UsageError, match="expected a file that kompilo plan wrote"):
            kompilo.Pipeline(artifact, plan=tmp_path / name)
