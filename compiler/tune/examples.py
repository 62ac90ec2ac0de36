"""Records as the cost model learns from them: an operator, its measured points, their features and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..schedule.op_spec import OpSpec
from ..schedule.target import Target
from .evidence import Found, Known, combine
from .features import features
from .record import Point, Record


@dataclass(frozen=True)
class Example:
    """What was measured of `op`: `seconds[k]` is the time of `points[k]`, whose features are `rows[k]`."""

    op: OpSpec
    points: tuple[Point, ...]
    rows: np.ndarray
    seconds: np.ndarray

    def with_news(self, other: Example) -> Example:
        """Both together; a point of both has the time of `other`."""
        kept = [k for k, p in enumerate(self.points) if p not in other.points]
        return Example(
            self.op,
            tuple(self.points[k] for k in kept) + other.points,
            np.concatenate([self.rows[kept], other.rows]),
            np.concatenate([self.seconds[kept], other.seconds]),
        )


def examples_of(records: Sequence[Record], target: Target) -> list[Example]:
    """An example of each operator with usable records: of `target`, present template versions, and known sizes.

    Several records of a point are combined as for choosing the best; points that fail are left out.
    """
    grouped: dict[OpSpec, list[Found]] = {}
    versions = {t.name: t.version for t in target.templates}
    for record in records:
        current = versions.get(record.point.template) == record.point.version
        if current and record.target == target.spec.key and record.op.is_static:
            grouped.setdefault(record.op, []).append(Found(record, ""))
    examples = (example_of(op, combine(found), target) for op, found in grouped.items())
    return [e for e in examples if e is not None]


def example_of(op: OpSpec, known: dict[Point, Known], target: Target) -> Example | None:
    """What is known of `op` as an example, or None if that is nothing."""
    cold = [k for k in known.values() if k.seconds is not None and k.measurement.cache == "cold"]
    usable = cold or [k for k in known.values() if k.seconds is not None]
    if not usable:
        return None
    points = tuple(k.point for k in usable)
    usages = {k.point: k.measurement.usage for k in usable if k.measurement.usage is not None}
    return Example(op, points, features(op, target, points, usages), np.array([k.seconds for k in usable], float))
