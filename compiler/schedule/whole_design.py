"""What a target gives that builds hardware for a whole model instead of kernels that a program calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..device_code import DeviceCode

# The format of a design's code: JSON that the target's simulator reads.
DESIGN = "design"

Folds = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class DesignStage:
    """An operator of the model in hardware: its name, what it does, how far it is unfolded, and its operations."""

    name: str
    spec: str
    config: str
    flops: int | None = None


@dataclass(frozen=True, eq=False)
class WholeDesign:
    """A model in hardware.

    `code` has the format DESIGN; `weights` are in the order in which it takes them; `buffers` are sizes in bytes.
    `source` says what decided how far stages are unfolded: "default", or a record.
    """

    code: DeviceCode
    weights: tuple[np.ndarray, ...]
    stages: tuple[DesignStage, ...]
    buffers: tuple[int, ...]
    source: str = "default"


@dataclass(frozen=True)
class KnownDesign:
    """What a record says: how far each stage is unfolded, and what to call the record."""

    folds: Folds
    source: str


# Asked with the key of a model's structure.
KnownDesigns = Callable[[str], KnownDesign | None]


def no_designs(key: str) -> KnownDesign | None:
    """Of no records."""
    return None


@dataclass(frozen=True)
class DesignPoint:
    """A design that was built and estimated exactly: `folds` in the target's own numbers, for each stage.

    `seconds` are those of one run on the part; `resources` holds (name, blocks taken, blocks usable).
    """

    folds: Folds
    cycles: int
    seconds: float
    resources: tuple[tuple[str, int, int], ...]


class DesignSpace(Protocol):
    """The designs of one model for one part.

    `key` is the same for all models of one structure, whatever their weights. `default` is what is built without
    tuning, or None if that does not fit the part; then `problem` says why.
    """

    key: str
    default: DesignPoint | None
    problem: str

    def points(self, seed: int, give_up: Callable[[], bool]) -> Iterator[DesignPoint]:
        """Designs that fit, as they are found, for ever; ends when `give_up` says so."""


def front(points: Sequence[DesignPoint], resource: str) -> list[DesignPoint]:
    """Those that no other beats in both time and blocks of `resource`, the fastest first."""
    best: list[DesignPoint] = []
    for point in sorted(points, key=lambda p: (p.cycles, taken(p, resource))):
        if not best or taken(point, resource) < taken(best[-1], resource):
            best.append(point)
    return best


def taken(point: DesignPoint, resource: str) -> int:
    """Blocks of `resource` that a design takes."""
    return next(used for name, used, _ in point.resources if name == resource)
