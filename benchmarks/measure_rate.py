"""How many candidates a second are built, checked and timed, and where the time goes.

    python benchmarks/measure_rate.py [--model zoo:resnet50] [--candidates 100] [--workers N]

Takes the convolutions and matmuls of a model in turn, each with points spread over its space as a tuning session would
ask for them: several of one operator after the other. Start-up of the workers is not counted.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune.measure.pool import Job, MeasurePool
from kompilo.compiler.tune.record import Measurement
from kompilo.compiler.tune.task import extract_tasks

# Candidates of one operator in a row.
RUN = 4


def jobs_of(model: str, target: str, count: int) -> list[Job]:
    """`count` jobs over all conv and matmul tasks of `model`, in rounds of RUN points each."""
    tasks = [t for t in extract_tasks(model, find_target(target)).tasks if t.op.kind in ("conv2d", "matmul")]
    jobs: list[Job] = []
    rounds = -(-count // (RUN * len(tasks)))
    for k in range(rounds):
        for task in tasks:
            step = max(1, len(task.points) // (RUN * rounds))
            jobs += [Job(task.op, p) for p in task.points[k::step][:RUN]]
    return list(dict.fromkeys(jobs))[:count]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="zoo:resnet50")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    jobs = jobs_of(args.model, args.target, args.candidates)
    with MeasurePool(args.target, args.workers) as pool:
        for job in jobs[:2]:  # both workers are up, and have loaded what they load late
            pool.submit(job)
        list(pool.results())
        before = pool.spent
        began = time.perf_counter()
        for job in jobs:
            pool.submit(job)
        measurements = [m for _, m in pool.results()]
        wall = time.perf_counter() - began
        spent = {k: v - before.get(k, 0.0) for k, v in pool.spent.items()}
    report(measurements, wall, spent)


def report(measurements: list[Measurement], wall: float, spent: dict[str, float]) -> None:
    """Print the rate, what became of the candidates, and milliseconds of a candidate for each part."""
    count = len(measurements)
    print(f"{count} candidates in {wall:.1f} s: {count / wall:.2f} per second")
    print("  " + ", ".join(f"{n} {status}" for status, n in Counter(m.status for m in measurements).items()))
    good = [m for m in measurements if m.ok and m.spread is not None]
    within = sum(m.spread <= 0.02 for m in good if m.spread is not None)
    samples = sum(m.samples for m in good) / max(1, len(good))
    print(f"  {within} of {len(good)} times known to 2%; {samples:.0f} samples of each")
    print("  worker time, ms per candidate:")
    for part, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"    {part:10s} {1e3 * seconds / count:8.1f}")


if __name__ == "__main__":
    main()
