"""How fast pieces are on devices, and what a pipeline reaches: for planning, and for comparing with plans."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from statistics import median
from typing import Any

import numpy as np

from ...artifact.artifact import Artifact, read_artifact
from .pipeline import Pipeline
from .placement import Placement, Route, Stage, pieces_of

Source = str | os.PathLike[str] | Artifact
_WARM = 3
_READY_S = 120.0


def measure_pieces(
    source: Source,
    devices: Sequence[str],
    inputs: Mapping[str, np.ndarray],
    seconds: float,
    together: bool,
) -> tuple[list[list[float]], float]:
    """Seconds of each piece (rows) on each device (columns), and of handing a stage to a worker and hearing of its end.

    Medians over `seconds` on each device, at least a few runs: of all devices at the same time if they will work
    `together`, as they share caches and memory, else of one after the other.
    """
    found: list[tuple[list[float], float]] = [([], 0.0) for _ in devices]
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(devices) if together else 1)

    def measure(number: int) -> None:
        try:
            found[number] = _measure_device(source, devices[number], inputs, seconds, barrier)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=measure, args=(k,)) for k in range(len(devices))]
    for thread in threads:
        thread.start()
        if not together:
            thread.join()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    times = [list(row) for row in zip(*(pieces for pieces, _ in found), strict=True)]
    return times, max(handover for _, handover in found)


def _measure_device(
    source: Source,
    device: str,
    inputs: Mapping[str, np.ndarray],
    seconds: float,
    barrier: threading.Barrier,
) -> tuple[list[float], float]:
    """Seconds of each piece on `device`, and of handing over one stage."""
    artifact = source if isinstance(source, Artifact) else read_artifact(source)[0]
    count = len(pieces_of(artifact))
    route = Route(tuple(Stage(0, (k,)) for k in range(count)))
    with Pipeline(source, plan=Placement((device,), (route,))) as pipeline:
        values = [inputs[spec.name] for spec in pipeline.inputs]
        pipeline.wait_ready(_READY_S)
        _sequential(lambda: pipeline.submit(*values).result(), 0.0)
        before = [len(row) for row in pipeline.stage_seconds()]
        barrier.wait(_READY_S)
        walls = _sequential(lambda: pipeline.submit(*values).result(), seconds)
        times = [median(row[k:]) for row, k in zip(pipeline.stage_seconds(), before, strict=True)]
    return times, max(0.0, (median(walls) - sum(times)) / count)


def _sequential(call: Callable[[], Any], seconds: float) -> list[float]:
    """The times of calls one after the other, for `seconds` and a few at least."""
    walls: list[float] = []
    until = time.perf_counter() + seconds
    while len(walls) < _WARM or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        walls.append(time.perf_counter() - start)
    return walls


def latency(pipeline: Pipeline, inputs: Mapping[str, np.ndarray], seconds: float) -> float:
    """The median time of requests that come one after the other, for about `seconds`."""
    values = [inputs[spec.name] for spec in pipeline.inputs]
    _sequential(lambda: pipeline(*values), 0.0)
    return median(_sequential(lambda: pipeline(*values), seconds))


def throughput(pipeline: Pipeline, inputs: Mapping[str, np.ndarray], seconds: float) -> float:
    """Requests per second, as many in flight as have a place, over about `seconds` behind a first tenth of it.

    On a single device calls follow each other, as nothing is faster there.
    """
    values = [inputs[spec.name] for spec in pipeline.inputs]
    if pipeline.placement.single is not None:
        _sequential(lambda: pipeline(*values), 0.1 * seconds)
        walls = _sequential(lambda: pipeline(*values), seconds)
        return len(walls) / sum(walls)
    for _ in range(_WARM):
        pipeline.submit(*values).result()
    done: list[float] = []
    waiting: deque[Future[Any]] = deque()
    start = time.perf_counter()
    end = start + 1.1 * seconds
    while time.perf_counter() < end or len(done) < 2 * _WARM:
        future = pipeline.submit(*values)
        future.add_done_callback(lambda _: done.append(time.perf_counter()))
        waiting.append(future)
        while waiting and waiting[0].done():
            waiting.popleft().result()
    last = time.perf_counter()
    for future in waiting:
        future.result()
    counted = sorted(t for t in done if start + 0.1 * seconds <= t <= last) or sorted(done)
    return (len(counted) - 1) / (counted[-1] - counted[0]) if len(counted) > 1 else len(done) / (max(done) - start)
