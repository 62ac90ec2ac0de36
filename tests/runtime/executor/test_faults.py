"""Devices that die, hang or run out of memory, from outside: every request is answered once and rightly, or fails."""

import os
import random
import resource
import signal
import sys
import threading
import time
from contextlib import suppress
from itertools import count

import numpy as np
import pytest

import kompilo
from kompilo.compiler.runtime.executor import process
from kompilo.compiler.runtime.executor.placement import Placement, Route, Stage
from kompilo.errors import DeadlineError, DeviceError

from branching import sample


def check(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def pid_of(pipeline, number: int, timeout: float = 30.0) -> int:
    """The worker of a device, once it has one."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        pid = list(pipeline.workers.values())[number]
        if pid is not None:
            return pid
        time.sleep(0.01)
    raise AssertionError("no worker was started again")


def until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_what_a_killed_worker_had_begun_is_done_elsewhere(pipeline, devices, expected):
    both = pipeline(devices)
    both.wait_ready(60)
    victim = pid_of(both, 0)
    os.kill(victim, signal.SIGSTOP)  # so that it certainly has something when it dies
    futures = [both.submit(sample(k % 8)) for k in range(10)]
    os.kill(victim, signal.SIGKILL)
    for k, future in enumerate(futures):
        check(future.result(60), expected[k % 8])
    told = both.statistics()["requests"]
    assert told["answered"] == 10
    assert told["repeated"] >= 1
    both.wait_ready(60)  # it is started again
    assert pid_of(both, 0) != victim
    os.kill(pid_of(both, 1), signal.SIGKILL)
    check(both(sample(1)), expected[1])


def test_a_pipeline_in_stages_goes_on_with_the_device_that_is_left(pipeline, devices, expected):
    """Pieces of the lost device go to the other one, in the middle of requests."""
    stages = (Stage(0, (0, 1)), Stage(1, (2, 3)), Stage(0, (4, 5)))
    staged = pipeline(plan=Placement(tuple(devices), (Route(stages),)))
    staged.wait_ready(60)
    os.kill(pid_of(staged, 1), signal.SIGSTOP)
    futures = [staged.submit(sample(k)) for k in range(6)]
    until(lambda: staged.statistics()["devices"][devices[0]]["stages"] >= 2)
    os.kill(pid_of(staged, 1), signal.SIGKILL)
    for k, future in enumerate(futures):
        check(future.result(60), expected[k])


def test_a_hanging_worker_is_replaced(pipeline, devices, expected):
    both = pipeline(devices, patience=0.4)
    both.wait_ready(60)
    check(both(sample(0)), expected[0])
    hanging = pid_of(both, 0)
    os.kill(hanging, signal.SIGSTOP)
    futures = [both.submit(sample(k)) for k in range(8)]
    for k, future in enumerate(futures):
        check(future.result(60), expected[k])
    until(lambda: not os.path.exists(f"/proc/{hanging}"))
    assert "did not answer" in both.statistics()["devices"][devices[0]]["problem"]
    both.wait_ready(60)


def test_a_device_without_memory_leaves_the_work_to_others(pipeline, devices, expected):
    both = pipeline(devices)
    both.wait_ready(60)
    resource.prlimit(pid_of(both, 0), resource.RLIMIT_AS, (1 << 20, 1 << 20))
    for k in range(24):
        check(both.submit(sample(k % 8), deadline=30).result(60), expected[k % 8])


def test_without_any_device_requests_fail_with_the_reason(artifact, devices, monkeypatch):
    monkeypatch.setattr(process.sys, "executable", "/bin/false")
    with kompilo.Pipeline(artifact, devices) as both:
        early = both.submit(sample())
        with pytest.raises(DeviceError, match=r"no device is left to run the model \(cpu:\d+=cpu: its process"):
            early.result(30)
        with pytest.raises(DeviceError, match="no device is left"):
            both(sample())
        assert both.statistics()["requests"]["failed"] == 2


FAILING = """
import socket, sys
from kompilo.compiler.runtime.executor.messages import FAILED, READY, Message, pack, receive, receive_orders
end = socket.socket(fileno=int(sys.argv[-1]))
receive_orders(end)
end.send(pack(Message(READY)))
while (asked := receive(end)) is not None:
    end.send(pack(Message(FAILED, asked.task, asked.slot, asked.stage, text="a kernel failed")))
"""


def test_a_request_that_fails_on_every_device_fails_with_the_reason(artifact, devices, monkeypatch, tmp_path):
    """Each device is asked a few times, the last reason is told, and no place is lost."""
    (tmp_path / "failing.py").write_text(FAILING)
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -P {tmp_path / "failing.py"} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(wrapper))
    with kompilo.Pipeline(artifact, devices, in_flight=2) as both:
        for _ in range(3):
            with pytest.raises(DeviceError, match=r"every device failed to run the model: (cpu:\S+: )?a kernel failed"):
                both.submit(sample(), priority="interactive").result(30)
        told = both.statistics()["requests"]
        assert told["failed"] == 3
        assert told["repeated"] == 3 * 8


def test_faults_at_random_under_load(pipeline, devices, expected):
    """Twelve kills and pauses beyond the patience or within it, while eight threads have requests in flight.

    How many of these fail depends on how fast the machine starts workers. Behind the last fault all are answered.
    """
    both = pipeline(devices, patience=0.3)
    both.wait_ready(60)
    stop, wrong = threading.Event(), []

    def ask(seed: int) -> None:
        for k in count():
            if stop.is_set():
                return
            number = (seed + k) % 8
            try:
                with suppress(DeadlineError, DeviceError):
                    check(both.submit(sample(number), deadline=20.0).result(40), expected[number])
            except BaseException as error:
                wrong.append(error)
            time.sleep(0.03)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    rng = random.Random(1)
    try:
        for _ in range(12):
            pid = pid_of(both, rng.randrange(2))
            kind = rng.choice([signal.SIGKILL, signal.SIGSTOP, signal.SIGSTOP])
            with suppress(ProcessLookupError):
                os.kill(pid, kind)
                time.sleep(rng.choice([0.05, 0.6]))
                if kind is signal.SIGSTOP:
                    os.kill(pid, signal.SIGCONT)
            time.sleep(rng.uniform(0.1, 0.4))
    finally:
        stop.set()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    until(lambda: all(device["state"] == "ready" for device in both.statistics()["devices"].values()), 120)
    later = [both.submit(sample(k % 8)) for k in range(40)]
    for k, future in enumerate(later):
        check(future.result(120), expected[k % 8])
