"""The parts of measuring that need no worker process: memory, messages, and who gets which job."""

from __future__ import annotations

import time

import numpy as np
import pytest
from misbehaving import matmul, point

from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune.measure.job import Job
from kompilo.compiler.tune.measure.memory import ColdMemory, Guarded, cold_bytes, cold_file, guarded
from kompilo.compiler.tune.measure.operands import OperandCache
from kompilo.compiler.tune.measure.protocol import LONGEST_LINE, Lines, Setup, encode, job_from_json, job_to_json
from kompilo.compiler.tune.measure.queue import JobQueue
from kompilo.compiler.tune.measure.seat import Seat, State

FLOAT = np.dtype("float32")


@pytest.mark.parametrize("shape", [(1,), (3, 5), (16,), (1024,), (1025,), (0,), ()])
def test_guarded_memory_is_aligned_and_notices_what_is_written_beside_it(shape: tuple[int, ...]) -> None:
    memory = Guarded(shape, FLOAT)
    assert memory.array.shape == shape
    assert memory.array.size == 0 or memory.array.ctypes.data % 64 == 0
    memory.array[...] = 1.0
    assert not memory.overrun()
    edges = [edge for edge in memory._edges if edge.size]
    for edge in edges:
        edge[0] ^= 1
        assert memory.overrun()
        edge[0] ^= 1


def test_guarded_copies_hold_their_values() -> None:
    values = np.arange(12, dtype="float32").reshape(3, 4)
    assert (guarded(values).array == values).all()


def test_too_much_memory_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="bytes for an array"):
        Guarded((1 << 60,), FLOAT)


def test_cold_memory_goes_round() -> None:
    cold = ColdMemory(1 << 20)
    like = np.zeros((64, 100), "float32")
    copies = cold.copies(like.nbytes)
    assert copies == (1 << 20) // like.nbytes
    parts = [cold.take(like) for _ in range(copies + 1)]
    addresses = [p.ctypes.data for p in parts]
    assert len(set(addresses[:copies])) == copies
    assert addresses[copies] == addresses[0]
    assert all(a % 64 == 0 for a in addresses)
    assert all(p.shape == like.shape and np.isfinite(p).all() for p in parts)
    large = np.zeros(1 << 18, "float32")
    assert cold.take(large) is large
    assert cold.copies(large.nbytes) == 1


def test_rings_of_one_file_are_one_memory() -> None:
    spec = find_target("cpu:znver3,cores=1").spec
    like = np.zeros((64, 100), "float32")
    file = cold_file(spec)
    assert file is not None
    with file:
        rings = [ColdMemory(cold_bytes(spec), file.fileno()) for _ in range(2)]
        one, other = (ring.take(like) for ring in rings)
        one[3, 4] = 7
        assert other[3, 4] == 7
        assert rings[0].take(like)[3, 4] != 7
        rings[0].rewind()
        assert rings[0].take(like)[3, 4] == 7
        integers = [ring.take(like.astype("int8")) for ring in rings]
        integers[0][...] = 1
        assert (integers[1] != 1).any()
    one[0, 0] = 1  # the file's end is not the memory's


def test_operands_are_kept_while_there_is_room() -> None:
    roomy, narrow = OperandCache(1 << 30), OperandCache(0)
    first, second = matmul(), matmul(m=7)
    for cache in (roomy, narrow):
        assert cache.get(first, 0) is cache.get(first, 0)
    kept = roomy.get(first, 0)
    roomy.get(second, 0)
    assert roomy.get(first, 0) is kept
    assert roomy.get(first, 1) is not kept
    kept = narrow.get(first, 0)
    narrow.get(second, 0)
    assert narrow.get(first, 0) is not kept


def test_messages() -> None:
    job = Job(matmul(), point("good"), 7, "warm")
    assert job_from_json(job_to_json(job)) == job
    setup = Setup(1, "cpu", 0, 1 << 30)
    assert Setup.from_text(setup.to_text()) == setup
    lines = Lines()
    data = encode({"a": 1}) + encode({"b": [2, "\n"]})
    assert lines.feed(data[:5]) == []
    assert lines.feed(data[5:]) == [{"a": 1}, {"b": [2, "\n"]}]


@pytest.mark.parametrize(
    "garbage", [b"\xff\xfe\n", b"[1]\n", b"{\n", b"[" * 100_000 + b"\n", b"x" * (LONGEST_LINE + 1)]
)
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError):
        Lines().feed(garbage)


def test_jobs_of_an_operator_stay_together() -> None:
    a, b = matmul(m=1), matmul(m=2)
    queue = JobQueue()
    jobs = {op: [Job(op, point("good"), seed) for seed in range(3)] for op in (a, b)}
    for k in range(3):
        queue.add(jobs[a][k])
        queue.add(jobs[b][k])
    assert len(queue) == 6
    assert queue.take(None, {}) == jobs[a][0]
    assert queue.take(None, {a}) == jobs[b][0], "nobody is busy with b"
    assert queue.take(a, {b}) == jobs[a][1]
    assert queue.take(b, {a}) == jobs[b][1]
    assert queue.take(a, {b}) == jobs[a][2]
    assert queue.take(a, {b}) == jobs[b][2], "help the other worker"
    assert queue.take(a, {}) is None


class FakeProcess:
    """A worker that has used some processor time."""

    def __init__(self, used: float, wants: bool = True):
        self.used, self.wants = used, wants

    def processor_seconds(self) -> float:
        return self.used

    def wants_processor(self) -> bool:
        return self.wants


@pytest.mark.parametrize(
    ("used", "wants", "most", "starved"),
    [(1.0, True, 40.0, True), (6.0, True, 40.0, False), (1.0, False, 40.0, False), (1.0, True, 8.0, False)],
)
def test_only_a_worker_kept_from_working_is_excused(
    used: float, wants: bool, most: float, starved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = Seat(Setup(1, "cpu", 0, 1 << 30))
    seat.process = FakeProcess(0.0)  # type: ignore[assignment]
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seat.enter(State.BUILDING, 10.0)
    now[0] += 10.0
    seat.process = FakeProcess(used, wants)  # type: ignore[assignment]
    assert seat.starved(most) is starved
