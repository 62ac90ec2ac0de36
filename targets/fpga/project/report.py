"""What a project says of its design: JSON for programs, HTML for people."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..design.record import Design
from ..kernel.model import Estimate, estimate

# Joules of an operation: M. Horowitz, "Computing's energy problem", ISSCC 2014 (45 nm, 0.9 V).
_JOULES = {("mul", True): 3.7e-12, ("add", True): 0.9e-12, ("mul", False): 0.2e-12, ("add", False): 0.03e-12}
NOT_CHECKED = (
    "Vitis HLS and v++ have not been run: that they accept the sources, the II and the clock are predictions.",
    "Cycles are those of the kernel with all data on the chip; copying through global memory comes on top (load_cycles,"
    " a word a cycle), and the Verilog has no AXI interface.",
    "Look-up tables are an estimate by kind of operation; DSP blocks, block RAMs and UltraRAMs follow rules that agree"
    " with yosys for single kernels.",
    "Energy is arithmetic only, by figures for 45 nm (Horowitz, ISSCC 2014), without memories, clocks and leakage.",
    "Placement over dies, routing and power have not been looked at. NaN and subnormal numbers are not kept.",
)
_HEADS = (
    "stage",
    "operator",
    "lanes",
    "terms",
    "interleaved",
    "ii",
    "cycles",
    "share",
    "macs",
    "dsp",
    "bram18",
    "uram",
    "lut",
)


def report(design: Design) -> dict[str, Any]:
    """The facts of a design, as JSON has them."""
    spec, made = design.spec, estimate(design.kernel)
    slowest = max(design.stages, key=lambda s: s.cycles)
    used = dict(design.resources)
    return {
        "part": spec.part,
        "board": spec.key.removeprefix("fpga-"),
        "clock_hz": spec.clock_hz,
        "latency_cycles": design.cycles,
        "latency_seconds": design.cycles / spec.clock_hz,
        "runs_per_second": spec.clock_hz / design.cycles,
        "load_cycles": sum(data.size for _, data in design.weights),
        "bottleneck": {"stage": slowest.name, "cycles": slowest.cycles, "share": slowest.cycles / design.cycles},
        "resources": {
            r: {"used": n, "of": spec.total(r), "budget": spec.budget(r), "share": n / max(spec.total(r), 1)}
            for r, n in used.items()
        },
        "stages": [{**asdict(s), "share": s.cycles / design.cycles} for s in design.stages],
        "energy_estimate_joules": energy(made),
        "not_checked": list(NOT_CHECKED),
    }


def energy(made: Estimate) -> float:
    """Arithmetic energy of a run in joules: every operation of every iteration. An estimate."""
    total = 0.0
    for s in made.schedules:
        for node in s.graph.nodes:
            kind = node.op if node.kind == "acc" else node.kind
            kind = {"sub": "add"}.get(kind, kind)
            scale = 1.0 if node.dtype.is_float else max(1.0, node.dtype.bits / 8)
            total += s.graph.nest.trip * _JOULES.get((kind, node.dtype.is_float), 0.0) * scale
    return total


def report_html(facts: Mapping[str, Any]) -> str:
    """One page without scripts."""
    seconds = facts["latency_seconds"]
    lines = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Kompilo FPGA design</title>",
        "<style>body{font:15px sans-serif;margin:2em;max-width:80em}table{border-collapse:collapse;margin:1em 0}",
        "td,th{padding:.25em .7em;border-bottom:1px solid #ccc;text-align:right}",
        "td:nth-child(-n+2){text-align:left}</style>",
        f"<h1>Design for {html.escape(facts['board'])} ({html.escape(facts['part'])})</h1>",
        f"<p>Predicted: {facts['latency_cycles']:,} cycles, {seconds * 1e3:.3f} ms at"
        f" {facts['clock_hz'] / 1e6:.0f} MHz, {facts['runs_per_second']:,.1f} runs a second;"
        f" {facts['load_cycles']:,} cycles more to load weights.",
        f"Bottleneck: {html.escape(facts['bottleneck']['stage'])}, {facts['bottleneck']['share']:.0%} of the time.",
        f"Arithmetic energy: {facts['energy_estimate_joules'] * 1e3:.3g} mJ a run (estimate).</p>",
        _table(
            ("resource", "", "used", "budget", "of the part", "share"),
            [(r, "", v["used"], v["budget"], v["of"], f"{v['share']:.1%}") for r, v in facts["resources"].items()],
        ),
        _table(_HEADS, [_row(s) for s in facts["stages"]]),
        "<h2>Not checked</h2><ul>",
        *(f"<li>{html.escape(text)}</li>" for text in facts["not_checked"]),
        "</ul></html>",
    ]
    return "\n".join(lines) + "\n"


def _row(stage: Mapping[str, Any]) -> tuple[Any, ...]:
    values = {**stage, "stage": stage["name"], "operator": stage["source"], "share": f"{stage['share']:.1%}"}
    return tuple(values[head] for head in _HEADS)


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row) + "</tr>\n" for row in rows)
    return f"<table><tr>{top}</tr>\n{body}</table>"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))
