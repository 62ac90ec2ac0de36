"""Generic rules: functions from an unscheduled PrimFunc to a scheduled one, asked in an order that a target gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize

from .program import Program

Spec = TypeVar("Spec")
Result = tuple[tirx.PrimFunc, str]
Rule = Callable[[tirx.PrimFunc, Spec], "Result | None"]


def first_that_applies(rules: Sequence[Rule[Spec]], func: tirx.PrimFunc, spec: Spec) -> Result:
    """The scheduled function, and the name of the rule that applied; the last of `rules` takes everything."""
    return next(result for rule in rules if (result := rule(func, spec)) is not None)


def already_scheduled(func: tirx.PrimFunc, spec: object) -> Result | None:
    """Functions written as finished loops are left alone, and those for the host of a GPU."""
    done = func.attrs and (func.attrs.get("tirx.is_scheduled") or func.attrs.get("tirx.is_host_func"))
    return (func, "scheduled") if done else None


def finished(func: tirx.PrimFunc, body: tirx.Stmt) -> tirx.PrimFunc:
    """`func` with `body` instead of its blocks. A block remains around it: passes over Relax look for one."""
    root = SBlockRealize([], True, SBlock([], [], [], "root", body))
    return func.with_body(root).with_attr("tirx.is_scheduled", True)


def rule_name(program: Program) -> str:
    """Rule name for reports: "map", "reduction", or "chain" for reductions and maps in turn (softmax, LayerNorm)."""
    reductions = sum(1 for s in program.stages if s.reduce)
    return "map" if not reductions else "reduction" if reductions == 1 else "chain"
