"""The pool with candidates that behave and candidates that do not; and what becomes of workers when the pool ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import misbehaving
import numpy as np
import psutil
import pytest
from misbehaving import matmul, point

from kompilo.compiler.errors import KompiloError, TargetError, UsageError
from kompilo.compiler.schedule.op_spec import OpSpec
from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.schedule.template import Config
from kompilo.compiler.tune.measure import keeper
from kompilo.compiler.tune.measure.pool import Job, MeasurePool
from kompilo.compiler.tune.record import UNCHECKED, Measurement, Point
from kompilo.compiler.tune.task import points_of

TIMEOUT_S = 5.0


def measure(pool: MeasurePool, *acts: str, op: OpSpec | None = None) -> dict[str, Measurement]:
    """Submit the acts in order and wait for all."""
    for act in acts:
        pool.submit(Job(op or matmul(), point(act)))
    return {str(job.point.config["act"]): m for job, m in pool.results()}


# What becomes of each misbehaving candidate: its status and words of the reason.
FATES = {
    "segfault": ("crashed", "SIGSEGV while running"),
    "abort": ("crashed", "SIGABRT while running"),
    "exit": ("crashed", "exit code 0 while running"),
    "sleep": ("timed_out", "s while running"),
    "endless": ("timed_out", "s while running"),
    "huge": ("out_of_memory", "bad_alloc"),
    "overwrite_input": ("crashed", "SIGSEGV while running"),
    "behind_input": ("crashed", "SIGSEGV while running"),
    "behind_output": ("wrong_result", "beside the output"),
    "far_behind_output": ("crashed", "SIGSEGV while running"),
    "before_output": ("wrong_result", "beside the output"),
    "wrong": ("wrong_result", "element [0, 5]: expected"),
    "nan": ("wrong_result", "found nan"),
    "slightly_wrong": ("wrong_result", "element [0, 0]: expected"),
    "loop_forever": ("timed_out", "while being built"),
    "hold_lock": ("timed_out", "while being built"),
    "hundred_gigabytes": ("out_of_memory", "100. GiB"),
    "raise_error": ("build_failed", "RuntimeError: no code for this config"),
    "shout": ("ok", ""),
    "leak": ("ok", ""),
    "stop": ("timed_out", "while being built"),
    "kill": ("crashed", "SIGKILL while being built"),
    "deaf": ("crashed", ""),  # the worker may say so itself before its silence is noticed
    "intrude": ("crashed", "answered with"),
    "stack_overflow": ("build_failed", "RecursionError"),
}


def test_each_failure_is_told_by_its_reason_and_good_candidates_do_not_suffer(misbehaving_target: str) -> None:
    assert set(FATES) == set(misbehaving.ACTS) - {"good", "orphan", "slow", *misbehaving.NAPS}
    with MeasurePool(misbehaving_target, timeout_s=TIMEOUT_S) as pool:
        before = measure(pool, "good")["good"]
        results = measure(pool, *FATES)
        after = measure(pool, "good")["good"]
    for act, (status, words) in FATES.items():
        found = results[act]
        assert (found.status, words in found.reason) == (status, True), f"{act}: {found}"
        assert (found.seconds is not None) == found.ok
        assert "\n" not in found.reason
    for good in (before, after):
        assert good.ok
        assert good.error is not None
        assert good.error < 1e-5
        assert good.cache == "cold"


def test_a_candidate_of_a_harmed_worker_gets_a_second_try(misbehaving_target: str) -> None:
    """With one worker every failure comes after other candidates: it is repeated in a fresh one, and counted once."""
    with MeasurePool(misbehaving_target, workers=1, timeout_s=TIMEOUT_S) as pool:
        results = measure(pool, "good", "wrong", "segfault", "shout")
    assert {act: m.status for act, m in results.items()} == {
        "good": "ok", "wrong": "wrong_result", "segfault": "crashed", "shout": "ok",
    }  # fmt: skip


def workers_of(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children() if "kompilo.compiler.tune.measure.worker" in p.cmdline()]


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_killed_workers_are_replaced(misbehaving_target: str) -> None:
    """Killed while it has nothing to do, a worker is replaced; killed at its job, the job is done again or crashed."""
    with MeasurePool(misbehaving_target, workers=1, timeout_s=TIMEOUT_S) as pool:
        assert measure(pool, "good")["good"].ok
        (worker,) = workers_of(os.getpid())
        worker.kill()
        assert until(lambda: [w.pid for w in workers_of(os.getpid())] not in ([], [worker.pid]))
        assert measure(pool, "good")["good"].ok
        pool.submit(Job(matmul(), point("slow")))
        time.sleep(0.5)
        (worker,) = workers_of(os.getpid())
        worker.kill()
        ((_, measurement),) = pool.results()
        assert measurement.ok


def test_leaking_workers_are_replaced(misbehaving_target: str) -> None:
    with MeasurePool(misbehaving_target, workers=1, leak_limit_bytes=80 << 20) as pool:
        assert measure(pool, "good")["good"].ok
        (first,) = workers_of(os.getpid())
        for k in range(3):  # 32 MiB each
            assert measure(pool, "leak", op=matmul(m=8 + k))["leak"].ok
        assert until(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE)
        assert measure(pool, "good")["good"].ok


def test_what_a_candidate_starts_ends_with_its_worker(
    misbehaving_target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "orphan"
    monkeypatch.setenv("MISBEHAVING_ORPHAN", str(note))
    with MeasurePool(misbehaving_target, workers=1, timeout_s=2.0) as pool:
        assert measure(pool, "orphan")["orphan"].status == "timed_out"
    assert until(lambda: not _runs(int(note.read_text())))


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


OWNER = """
    import sys, misbehaving
    from kompilo.compiler.tune.measure.pool import Job, MeasurePool

    with MeasurePool("misbehaving", timeout_s=600.0) as pool:
        pool.submit(Job(misbehaving.matmul(), misbehaving.point("good")))
        list(pool.results())
        for act in sys.argv[1:]:
            pool.submit(Job(misbehaving.matmul(), misbehaving.point(act)))
        print("busy", flush=True)
        list(pool.results())
