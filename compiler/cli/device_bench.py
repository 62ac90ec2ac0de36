"""`kompilo bench OUT.kpo --devices`: requests per second on several devices, against each of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..number_words import time_text
from . import console
from .device_options import open_pipeline
from .feeds import make_feeds
from .outputs import write_text

_COLUMNS = ("devices", ">requests/s", ">of the sum alone", ">latency")


def bench_devices(
    artifact: Path,
    devices: str | None,
    plan: Path | None,
    values: Sequence[str],
    seconds: float,
    json_file: str | None,
) -> None:
    """Measure each device with the whole model, then all as planned, each for `seconds`; print a table, write JSON."""
    from ..runtime.executor.measure import latency, throughput

    if artifact.suffix == ".onnx":
        raise UsageError(f"expected an artifact with --devices, found {str(artifact)!r}.", "kompilo compile it first.")
    rows: dict[str, dict[str, float]] = {}
    predicted: dict[str, float] = {}
    with console.progress() as report, open_pipeline(artifact, devices, plan) as together:
        feeds = make_feeds(together.inputs, values).arrays
        names = [str(cores) for cores in together.devices]
        predicted = dict(together.placement.predicted)
        for number, name in enumerate(names):
            report(f"measure {name}", number, len(names) + 1)
            with open_pipeline(artifact, name, None) as alone:
                rows[name] = {
                    "throughput": throughput(alone, feeds, seconds),
                    "latency": latency(alone, feeds, seconds),
                }
        report("measure all", len(names), len(names) + 1)
        both = {"throughput": throughput(together, feeds, seconds), "latency": latency(together, feeds, seconds)}
    total = sum(row["throughput"] for row in rows.values())
    facts = {"alone": rows, "together": both, "of_the_sum": both["throughput"] / total, "predicted": predicted}
    if json_file == "-":
        console.print_json(facts)
        return
    if json_file is not None:
        write_text(Path(json_file), console.json_text(facts) + "\n")
    table = [(name, *_cells(row, total)) for name, row in rows.items()]
    table.append(("as planned" if plan else "all", *_cells(both, total)))
    console.print_table(f"{artifact.name} on {', '.join(names)}", _COLUMNS, table)


def _cells(row: dict[str, float], total: float) -> tuple[Any, ...]:
    return f"{row['throughput']:.4g}", f"{row['throughput'] / total:.1%}", time_text(row["latency"])
