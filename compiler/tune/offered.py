"""Which records hold: those of configs that templates, at their present version, still offer."""

from __future__ import annotations

from ..schedule.op_spec import OpSpec
from ..schedule.selection import matches
from ..schedule.target import Target
from .record import Point, Record

# What reading an operator raises that no compilation makes: without its attributes, with operands that do not fit.
NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Offered:
    """Whether a record's point is in the present space of its operator on `target`.

    Records come from anywhere: of an operator that templates cannot make sense of nothing holds.
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
        except NONSENSE:
            return frozenset()
        return frozenset(Point(t.name, t.version, config).unordered for t, space in options for config in space)
