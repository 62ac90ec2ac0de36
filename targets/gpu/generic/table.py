"""The generic rules in the order they are asked; the last one takes everything."""

from __future__ import annotations

from tvm import tirx

from ...shared.rules import Rule, already_scheduled, first_that_applies
from ..spec import GpuSpec
from .fallback import schedule_anything
from .rules import schedule_program


def anything(func: tirx.PrimFunc, spec: GpuSpec) -> tuple[tirx.PrimFunc, str]:
    """The last resort."""
    return schedule_anything(func, spec), "fallback"


RULES: tuple[Rule[GpuSpec], ...] = (already_scheduled, schedule_program, anything)


def schedule(func: tirx.PrimFunc, spec: GpuSpec) -> tuple[tirx.PrimFunc, str]:
    """`func` with kernels for `spec`, and the name of the rule that applied."""
    return first_that_applies(RULES, func, spec)
