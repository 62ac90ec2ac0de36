"""`kompilo run OUT.kpo`: run an artifact once (or often) and show what comes out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..number_words import time_text
from . import console
from .arguments import parse_threads
from .device_options import Devices, PlanFile, open_pipeline, wants_pipeline
from .feeds import make_feeds
from .host_view import absent, flat
from .options import ArtifactArgument, AsJson, InputValues, Seed, Sizes
from .outputs import check_output, write_arrays

if TYPE_CHECKING:
    import numpy as np


def run_artifact(
    artifact: ArtifactArgument,
    inputs: InputValues = None,
    shape: Sizes = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.npz", help="Store the outputs here.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run: auto, cpu, cuda, cuda:1, fpga:sim, ...")] = "auto",
    threads: Annotated[str | None, typer.Option(metavar="N", help="Number of threads; default all cores.")] = None,
    devices: Devices = None,
    plan: PlanFile = None,
    repeat: Annotated[int, typer.Option(min=1, help="Run this often and show the times.")] = 1,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run a compiled artifact and print each output's shape and statistics."""
    if artifact.suffix == ".onnx":
        raise UsageError(
            f"expected a compiled artifact, found the model {str(artifact)!r}.", f"kompilo compile {artifact} first."
        )
    several = wants_pipeline(devices, plan, device, threads)
    counts = parse_threads(threads) if threads else [None]
    if len(counts) > 1:
        raise UsageError(f"expected one number of threads, found {threads!r}.")
    if output is not None:
        check_output(output)
        if output.exists() and artifact.exists() and output.samefile(artifact):
            raise UsageError(f"the output {str(output)!r} is the artifact itself.", "choose another name.")
    from ..runtime.module import load
    from ..runtime.simulated import SimulatedModule

    module: Any = (
        open_pipeline(artifact, devices, plan) if several else load(artifact, device=device, threads=counts[0])
    )
    with module if several else nullcontext():
        feeds = make_feeds(module.inputs, inputs or (), shape or (), seed).arrays
        results, times = _timed_runs(module, feeds, repeat)
    arrays = flat(results)
    if output is not None:
        write_arrays(output, arrays)
    if as_json:
        facts = [{"name": n, "shape": v.shape, "dtype": _dtype(v), **_statistics(v)} for n, v in arrays.items()]
        console.print_json({"outputs": facts, "ms": times})
        return
    columns = ("output", "dtype", "shape", ">min", ">max", ">mean", "first values")
    console.print_table(f"Outputs of {artifact.name}", columns, [_row(n, v) for n, v in arrays.items()])
    for line in absent(results):
        console.say(line)
    if isinstance(module, SimulatedModule):
        console.say(f"{module.runs_on}: predicted {time_text(module.predicted_seconds)} a run, data on the chip")
    if repeat > 1:
        median, least = statistics.median(times), min(times)
        console.say(f"{repeat} runs: median {time_text(median / 1e3)}, min {time_text(least / 1e3)}")


def _timed_runs(module: Any, feeds: Mapping[str, np.ndarray], repeat: int) -> tuple[dict[str, Any], list[float]]:
    times = []
    results: dict[str, Any] = {}
    for _ in range(repeat):
        start = time.perf_counter()
        results = module.run(dict(feeds))
        times.append((time.perf_counter() - start) * 1e3)
    return results, times


def _dtype(array: np.ndarray) -> str:
    """Strings as Kompilo calls them, rather than with the length of the longest."""
    return "string" if array.dtype.kind == "U" else str(array.dtype)


def _statistics(array: np.ndarray) -> dict[str, Any]:
    if array.size == 0 or array.dtype.kind not in "fiub":
        return {}
    wide = array.astype("float64")
    return {"min": wide.min(), "max": wide.max(), "mean": wide.mean()}


def _row(name: str, array: np.ndarray) -> tuple[object, ...]:
    facts = _statistics(array)
    numbers = [f"{facts[k]:.6g}" if k in facts else "" for k in ("min", "max", "mean")]
    first = ", ".join(f"{v:.4g}" if array.dtype.kind == "f" else str(v) for v in array.reshape(-1)[:4].tolist())
    more = ", ..." if array.size > 4 else ""
    return (name, _dtype(array), "x".join(map(str, array.shape)) or "scalar", *numbers, first + more)
