"""What records and cost model are worth: each model of the zoo compiled with them and without, in turns, as markdown.

    python benchmarks/tuned.py [--models resnet50,mnist] [--threads 1,2] [--seconds 3]

Both artifacts are loaded into one process and run in turns of some 80 ms; the ratio of the medians of each round is
formed, and the median over rounds is what the table shows: below 1, records help.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import kompilo
from kompilo.models import zoo

TURN_S = 0.08
LEAST_ROUNDS = 5


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(zoo.names()))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each model and number of threads")
    options = parser.parse_args()
    counts = [int(n) for n in options.threads.split(",")]
    rows = {}
    for name in options.models.split(","):
        rows[name] = compare(name, counts, options.seconds)
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    print("\n".join(table(rows, counts)))


def compare(name: str, counts: Sequence[int], seconds: float) -> list[float]:
    """Time with records / time without, for each number of threads."""
    model = zoo.find(name)
    ratios = []
    with tempfile.TemporaryDirectory(prefix="kompilo-tuned-") as folder:
        places = [Path(folder) / f"{kind}.kpo" for kind in ("with", "without")]
        for place, records in zip(places, (None, False), strict=True):
            kompilo.compile(f"zoo:{name}", inputs=dict(model.shapes), records=records).save(place)
        for threads in counts:
            modules = [kompilo.load(place, threads=threads) for place in places]
            ratios.append(ratio(*modules, model.sample_inputs(0), seconds))
    return ratios


def ratio(one: kompilo.Module, other: kompilo.Module, inputs: Mapping[str, np.ndarray], seconds: float) -> float:
    """The median over rounds of (median time of `one` / median time of `other`)."""
    found: list[float] = []
    for module in (one, other):
        turn(module, inputs)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(found) < LEAST_ROUNDS:
        first, second = (one, other) if len(found) % 2 else (other, one)
        times = {id(m): turn(m, inputs) for m in (first, second)}
        found.append(times[id(one)] / times[id(other)])
    return statistics.median(found)


def turn(module: kompilo.Module, inputs: Mapping[str, np.ndarray]) -> float:
    """Median seconds of a run over some time."""
    times: list[float] = []
    until = time.perf_counter() + TURN_S
    while time.perf_counter() < until or not times:
        began = time.perf_counter()
        module.run(inputs)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def table(rows: Mapping[str, Sequence[float]], counts: Sequence[int]) -> list[str]:
    """A row for each model, closed by the geometric means."""
    lines = ["| model | " + " | ".join(f"{n} thread{'s' * (n > 1)}" for n in counts) + " |"]
    lines.append("|---|" + "---:|" * len(counts))
    lines += [f"| {name} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |" for name, ratios in rows.items()]
    means = [math.exp(statistics.mean(map(math.log, column))) for column in zip(*rows.values(), strict=True)]
    return [*lines, "| **geometric mean** | " + " | ".join(f"**{m:.3f}**" for m in means) + " |"]


if __name__ == "__main__":
    main()
