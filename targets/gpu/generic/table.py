"""The generic rules in the order they are asked; the last one takes everything."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from ..spec import GpuSpec
from .fallback import schedule_anything
from .rules import schedule_program

Rule = Callable[[tirx.PrimFunc, GpuSpec], "tuple[tirx.PrimFunc, str] | None"]


def already_scheduled(func: tirx.PrimFunc, spec: GpuSpec) -> tuple[tirx.PrimFunc, str] | None:
    """Functions written as finished kernels are left alone, and those for the host."""
    done = func.attrs and (func.attrs.get("tirx.is_scheduled") or func.attrs.get("tirx.is_host_func"))
    return (func, "scheduled") if done else None


def anything(func: tirx.PrimFunc, spec: GpuSpec) -> tuple[tirx.PrimFunc, str] | None:
    """The last resort."""
    return schedule_anything(func, spec), "fallback"


RULES: tuple[Rule, ...] = (already_scheduled, schedule_program, anything)


def schedule(func: tirx.PrimFunc, spec: GpuSpec) -> tuple[tirx.PrimFunc, str]:
    """`func` with kernels for `spec`, and the name of the rule that applied."""
    for rule in RULES:
        result = rule(func, spec)
        if result is not None:
            return result
    return func, "none"
