"""A tuning session as one HTML page that needs nothing else: no network, no script, pictures inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ..html_page import check_matplotlib, html_page
from ..schedule.roofline import Roofline
from .html_plots import model_curve, operator_curves, roofline_plot
from .report import TuneReport
from .summary import Row, rows


def html_report(report: TuneReport, roofline: Roofline | None = None) -> str:
    """The page for `report`: facts, operators before and after, tuning curves, roofline.

    `roofline` are the rates of the machine it ran on, if known. Raises KompiloError if matplotlib is not installed.
    """
    check_matplotlib()
    found = rows(report.state, roofline)
    title = f"Tuning {report.model} for {report.target}"
    parts = [f"<h1>{escape(title)}</h1>", _facts(report, roofline), "<h2>Operators</h2>", _table(report, found)]
    parts += _pictures(report, found, roofline)
    return html_page(title, parts)


def _facts(report: TuneReport, roofline: Roofline | None) -> str:
    state = report.state
    before, after = state.model_seconds(start=True), state.model_seconds()
    facts = [(f"tuned operators of one inference, {_whose(report, 'one thread')}", _change(before, after))]
    facts.append(("session", f"{state.elapsed_s:.0f} s; {state.stopped or 'still running'}"))
    if state.elapsed_s > 0:
        facts.append(
            ("spent choosing", f"{report.search_s:.1f} s, {report.search_s / state.elapsed_s:.1%} of the time")
        )
    facts.append(("candidates", f"{state.measured} measured, {state.failed} of them failed"))
    if roofline is not None:
        rates = ", ".join(f"{v.name} {v.bandwidth / 1e9:.3g} GB/s" for v in roofline.levels)
        source = "measured" if roofline.measured else "as its maker says"
        facts.append((_whose(report, "one core"), f"{roofline.peak / 1e9:.0f} GFLOP/s, {rates}, {source}"))
    if report.skipped:
        facts.append(("not tuned", f"{len(report.skipped)} operators whose sizes are known only when the model runs"))
    facts.append(("records", report.records))
    facts += [("note", note) for note in report.notes]
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts) + "</dl>"


def _whose(report: TuneReport, part: str) -> str:
    """What times and rates are of: `part` of a CPU, or a GPU, which works as a whole."""
    return "the GPU" if report.whole_device else part


def _change(before: float | None, after: float | None) -> str:
    if after is None:
        return "not known: some operators were not measured"
    if before is None:
        return f"{after * 1e3:.3g} ms"
    return f"{before * 1e3:.3g} ms before, {after * 1e3:.3g} ms now ({before / after:.2f} times as fast)"


_COLUMNS = (
    "operator", "calls", "share", "before, ms", "now, ms", "speedup", "GFLOP/s", "of roofline", "tried", "failed",
    "config",
)  # fmt: skip


def _table(report: TuneReport, found: Sequence[Row]) -> str:
    if not found:
        return '<p class="note">This model has no operators that can be tuned.</p>'
    head = "".join(f'<th scope="col"{_class(name)}>{escape(name)}</th>' for name in _COLUMNS)
    body = "".join(f"<tr>{_cells(_row(row), row.changed)}</tr>\n" for row in found)
    note = (
        f"Times of one call on {_whose(report, 'one thread')}. Operations are those of the direct algorithm; the "
        f"roofline is the least time that the rates of {_whose(report, 'one core')} allow. An algorithm that needs "
        "fewer operations, as Winograd's, may pass 100%."
    )
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"
    return f'<div class="wide">{table}</div><p class="note">{escape(note)}</p>'


def _row(row: Row) -> Iterable[str]:
    task = row.task
    rate, best = row.flops_per_second(), task.best_seconds
    point = task.best_point
    nothing = "none works" if task.tried and task.tried == task.failed else ""
    return (
        row.words,
        str(task.calls),
        "" if row.share is None else f"{row.share:.1%}",
        "" if task.start_seconds is None else f"{task.start_seconds * 1e3:.4g}",
        nothing if best is None else f"{best * 1e3:.4g}",
        "" if row.speedup is None else f"{row.speedup:.2f}",
        "" if rate is None else f"{rate / 1e9:.1f}",
        "" if row.of_roofline is None else f"{row.of_roofline:.0%}",
        f"{task.tried}/{task.points}",
        str(task.failed),
        "" if point is None else f"{point.template}({point.config})" if row.changed else "as before",
    )


def _class(column: str, changed: bool = False) -> str:
    names = {"operator": "", "config": "config"}
    classes = " ".join(filter(None, (names.get(column, "n"), "won" if changed and column == "now, ms" else "")))
    return f' class="{classes}"' if classes else ""


def _cells(cells: Iterable[str], changed: bool) -> str:
    return "".join(f"<td{_class(n, changed)}>{escape(c)}</td>" for n, c in zip(_COLUMNS, cells, strict=True))


def _pictures(report: TuneReport, found: Sequence[Row], roofline: Roofline | None) -> list[str]:
    pictures = (
        ("The model over time", model_curve(report.state)),
        ("Operators over time", operator_curves(report.state, found)),
        ("Roofline", roofline_plot(found, roofline, _whose(report, "one core"))),
    )
    missing = '<p class="note">Nothing to show: too little was measured.</p>'
    parts: list[str] = []
    for title, picture in pictures:
        parts += [f"<h2>{escape(title)}</h2>", missing if picture is None else f"<figure>{picture}</figure>"]
    return parts
