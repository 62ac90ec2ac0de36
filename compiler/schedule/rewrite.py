"""Changing all loops of a module, and nothing else of it."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import tirx


def rewrite_functions(mod: tvm.ir.IRModule, change: Callable[[tirx.PrimFunc], tirx.PrimFunc | None]) -> tvm.ir.IRModule:
    """`mod` with `change(f)` in place of every PrimFunc f; None, or f itself, leaves f as it is.

    The same module where nothing is changed.
    """
    changed = {}
    for gvar, func in mod.functions_items():
        after = change(func) if isinstance(func, tirx.PrimFunc) else None
        if after is not None and not after.same_as(func):
            changed[gvar] = after
    if not changed:
        return mod
    result = tvm.IRModule(mod.functions, attrs=mod.attrs, global_infos=mod.global_infos)
    for gvar, func in changed.items():
        result.update_func(gvar, func)
    return result
