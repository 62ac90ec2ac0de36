"""A plan as one HTML page that needs nothing else: why it is so, the graph by device, and a Gantt chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from ..html_page import COLOURS, check_matplotlib, html_page, new_figure, svg_of
from .explain import DEVICE_COLUMNS, ROUTE_COLUMNS, device_rows, route_rows, sentences
from .layout import lay_out
from .outcome import Event
from .plan import Route
from .planner import OBJECTIVES, Planned
from .simulate import simulate
from .work import WorkGraph

# Requests in the chart of a plan for many of them.
_REQUESTS = 12
# Heights in inches.
_ROW, _MARGIN = 0.32, 1.2
_LANE = 0.75


def html_plan(planned: Planned) -> str:
    """The page for a plan. Raises KompiloError if matplotlib is not installed."""
    check_matplotlib()
    title = f"A plan for {planned.work.graph.name}: {planned.wish.objective}"
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences(planned))
    requests = _REQUESTS if OBJECTIVES[planned.wish.objective].many else 1
    drawn = max(planned.best.plan.routes, key=lambda r: r.share)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<ul>{told}</ul>",
        "<h2>Devices</h2>",
        _table(DEVICE_COLUMNS, device_rows(planned)),
        "<h2>Routes</h2>",
        _table(ROUTE_COLUMNS, route_rows(planned)),
        f"<h2>Predicted, {requests} request{'s' if requests > 1 else ''}</h2>",
        f"<figure>{_gantt(planned, requests)}</figure>",
        f"<h2>Operators of the route with {drawn.share:.0%} of the requests</h2>",
        f"<figure>{_graph(planned, drawn)}</figure>",
    ]
    return html_page(title, parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    marks = [' class="n"' if c.startswith(">") else "" for c in columns]
    head = "".join(
        f'<th scope="col"{m}>{escape(c.removeprefix(">"))}</th>' for c, m in zip(columns, marks, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{m}>{escape(cell)}</td>" for cell, m in zip(row, marks, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _gantt(planned: Planned, requests: int) -> str:
    """A row for each device and link in use, a bar for whatever keeps it busy."""
    work, plan = planned.work, planned.best.plan
    outcome = simulate(work, plan, requests, trace=True)
    ways = lay_out(work, plan).way_names
    rows = [("run", d, work.cluster.devices[d].name) for d in plan.devices]
    rows += [("transfer", k, name) for k, name in enumerate(ways)]
    places = {(kind, number): k for k, (kind, number, _) in enumerate(rows)}
    figure, axes = new_figure(_MARGIN + _ROW * len(rows))
    scale, unit = (1e3, "ms") if outcome.makespan < 1 else (1.0, "s")
    for (kind, number), events in _by_row(outcome.events).items():
        spans = [(e.start * scale, (e.end - e.start) * scale) for e in events]
        colour = _colour(number) if kind == "run" else "#999999"
        row = places[kind, number]
        axes.broken_barh(spans, (row - 0.4, 0.8), facecolors=colour, edgecolors="white", linewidth=0.3)
    axes.set_yticks(range(len(rows)), [name for _, _, name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, outcome.makespan * scale * 1.01 or 1.0)
    axes.set_xlabel(f"predicted time, {unit}")
    return svg_of(figure, "gantt", "When each device runs and each link carries something, as predicted")


def _by_row(events: Iterable[Event]) -> dict[tuple[str, int], list[Event]]:
    found: dict[tuple[str, int], list[Event]] = {}
    for event in events:
        found.setdefault((event.kind, event.resource), []).append(event)
    return found


@dataclass(frozen=True)
class _Dot:
    """Where a node is drawn."""

    x: float
    y: float
    device: int


def _graph(planned: Planned, route: Route) -> str:
    """The graph from left to right, a lane for each device, areas by predicted time."""
    work = planned.work
    lanes = {d: k for k, d in enumerate(route.devices)}
    dots = _places(work.graph, route, lanes)
    figure, axes = new_figure(_MARGIN + _LANE * max(2, len(lanes)))
    for value in work.graph.values:
        for consumer in value.consumers if value.producer >= 0 else ():
            a, b = dots[value.producer], dots[consumer]
            crosses = a.device != b.device
            axes.plot([a.x, b.x], [a.y, b.y], color="#D55E00" if crosses else "#BBBBBB", linewidth=0.8, zorder=1)
    seconds = work.durations()
    longest = max(float(seconds[n, dot.device]) for n, dot in enumerate(dots)) or 1.0
    titles = {}
    for n, dot in enumerate(dots):
        takes = float(seconds[n, dot.device])
        mark = axes.scatter([dot.x], [dot.y], s=8 + 160 * takes / longest, color=_colour(dot.device), zorder=2)
        mark.set_gid(f"node{n}")
        titles[f"node{n}"] = f"{work.graph.nodes[n].name}: {takes * 1e6:.4g} us"
    axes.set_yticks([lanes[d] for d in lanes], [work.cluster.devices[d].name for d in lanes])
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.set_xlabel("operators between the inputs and this one, on the longest way")
    return svg_of(figure, "graph", "Operators and the tensors between them, by device", titles)


def _places(graph: WorkGraph, route: Route, lanes: dict[int, int]) -> list[_Dot]:
    device = {n: s.device for s in route.stages for n in s.nodes}
    depth: list[int] = []
    taken: dict[tuple[int, int], int] = {}
    dots = []
    for n in range(len(graph.nodes)):
        depth.append(max((depth[p] + 1 for p in graph.predecessors(n)), default=0))
        key = device[n], depth[n]
        taken[key] = taken.get(key, 0) + 1
        dots.append(_Dot(depth[n], lanes[device[n]] + 0.12 * (taken[key] - 1), device[n]))
    return dots
