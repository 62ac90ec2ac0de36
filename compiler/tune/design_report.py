"""A search of designs as one HTML page: what is built by default and what is best, and time against blocks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ..html_page import COLOURS, check_matplotlib, html_page, new_figure, svg_of
from ..number_words import time_text
from ..schedule.whole_design import DesignPoint, front, taken
from .designs import DesignReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The resource that time is shown against.
RESOURCE = "dsp"


def design_page(report: DesignReport) -> str:
    """The page. Raises KompiloError if matplotlib is not installed."""
    check_matplotlib()
    title = f"Designs of {report.model} for {report.target}"
    default = "does not fit" if report.default is None else _words(report.default)
    facts = [("by default", default), ("best", _words(report.best))]
    if report.speedup:
        facts.append(("faster", f"{report.speedup:.2f} times"))
    facts += [("session", f"{len(report.tried)} designs, {report.elapsed_s:.0f} s; {report.stopped}")]
    facts += [("records", report.records)] + ([("note", report.problem)] if report.problem else [])
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    parts = [f"<h1>{escape(title)}</h1>", f"<dl>{listed}</dl>", "<h2>Latency against DSP blocks</h2>"]
    parts += [f"<figure>{pareto_picture(report)}</figure>", "<h2>Designs that no other beats in both</h2>"]
    return html_page(title, [*parts, _table(front(report.tried, RESOURCE))])


def _words(point: DesignPoint) -> str:
    blocks = ", ".join(f"{used} of {usable} {name}" for name, used, usable in point.resources)
    return f"{point.cycles} cycles, {time_text(point.seconds)}; {blocks}"


def _table(points: Sequence[DesignPoint]) -> str:
    names = [name for name, _, _ in points[0].resources]
    head = "".join(f'<th scope="col" class="n">{escape(c)}</th>' for c in ("cycles", "ms", *names))
    rows = "".join(
        "<tr>" + "".join(f'<td class="n">{c}</td>' for c in (p.cycles, f"{p.seconds * 1e3:.3g}", *_used(p))) + "</tr>\n"
        for p in points
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'


def _used(point: DesignPoint) -> list[int]:
    return [used for _, used, _ in point.resources]


def pareto_picture(report: DesignReport) -> str:
    """Time against DSP blocks of all designs as an SVG element, with the line of those that no other beats."""
    figure, axes = new_figure(4.5)
    best = front(report.tried, RESOURCE)
    others = [p for p in report.tried if p not in best and p != report.default]
    _dots(axes, others, "#A0A0A0", "o", "tried")
    axes.step(
        [taken(p, RESOURCE) for p in best], [p.seconds * 1e3 for p in best], where="pre", color=COLOURS[0], linewidth=1
    )
    _dots(axes, best, COLOURS[0], "D", "no other is better in both")
    if report.default is not None:
        _dots(axes, [report.default], COLOURS[1], "s", "by default")
    axes.set_xscale("log")
    axes.set_yscale("log")
    limit = next(usable for name, _, usable in report.best.resources if name == RESOURCE)
    axes.axvline(limit, color="black", linestyle="--", linewidth=1, label=f"usable: {limit}")
    axes.set_xlabel("DSP blocks")
    axes.set_ylabel("latency, ms")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(frameon=False)
    return svg_of(figure, "pareto", f"Latency in milliseconds against DSP blocks of designs of {report.model}")


def picture_file(report: DesignReport) -> str:
    """The picture as an SVG file of its own."""
    check_matplotlib()
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return pareto_picture(report).replace("<svg", f"<svg {spaces}", 1) + "\n"


def _dots(axes: Axes, points: Sequence[DesignPoint], colour: str, marker: str, label: str) -> None:
    if points:
        places = [taken(p, RESOURCE) for p in points], [p.seconds * 1e3 for p in points]
        axes.scatter(*places, color=colour, marker=marker, s=28, label=label, zorder=3)
