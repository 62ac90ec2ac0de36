"""Say of divisions by symbolic sizes that nothing in them is negative, which TVM cannot know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import tvm
import tvm_ffi
from tvm import ir, sym, tirx
from tvm.ir import prim
from tvm.s_tir import SBlock

from ..schedule.rewrite import rewrite_functions
from .base import Pass

_INFINITE = sym.ConstIntBound.POS_INF


@dataclass(frozen=True)
class UnsignedDivisions(Pass):
    """Make floordiv and floormod of what is never negative truncating, in functions with symbolic sizes.

    Before:  group = item // (h * w) // n                                        h, w, n: sizes of parameters
    After:   group = truncdiv(truncdiv(item, h * w), n)

    TVM takes an unknown size for possibly negative, and lowers a floordiv by one to selections between four copies of
    its operands: four divisions deep, a grouped convolution of dynamic sizes took 57 s to compile rather than 1.1 s.
    Divisions of vectors stay: TVM simplifies floordiv better. Comes last: so do other passes.
    """

    name: str = field(default="unsigned_divisions", init=False)

    def run(self, mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
        """The module with such functions rewritten."""
        return rewrite_functions(mod, unsigned_divisions)


def unsigned_divisions(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with truncating divisions; the same object if it has no symbolic sizes."""
    sizes = _sizes(func)
    if not sizes:
        return func
    bounds = _Bounds(func, sizes)

    def truncated(make: Callable[[ir.Expr, ir.Expr], ir.Expr]) -> Callable[[ir.Expr], ir.Expr]:
        return lambda e: make(e.a, e.b) if bounds.is_natural(e.a) and bounds.is_natural(e.b) else e

    rules = [(prim.FloorDiv, truncated(tirx.truncdiv)), (prim.FloorMod, truncated(tirx.truncmod))]
    return func.with_body(tvm_ffi.structural_map(func.body, rules, order="post"))


def _sizes(func: tirx.PrimFunc) -> list[tirx.Var]:
    """Variables in the shapes of parameters, and parameters that are sizes themselves."""
    found: dict[tirx.Var, None] = {}
    for param in func.params:
        values = list(param.shape) if isinstance(param.ty, tirx.BufferType) else [param]
        for value in values:
            tvm_ffi.structural_walk(value, (ir.Var, lambda v: found.setdefault(v)))
    return list(found)


class _Bounds:
    """What is known of each variable of a function's body, given that its sizes are not negative."""

    def __init__(self, func: tirx.PrimFunc, sizes: list[tirx.Var]):
        self._analyzer = sym.Analyzer()
        self._lanes: set[tirx.Var] = set()
        self._defined: dict[ir.Var, ir.Expr] = {}
        for size in sizes:
            self._note(size, 0, _INFINITE)
        visitors = [
            (tirx.For, self._loop),
            (tirx.Bind, self._bind),
            (SBlock, self._block),
            (tirx.AttrStmt, self._thread),
        ]
        tvm_ffi.structural_walk(func.body, visitors, order="pre")

    def is_natural(self, value: ir.Expr) -> bool:
        """Whether `value` is certainly not negative, and no vector."""
        if not _is_int(value) or (self._lanes and self._is_vector(value)):
            return False
        return self._is_natural(value)

    def _is_natural(self, value: ir.Expr) -> bool:
        if self._low(value) >= 0:
            return True
        if isinstance(value, prim.Sub):
            return self._is_natural_difference(value)
        parts = isinstance(value, prim.Add | prim.Mul | prim.Div | prim.Mod)
        return parts and self._is_natural(value.a) and self._is_natural(value.b)

    def _is_natural_difference(self, value: prim.Sub) -> bool:
        """Whether `high - low` is not negative because `high` is defined as `max(low, ...)`."""
        high, low = value.a, value.b
        definition, least = self._defined.get(high), self._defined.get(low)
        if definition is None or least is None:
            return False

        def named(part: ir.Expr) -> ir.Expr:
            return low if tvm_ffi.structural_equal(part, least) else part

        written = tvm_ffi.structural_map(definition, (type(least), named), order="post")
        return self._low(self._analyzer.simplify(written - low)) >= 0

    def _low(self, value: ir.Expr) -> int:
        return int(self._analyzer.const_int_bound(value).min_value)

    def _is_vector(self, value: ir.Expr) -> bool:
        found: list[ir.Var] = []
        tvm_ffi.structural_walk(value, (ir.Var, lambda v: found.append(v) if v in self._lanes else None))
        return bool(found)

    def _note(self, var: tirx.Var, low: int, high: int) -> None:
        self._analyzer.update(var, sym.ConstIntBound(low, high), override=True)

    def _loop(self, loop: tirx.For) -> None:
        if loop.kind == tirx.ForKind.VECTORIZED:
            self._lanes.add(loop.loop_var)
        low = self._low(loop.min)
        if low >= 0:
            self._note(loop.loop_var, low, _INFINITE)

    def _thread(self, statement: tirx.AttrStmt) -> None:
        if statement.attr_key == "thread_extent":
            self._note(statement.node.var, 0, _INFINITE)

    def _bind(self, binding: tirx.Bind) -> None:
        if _is_int(binding.value):
            bound = self._analyzer.const_int_bound(binding.value)
            self._note(binding.var, bound.min_value, bound.max_value)
            self._defined[binding.var] = binding.value

    def _block(self, block: SBlock) -> None:
        for axis in block.iter_vars:
            if self._low(axis.dom.min) >= 0:
                self._note(axis.var, 0, _INFINITE)


def _is_int(value: ir.Expr) -> bool:
    return str(value.ty) in ("int32", "int64")
