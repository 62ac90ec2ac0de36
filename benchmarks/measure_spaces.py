"""Times all configs of all operators of the zoo: the records that come with Kompilo, and that its cost model learns.

    python benchmarks/measure_spaces.py --records DIR [--models zoo:mnist ...]

A tuning session times candidates one after the other, minutes apart, and a busy machine makes some of them look better
than they are: the best of twenty is then as much luck as merit. Here all candidates of an operator are built first and
then called in turns, some milliseconds each, for several rounds in random order: what disturbs a round disturbs all, so
that only ratios within rounds count. Rounds in which another program works on the core are repeated. What took more
than 1.5 times as long as the best in each of the first three rounds drops out. Each usable core takes the next operator
from the list in turn. An operator that DIR has records of is passed over, so that the same command goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from kompilo.compiler.knobs import Knobs
from kompilo.compiler.model_source import zoo
from kompilo.compiler.schedule.target import Target, find_target
from kompilo.compiler.tune.measure.candidate import Bench, Caller
from kompilo.compiler.tune.measure.job import Job
from kompilo.compiler.tune.measure.memory import ColdMemory
from kompilo.compiler.tune.measure.pace import Pace, Reading, Reference
from kompilo.compiler.tune.measure.pace_memory import remember, remembered
from kompilo.compiler.tune.measure.pool import GIB, usable_cores
from kompilo.compiler.tune.measure.protocol import Failure, Setup
from kompilo.compiler.tune.measure.timing import spread, undisturbed
from kompilo.compiler.tune.record import Measurement, Point, Record
from kompilo.compiler.tune.store import RecordStore
from kompilo.compiler.tune.task import Task, extract_tasks
from kompilo.compiler.version import VERSION

ROUNDS, MOST_ROUNDS = 11, 25
FIRST_ROUNDS, DROPPED_ABOVE = 3, 1.5
TURN_S = 1.5e-3


def main() -> None:
    """Start a process on each usable core, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=[f"zoo:{name}" for name in zoo().names()])
    parser.add_argument("--part", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        work(options.records, options.models, *options.part)
        return
    cores = usable_cores()
    memory = Knobs.from_environment().cache / "tune"
    os.sched_setaffinity(0, {cores[0]})
    remember(memory, remembered(memory) or Reference().usual())
    one_thread = dict.fromkeys(("TVM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    parts = [
        subprocess.Popen(
            [sys.executable, __file__, "--records", options.records, "--models", *options.models, "--part", str(k),
             str(len(cores))],
            env={**os.environ, **one_thread},
            preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}),
        )
        for k, core in enumerate(cores)
    ]  # fmt: skip
    sys.exit(max(part.wait() for part in parts))


def work(records: Path, models: Sequence[str], part: int, parts: int) -> None:
    """Measure every `parts`-th operator."""
    name = f"cpu:native,cores={parts}"  # of this process alone it would be a machine of one core
    target = find_target(name)
    usual = remembered(Knobs.from_environment().cache / "tune")
    assert usual is not None
    store = RecordStore(records)
    (core,) = os.sched_getaffinity(0)
    bench = Bench(Setup(os.getppid(), name, core, 16 * GIB))
    cold = bench.cold_memory()
    tasks = tasks_of(models, target)
    for k, task in enumerate(tasks):
        if k % parts != part or store.find(task.op, target.spec.key):
            continue
        began = time.monotonic()
        found = measure_space(task, bench, usual, cold)
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        # All or none: an operator that has records is passed over next time.
        store.extend(Record(task.op, target.spec.key, p, m, created, VERSION) for p, m in found)
        alone = statistics.mean(m.alone for _, m in found)
        print(
            f"{k + 1}/{len(tasks)}: {len(found)} configs in {time.monotonic() - began:.1f} s, {alone:.0%} alone",
            flush=True,
        )


