"""The options of verbs that run a model on several devices of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..runtime.executor.pipeline import Pipeline

_READY_S = 120.0

Devices = Annotated[
    str | None,
    typer.Option(metavar="cpu:0,cpu:1", help="Run on several devices of this machine at once.", show_default=False),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="PLAN.json", help="Run as kompilo plan --devices planned.", show_default=False),
]


def wants_pipeline(devices: str | None, plan: Path | None, device: str, threads: str | None) -> bool:
    """Whether several devices are asked for; UsageError if a single one, or a number of threads, is as well."""
    if devices is None and plan is None:
        return False
    if device != "auto" or threads is not None:
        raise UsageError("expected either --devices and --plan, or --device and --threads, found both.")
    return True


def open_pipeline(artifact: Path, devices: str | None, plan: Path | None) -> Pipeline:
    """The artifact on its devices, all of them ready."""
    from ..runtime.executor.pipeline import Pipeline

    pipeline = Pipeline(artifact, devices, plan)
    try:
        if pipeline.placement.single is None:
            pipeline.wait_ready(_READY_S)
    except BaseException:
        pipeline.close()
        raise
    return pipeline
