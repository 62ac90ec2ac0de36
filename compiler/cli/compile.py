"""`kompilo compile MODEL -o OUT.kpo`: an ONNX model becomes an artifact."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..model_source import resolve, stem
from ..number_words import count, size_text
from . import console
from .arguments import parse_shapes, read_fixed_values
from .host_view import decided_facts, host_facts, print_decided, print_host
from .options import (
    AsJson,
    Calibration,
    CalibrationMethod,
    FixedValues,
    InputShapes,
    ModelArgument,
    MoreRecords,
    Precision,
)
from .outputs import check_output
from .quantization import print_quantization

if TYPE_CHECKING:
    from ..artifact.artifact import Artifact


def compile_model(
    model: ModelArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT.kpo", help="The artifact; default MODEL.kpo, here.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="cpu, or cpu:PRESET (see kompilo targets); may be repeated. Default cpu."),
    ] = None,
    inputs: InputShapes = None,
    fixed: FixedValues = None,
    precision: Precision = "fp32",
    calibration: Calibration = None,
    calibration_method: CalibrationMethod = "minmax",
    records: MoreRecords = None,
    no_records: Annotated[
        bool, typer.Option("--no-records", help="Use no tuning records, and nothing learnt from them.")
    ] = False,
    no_host: Annotated[
        bool, typer.Option("--no-host", help="Refuse operators that only the onnx package's evaluator runs.")
    ] = False,
    project: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For fpga:PART: write its Vitis HLS project here.", show_default=False),
    ] = None,
    pieces: Annotated[
        int | None,
        typer.Option(
            min=1, help="Cut the model into so many pieces, for --devices of run and bench.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compile an ONNX model into one .kpo file."""
    shapes, values = parse_shapes(inputs or ()), read_fixed_values(fixed or ())
    resolve(model)
    output = output or Path(f"{stem(model)}.kpo")
    _check_output(model, output)
    if project is not None and project.resolve() == output.resolve():
        raise UsageError(f"expected two places for output and project, found {str(output)!r} for both.")
    _check_targets(target or ())
    if no_records and records:
        raise UsageError("expected either --records or --no-records, found both.")
    start = time.perf_counter()
    with console.progress() as report:
        from ..driver import compile as compile_driver

        artifact = compile_driver(
            model,
            target=target if target and len(target) > 1 else (target or ["cpu"])[0],
            inputs=shapes or None,
            precision=precision,
            records=False if no_records else (records or None),
            progress=report,
            calibration=calibration,
            calibration_method=calibration_method,
            host=not no_host,
            project=project,
            pieces=pieces,
            values=values or None,
        )
        artifact.save(output)
    summary = _summary(artifact, output, time.perf_counter() - start)
    (console.print_json if as_json else _print_summary)(summary)


def _check_targets(names: Sequence[str]) -> None:
    """A wrong name is told at once rather than after reading a large model."""
    from ..schedule.target import find_target

    for name in names:
        find_target(name)


def _check_output(model: str, output: Path) -> None:
    if output.exists() and Path(model).exists() and output.samefile(model):
        raise UsageError(f"the output {str(output)!r} is the model itself.", "choose another name with -o OUT.kpo.")
    check_output(output)
    if output.suffix == ".onnx":
        raise UsageError(f"the output {str(output)!r} would look like a model.", "name it OUT.kpo.")


def _summary(artifact: Artifact, output: Path, seconds: float) -> dict[str, Any]:
    return {
        "output": str(output),
        "bytes": output.stat().st_size,
        "seconds": round(seconds, 3),
        "inputs": [asdict(s) for s in artifact.inputs],
        "outputs": [asdict(s) for s in artifact.outputs],
        "targets": _templates(artifact),
        "segments": len(artifact.segments) or 1,
        "host_operators": host_facts(artifact.segments),
        "decided_operators": decided_facts(artifact.segments),
        "records": artifact.provenance["records"],
        "quantization": artifact.provenance.get("quantization"),
    }


def _templates(artifact: Artifact) -> list[dict[str, Any]]:
    """How many operators each template makes for each target, in all segments."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for target in artifact.targets:
        counts.setdefault((target.name, target.key), Counter()).update(o.template for o in target.operators)
    return [{"name": name, "key": key, "templates": dict(found.most_common())} for (name, key), found in counts.items()]


def _print_summary(summary: dict[str, Any]) -> None:
    size, seconds = size_text(summary["bytes"]), summary["seconds"]
    console.say(f"{summary['output']}: {size}, compiled in {seconds:.1f} s")
    for target in summary["targets"]:
        rows = list(target["templates"].items())
        console.print_table(f"Operators for {target['name']} ({target['key']})", ("template", ">operators"), rows)
    print_host(summary["host_operators"], summary["segments"])
    print_decided(summary["decided_operators"])
    if summary["quantization"]:
        print_quantization(summary["quantization"])
    records = summary["records"]
    if records and records["used"]:
        console.say(f"{count(records['used'], 'operator')} chosen by tuning records: {', '.join(records['files'])}")
    if records and records["unreadable"]:
        console.note(f"{count(records['unreadable'], 'line')} of records could not be read: see kompilo records list")
    console.say(f"next: kompilo run {summary['output']}  |  kompilo inspect {summary['output']}")
