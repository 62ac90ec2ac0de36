"""Bounds of a symbolic size by a linear relaxation, which proves what TVM's analyzer does not: `h // 2 <= h`.

An expression is bounded from below by a linear function of its variables: `a // c` lies between `(a - c + 1) / c` and
`a / c`. The same variable then cancels between the two sides of a comparison, where interval arithmetic loses it.
"""

from __future__ import annotations

from fractions import Fraction

from tvm import ir, tirx

# variable (or an opaque part) -> coefficient; the constant term stands under None
Linear = dict[ir.Expr | None, Fraction]

# Each maximum doubles the linear functions below an expression: no more of them are looked at.
_MOST_ALTERNATIVES = 16


def lower_bound(expr: ir.Expr, least: int, most: int) -> Fraction | None:
    """A number that `expr` never falls below when each variable lies in [least, most]; None if none is known."""
    bounds = [_least_value(linear, least, most) for linear in _relaxed(expr, 1)]
    return max((b for b in bounds if b is not None), default=None)


def _least_value(linear: Linear, least: int, most: int) -> Fraction | None:
    total = Fraction(0)
    for atom, coefficient in linear.items():
        if atom is None:
            total += coefficient
        elif not isinstance(atom, tirx.Var):
            return None
        else:
            total += coefficient * (least if coefficient > 0 else most)
    return total


def _relaxed(expr: ir.Expr, sign: int) -> list[Linear]:
    """Linear functions not above `sign * expr`: a maximum is not below either of its operands."""
    if isinstance(expr, tirx.IntImm):
        return [{None: Fraction(sign * expr.value)}]
    if isinstance(expr, tirx.Add):
        return _sums(_relaxed(expr.a, sign), _relaxed(expr.b, sign))
    if isinstance(expr, tirx.Sub):
        return _sums(_relaxed(expr.a, sign), _relaxed(expr.b, -sign))
    if isinstance(expr, tirx.Max if sign > 0 else tirx.Min):
        return [*_relaxed(expr.a, sign), *_relaxed(expr.b, sign)][:_MOST_ALTERNATIVES]
    factor = expr.b.value if hasattr(expr, "b") and isinstance(expr.b, tirx.IntImm) else None
    if isinstance(expr, tirx.Mul) and factor is not None:
        return [_scaled(x, Fraction(abs(factor))) for x in _relaxed(expr.a, sign if factor >= 0 else -sign)]
    if isinstance(expr, tirx.FloorDiv) and factor is not None and factor > 0:
        results = [_scaled(x, Fraction(1, factor)) for x in _relaxed(expr.a, sign)]
        return _sums(results, [{None: Fraction(1 - factor, factor)}]) if sign > 0 else results
    return [{expr: Fraction(sign)}]


def _sums(left: list[Linear], right: list[Linear]) -> list[Linear]:
    return [_sum(a, b) for a in left for b in right][:_MOST_ALTERNATIVES]


def _sum(a: Linear, b: Linear) -> Linear:
    result = dict(a)
    for atom, coefficient in b.items():
        result[atom] = result.get(atom, Fraction(0)) + coefficient
        if result[atom] == 0 and atom is not None:
            del result[atom]
    return result


def _scaled(a: Linear, factor: Fraction) -> Linear:
    return {atom: coefficient * factor for atom, coefficient in a.items()}
