"""Advisors of the template selection: measured records first, then the cost model; nothing that is known to fail.

A record only counts where it holds: same operator, same target key, a point that the template, at its present version,
still offers. A point that failed is never chosen, by whomever. Where times are those of one core, what they are worth
on all cores is told by how evenly a config shares its work out among them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ..number_words import time_text
from ..schedule.op_spec import OpSpec
from ..schedule.selection import Advisor, Choice, Option
from ..schedule.target import Target
from ..schedule.template import Template
from .evidence import Known, best_of
from .features import idle_factors
from .library import RecordLibrary, Records
from .record import Point

MODEL_SOURCE = "cost model"
# Of operators unlike all that it has learnt from, the model knows less than this part of their times.
LEAST_GAIN = 0.03


class Ranker(Protocol):
    """The cost model, as far as a choice needs it."""

    def predict(self, op: OpSpec, points: Sequence[Point]) -> np.ndarray:
        """Seconds of each point, shape (points,); only their order matters here. KeyError: a template is not known."""


class RecordAdvisor:
    """Chooses the fastest recorded point, and notes in `library.chosen` which record that was."""

    def __init__(self, library: RecordLibrary, target: Target):
        self.library = library
        self.target = target
        self.key = target.spec.key
        self._tried: dict[OpSpec, dict[Point, Known]] = {}

    def advise(self, op: OpSpec, options: Sequence[Option]) -> Choice | None:
        """The point that was measured, works, and is the fastest on all cores, or None."""
        tried = self.tried(op, options)
        factors = idle_factors(op, self.target, list(tried)) if tried else ()
        best = best_of(tried.values(), {k.point: f for k, f in zip(tried.values(), factors, strict=True)})
        if best is None or best.seconds is None:
            return None
        self.library.chosen[self.key, str(op)] = best
        point = next(point for point, known in tried.items() if known is best)
        source = f"record of {best.record.created[:10] or 'unknown date'}: "
        return _choice(op, options, point, source + f"{time_text(best.seconds)}, {len(tried)} tried")

    def tried(self, op: OpSpec, options: Sequence[Option]) -> dict[Point, Known]:
        """What is known of the points of `options`. Sizes that only run time tells were never measured."""
        if op not in self._tried:
            points = _points(options)
            self._tried[op] = self.library.tried(op, self.key, points) if op.is_static else {}
        return self._tried[op]

    def works(self, op: OpSpec, options: Sequence[Option]) -> list[Point]:
        """The points of `options` but those that failed; the first is what is taken by default."""
        tried = self.tried(op, options)
        return [p for p in _points(options) if p not in tried or tried[p].seconds is not None]


class ModelAdvisor:
    """Chooses the point that the cost model thinks fastest, if the default is not about as fast.

    `load` gives the model, or None, when first needed.
    """

    def __init__(self, load: Callable[[], Ranker | None], records: RecordAdvisor):
        self.records = records
        self._load = functools.cache(load)

    def advise(self, op: OpSpec, options: Sequence[Option]) -> Choice | None:
        """What `preferred` says of the predicted times; None without a model, a choice, or known sizes."""
        points = self.records.works(op, options)
        model = self._load() if op.is_static and len(points) > 1 else None
        if model is None:
            return None
        try:
            times = np.asarray(model.predict(op, points), float) * idle_factors(op, self.records.target, points)
        except KeyError:  # a template of another package, of which the model has seen nothing
            return None
        return _choice(op, options, points[preferred(times, 0)], MODEL_SOURCE)


class FailureAdvisor:
    """Where the default is known to fail, chooses the first point that is not."""

    def __init__(self, records: RecordAdvisor):
        self.records = records

    def advise(self, op: OpSpec, options: Sequence[Option]) -> Choice | None:
        """The first point not known to fail; None if that is the default, or if all fail."""
        points = self.records.works(op, options)
        default = _points(options)[0]
        if not points or points[0] == default:
            return None
        failed = self.records.tried(op, options)[default].record.measurement.status.replace("_", " ")
        return _choice(op, options, points[0], f"first that works; default: {failed}")


def preferred(times: np.ndarray, default: int | None) -> int:
    """The place of the least predicted time, or `default` where that promises less than LEAST_GAIN."""
    best = int(np.argmin(times))
    if default is not None and times[default] * (1 - LEAST_GAIN) < times[best]:
        return default
    return best


def default_advisors(target: Target, records: Records = None) -> tuple[Advisor, ...]:
    """The advisors of a compilation in the order in which they are asked; `records` as for `RecordLibrary.of`.

    The first is the RecordAdvisor. With `records` False there are none: templates choose for themselves.
    """
    library = RecordLibrary.of(records)
    if not library.stores:
        return ()
    measured = RecordAdvisor(library, target)
    return (measured, ModelAdvisor(lambda: _pretrained(target), measured), FailureAdvisor(measured))


def _pretrained(target: Target) -> Ranker | None:
    from .cost_model import CostModel

    return CostModel.pretrained(target)


def _points(options: Sequence[Option]) -> list[Point]:
    return [Point(t.name, t.version, config) for t, space in options for config in space]


def _choice(op: OpSpec, options: Sequence[Option], point: Point, source: str) -> Choice:
    templates: dict[str, Template] = {template.name: template for template, _ in options}
    return Choice(op, templates[point.template], point.config, source)
