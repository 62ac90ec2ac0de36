"""How well the cost model chooses on models left out of its training, and what it costs, as markdown tables.

    python benchmarks/cost_model.py [--records DIR ...] [--measurements 0,1,2,4,8,16,64]

The records (installed, your own, and those given) must cover whole spaces: then every measurement that a session would
make can be looked up. For each model of the zoo the cost model is trained without any of its operators. It chooses; it
then "measures" its best untried points one after the other and adapts every 8 of them. A choice's quality is the best
known time over its own: 1 is perfect. Nothing is run on the machine but the model itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kompilo.compiler.knobs import Knobs
from kompilo.compiler.schedule.target import Target, find_target
from kompilo.compiler.tune.advisors import preferred
from kompilo.compiler.tune.cost_model import CostModel
from kompilo.compiler.tune.examples import Example
from kompilo.compiler.tune.features import idle_factors
from kompilo.compiler.tune.library import RecordLibrary
from kompilo.compiler.tune.record import Measurement, Record
from kompilo.compiler.tune.training import default_place, operators_of_zoo, training_examples

ADAPT_EVERY = 8
OPERATORS, POINTS = 300, 25


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", nargs="*", type=Path, default=[])
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--measurements", default="0,1,2,4,8,16,64")
    options = parser.parse_args()
    steps = [int(n) for n in options.measurements.split(",")]
    target = find_target(options.target)
    examples = [e for e in training_examples(RecordLibrary.of(options.records), target) if len(e.points) > 1]
    models = operators_of_zoo(target, Knobs.from_environment().cache / "tune")
    print(quality_table(examples, models, target, steps))
    print(cost_table(examples, target))


def quality_table(
    examples: Sequence[Example], models: dict[str, list[str]], target: Target, steps: Sequence[int]
) -> str:
    """Quality after so many measurements per operator: geometric mean and, in brackets, the worst operator."""
    head = " | ".join(f"{n} measured" for n in steps)
    lines = [f"| model left out | operators | default | {head} |", "|---|--:|--:|" + "--:|" * len(steps)]
    everything = []
    for name, texts in models.items():
        held = [e for e in examples if str(e.op) in set(texts)]
        rest = [e for e in examples if str(e.op) not in set(texts)]
        if held and rest:
            learned = CostModel.of_examples(rest, target)
            rows = [[default_quality(e, target), *replay(e, learned, steps)] for e in held]
            everything += rows
            lines.append(_line(name, rows))
    lines.append(_line("**all**", everything))
    return "\n".join(lines) + "\n"


def default_quality(example: Example, target: Target) -> float:
    """Best time / time of what is taken without records and without a model; NaN if that was not measured."""
    place, seconds = default_place(example, target), _on_all_cores(example, target)
    return float("nan") if place is None else seconds.min() / seconds[place]


def replay(example: Example, model: CostModel, steps: Sequence[int]) -> list[float]:
    """Quality of the best of the first n points that a session would measure, for each n of `steps`.

    After none it is that of the model's choice.
    """
    order: list[int] = []
    factors = idle_factors(example.op, model.target, example.points)
    start = predicted = model.predict(example.op, example.points) * factors
    while len(order) < min(max(steps), len(example.points)):
        if order and len(order) % ADAPT_EVERY == 0:
            adapted = model.with_records(_records(example, order, model))
            predicted = adapted.predict(example.op, example.points) * factors
        untried = [k for k in range(len(example.points)) if k not in order]
        order.append(min(untried, key=lambda k: predicted[k]))
    seconds = _on_all_cores(example, model.target)
    chosen = preferred(start, default_place(example, model.target))
    return [seconds.min() / min(seconds[k] for k in order[:n] or [chosen]) for n in steps]


def _on_all_cores(example: Example, target: Target) -> np.ndarray:
    """What the measured times, those of one core, are worth on all: choices go by that."""
    return example.seconds * idle_factors(example.op, target, example.points)


def _records(example: Example, places: Sequence[int], model: CostModel) -> list[Record]:
    key = model.target.spec.key
    return [
        Record(example.op, key, example.points[k], Measurement("ok", float(example.seconds[k])), "", "") for k in places
    ]


def _line(name: str, rows: Sequence[Sequence[float]]) -> str:
    cells = []
    for column in zip(*rows, strict=True):
        known = [q for q in column if np.isfinite(q)]
        cells.append(f"{np.exp(np.mean(np.log(known))):.3f} ({min(known):.2f})" if known else "-")
    return f"| {name} | {len(rows)} | {' | '.join(cells)} |"


def cost_table(examples: Sequence[Example], target: Target) -> str:
    """Seconds that training, predicting and adapting take."""
    start = time.perf_counter()
    model = CostModel.of_examples(examples, target)
    trained = time.perf_counter() - start
    some = [examples[k % len(examples)] for k in range(OPERATORS)]
    count = sum(min(POINTS, len(e.points)) for e in some)
    start = time.perf_counter()
    for e in some:
        model.predict(e.op, e.points[:POINTS])
    predicted = time.perf_counter() - start
    records = [r for e in examples[:20] for r in _records(e, range(len(e.points)), model)]
    start = time.perf_counter()
    model.with_records(records)
    adapted = time.perf_counter() - start
    rows = (
        (f"training on {sum(len(e.points) for e in examples)} records", trained),
        (f"predicting {count} configs of {OPERATORS} operators", predicted),
        (f"adapting to {len(records)} records", adapted),
    )
    return "\n".join(["| step | seconds |", "|---|--:|", *(f"| {name} | {s:.2f} |" for name, s in rows)])


if __name__ == "__main__":
    main()
