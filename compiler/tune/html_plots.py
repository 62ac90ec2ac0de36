"""The pictures of a tuning report, as SVG elements that can stand in one HTML page: no ids in common, no links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..html_page import COLOURS, DASHES, new_figure, svg_of
from ..schedule.roofline import Roofline
from .report import SessionState
from .summary import Row, model_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEFORE, AFTER = COLOURS[1], COLOURS[0]
# Operators that have a curve with a name; the others together hardly change the model's time.
NAMED_CURVES = 8


def model_curve(state: SessionState) -> str | None:
    """Predicted time of the model over the session; None if not every operator was measured."""
    history = model_history(state)
    if not history:
        return None
    figure, axes = new_figure(3.2)
    axes.step(
        [t for t, _ in history], [s * 1e3 for _, s in history], where="post", color=AFTER, linewidth=2, label="best"
    )
    before = state.model_seconds(start=True)
    if before is not None:
        axes.axhline(before * 1e3, color=BEFORE, linestyle="--", label="before the session")
    axes.set_xlabel("seconds since the session began")
    axes.set_ylabel("tuned operators of one inference, ms")
    axes.margins(y=0.15)
    axes.set_xlim(0, max(state.elapsed_s, 1.0) * 1.02)
    axes.legend(frameon=False)
    return svg_of(figure, "model", "Predicted time of the model in milliseconds over the time of the session")


def operator_curves(state: SessionState, found: Sequence[Row]) -> str | None:
    """Time of each operator relative to its start over the session; None if there are no two times to compare."""
    timed = [row for row in found if row.task.history and row.task.start_seconds]
    if not timed:
        return None
    named = sorted((row for row in timed if _seconds_won(row) > 0), key=_seconds_won, reverse=True)[:NAMED_CURVES]
    figure, axes = new_figure(4.2)
    others = [row for row in timed if not any(row is n for n in named)]
    for k, row in enumerate(others):
        label = "" if k else f"{len(others)} others" if named else "none got faster"
        _curve(axes, row, state.elapsed_s, color="#A0A0A0", linewidth=0.8, label=label)
    for row, colour, dash in zip(named, COLOURS, DASHES, strict=False):
        _curve(axes, row, state.elapsed_s, color=colour, linestyle=dash, linewidth=1.8, label=row.words)
    axes.set_xlabel("seconds since the session began")
    axes.set_ylabel("time of the operator, % of its start")
    axes.set_xlim(0, max(state.elapsed_s, 1.0) * 1.02)
    axes.set_ylim(top=105)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9)
    title = "Time of each operator over the session, in percent of the time with which it started"
    return svg_of(figure, "operators", title)


def _seconds_won(row: Row) -> float:
    return row.task.calls * ((row.task.start_seconds or 0.0) - (row.task.best_seconds or 0.0))


def _curve(axes: Axes, row: Row, end: float, **style: Any) -> None:
    start = row.task.start_seconds or 1.0
    moments = [*(t for t, _ in row.task.history), end]
    values = [100 * s / start for _, s in row.task.history]
    axes.step(moments, [*values, values[-1]], where="post", marker=".", **style)


def roofline_plot(found: Sequence[Row], roofline: Roofline | None, of: str = "one core") -> str | None:
    """Operators by arithmetic intensity and rate, before and after, under the roofs; None if none has a rate.

    `of` says whose rates they are.
    """
    points = [row for row in found if row.flops_per_second() and row.bytes]
    if not points:
        return None
    figure, axes = new_figure(5.0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    titles = {}
    for k, row in enumerate(points):
        x, after, before = (row.flops or 0) / (row.bytes or 1), row.flops_per_second(), row.flops_per_second(start=True)
        area = 25 + 300 * (row.share or 0.0)
        if before and after and row.changed:
            axes.plot([x, x], [before / 1e9, after / 1e9], color="#999999", linewidth=0.8, zorder=2)
        if before:
            style: dict[str, Any] = {"facecolors": "none", "edgecolors": BEFORE, "marker": "o", "zorder": 3}
            axes.scatter([x], [before / 1e9], s=area, label="" if k else "before", **style)
        dot = axes.scatter([x], [(after or 0) / 1e9], s=area, color=AFTER, alpha=0.75, marker="D", zorder=4,
                           label="" if k else "after")  # fmt: skip
        dot.set_gid(f"point{k}")
        titles[f"point{k}"] = f"{row.words}: {(after or 0) / 1e9:.1f} GFLOP/s, {x:.1f} FLOP/byte"
    if roofline is not None:
        _draw_roofs(axes, roofline)
    axes.set_xlabel("arithmetic intensity, FLOP/byte (each operand read once, the result written once)")
    axes.set_ylabel(f"rate of {of}, GFLOP/s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    legend: Any = axes.legend(frameon=False, loc="lower right")
    for handle in legend.legend_handles:
        handle.set_sizes([60])
    title = f"Rate of each operator over its arithmetic intensity, before and after, with the roofs of {of}"
    return svg_of(figure, "roofline", title, titles)


def _draw_roofs(axes: Axes, roofline: Roofline) -> None:
    low, high = axes.get_xlim()
    ridge = roofline.peak / min(v.bandwidth for v in roofline.levels)
    low, high = min(low, ridge / 30), max(high, ridge * 3)
    axes.set_xlim(low, high)
    peak = roofline.peak / 1e9
    axes.axhline(peak, color="black", linewidth=1.2)
    middle = (max(roofline.peak / v.bandwidth for v in roofline.levels) * high) ** 0.5
    label = f"peak {peak:.0f} GFLOP/s"
    axes.annotate(label, (middle, peak), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=9)
    for level, dash in zip(roofline.levels, DASHES[1:], strict=False):
        meets = roofline.peak / level.bandwidth
        axes.plot([low, meets], [low * level.bandwidth / 1e9, peak], color="black", linewidth=1.0, linestyle=dash)
        label = f"{level.name} {level.bandwidth / 1e9:.3g} GB/s"
        at = (1.5 * low, 1.5 * low * level.bandwidth / 1e9)
        axes.annotate(label, at, xytext=(6, -2), textcoords="offset points", va="top", fontsize=9)
    axes.set_ylim(top=max(axes.get_ylim()[1], peak * 2))
