"""A plan in words and numbers: sentences on why it is the best, rows of tables, a JSON value."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..number_words import count, size_text, time_text
from .outcome import Simulation
from .plan import Route
from .planner import Judged, Planned

PREDICTION = "This is a prediction by a simulation of the described cluster."


def figure(planned: Planned, outcome: Simulation) -> str:
    """What the objective is about, of an outcome: "4.31 ms", "812 requests/s", ..."""
    return _FIGURES[planned.wish.objective](outcome)


_FIGURES = {
    "latency": lambda o: time_text(o.makespan),
    "throughput": lambda o: f"{o.throughput:.4g} requests/s",
    "energy": lambda o: f"{o.joules:.3g} J a request",
    "cost": lambda o: f"{o.cost * 1e6:.3g} per million requests",
}
_VALUE = {
    "latency": lambda o: o.makespan,
    "throughput": lambda o: 1 / o.throughput,
    "energy": lambda o: o.joules,
    "cost": lambda o: o.cost,
}


def ratio(planned: Planned, other: Simulation) -> float | None:
    """How many times better the best plan is than `other`; None where that has no meaning (no power or price given)."""
    mine, its = _VALUE[planned.wish.objective](planned.best.outcome), _VALUE[planned.wish.objective](other)
    return its / mine if mine > 0 else None


def bound(planned: Planned) -> float:
    """Requests per second of all devices together, each working alone without limits of memory and links."""
    return float((1 / planned.work.durations().sum(axis=0)).sum())


def sentences(planned: Planned) -> list[str]:
    """Why this plan: what it reaches, what limits it, what the alternatives reach, how sure that is."""
    told = [PREDICTION, _result(planned)]
    told += [_does_not_fit(planned, j) for j in planned.singles if not j.fits]
    told += _alternative(planned)
    told += _deadline(planned)
    told.append(_limit(planned))
    told += _unused(planned)
    told += _narrow(planned)
    told.append(_trust(planned))
    return told


def _best_single(planned: Planned) -> Judged | None:
    return min((j for j in planned.singles if j.fits), key=lambda j: j.score, default=None)


def _result(planned: Planned) -> str:
    best, single = planned.best, _best_single(planned)
    text = f"{best.name}: {figure(planned, best.outcome)}"
    if len(best.plan.devices) == 1:
        return f"{text}; one device alone is the best plan."
    if single is None:
        return f"{text}; no device has memory for the whole model."
    times = ratio(planned, single.outcome)
    better = f", {times:.2f} times as good" if times is not None else ""
    return f"{text}{better}; the best single device, {single.name}, reaches {figure(planned, single.outcome)}."


def _does_not_fit(planned: Planned, judged: Judged) -> str:
    device = judged.plan.devices[0]
    needs, has = judged.outcome.peak_bytes[device], planned.work.cluster.devices[device].memory_bytes
    return f"{judged.name} alone cannot hold the model: it needs {size_text(needs)}, and has {size_text(has)}."


def _alternative(planned: Planned) -> list[str]:
    other = planned.together
    if other is None or len(planned.best.plan.devices) > 1:
        return []
    return [f"The best plan found over several devices, {other.name}, reaches {figure(planned, other.outcome)}."]


def _deadline(planned: Planned) -> list[str]:
    limit, latency = planned.wish.deadline_s, planned.best.latency
    if limit is None:
        return []
    kept = "within" if planned.meets_deadline else "behind"
    return [f"A request that is alone takes {time_text(latency)}, {kept} the deadline of {time_text(limit)}."]


def _limit(planned: Planned) -> str:
    outcome = planned.best.outcome
    uses = [(use, d.name) for use, d in zip(outcome.device_use, planned.work.cluster.devices, strict=True)]
    uses += [(use, f"the link {name}") for name, use in outcome.way_use]
    use, name = max(uses)
    return f"The busiest is {name}, {use:.0%} of the time."


def _unused(planned: Planned) -> list[str]:
    used = set(planned.best.plan.devices)
    idle = [d.name for k, d in enumerate(planned.work.cluster.devices) if k not in used]
    if not idle:
        return []
    return [f"No plan was found in which {', '.join(idle)} would be of use."]


def _narrow(planned: Planned) -> list[str]:
    by_type: dict[str, list[str]] = {}
    for link, dtype in planned.best.plan.narrow:
        by_type.setdefault(dtype, []).append(link)
    return [
        f"Over {', '.join(links)} float32 tensors go as {dtype}, which loses at most {planned.best.error:.2g} of their "
        "largest elements on a request's way."
        for dtype, links in by_type.items()
    ]


def _trust(planned: Planned) -> str:
    error, parts = _expected_error(planned)
    shares = ", ".join(f"{part:.0%} {source}" for source, part in sorted(parts.items(), key=lambda p: -p[1]))
    return f"Predicted times come from: {shares or 'nothing'}; they may be off by {error:.0%}."


def _expected_error(planned: Planned) -> tuple[float, dict[str, float]]:
    pairs = [(n, s.device) for r in planned.best.plan.routes for s in r.stages for n in s.nodes]
    return planned.work.expected_error(pairs)


DEVICE_COLUMNS = ("device", "kind", ">alone", ">operators", ">busy", ">memory", ">of")


def device_rows(planned: Planned) -> list[tuple[str, ...]]:
    """A row for each device: what it reaches alone, and what it does in the best plan."""
    best = planned.best
    rows: list[tuple[str, ...]] = []
    for k, (device, single) in enumerate(zip(planned.work.cluster.devices, planned.singles, strict=True)):
        rows.append(
            (
                device.name,
                device.kind,
                figure(planned, single.outcome) if single.fits else "too little memory",
                str(len(best.plan.nodes_on(k))),
                f"{best.outcome.device_use[k]:.0%}",
                size_text(best.outcome.peak_bytes[k]),
                size_text(device.memory_bytes),
            )
        )
    return rows


ROUTE_COLUMNS = (">share", "stages")


def route_rows(planned: Planned) -> list[tuple[str, ...]]:
    """A row for each route: its share of the requests, and its devices with the operators of each in turn."""
    return [(f"{route.share:.1%}", _stages(planned, route)) for route in planned.best.plan.routes]


def _stages(planned: Planned, route: Route) -> str:
    """ "host (12 operators) > gpu (40 operators)": neighbours on one device are one."""
    turns: list[list[int]] = []
    for stage in route.stages:
        if turns and turns[-1][0] == stage.device:
            turns[-1][1] += len(stage.nodes)
        else:
            turns.append([stage.device, len(stage.nodes)])
    names = planned.work.cluster.devices
    return " > ".join(f"{names[d].name} ({count(n, 'operator')})" for d, n in turns)


def as_json(planned: Planned) -> dict[str, Any]:
    """The plan, its simulated outcome and those of single devices as a JSON value; seconds, bytes, joules."""
    devices, graph = planned.work.cluster.devices, planned.work.graph
    best = planned.best
    error, parts = _expected_error(planned)
    return {
        "model": graph.name,
        "objective": planned.wish.objective,
        "executes": False,
        "deadline_s": planned.wish.deadline_s,
        "meets_deadline": planned.meets_deadline,
        "sentences": sentences(planned),
        "prediction": {"expected_error": error, "sources": parts},
        "plan": {
            "micro_batches": best.plan.micro_batches,
            "queue": best.plan.queue,
            "narrow": dict(best.plan.narrow),
            "narrow_error": best.error,
            "routes": [
                {
                    "share": route.share,
                    "stages": [
                        {"device": devices[s.device].name, "operators": [graph.nodes[n].name for n in s.nodes]}
                        for s in route.stages
                    ],
                }
                for route in best.plan.routes
            ],
        },
        "best": _outcome(planned, best),
        "together": _outcome(planned, planned.together) if planned.together is not None else None,
        "singles": {j.name: _outcome(planned, j) for j in planned.singles},
        "operators": len(graph.nodes),
        "bound_requests_per_s": bound(planned),
    }


def _outcome(planned: Planned, judged: Judged) -> dict[str, Any]:
    facts = asdict(judged.outcome)
    facts.pop("events")
    names = [d.name for d in planned.work.cluster.devices]
    facts["device_use"] = dict(zip(names, judged.outcome.device_use, strict=True))
    facts["way_use"] = dict(judged.outcome.way_use)
    facts["peak_bytes"] = dict(zip(names, judged.outcome.peak_bytes, strict=True))
    return {"devices": [names[d] for d in judged.plan.devices], "lone_latency_s": judged.latency, **facts}
