"""Which records hold: those of configs that templates, at their present version, still offer."""

from __future__ import annotations

from ..schedule.op_spec import OpSpec
from ..schedule.selection import matches
from ..schedule.target import Target
from .record import Point, Record


class Offered:
    """Whether a record's point is in the present space of its operator on `target`.

    Records come from anywhere: of an operator that no compilation makes, one without strides say, nothing holds.
    """

    def __init__(self, target: Target):
        self.target = target
        self._points: dict[OpSpec, frozenset[object]] = {}

    def __call__(self, record: Record) -> bool:
        if record.op not in self._points:
            self._points[record.op] = self._offered(record.op)
        return record.point.unordered in self._points[record.op]

    def _offered(self, op: OpSpec) -> frozenset[object]:
        try:
            options = matches(op, self.target)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return frozenset()
        return frozenset(Point(t.name, t.version, config).unordered for t, space in options for config in space)
