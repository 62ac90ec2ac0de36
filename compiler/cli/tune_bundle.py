"""`kompilo tune MODEL --target cuda:PRESET --bundle DIR`: candidates to be measured on another machine's GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..number_words import size_text
from . import console

if TYPE_CHECKING:
    from ..tune.device.bundle import Bundle

_SHOWN_REASONS = 5
_EVERY_S = 5.0


def make(
    model: str,
    target: str,
    folder: Path,
    budget: float | None,
    trials: int | None,
    inputs: Mapping[str, Sequence[int | str]] | None,
    records: Path | None,
    seed: int,
    workers: int | None,
    precision: str,
    as_json: bool,
) -> None:
    """Make the bundle and say what is in it; arguments are those of the verb."""
    from ..tune.device.bundle import make_bundle

    told = 0.0

    def progress(built: int, planned: int, seconds: float) -> None:
        nonlocal told
        if seconds - told >= _EVERY_S:
            told = seconds
            console.note(f"{built} of {planned} candidates built in {seconds:.0f} s")

    made = make_bundle(model, target, folder, budget, trials, inputs, records, seed, workers, progress, precision)
    if not made.candidates:
        reason = made.reasons[0] if made.reasons else "no operator of known sizes has untried configs."
        raise InputError(f"the bundle of {model} is empty: {reason}")
    if as_json:
        console.print_json({**asdict(made), "folder": str(made.folder)})
        return
    _print(made)


def _print(made: Bundle) -> None:
    size = size_text(made.bytes)
    console.say(f"{made.folder}: {made.candidates} candidates for {made.operators} operators on {made.target}, {size}")
    if made.left_out:
        why = f": {made.stopped}" if made.stopped else ""
        console.say(f"{made.left_out} further configs are not in it{why}")
    if made.failed:
        console.say(f"{made.failed} candidates could not be built")
        for reason in made.reasons[:_SHOWN_REASONS]:
            console.note(reason)
    if made.skipped:
        why = "only a run tells their sizes, or the reference does not know them"
        console.say(f"{len(made.skipped)} operators are left out: {why}")
    console.say("next: copy it to the machine with the GPU, python3 measure.py, bring back results.jsonl")
    console.say("      and here: kompilo records import results.jsonl")
