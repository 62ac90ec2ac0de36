"""Calls from many threads, several models with thread counts of their own, and forked children."""

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_programs import affine, affine_result, outer, parallel

from kompilo import load


def in_new_thread(work):
    """The result of `work` in a thread that has not called a model before."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(work).result()


def workers(work) -> int:
    """How many threads `work` adds to those of the process (pools of finished threads may still be going)."""
    before = set(os.listdir("/proc/self/task"))
    work()
    return len(set(os.listdir("/proc/self/task")) - before)


def test_many_threads_and_two_models():
    x = np.random.default_rng(0).standard_normal((64, 4096)).astype(np.float32)
    models = [load(affine(), threads=1), load(parallel(), threads=2)]
    errors = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(40):
                small, factor = rng.standard_normal((4, 8)).astype(np.float32), np.float32(rng.standard_normal())
                first = models[0](small)
                second = models[1](x * factor)
                np.testing.assert_array_equal(first, affine_result(small))
                np.testing.assert_allclose(second, 2 * (x * factor) + 1, rtol=1e-6)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_call_from_within_a_call_of_the_same_thread():
    """A finalizer or a signal handler may run while an input is being copied."""
    model = load(affine(), threads=1)
    x = np.ones((4, 8), np.float32)

    class Reentrant:
        def __dlpack__(self, **options):
            np.testing.assert_array_equal(model(x * 5), affine_result(x * 5))
            return x.__dlpack__(**options)

        def __dlpack_device__(self):
            return x.__dlpack_device__()

    np.testing.assert_array_equal(model(Reentrant()), affine_result(x))


def test_changing_shapes_from_many_threads():
    model = load(outer(), threads=1)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for size in rng.integers(1, 60, 60):
            x = rng.standard_normal((size, 8)).astype(np.float32)
            np.testing.assert_allclose(model(x), x @ x.T, rtol=1e-4, atol=1e-5)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(work, range(8)))


def test_each_model_keeps_its_thread_count():
    """Threads appear in /proc when a pool is made: none for one thread, and enough for the widest model at once."""
    one, two, many = load(parallel(), threads=1), load(parallel(), threads=2), load(parallel(), threads=4)
    x = np.ones((64, 4096), np.float32)

    def alternate():
        assert workers(lambda: one(x)) == 0
        assert workers(lambda: two(x)) >= 3
        for model in (one, many, two, one, many):
            assert workers(lambda model=model: np.testing.assert_array_equal(model(x), 2 * x + 1)) == 0

    in_new_thread(alternate)


def test_a_wide_model_does_not_widen_the_pools_of_others():
    x = np.ones((64, 4096), np.float32)
    wide, narrow = load(parallel(), threads=300), load(parallel(), threads=2)
    cores = len(os.sched_getaffinity(0))
    assert in_new_thread(lambda: workers(lambda: narrow(x))) <= 4 * cores
    np.testing.assert_array_equal(in_new_thread(lambda: (narrow(x), wide(x))[1]), 2 * x + 1)


def test_the_callers_core_binding_is_untouched():
    before = os.sched_getaffinity(0)
    model = load(parallel(), threads=2)

    def bound():
        os.sched_setaffinity(0, {min(before)})
        model(np.ones((64, 4096), np.float32))
        return os.sched_getaffinity(0)

    model(np.ones((64, 4096), np.float32))
    assert os.sched_getaffinity(0) == before
    assert in_new_thread(bound) == {min(before)}


def test_more_threads_than_cores():
    x = np.ones((64, 4096), np.float32)
    model = load(parallel(), threads=7)
    np.testing.assert_array_equal(in_new_thread(lambda: model(x)), 2 * x + 1)


def _child(model, x, queue):
    results = [model(x)]
    thread = threading.Thread(target=lambda: results.append(model(x)))
    thread.start()
    thread.join()
    queue.put([bool((result == 2 * x + 1).all()) for result in results])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_children(threads):
    """After calls in the parent, a child runs the model in the forking thread and in a new one."""
    model = load(parallel(), threads=threads)
    x = np.ones((64, 4096), np.float32)
    model(x)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_child, args=(model, x, queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == [True, True]
    np.testing.assert_array_equal(model(x), 2 * x + 1)


def test_a_forked_child_that_exits_normally(tmp_path):
    """A model loaded, but not yet called with several threads, before the fork."""
    path = tmp_path / "m.kpo"
    parallel().save(path)
    script = (
        "import os, sys, numpy as np, kompilo\n"
        f"model = kompilo.load({str(path)!r}, threads=2)\n"
        "x = np.ones((64, 4096), 'f4')\n"
        "child = os.fork()\n"
        "ok = (model(x) == 2 * x + 1).all()\n"
        "if not child: sys.exit(0 if ok else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_memory_does_not_grow_with_ever_new_shapes():
    """Each size has intermediate buffers of its own: without clearing, 150 of them would keep about 300 MB."""
    model = load(outer(), threads=1)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    model(np.ones((700, 8), np.float32))
    before = resident()
    for size in range(650, 800):
        model(np.ones((size, 8), np.float32))
    assert resident() - before < 100 * 2**20
