"""`kompilo plan`: which device of a cluster, or of this machine, runs what of a model, and how fast that is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..model_source import is_artifact, resolve
from . import console
from .arguments import a_folder, parse_shapes
from .options import AsJson, EitherArgument, InputShapes, Precision
from .outputs import check_html, write_text

if TYPE_CHECKING:
    from ..plan.cluster import Cluster
    from ..plan.planner import Planned
    from ..plan.work import TimedWork
    from ..tensor_spec import Dim

_LATE = 1


def plan(
    model: EitherArgument,
    cluster: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="A described cluster to plan for.", show_default=False)
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="cpu:0,cpu:1", help="Devices of this machine to plan for, by measuring.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PLAN.json", help="With --devices: write the plan here.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="With --devices: time for each measurement.")] = 2.0,
    objective: Annotated[str, typer.Option(help="latency, throughput, energy or cost (of a request).")] = "latency",
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="A lone request shall take no longer: 20ms, 1.5s.")
    ] = None,
    max_error: Annotated[
        float,
        typer.Option(metavar="E", help="Tensors may lose this part of their largest element on slow links: 0.001."),
    ] = 0.0,
    micro_batches: Annotated[
        str, typer.Option(metavar="N,M", help="Divide a request into so many parts; the best number is taken.")
    ] = "1",
    inputs: InputShapes = None,
    target: Annotated[str, typer.Option("--target", "-t", help="The target that a model is fused for.")] = "cpu",
    precision: Precision = "fp32",
    records: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=a_folder, help="A folder of tuning records to ask first.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the graph by device and a Gantt chart.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Plan a model over the devices of a described cluster, by simulation, or of this machine, by measuring.

    Exit code 1 if no plan keeps the deadline.
    """
    if (cluster is None) == (devices is None):
        raise UsageError(f"expected either --cluster or --devices, found {'neither' if cluster is None else 'both'}.")
    if devices is not None:
        _refuse({"deadline": deadline, "input": inputs, "records": records, "html": html}, "--devices")
        _refuse({"max-error": max_error, "micro-batches": micro_batches != "1"}, "--devices")
        if not is_artifact(model):
            raise UsageError("expected an artifact with --devices, found a model.", "kompilo compile --pieces 6 first.")
        from .device_plan import plan_devices

        plan_devices(Path(model), devices, objective, output, seconds, as_json)
        return
    _refuse({"output": output}, "--cluster")
    assert cluster is not None, "there is one or the other"
    from ..plan.cluster_file import read_cluster
    from ..plan.planner import Wish, make_plan

    wish = Wish(objective, _seconds(deadline), max_error, _counts(micro_batches))
    described = read_cluster(cluster)
    shapes = parse_shapes(inputs or ())
    check_html(html, "HTML page")
    if is_artifact(model):
        if shapes:
            raise UsageError("expected --input for a model, found an artifact, whose sizes are fixed.")
        work = _artifact_work(Path(model), described, records)
    else:
        work = _model_work(model, described, target, shapes, precision, records)
    planned = make_plan(work, wish)
    _show(planned, as_json)
    if html is not None:
        from ..plan.html import html_plan

        write_text(html, html_plan(planned))
    if not planned.meets_deadline:
        raise typer.Exit(_LATE)


def _refuse(options: Mapping[str, object], beside: str) -> None:
    """UsageError if one of `options`, by their names, is given, which mean nothing `beside` another."""
    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise UsageError(f"expected {beside} without {' and '.join(given)}, found both.")


def _model_work(
    model: str,
    cluster: Cluster,
    target: str,
    shapes: dict[str, tuple[Dim, ...]],
    precision: str,
    records: Path | None,
) -> TimedWork:
    resolve(model)
    from ..driver import check_precision
    from ..plan.work import TimedWork
    from ..predict.model import work_of_model
    from ..predict.times import target_times
    from ..schedule.target import find_target

    found = find_target(target)
    check_precision(precision, {target: found})
    read = work_of_model(model, found, shapes or None, precision, records)
    return TimedWork.predict(read.graph, cluster, [target_times(cluster, read.ops, records)])


def _artifact_work(path: Path, cluster: Cluster, records: Path | None) -> TimedWork:
    from ..artifact.artifact import Artifact
    from ..plan.work import TimedWork
    from ..predict.artifact import work_of_artifact
    from ..predict.sizes import check_no_host

    artifact = Artifact.open(path)
    check_no_host(artifact.segments)
    if artifact.segments:
        raise UsageError("expected an artifact of one piece with --cluster, found one in pieces.", "use --devices.")
    graph = work_of_artifact(artifact, artifact.targets[0])
    if not any(d.target for d in cluster.devices):
        return TimedWork.predict(graph, cluster)
    from ..predict.times import recorded_ops, target_times

    return TimedWork.predict(graph, cluster, [target_times(cluster, recorded_ops(cluster, records), records)])


def _show(planned: Planned, as_json: bool) -> None:
    from ..plan.explain import DEVICE_COLUMNS, ROUTE_COLUMNS, device_rows, route_rows, sentences
    from ..plan.explain import as_json as json_of

    if as_json:
        console.print_json(json_of(planned))
        return
    for sentence in sentences(planned):
        console.say(sentence)
    console.say()
    console.print_table("Devices", DEVICE_COLUMNS, device_rows(planned))
    console.print_table("Routes", ROUTE_COLUMNS, route_rows(planned), fold=("stages",))


def _seconds(text: str | None) -> float | None:
    """ "20ms", "1.5s" or "800us" in seconds."""
    if text is None:
        return None
    for unit, scale in (("ms", 1e-3), ("us", 1e-6), ("s", 1.0)):
        if text.endswith(unit):
            try:
                return float(text.removesuffix(unit)) * scale
            except ValueError:
                break
    raise UsageError(f"expected --deadline as 20ms, 800us or 1.5s, found {text!r}.")


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"expected --micro-batches N or N,M with positive numbers, found {text!r}.") from None
