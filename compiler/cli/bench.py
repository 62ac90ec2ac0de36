"""`kompilo bench`: how fast a model runs here, against other runtimes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..model_source import is_artifact, resolve
from ..number_words import time_text
from ..scratch import scratch_folder
from . import console
from .arguments import artifact_values, parse_threads
from .device_options import Devices, PlanFile, wants_pipeline
from .feeds import Feeds, sample_feeds
from .host_view import check_tensors
from .options import EitherArgument, InputValues, Sizes
from .outputs import check_output, write_text

if TYPE_CHECKING:
    from ..peers.measure import Measurement

_DEFAULT_PEERS = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Subject:
    """What is measured: the artifact, the ONNX file that peers read (None: no peers), and the inputs."""

    artifact: Path
    model: Path | None
    feeds: Feeds


def bench(
    model: EitherArgument,
    against: Annotated[
        str | None,
        typer.Option(metavar="RUNTIME,...", help="onnxruntime, openvino, or none; default those installed."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where Kompilo runs: auto, cpu, cuda, cuda:1, ...; a model is compiled for it.")
    ] = "auto",
    threads: Annotated[str, typer.Option(metavar="N[,M]", help="Numbers of threads to measure with.")] = "1",
    devices: Devices = None,
    plan: PlanFile = None,
    inputs: InputValues = None,
    shape: Sizes = None,
    onnx_model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL.onnx", help="The model of an artifact, for the peers.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Measured time for each runtime.")] = 3.0,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Leave dynamic dimensions open, for all runtimes alike.")
    ] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="[FILE]", help="Write JSON there; alone or -, to stdout.")
    ] = None,
) -> None:
    """Time a model against other runtimes: same inputs, threads and cores, in turn, each in a process of its own."""
    counts = parse_threads(threads)
    if not math.isfinite(seconds):
        raise UsageError(f"expected a finite number of --seconds, found {seconds}.")
    _check_json_file(json_file)
    if wants_pipeline(devices, plan, device, None if threads == "1" else threads):
        from .device_bench import bench_devices

        bench_devices(Path(model), devices, plan, inputs or (), seconds, json_file)
        return
    peers = _choose_peers(against)
    from ..peers.base import OURS
    from ..peers.measure import measure, pick_cores

    pick_cores(max(counts))
    with scratch_folder("bench") as folder, console.progress() as report:
        if is_artifact(model):
            subject = _from_artifact(model, onnx_model, inputs or (), shape or (), folder)
            peers = _peers_of_artifact(model, peers, against is not None, subject)
        elif onnx_model is not None:
            raise UsageError("expected --model only with an artifact, found two models.")
        else:
            subject = compile_subject(model, inputs or (), shape or (), dynamic, folder, report, device)
        models = {OURS: subject.artifact} | {p: subject.model for p in peers if subject.model}
        results = [measure(models, subject.feeds.arrays, count, seconds, report, device) for count in counts]
    _print_results(model, subject, results, json_file)


def fill_json_value(args: list[str]) -> list[str]:
    """Lets `bench --json` stand without a value: puts "-" behind it, as the option parser knows no optional values."""
    if next((a for a in args if not a.startswith("-")), None) != "bench":
        return args
    filled: list[str] = []
    for k, arg in enumerate(args):
        filled.append(arg)
        if arg == "--json" and (k + 1 == len(args) or (args[k + 1].startswith("-") and args[k + 1] != "-")):
            filled.append("-")
    return filled


def _choose_peers(against: str | None) -> list[str]:
    """The runtimes to measure against; UsageError if one asked for by name is unknown or not installed."""
    from ..peers.base import OURS, check_installed, is_installed

    if against is None:
        missing = [p for p in _DEFAULT_PEERS if not is_installed(p)]
        for peer in missing:
            console.note(f"not measured: {peer} is not installed (pip install 'kompilo[peers]')")
        return [p for p in _DEFAULT_PEERS if p not in missing]
    names = [n.strip() for n in against.split(",") if n.strip() not in ("", "none")]
    for name in names:
        if name == OURS:
            raise UsageError("expected other runtimes in --against, found kompilo itself, which is always measured.")
        check_installed(name)
    return list(dict.fromkeys(names))


def _check_json_file(json_file: str | None) -> None:
    if json_file is None or json_file == "-":
        return
    if Path(json_file).suffix in (".onnx", ".kpo") or json_file.startswith("zoo:"):
        raise UsageError(f"expected a file for JSON behind --json, found {json_file!r}.", "--json - writes to stdout.")
    check_output(Path(json_file), "JSON file")


def compile_subject(
    model: str,
    values: Sequence[str],
    shapes: Sequence[str],
    dynamic: bool,
    folder: Path,
    report: console.Progress,
    device: str = "auto",
) -> Subject:
    """Compile `model` into `folder` for a target, or the local GPU ("cuda", "cuda:1"); "auto" is this CPU.

    Unless `dynamic`, dimensions are fixed at the measured sizes, for peers as well.
    """
    from ..driver import compile as compile_driver
    from ..frontend.host_types import host_signature
    from ..frontend.model_reader import read_model
    from ..peers.fixed_model import fix_model_shapes
    from ..runtime.choice import split_number

    report("read model", 0, 1)
    source = resolve(model)
    assert isinstance(source, Path)
    specs = host_signature(read_model(source).proto.graph, None)
    check_tensors(specs, "bench")
    feeds = sample_feeds(model, source, specs, values, shapes)
    fixed = None if dynamic else {name: array.shape for name, array in feeds.arrays.items()}
    target = "cpu" if device == "auto" else split_number(device)[0]
    compile_driver(model, target=target, inputs=fixed, progress=report).save(folder / "model.kpo")
    if fixed is not None:
        source = fix_model_shapes(source, fixed, folder / "fixed.onnx")
    return Subject(folder / "model.kpo", source, feeds)


def _from_artifact(
    artifact: str, model: str | None, values: Sequence[str], shapes: Sequence[str], folder: Path
) -> Subject:
    """An existing artifact, and the model it came from with the same dimensions fixed."""
    from ..artifact.artifact import Artifact

    opened = Artifact.open(Path(artifact))
    specs = opened.inputs
    check_tensors(specs, "bench")
    if model is None:
        return Subject(Path(artifact), None, sample_feeds(None, None, specs, values, shapes))
    from ..peers.fixed_model import fix_model_shapes

    source = resolve(model)
    assert isinstance(source, Path)
    feeds = sample_feeds(model, source, specs, values, shapes)
    fixed = artifact_values(opened.provenance.get("values", {}), {})
    peers_model = fix_model_shapes(source, {s.name: s.shape for s in specs}, folder / "f.onnx", fixed)
    return Subject(Path(artifact), peers_model, feeds)


def _peers_of_artifact(artifact: str, peers: list[str], asked: bool, subject: Subject) -> list[str]:
    if subject.model is None and peers and asked:
        raise UsageError(
            f"{', '.join(peers)} cannot run {artifact!r}: expected the model it was compiled from.",
            "add --model MODEL.onnx.",
        )
    if subject.model is None and peers:
        console.note(f"not measured: {', '.join(peers)}; add --model MODEL.onnx to compare")
    return peers if subject.model else []


def _print_results(model: str, subject: Subject, results: list[Measurement], json_file: str | None) -> None:
    summary = {
        "model": model,
        "inputs": {n: {"shape": v.shape, "dtype": str(v.dtype)} for n, v in subject.feeds.arrays.items()},
        "assumed": subject.feeds.assumed,
        "results": [asdict(r) for r in results],
    }
    if json_file == "-":
        console.print_json(summary)
        return
    shapes = ", ".join(f"{n} {'x'.join(map(str, v.shape))}" for n, v in subject.feeds.arrays.items())
    columns = (
        "threads",
        "runtime",
        "version",
        "runs on",
        ">median",
        ">min",
        ">runs",
        ">ours / theirs",
        ">by min",
        ">output error",
    )
    console.print_table(f"{model} on {shapes}", columns, [row for r in results for row in _rows(r)])
    if subject.feeds.remark:
        console.say(subject.feeds.remark)
    if json_file is not None:
        write_text(Path(json_file), console.json_text(summary) + "\n")


def _rows(result: Measurement) -> list[tuple[object, ...]]:
    """One row for each runtime; ratios below 1 mean that Kompilo is faster."""
    ratios = {r.peer: r for r in result.ratios}
    rows: list[tuple[object, ...]] = []
    for t in result.timings:
        r = ratios.get(t.runtime)
        compared = (f"{r.median:.2f}", f"{r.best:.2f}", f"{r.error:.1e}") if r else ("", "", "")
        times = (time_text(t.median_ms / 1e3), time_text(t.min_ms / 1e3), t.runs)
        rows.append((result.threads, t.runtime, t.version, t.runs_on, *times, *compared))
    return rows