"""


@pytest.mark.parametrize("act", ["hold_lock", "endless"])
def test_workers_die_with_their_owner(misbehaving_target: str, act: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(OWNER), act]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "busy\n"
        time.sleep(1.0)
        workers = workers_of(owner.pid)
        assert workers
        owner.send_signal(signal.SIGKILL)
    assert until(lambda: not any(_runs(w.pid) for w in workers))


def test_leaving_the_pool_ends_hanging_workers_at_once(misbehaving_target: str) -> None:
    with MeasurePool(misbehaving_target, timeout_s=600.0) as pool:
        assert measure(pool, "good")["good"].ok
        pool.submit(Job(matmul(), point("hold_lock")))
        assert list(pool.results(timeout_s=0.5)) == []
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
    assert workers_of(os.getpid()) == []


def test_results_come_with_their_jobs_and_more_may_be_submitted_meanwhile() -> None:
    target = find_target("cpu")
    ops = [matmul(m, 64, 32) for m in (16, 24)]
    jobs = [Job(op, p, seed=3, cache=c) for op in ops for c in ("warm", "cold") for p in points_of(op, target)[:2]]
    with MeasurePool("cpu") as pool:
        for job in jobs[:3]:
            pool.submit(job)
        seen = []
        for job, measurement in pool.results():
            seen.append(job)
            assert measurement.ok
            assert measurement.cache == job.cache
            assert measurement.samples > 0
            if len(seen) == 1:
                for more in jobs[3:]:
                    pool.submit(more)
        assert sorted(map(str, seen)) == sorted(map(str, jobs))
        assert {"build", "run", "time", "wait"} <= pool.spent.keys()


def test_points_that_do_not_hold_here_fail_in_words(misbehaving_target: str) -> None:
    good = point("good")
    with MeasurePool(misbehaving_target, workers=1) as pool:
        pool.submit(Job(matmul(), Point("conv2d_direct", 1, Config.of())))
        pool.submit(Job(matmul(), Point(good.template, good.version + 1, good.config)))
        reasons = [m.reason for _, m in pool.results()]
    assert "expected a template among misbehaving, found 'conv2d_direct'" in reasons[0]
    assert "expected version 3, found 4" in reasons[1]


def test_operators_that_cannot_be_checked_are_no_candidate_s_fault(misbehaving_target: str) -> None:
    """Unknown ones, and those whose operands fill the memory: every candidate is told so, and others go on."""
    known, large = matmul(), matmul(m=1 << 22, k=64)
    unknown = OpSpec("lstm", known.inputs, known.constant, known.attrs, known.anchor_type, known.output)
    with MeasurePool(misbehaving_target, workers=1, memory_limit_bytes=1 << 30) as pool:
        for op in (unknown, large, large, known):
            pool.submit(Job(op, point("good")))
        results = [(job.op, m) for job, m in pool.results()]
    assert [(op, m.status) for op, m in results] == [
        (unknown, UNCHECKED), (large, UNCHECKED), (large, UNCHECKED), (known, "ok")
    ]  # fmt: skip
    assert "the reference" in results[0][1].reason
    assert "Unable to allocate" in results[1][1].reason or "bytes for an array" in results[1][1].reason


def test_operands_that_are_never_made_are_no_candidate_s_fault(
    misbehaving_target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making them hangs, or ends the worker: known after one candidate, in a fresh worker; others go on."""
    monkeypatch.setattr(keeper, "PREPARE_TIMEOUT_S", 2.0)
    hanging, deadly, known = (matmul(rows) for rows in (misbehaving.ROWS_THAT_HANG, misbehaving.ROWS_THAT_KILL, 79))
    with MeasurePool(misbehaving_target, workers=1, timeout_s=TIMEOUT_S) as pool:
        for op in (known, hanging, hanging, deadly, deadly, known):
            pool.submit(Job(op, point("good")))
        results = [(job.op, m) for job, m in pool.results()]
    statuses = {op: [m.status for o, m in results if o == op] for op in (hanging, deadly, known)}
    assert statuses == {hanging: [UNCHECKED] * 2, deadly: [UNCHECKED] * 2, known: ["ok"] * 2}
    reasons = {op: {m.reason for o, m in results if o == op} for op in (hanging, deadly)}
    assert all(len(words) == 1 for words in reasons.values())
    assert "while its operands and the result to compare with were made" in min(reasons[hanging])
    assert "SIGKILL while its operands" in min(reasons[deadly])


def test_a_target_whose_workers_do_not_start(misbehaving_target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with MeasurePool(misbehaving_target, workers=1) as pool:
        assert until(lambda: bool(workers_of(os.getpid())))
        monkeypatch.setenv("PYTHONPATH", "")  # the workers to come do not know the target
        for worker in workers_of(os.getpid()):
            worker.kill()
        pool.submit(Job(matmul(), point("good")))
        with pytest.raises(KompiloError, match="unknown target 'misbehaving'"):
            list(pool.results())


def test_arguments_are_checked() -> None:
    with pytest.raises(TargetError):
        MeasurePool("abacus")
    for workers in (0, 1000):
        with pytest.raises(UsageError, match=f"found {workers}"):
            MeasurePool("cpu", workers=workers)
    with pytest.raises(UsageError, match="expected one of cold, warm, found 'hot'"):
        MeasurePool("cpu", workers=1).submit(Job(matmul(), point("good"), cache="hot"))


def test_seeds_make_different_operands() -> None:
    from kompilo.compiler.tune.measure.operands import random_operands

    first, again, other = (random_operands(matmul(), seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
