"""The generic rules in the order they are asked; the last one takes everything."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from ....compiler.schedule.target_spec import CpuSpec
from .fallback import schedule_anything
from .rules import schedule_program

Rule = Callable[[tirx.PrimFunc, CpuSpec], "tuple[tirx.PrimFunc, str] | None"]


def already_scheduled(func: tirx.PrimFunc, spec: CpuSpec) -> tuple[tirx.PrimFunc, str] | None:
    """Functions written as finished loops are left alone."""
    done = func.attrs and (func.attrs.get("tirx.is_scheduled") or func.attrs.get("tir.is_scheduled"))
    return (func, "scheduled") if done else None


def anything(func: tirx.PrimFunc, spec: CpuSpec) -> tuple[tirx.PrimFunc, str] | None:
    """The last resort."""
    return schedule_anything(func, spec), "fallback"


RULES: tuple[Rule, ...] = (already_scheduled, schedule_program, anything)


def schedule(func: tirx.PrimFunc, spec: CpuSpec) -> tuple[tirx.PrimFunc, str]:
    """`func` with loops for `spec`, and the name of the rule that applied."""
    for rule in RULES:
        result = rule(func, spec)
        if result is not None:
            return result
    return func, "none"
