"""Which device runs which pieces of a model, and in which file that stands.

A placement offers routes: each runs every piece once, in stages that stand on one device each. Requests take the route
on which they are expected to be done first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ...artifact.artifact import Artifact
from ...artifact.atomic import replace_file
from ...errors import UsageError
from ...segments import Segment

FORMAT = "kompilo-plan"


@dataclass(frozen=True)
class Stage:
    """Pieces that the device of that number runs one after another for a request."""

    device: int
    pieces: tuple[int, ...]


@dataclass(frozen=True)
class Route:
    """All pieces in stages, in an order in which they can run."""

    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Placement:
    """Routes over `devices`, which are names such as "cpu:1=cpu:avx2".

    `seconds` are the times that were measured or predicted of each piece (rows) on each device (columns), empty where
    none are known; `predicted` is what the plan was expected to give ("throughput", "latency": requests per second,
    seconds), for comparing.
    """

    devices: tuple[str, ...]
    routes: tuple[Route, ...]
    seconds: tuple[tuple[float, ...], ...] = ()
    predicted: Mapping[str, float] = field(default_factory=dict)

    @property
    def single(self) -> int | None:
        """The device that does all the work; None if there are several."""
        used = {stage.device for route in self.routes for stage in route.stages}
        return used.pop() if len(used) == 1 else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the placement as JSON. Raises ArtifactError if the file cannot be written."""
        with replace_file(path) as file:
            file.write(json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode())

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Placement:
        """The placement in a file. Raises UsageError if it is missing, no plan, or its times are none."""
        try:
            found = json.loads(Path(path).read_text())
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise UsageError(f"plan {os.fspath(path)!r}: expected a file that kompilo plan wrote, {error}.") from None
        try:
            return _from_json(found)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise UsageError(f"plan {os.fspath(path)!r}: expected a file that kompilo plan wrote.") from None

    def check(self, artifact: Artifact) -> None:
        """Raises UsageError unless every route runs each piece of `artifact` once, behind those that it reads."""
        pieces = pieces_of(artifact)
        if not self.routes:
            raise UsageError("plan: expected at least one route, found none.")
        for route in self.routes:
            listed = [piece for stage in route.stages for piece in stage.pieces]
            if sorted(listed) != list(range(len(pieces))):
                raise UsageError(f"plan: expected each of {len(pieces)} pieces once on every route, found {listed}.")
            if any(not 0 <= stage.device < len(self.devices) for stage in route.stages):
                raise UsageError(f"plan: expected stages on {len(self.devices)} devices, found {route.stages}.")
            _check_order(listed, pieces, [spec.name for spec in artifact.inputs])
        if self.seconds and (
            len(self.seconds) != len(pieces) or any(len(row) != len(self.devices) for row in self.seconds)
        ):
            raise UsageError(f"plan: expected times of {len(pieces)} pieces on {len(self.devices)} devices.")


def _check_order(listed: Sequence[int], pieces: Sequence[Segment], inputs: Sequence[str]) -> None:
    known = set(inputs)
    for piece in listed:
        missing = [spec.name for spec in pieces[piece].inputs if spec.name not in known]
        if missing:
            raise UsageError(f"plan: expected piece {piece} behind those that make {', '.join(missing)}.")
        known.update(spec.name for spec in pieces[piece].outputs)


def _from_json(found: Any) -> Placement:
    if found["format"] != FORMAT:
        raise ValueError(found["format"])
    routes = tuple(
        Route(tuple(Stage(int(s["device"]), tuple(int(p) for p in s["pieces"])) for s in route["stages"]))
        for route in found["routes"]
    )
    seconds = tuple(tuple(float(s) for s in row) for row in found["seconds"])
    unusable = [s for row in seconds for s in row if not (isfinite(s) and s >= 0)]
    if unusable:
        raise UsageError(f"plan: expected finite times of 0 s or more, found {unusable[0]}.")
    predicted = {str(name): float(value) for name, value in found["predicted"].items()}
    return Placement(tuple(str(d) for d in found["devices"]), routes, seconds, predicted)


def pieces_of(artifact: Artifact) -> tuple[Segment, ...]:
    """The pieces of a model that is compiled in pieces, or the whole of it as one.

    Raises:
        UsageError: parts of it are not compiled, or tensors have sizes that only runs tell.
    """
    pieces = tuple(artifact.segments) or (Segment(tuple(artifact.inputs), tuple(artifact.outputs)),)
    compiled = {target.segment or 0 for target in artifact.targets}
    for number, piece in enumerate(pieces):
        if number not in compiled:
            raise UsageError("devices: expected a model that is compiled wholly, found operators outside of it.")
        for spec in (*piece.inputs, *piece.outputs):
            if any(isinstance(dim, str) for dim in spec.shape):
                raise UsageError(
                    f"devices: expected tensors of fixed sizes, found {spec}.",
                    "compile the model with --input NAME:1x3x224x224.",
                )
    return pieces


def side_by_side(devices: Sequence[str], pieces: int) -> Placement:
    """The whole model on every device: each request goes to the one that will have done it first."""
    every = tuple(range(pieces))
    return Placement(tuple(devices), tuple(Route((Stage(k, every),)) for k in range(len(devices))))
