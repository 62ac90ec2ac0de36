"""Symbolic sizes: creating, simplifying, comparing and printing them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

import tvm_ffi
from tvm import ir, sym, tirx

from ..errors import ModelError
from ..size_requirements import Requirement, free_sizes, size_text
from .bounds import lower_bound
from .values import Dim, static_dim

# A dimension is at least one and below 10**9, the smallest of the numbers that exporters write for "to the end" of a
# slice: bounds that let the analyzer decide such comparisons, and keep products of two dimensions inside int64.
_LEAST, _MOST = 1, 10**9 - 1


def _constant_last(node: ir.Expr) -> ir.Expr:
    return type(node)(node.b, node.a) if isinstance(node.a, tirx.IntImm) else node


def _as_difference(node: ir.Expr) -> ir.Expr:
    return node.a - tirx.floordiv(node.a, node.b) * node.b if isinstance(node.b, tirx.IntImm) else node


_CONSTANT_LAST = [(tirx.Max, _constant_last), (tirx.Min, _constant_last)]
_AS_DIFFERENCE = [(tirx.FloorMod, _as_difference)]


class Squeezed(Enum):
    """Whether `Squeeze` without axes removes axes of open sizes, which 1 in a run has to agree with."""

    UNKNOWN = "unknown"
    REMOVED = "removed"
    KEPT = "kept"


class OpenSqueezeError(ModelError):
    """A `Squeeze` without axes meets an open size, and `Squeezed` is unknown."""


class Symbols:
    """The named dimensions of a model, what can be proved of expressions over them, and what a run has to check.

    Attributes:
        squeezed: what `Squeeze` without axes takes an open size for; see `Squeezed`.
        requirements: conditions on the named dimensions that a run has to check, in the order of the operators.
    """

    def __init__(self, squeezed: Squeezed = Squeezed.UNKNOWN) -> None:
        self.squeezed = squeezed
        self.requirements: list[Requirement] = []
        self._vars: dict[str, tirx.Var] = {}
        self._analyzer = sym.Analyzer()

    def var(self, name: str) -> tirx.Var:
        """The variable of dimension `name`: the same one for the same name."""
        if name not in self._vars:
            variable = tirx.Var(name, "int64")
            self._analyzer.update(variable, sym.ConstIntBound(_LEAST, _MOST))
            self._vars[name] = variable
        return self._vars[name]

    def named(self, dim: Dim) -> bool:
        """Whether a size is made of named dimensions, which a run can check before anything is computed."""
        known = set(self._vars.values())
        return isinstance(dim, int) or all(v in known for v in free_sizes(dim))

    def require(self, condition: ir.Expr, message: str) -> None:
        """Have a run check `condition`; nothing where it is over other variables than named dimensions."""
        known = set(self._vars.values())
        told = any(r.message == message for r in self.requirements)
        if not told and all(v in known for v in free_sizes(condition)):
            self.requirements.append(Requirement(condition, message))

    def simplify(self, dim: Dim) -> Dim:
        return dim if isinstance(dim, int) else static_dim(self._simplest(dim))

    def _simplest(self, dim: ir.Expr) -> ir.Expr:
        """As TVM simplifies it; also with remainders written as differences, which may cancel: x - x % c as x // c * c.

        Constants are the second operands of maxima and minima, so that two ways to write one size look alike.
        """
        found = tvm_ffi.structural_map(self._analyzer.simplify(dim), _CONSTANT_LAST, order="post")
        if "%" not in str(found):
            return found
        differences = self._analyzer.simplify(tvm_ffi.structural_map(found, _AS_DIFFERENCE, order="post"))
        return min(found, differences, key=lambda e: len(str(e)))

    def equal(self, a: Dim, b: Dim) -> bool | None:
        """Whether two sizes are always equal (True), never equal (False), or it depends (None)."""
        if isinstance(a, int) and isinstance(b, int):
            return a == b
        if self._analyzer.can_prove_equal(a, b):
            return True
        return False if self._analyzer.can_prove(tirx.NE(*_exprs(a, b))) else None

    def less(self, a: Dim, b: Dim) -> bool | None:
        """Whether a < b always (True), never (False), or it depends (None)."""
        if isinstance(a, int) and isinstance(b, int):
            return a < b
        a, b = _exprs(a, b)
        if self._analyzer.can_prove(tirx.LT(a, b)) or self._exceeds(b, a, 1):
            return True
        return False if self._analyzer.can_prove(tirx.GE(a, b)) or self._exceeds(a, b, 0) else None

    def _exceeds(self, a: ir.Expr, b: ir.Expr, limit: int) -> bool:
        """Whether a - b is always `limit` or more: sizes are whole, what is above limit - 1 is at least limit."""
        if isinstance(b, tirx.Max):
            return self._exceeds(a, b.a, limit) and self._exceeds(a, b.b, limit)
        bound = lower_bound(self._analyzer.simplify(a - b), _LEAST, _MOST)
        return bound is not None and bound > limit - 1

    def same_shape(self, a: Sequence[Dim], b: Sequence[Dim]) -> bool:
        return len(a) == len(b) and all(self.equal(x, y) is True for x, y in zip(a, b, strict=True))

    def floordiv(self, a: Dim, b: Dim) -> Dim:
        return a // b if isinstance(a, int) and isinstance(b, int) else self.simplify(tirx.floordiv(*_exprs(a, b)))

    def floormod(self, a: Dim, b: Dim) -> Dim:
        """What is left of the division that rounds down: of the sign of `b`. ZeroDivisionError as in Python."""
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        if self.less(a, b) is True and self.less(0, b) is True:
            if self.less(a, 0) is False:
                return a
            if self.less(as_expr(a) + b, 0) is False and self.less(a, 0) is True:
                return self.simplify(as_expr(a) + b)
        return self.simplify(tirx.floormod(*_exprs(a, b)))

    def truncdiv(self, a: Dim, b: Dim) -> Dim:
        """Division that rounds toward zero, as C and ONNX have it. ZeroDivisionError as in Python."""
        if isinstance(a, int) and isinstance(b, int):
            quotient = abs(a) // abs(b)
            return quotient if (a < 0) == (b < 0) else -quotient
        if self.less(a, 0) is False and self.less(0, b) is True:
            return self.floordiv(a, b)
        return self.simplify(tirx.truncdiv(*_exprs(a, b)))

    def minimum(self, a: Dim, b: Dim) -> Dim:
        if self.less(b, a) is False:
            return a
        return b if self.less(a, b) is False else self.simplify(tirx.min(*_exprs(a, b)))

    def maximum(self, a: Dim, b: Dim) -> Dim:
        if self.less(a, b) is False:
            return a
        return b if self.less(b, a) is False else self.simplify(tirx.max(*_exprs(a, b)))


def _exprs(a: Dim, b: Dim) -> tuple[ir.Expr, ir.Expr]:
    return as_expr(a), as_expr(b)


def as_expr(dim: Dim) -> ir.Expr:
    """A size as an int64 expression."""
    return tirx.IntImm("int64", dim) if isinstance(dim, int) else dim


def dim_text(dim: Dim) -> int | str:
    """A size as it is shown: an int, a name, or a formula over names."""
    if isinstance(dim, int):
        return dim
    if isinstance(dim, tirx.Var):
        return dim.name
    return size_text(dim)


def identifier(name: str) -> str:
    """`name` with everything that may not stand in an identifier replaced by "_"."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{text}" if not text or text[0].isdigit() else text
