"""Fair timing of several runtimes on one model.

Every runtime lives in a child process of its own, pinned to the same cores, fed the same inputs. The parent asks them
for short bursts of runs in turn, so that a machine whose speed drifts (others' load, clock changes) is the same for
all, and only one of them works at any time. Ratios are formed burst against burst within a round; their median counts.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..scratch import scratch_folder
from .base import OURS, save_arrays
from .client import WorkerProcess
from .compare import output_errors

# Long enough that timer and scheduler noise average out, short enough that a round of three runtimes sees one machine.
_BURST_MS = 80.0
_MIN_ROUNDS = 3
_WARM_UP_MS = 300.0


@dataclass(frozen=True)
class Timing:
    """Times of one runtime in ms over `runs` single runs; `load_s`: loading (and its own compiling), in seconds.

    `runs_on` is what it says that it runs on.
    """

    runtime: str
    version: str
    runs: int
    median_ms: float
    min_ms: float
    p90_ms: float
    load_s: float
    runs_on: str


@dataclass(frozen=True)
class Ratio:
    """Our time divided by a peer's: median over rounds, with the quartiles, and how far the outputs are apart.

    `best` is the quotient of the two least times, which a busy machine disturbs less; `error` is max abs error / max
    abs output of the worst output.
    """

    peer: str
    median: float
    low: float
    high: float
    best: float
    error: float


@dataclass(frozen=True)
class Measurement:
    """What `measure` found for one model at one number of threads."""

    threads: int
    timings: tuple[Timing, ...]
    ratios: tuple[Ratio, ...]

    def timing(self, runtime: str) -> Timing:
        """The times of `runtime`; KeyError if it was not measured."""
        return {t.runtime: t for t in self.timings}[runtime]


def measure(
    models: Mapping[str, Path],
    inputs: Mapping[str, np.ndarray],
    threads: int = 1,
    seconds: float = 3.0,
    progress: Callable[[str, int, int], None] | None = None,
    device: str = "auto",
) -> Measurement:
    """Time every runtime of `models` (runtime name -> the file it reads) on `inputs`.

    `seconds` is the measured time for each runtime, spread over at least three rounds. `device` is where Kompilo runs,
    as for `kompilo.load`. Ratios are given for every
    runtime but "kompilo" if that is among them. Raises UsageError if more threads are asked for than there are cores,
    and any error that a runtime reports.
    """
    cores = pick_cores(threads)
    report = progress or (lambda stage, done, total: None)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder("bench"))
        with (folder / "inputs.npz").open("wb") as file:
            save_arrays(file, inputs)
        workers = {name: stack.enter_context(WorkerProcess(name)) for name in models}
        loaded = {}
        for k, (name, worker) in enumerate(workers.items()):
            report("load runtimes", k, len(workers))
            options = {"device": device} if name == OURS else {}
            loaded[name] = worker.load(models[name], threads, cores, **options)
        outputs = {}
        sizes = {}
        for name, worker in workers.items():
            first = worker.set_inputs(folder / "inputs.npz")
            outputs[name] = worker.outputs(folder / f"{name}.npz")
            sizes[name] = _burst_size(worker, first)
        times = _rounds(workers, sizes, seconds, report)
    timings = [_timing(n, times[n], **loaded[n]) for n in workers]
    ratios = [_ratio(n, times, outputs) for n in workers if n != OURS and OURS in workers]
    return Measurement(threads, tuple(timings), tuple(ratios))


def pick_cores(threads: int) -> list[int]:
    """The first `threads` cores this process may use; empty where the system has no affinity. UsageError if too few."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    usable = sorted(os.sched_getaffinity(0))
    if threads > len(usable):
        raise UsageError(f"expected at most {len(usable)} threads (usable cores), found {threads}.")
    return usable[:threads]


def geometric_mean(values: Sequence[float]) -> float:
    """The n-th root of the product of positive `values`; NaN if there are none."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def _burst_size(worker: WorkerProcess, first_ms: float) -> int:
    """Runs that fill a burst, after warming up for a while."""
    recent = worker.burst(max(1, min(200, int(_WARM_UP_MS / max(first_ms, 1e-3)))), 1)
    return max(2, round(_BURST_MS / max(statistics.median(recent), 1e-3)))


def _rounds(
    workers: Mapping[str, WorkerProcess],
    sizes: Mapping[str, int],
    seconds: float,
    report: Callable[[str, int, int], None],
) -> dict[str, list[list[float]]]:
    """Bursts in turn until every runtime has run for `seconds`; runtime -> rounds -> times in ms."""
    times: dict[str, list[list[float]]] = {name: [] for name in workers}
    names = list(workers)
    spent = 0.0
    while len(times[names[0]]) < _MIN_ROUNDS or spent < seconds * 1e3:
        for name in names:
            times[name].append(workers[name].burst(sizes[name], 1))
        # Each round starts with the next runtime, so that none always follows the same neighbour.
        names = names[1:] + names[:1]
        spent = min(sum(map(sum, rounds)) for rounds in times.values())
        report("measure", min(int(spent), int(seconds * 1e3)), int(seconds * 1e3))
    return times


def _timing(name: str, rounds: list[list[float]], version: str, load_s: float, runs_on: str) -> Timing:
    flat = sorted(t for r in rounds for t in r)
    p90 = flat[min(len(flat) - 1, int(0.9 * len(flat)))]
    return Timing(name, version, len(flat), statistics.median(flat), flat[0], p90, load_s, runs_on)


def _ratio(peer: str, times: Mapping[str, list[list[float]]], outputs: Mapping[str, Mapping[str, np.ndarray]]) -> Ratio:
    pairs = zip(times[OURS], times[peer], strict=True)
    ratios = sorted(statistics.median(a) / statistics.median(b) for a, b in pairs)
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    error = max((e.max_rel for e in output_errors(outputs[OURS], outputs[peer])), default=0.0)
    best = min(map(min, times[OURS])) / min(map(min, times[peer]))
    return Ratio(peer, statistics.median(ratios), low, high, best, error)
