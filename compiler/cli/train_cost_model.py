"""`kompilo train-cost-model`: learn from the records which configs are fast."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .options import AsJson, MoreRecords

if TYPE_CHECKING:
    from ..schedule.target import Target
    from ..tune.examples import Example
    from ..tune.training import Score


def train_cost_model(
    target: Annotated[str, typer.Option("--target", help="Whose records to learn from.")] = "cpu",
    records: MoreRecords = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where the model goes; by default to your own records, for compile."
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Judge it on the zoo's models, each left out of the training.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Train the cost model that chooses configs where nothing was measured, and report how well it chooses."""
    from ..schedule.target import find_target
    from ..tune.cost_model import FILE_NAME, CostModel
    from ..tune.library import RecordLibrary
    from ..tune.store import user_folder
    from ..tune.training import training_examples
    from .outputs import check_output

    hardware = find_target(target)
    place = output or user_folder() / hardware.spec.key / FILE_NAME
    if output is not None:
        check_output(output)
    with console.progress() as progress:
        progress("reading records", 0, 0)
        examples = training_examples(RecordLibrary.of(records), hardware)
        progress("training", 0, 0)
        model = CostModel.of_examples(examples, hardware)
        scores = _scores(examples, hardware, progress) if report else []
    model.save(place)
    if as_json:
        facts = {"file": place, "target": hardware.spec.key, **dict(model.trained)}
        console.print_json(facts | {"left_out": [asdict(s) for s in scores]})
        return
    if scores:
        _print_scores(scores)
    trained = dict(model.trained)
    console.say(f"{place}: learned from {trained['records']} configs of {trained['operators']} operators")


def _scores(examples: list[Example], target: Target, progress: console.Progress) -> list[Score]:
    from ..knobs import Knobs
    from ..tune.training import leave_one_model_out, operators_of_zoo

    cache = Knobs.from_environment().cache / "tune"
    return leave_one_model_out(examples, operators_of_zoo(target, cache, progress), target, progress)


def _print_scores(scores: list[Score]) -> None:
    columns = (
        "model left out",
        ">operators",
        ">configs",
        ">choice",
        ">worst",
        ">best of 8",
        ">worst",
        ">default",
        ">worst",
    )
    rows: list[tuple[Any, ...]] = []
    for s in scores:
        figures = (*s.first, *s.best_of_8, *s.default)
        rows.append((s.model, s.operators, s.points, *(f"{x:.3f}" for x in figures)))
    console.print_table("Best known time / time of the choice: geometric mean and worst operator", columns, rows)
