"""`kompilo tune MODEL`: measure configs of a model's operators and remember the fastest."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, UsageError
from ..model_source import resolve
from . import console
from .arguments import a_folder, parse_shapes
from .options import AsJson, Calibration, CalibrationMethod, InputShapes, ModelArgument, Precision
from .outputs import check_html, write_text

if TYPE_CHECKING:
    from ..schedule.roofline import Roofline
    from ..schedule.target import Target
    from ..tune.record import Point
    from ..tune.report import TuneReport
    from ..tune.summary import Row

_DEFAULT_BUDGET = "5m"
_EXIT_INTERRUPTED = 130


def tune(
    model: ModelArgument,
    target: Annotated[
        str, typer.Option("--target", "-t", help="The target; without a cluster or a bundle, this machine's.")
    ] = "cpu",
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="90s, 5m, 1h30m. Default 5m; with --trials or --exhaustive no limit."),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, metavar="N", help="Most candidates to measure.")] = None,
    inputs: InputShapes = None,
    records: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=a_folder, help="Folder of the records; default the user's own.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Equal seeds make equal choices.")] = 0,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|ray[:ADDRESS]",
            help="Processes that build and run candidates, default all cores; or the nodes of a Ray cluster.",
        ),
    ] = None,
    precision: Precision = "fp32",
    calibration: Calibration = None,
    calibration_method: CalibrationMethod = "minmax",
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="Measure every config of every operator.")] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Measure nothing here: make a bundle of candidates for a GPU elsewhere."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a report with plots; for an FPGA, FILE.svg is the picture alone."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find faster configs for a model's operators, or for an FPGA a faster design of the model; compile then uses them.

    Goes on where an earlier session stopped. Ctrl-C ends it: what was measured is kept.
    """
    from ..tune.budget import budget_seconds

    if budget is None and trials is None and not exhaustive:
        budget = _DEFAULT_BUDGET
    limit = None if budget is None else budget_seconds(budget)
    shapes = parse_shapes(inputs or ())
    places = _workers(workers)
    resolve(model)
    check_html(html, "HTML report")
    hardware = _find_target(target)
    if hardware.writes_projects:
        from .tune_design import DesignRequest, check_unused, run

        unused = {"--workers": workers is not None, "--exhaustive": exhaustive, "--bundle": bundle is not None}
        check_unused(target, unused)
        given = calibration, calibration_method, html, as_json
        run(DesignRequest(model, target, limit, trials, shapes or None, records, seed, precision, *given))
        return
    if calibration is not None:
        raise UsageError(f"target {target!r}: expected no --calibration, which tuning of fpga:PART takes for int8.")
    if bundle is not None:
        if html is not None or isinstance(places, str):
            raise UsageError("expected --bundle without --html and without a cluster.")
        from .tune_bundle import make

        make(model, target, bundle, limit, trials, shapes or None, records, seed, places, precision, as_json)
        return
    from ..tune.tune import tune as tune_model
    from .tune_view import Subject, session_view

    roofline = _roofline(hardware, target)
    with session_view(Subject(model, hardware.spec.key, trials, roofline)) as progress:
        report = tune_model(
            model,
            target=target,
            budget=limit,
            trials=trials,
            inputs=shapes or None,
            records=records,
            seed=seed,
            workers=places,
            exhaustive=exhaustive,
            progress=progress,
            precision=precision,
        )
    _finish(report, roofline, html, as_json)


def _workers(text: str | None) -> int | str | None:
    """A number of processes, or words for a cluster, for which Ray must be installed."""
    if text is None or text.isdecimal():
        if text is not None and int(text) < 1:
            raise typer.BadParameter("expected at least 1.", param_hint="'--workers'")
        return None if text is None else int(text)
    from ..tune.ray_cluster import address_of, import_ray

    address_of(text)
    import_ray()
    return text


def _find_target(name: str) -> Target:
    from ..schedule.target import find_target

    return find_target(name)


def _roofline(target: Target, name: str) -> Roofline | None:
    from ..tune.roofline import machine_roofline

    return machine_roofline(target, name, console.note)


def _finish(report: TuneReport, roofline: Roofline | None, html: Path | None, as_json: bool) -> None:
    from ..tune.session import INTERRUPTED
    from .tune_view import print_report

    if html is not None:
        from ..tune.html_report import html_report

        write_text(html, html_report(report, roofline))
    interrupted = report.state.stopped == INTERRUPTED
    if not report.state.tasks and report.skipped and not interrupted:
        raise InputError(
            f"no operator of {report.model} can be tuned: only a run tells the sizes of all {len(report.skipped)}.",
            f"fix the shapes of the inputs, for example {_example_shapes(report.model)}.",
        )
    if as_json:
        console.print_json(report_facts(report, roofline))
    else:
        print_report(report, roofline)
        if html is not None:
            console.say(f"report: {html}")
    for note in report.notes:
        console.note(note)
    if interrupted:
        console.note("kompilo: interrupted; the same command goes on from here")
        raise typer.Exit(_EXIT_INTERRUPTED)


def _example_shapes(model: str) -> str:
    """--input options for the inputs of `model` with dynamic dimensions: a batch of one, anything else 128."""
    from ..frontend.host_types import host_signature
    from ..frontend.model_reader import read_model

    source = resolve(model)
    options = []
    for spec in host_signature(read_model(source).proto.graph, None):
        sizes = [d if isinstance(d, int) else 1 if k == 0 else 128 for k, d in enumerate(spec.shape)]
        if any(not isinstance(d, int) for d in spec.shape):
            options.append(f"--input {spec.name}:{'x'.join(map(str, sizes))}")
    return " ".join(options) or "--input NAME:1x3x224x224"


def report_facts(report: TuneReport, roofline: Roofline | None) -> dict[str, Any]:
    """What --json prints; times are seconds of one call on one thread or a whole GPU, null where not measured."""
    from ..tune.summary import rows

    state = report.state
    return {
        "model": report.model,
        "target": report.target,
        "whole_device": report.whole_device,
        "stopped": state.stopped,
        "elapsed_s": state.elapsed_s,
        "search_s": report.search_s,
        "measured": state.measured,
        "failed": state.failed,
        "before_s": state.model_seconds(start=True),
        "after_s": state.model_seconds(),
        "roofline": None if roofline is None else asdict(roofline),
        "operators": [_row_facts(row) for row in rows(state, roofline)],
        "skipped": report.skipped,
        "records": report.records,
        "notes": report.notes,
    }


def _row_facts(row: Row) -> dict[str, Any]:
    task = row.task
    return {
        "operator": str(task.op),
        "words": row.words,
        "calls": task.calls,
        "share": row.share,
        "flops": row.flops,
        "bytes": row.bytes,
        "of_roofline": row.of_roofline,
        "points": task.points,
        "tried": task.tried,
        "failed": task.failed,
        "before": _config_facts(task.start_point, task.start_seconds),
        "after": _config_facts(task.best_point, task.best_seconds),
        "history": task.history,
    }


def _config_facts(point: Point | None, seconds: float | None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {"template": point.template, "config": dict(point.config.knobs), "seconds": seconds}
