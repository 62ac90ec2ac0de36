"""Schedule every PrimFunc that no template has built.

Before:  PrimFunc of nested loops as legalisation left it
After:   the same computation parallel and vectorised; attribute kompilo.template names the rule that applied
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm
from tvm import tirx

from ..schedule.target import Target
from .base import Pass


@dataclass(frozen=True)
class ScheduleFunctions(Pass):
    """Give each unscheduled PrimFunc to the target's generic rules."""

    target: Target
    name: str = field(default="schedule_functions", init=False)

    def run(self, mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
        """Functions with the attribute tirx.is_scheduled stay as they are."""
        result = tvm.IRModule(mod.functions, attrs=mod.attrs, global_infos=mod.global_infos)
        for gvar, func in mod.functions_items():
            if not isinstance(func, tirx.PrimFunc) or _is_scheduled(func):
                continue
            scheduled, rule = self.target.schedule(func)
            scheduled = scheduled.with_attr("tirx.is_scheduled", True).with_attr("kompilo.template", rule)
            result.update_func(gvar, scheduled)
        return result


def _is_scheduled(func: tirx.PrimFunc) -> bool:
    return bool(func.attrs and func.attrs.get("tirx.is_scheduled"))
