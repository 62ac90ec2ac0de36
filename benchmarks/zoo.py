"""The speed table: every model of the zoo against other runtimes, as markdown on stdout and JSON on request.

    python benchmarks/zoo.py [--group more] [--models resnet50,mnist] [--threads 1,2] [--seconds 3] [--json FILE]

Each model is compiled at its typical shape (what the zoo calls its sample shape), and the other runtimes get the model
with the same dimensions fixed, unless --dynamic leaves them open for all. Times are medians in ms; ratios are our time
divided by theirs, so below 1 Kompilo is faster.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kompilo.compiler.cli.bench import compile_subject
from kompilo.compiler.cli.console import json_text
from kompilo.compiler.errors import KompiloError
from kompilo.compiler.peers.base import OURS, is_installed
from kompilo.compiler.peers.measure import Measurement, geometric_mean, measure
from kompilo.compiler.runtime.host import cpu_name
from kompilo.models import zoo

PEERS = ("onnxruntime", "openvino")
GROUPS = {"first": zoo.names, "more": zoo.more_names}


@dataclass(frozen=True)
class Row:
    """One model: what was measured at each number of threads, or why it could not be."""

    model: str
    shapes: str
    measurements: tuple[Measurement, ...]
    problem: str | None = None


def main() -> int:
    """Measure, print the table; 1 if a model could not be measured."""
    options = _options()
    names = options.models.split(",") if options.models else GROUPS[options.group]()
    threads = [int(t) for t in options.threads.split(",")]
    peers = [p for p in options.against.split(",") if is_installed(p)]
    rows = []
    for name in names:
        row = measure_model(name, threads, peers, options.seconds, options.dynamic)
        rows.append(row)
        print(f"{name}: {row.problem or _progress_text(row)}", file=sys.stderr, flush=True)
    print(conditions(rows))
    for count in threads:
        print(f"\n**{count} thread{'s' * (count > 1)}**\n")
        print("\n".join(markdown(rows, count, peers)))
    if options.json:
        facts = {"date": time.strftime("%Y-%m-%d"), "cpu": cpu_name(), "rows": [asdict(r) for r in rows]}
        options.json.write_text(json_text(facts) + "\n")
    return int(any(r.problem for r in rows))


def measure_model(name: str, threads: Sequence[int], peers: Sequence[str], seconds: float, dynamic: bool) -> Row:
    """Compile and measure one model of the zoo; a failure becomes the row's `problem`."""
    try:
        with tempfile.TemporaryDirectory(prefix="kompilo-zoo-") as folder:
            subject = compile_subject(f"zoo:{name}", (), (), dynamic, Path(folder), lambda stage, done, total: None)
            models = {OURS: subject.artifact} | dict.fromkeys(peers, subject.model)
            arrays = subject.feeds.arrays
            results = tuple(measure(models, arrays, count, seconds) for count in threads)
    except KompiloError as error:
        return Row(name, "", (), str(error))
    return Row(name, ", ".join("x".join(map(str, a.shape)) for a in arrays.values()), results)


def markdown(rows: Sequence[Row], threads: int, peers: Sequence[str]) -> list[str]:
    """The table for one number of threads, closed by the geometric means of the ratios."""
    head = ["model", "inputs", "Kompilo ms", *(f"{p} ms" for p in peers), *(f"/ {p}" for p in peers), "output error"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    ratios: dict[str, list[float]] = {p: [] for p in peers}
    for row in rows:
        found = next((m for m in row.measurements if m.threads == threads), None)
        if found is None:
            lines.append(f"| {row.model} | {row.problem} |" + " |" * (len(head) - 2))
            continue
        by_peer = {r.peer: r for r in found.ratios}
        for peer in peers:
            ratios[peer].append(by_peer[peer].median)
        error = max((r.error for r in found.ratios), default=0.0)
        times = [f"{found.timing(n).median_ms:.3g}" for n in (OURS, *peers)]
        cells = [row.model, row.shapes, *times, *(f"{by_peer[p].median:.2f}" for p in peers), f"{error:.0e}"]
        lines.append("| " + " | ".join(cells) + " |")
    means = [f"**{geometric_mean(ratios[p]):.2f}**" for p in peers]
    lines.append("| " + " | ".join(["geometric mean", "", "", *("" for _ in peers), *means, ""]) + " |")
    return lines


def conditions(rows: Sequence[Row]) -> str:
    """Date, CPU and versions, in one line."""
    versions = {t.runtime: t.version for row in rows for m in row.measurements for t in m.timings}
    runtimes = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{time.strftime('%Y-%m-%d')}, {cpu_name()}, {runtimes}; medians in ms, ratios ours / theirs."


def _progress_text(row: Row) -> str:
    texts = []
    for found in row.measurements:
        ratios = ", ".join(f"{r.peer} {r.median:.2f} ({r.best:.2f} by min)" for r in found.ratios)
        texts.append(f"{found.threads}T {found.timing(OURS).median_ms:.3g} ms; {ratios}")
    return " | ".join(texts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", choices=list(GROUPS), default="first", help="of the zoo; default first")
    parser.add_argument("--models", help="names separated by commas; default all of the group")
    parser.add_argument("--threads", default="1,2", help="default 1,2")
    parser.add_argument("--against", default=",".join(PEERS), help=f"default {','.join(PEERS)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time for each runtime; default 3")
    parser.add_argument("--dynamic", action="store_true", help="leave dynamic dimensions open for all runtimes")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
