"""`kompilo plan OUT.kpo --devices`: a plan for devices of this machine, by measuring, and what came of running it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..number_words import time_text
from . import console
from .feeds import make_feeds
from .outputs import check_output

if TYPE_CHECKING:
    from ..predict.measured import Verified

_OBJECTIVES = ("latency", "throughput")


def plan_devices(model: Path, devices: str, objective: str, output: Path | None, seconds: float, as_json: bool) -> None:
    """Measure, plan, run the plan, write it to `output`, and print what it is and what it reaches."""
    from ..artifact.artifact import Artifact
    from ..predict.measured import measured_plan
    from ..runtime.core_sets import core_sets
    from ..runtime.executor.placement import pieces_of
    from ..runtime.links import shared_memory_link
    from ..runtime.machine import memory_bytes

    if objective not in _OBJECTIVES:
        raise UsageError(f"expected --objective {' or '.join(_OBJECTIVES)} with --devices, found {objective!r}.")
    names = [str(cores) for cores in core_sets(devices)]
    if output is not None:
        check_output(output, "plan")
    artifact = Artifact.open(model)
    pieces_of(artifact)  # raises if it cannot be planned
    feeds = make_feeds(artifact.inputs)
    link = shared_memory_link()
    with console.progress() as report:
        report("measure, plan and run", 0, 1)
        found = measured_plan(model, names, feeds.arrays, link, objective, memory_bytes(), seconds)
    if output is not None:
        found.placement.save(output)
    if as_json:
        console.print_json(_facts(found, names, objective))
        return
    _print(found, names, objective, output)


def _figure(objective: str, value: float) -> str:
    return time_text(value) if objective == "latency" else f"{value:.4g} requests/s"


def _facts(found: Verified, names: list[str], objective: str) -> dict[str, Any]:
    return {
        "objective": objective,
        "devices": names,
        "routes": [
            [{"device": names[s.device], "pieces": s.pieces} for s in route.stages] for route in found.placement.routes
        ],
        "seconds": found.placement.seconds,
        "alone": dict(zip(names, found.alone, strict=True)),
        "predicted": found.predicted,
        "measured": found.measured,
        "chosen": found.figure,
    }


def _print(found: Verified, names: list[str], objective: str, output: Path | None) -> None:
    rows = [(f"piece {k}", *(time_text(s) for s in row)) for k, row in enumerate(found.placement.seconds)]
    console.print_table("Times of the pieces", ("piece", *(f">{name}" for name in names)), rows)
    for name, value in zip(names, found.alone, strict=True):
        console.say(f"{name} alone: {_figure(objective, value)}")
    predicted, measured = (_figure(objective, value) for value in (found.predicted, found.measured))
    console.say(f"the best plan: {predicted} predicted, {measured} measured")
    for route in found.placement.routes:
        stages = " -> ".join(f"{names[s.device]} (pieces {', '.join(map(str, s.pieces))})" for s in route.stages)
        console.say(f"route: {stages}")
    if found.placement.single is not None:
        console.say("one device alone is the best plan.")
    if output is not None:
        console.say(f"written to {output}; next: kompilo bench OUT.kpo --plan {output}")