def tasks_of(models: Sequence[str], target: Target) -> list[Task]:
    """The operators of `models` with their typical input shapes, each once."""
    tasks: dict[str, Task] = {}
    for model in models:
        shapes = dict(zoo().find(model.removeprefix("zoo:")).shapes) if model.startswith("zoo:") else None
        for task in extract_tasks(model, target, shapes).tasks:
            tasks.setdefault(str(task.op), task)
    return list(tasks.values())


@dataclass
class Contender:
    """A candidate: its call, calls of a turn, and its seconds in each round that counted."""

    point: Point
    call: Caller
    error: float
    calls: int = 1
    times: list[float] = field(default_factory=list)
    dropped: bool = False

    def turn(self, place: float = 0.0) -> float:
        """Seconds of a call, in a turn of one that is long, or of several after one that does not count.

        Weights come from `place` of the ring on.
        """
        self.call.go_on_at(place)
        if self.calls > 1:
            self.call()
        began = time.perf_counter()
        for _ in range(self.calls):
            self.call()
        return (time.perf_counter() - began) / self.calls


def measure_space(task: Task, bench: Bench, usual: Reading, cold: ColdMemory) -> list[tuple[Point, Measurement]]:
    """All points of `task`. Their weights share the ring `cold`, as one piece of memory is slower than another."""
    failed, contenders = [], []
    for point in task.points:
        try:
            bench.prepare(Job(task.op, point), lambda phase: None)
        except Failure as failure:
            failed.append((point, Measurement(failure.status, error=failure.error, reason=str(failure))))
            continue
        cold.rewind()
        contenders.append(Contender(point, bench.caller(cold), bench.error))
        bench.forget()
    with undisturbed():
        speeds, alone = play(contenders, Pace(bench.reference.read, usual))
    return failed + results(contenders, speeds, alone)


def play(contenders: Sequence[Contender], pace: Pace) -> tuple[list[float], bool]:
    """Rounds of turns; the core's speed in each round that counted, and whether most of them were undisturbed."""
    random = np.random.default_rng(0)
    for c in contenders:
        c.calls = max(1, math.ceil(TURN_S / max(c.turn(), 1e-7)))
    speeds: list[float] = []
    shared = tried = 0
    place = 0.0
    before = pace.settle(0.4)
    while len(speeds) < ROUNDS and contenders:
        tried += 1
        playing = [contenders[k] for k in random.permutation(len(contenders)) if not contenders[k].dropped]
        times = []
        for c in playing:
            times.append(c.turn(place))
            place = c.call.after(place, c.calls + (c.calls > 1))
        after = pace.read()
        disturbed = pace.shared(before) or pace.shared(after)
        speed = 2 * pace.usual.seconds / (before.seconds + after.seconds)
        before = pace.settle(0.1) if disturbed else after
        if disturbed and tried < MOST_ROUNDS - ROUNDS + len(speeds):
            continue
        shared += disturbed
        speeds.append(speed)
        for c, seconds in zip(playing, times, strict=True):
            c.times.append(seconds)
        if len(speeds) == FIRST_ROUNDS:
            # Disturbances only ever make a turn longer: the shortest tells best what is hopeless.
            best = min(statistics.median(c.times) for c in contenders)
            for c in contenders:
                c.dropped = min(c.times) > DROPPED_ABOVE * best
    return speeds, 2 * shared < ROUNDS


def results(contenders: Sequence[Contender], speeds: Sequence[float], alone: bool) -> list[tuple[Point, Measurement]]:
    """Times from the ratios within rounds: of each contender to the mean of those that took part to the end."""
    lasting = [np.log(c.times) for c in contenders if not c.dropped]
    if not lasting:
        return []
    means = np.mean(lasting, axis=0)
    level = float(np.exp(np.median(means + np.log(speeds))))
    found = []
    for c in contenders:
        relative = np.exp(np.log(c.times) - means[: len(c.times)])
        seconds = float(np.median(relative)) * level
        speed = seconds / statistics.median(c.times)
        measured = Measurement("ok", seconds, spread(list(relative)), len(c.times), speed, alone, c.error)
        found.append((c.point, measured))
    return found


if __name__ == "__main__":
    main()
