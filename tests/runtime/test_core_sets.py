"""Sets of cores as devices: names, bound calls, and what the caller's thread keeps."""

import os
import signal
import time
from contextlib import suppress

import numpy as np
import pytest
from tiny_programs import affine, affine_result, parallel

from kompilo import load
from kompilo.compiler.errors import InputError, UsageError
from kompilo.compiler.runtime.core_sets import CoreSet, core_sets, parse_core_set

ALLOWED = sorted(os.sched_getaffinity(0))
FIRST = f"cpu:{ALLOWED[0]}"


def tasks() -> dict[int, set[int]]:
    """The threads of this process, and the cores that each may use."""
    found = {}
    for task in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):
            found[task] = os.sched_getaffinity(task)
    return found


def test_names_of_cores():
    first = ALLOWED[0]
    assert parse_core_set(FIRST) == CoreSet((first,))
    assert parse_core_set(f"{FIRST}=cpu:avx2") == CoreSet((first,), "cpu:avx2")
    assert str(parse_core_set(f"{FIRST}=cpu:avx2")) == f"{FIRST}=cpu:avx2"
    for other in ("cpu", "auto", "cpu:avx2", "cuda:0", "cpu:x86-64-v3", "fpga:sim"):
        assert parse_core_set(other) is None


@pytest.mark.parametrize("name", ["cpu:1-0", "cpu:0-9999", "cpu:4096"])
def test_cores_that_are_not_there(name):
    with pytest.raises(UsageError, match="expected"):
        load(affine(), device=name)


@pytest.mark.parametrize("devices", ["", "cpu", f"{FIRST},{FIRST}", f"{FIRST},cuda:0", []])
def test_lists_that_are_no_devices(devices):
    with pytest.raises(UsageError, match="devices: expected"):
        core_sets(devices)


@pytest.mark.skipif(len(ALLOWED) < 2 or ALLOWED[1] != ALLOWED[0] + 1, reason="needs two cores in a row")
def test_a_range_overlaps_its_parts():
    both = f"cpu:{ALLOWED[0]}-{ALLOWED[1]}"
    assert core_sets(both)[0].cpus == tuple(ALLOWED[:2])
    with pytest.raises(UsageError, match=f"core {ALLOWED[1]} in"):
        core_sets([both, f"cpu:{ALLOWED[1]}"])


def test_the_thread_is_bound_during_the_call_and_not_behind_it():
    model = load(affine(), device=FIRST)
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    seen = []

    class Spy:
        def __dlpack__(self, **options):
            seen.append(os.sched_getaffinity(0))
            return x.__dlpack__(**options)

        def __dlpack_device__(self):
            return x.__dlpack_device__()

    np.testing.assert_array_equal(model(Spy()), affine_result(x))
    np.testing.assert_array_equal(next(iter(model.run({"x": x}).values())), affine_result(x))
    assert seen == [{ALLOWED[0]}]
    assert os.sched_getaffinity(0) == set(ALLOWED)
    assert model.threads == 1
    assert model.runs_on.endswith(f"on {FIRST}")


def test_the_binding_is_given_back_after_an_error():
    model = load(affine(), device=FIRST)
    with pytest.raises(Exception, match="expected"):
        model(np.ones(3, np.float64))
    assert os.sched_getaffinity(0) == set(ALLOWED)


def test_several_threads_are_a_pool_of_their_own_on_the_cores():
    """Whatever the calling thread's own pool may use."""
    x = np.ones((64, 4096), np.float32)
    bound, free = load(parallel(), device=FIRST, threads=2), load(parallel(), threads=2)
    np.testing.assert_array_equal(free(x), 2 * x + 1)
    before = tasks()
    np.testing.assert_array_equal(bound(x), 2 * x + 1)
    new = tasks().keys() - before.keys()
    assert len(new) >= 2  # the module's thread and a worker of TVM's
    assert all(tasks()[task] == {ALLOWED[0]} for task in new)
    np.testing.assert_array_equal(free(x), 2 * x + 1)
    assert all(tasks()[task] == cores for task, cores in before.items() if task in tasks())
    with pytest.raises(InputError):
        bound(x.astype(np.float64))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_thread_of_its_own():
    """The parent's, which is bound to the cores, does not live in the child."""
    x = np.ones((64, 4096), np.float32)
    bound = load(parallel(), device=FIRST, threads=2)
    np.testing.assert_array_equal(bound(x), 2 * x + 1)
    child = os.fork()
    if not child:
        status = 1
        with suppress(BaseException):
            status = 0 if np.array_equal(bound(2 * x), 4 * x + 1) else 2
        os._exit(status)
    until = time.monotonic() + 30
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    if found == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert found == (child, 0)
    np.testing.assert_array_equal(bound(x), 2 * x + 1)


def test_a_core_runs_the_code_of_the_target_it_names():
    model = load(affine(), device=f"{FIRST}=cpu")
    assert model.target.name == "cpu"
    with pytest.raises(UsageError, match="cpu:avx2"):
        load(affine(), device=f"{FIRST}=cpu:avx2")
