"""`kompilo tune MODEL --target fpga:PART`: search designs of a whole model; a line for each better one, a table at the
end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from ..errors import UsageError
from ..number_words import time_text
from ..schedule.whole_design import DesignPoint, front
from ..tune.designs import DesignReport, tune_design
from ..tune.session import INTERRUPTED
from . import console
from .outputs import write_text

_EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class DesignRequest:
    """What `kompilo tune` was asked for, as far as designs go."""

    model: str
    target: str
    budget: float | None
    trials: int | None
    inputs: Mapping[str, Sequence[int | str]] | None
    records: Path | None
    seed: int
    precision: str
    calibration: Path | None
    calibration_method: str
    html: Path | None
    as_json: bool


def check_unused(target: str, given: Mapping[str, bool]) -> None:
    """UsageError if an option was given (True) that designs have no use for."""
    for option, is_given in given.items():
        if is_given:
            raise UsageError(f"target {target!r}: expected no {option}: designs are searched, and nothing is run.")


def run(asked: DesignRequest) -> None:
    """The session, and what is printed of it."""
    report = tune_design(
        asked.model, asked.target, asked.budget, asked.trials, asked.inputs, asked.records, asked.seed,
        asked.precision, asked.calibration, asked.calibration_method, _say,
    )  # fmt: skip
    if asked.html is not None:
        from ..tune.design_report import design_page, picture_file

        made = picture_file if asked.html.suffix == ".svg" else design_page
        write_text(asked.html, made(report))
    if asked.as_json:
        console.print_json(design_facts(report))
    else:
        _print(report, asked.html)
    if report.stopped == INTERRUPTED:
        console.note("kompilo: interrupted; the same command goes on from here")
        raise typer.Exit(_EXIT_INTERRUPTED)


def _say(number: int, point: DesignPoint, best: DesignPoint) -> None:
    """A line on stderr for each design that is faster than all before."""
    if point is best:
        print(f"design {number}: {point.cycles} cycles, {time_text(point.seconds)}", file=sys.stderr, flush=True)


def _print(report: DesignReport, html: Path | None) -> None:
    points = front(report.tried, "dsp")
    names = [name for name, _, _ in report.best.resources]
    cells = [
        (p.cycles, time_text(p.seconds), *(f"{used} ({used / max(usable, 1):.0%})" for _, used, usable in p.resources))
        for p in points
    ]
    title = f"{report.model} on {report.target}: designs that no other beats in latency and DSP blocks"
    console.print_table(title, [">cycles", ">latency", *(f">{n}" for n in names)], cells)
    if report.default is None:
        console.say(f"best {time_text(report.best.seconds)}; without tuning: {report.problem}")
    else:
        times = time_text(report.default.seconds), time_text(report.best.seconds)
        console.say(f"by default {times[0]}, best {times[1]} ({report.speedup:.2f}x)")
    console.say(f"{len(report.tried)} designs, {report.elapsed_s:.0f} s; {report.stopped}")
    console.say(f"records: {report.records}")
    if html is not None:
        console.say(f"report: {html}")


def design_facts(report: DesignReport) -> dict[str, Any]:
    """What --json prints."""
    facts = {
        "model": report.model,
        "target": report.target,
        "stopped": report.stopped,
        "elapsed_s": report.elapsed_s,
        "designs": len(report.tried),
        "speedup": report.speedup,
        "problem": report.problem,
        "records": report.records,
    }
    default = None if report.default is None else asdict(report.default)
    points = [asdict(p) for p in front(report.tried, "dsp")]
    return {**facts, "default": default, "best": asdict(report.best), "front": points}
