"""Bounds of a symbolic size by a linear relaxation, which proves what TVM's analyzer does not: `h // 2 <= h`.

An expression is bounded from below by a linear function of its variables: `a // c` lies between `(a - c + 1) / c` and
`a / c`. The same variable then cancels between the two sides of a comparison, where interval arithmetic loses it.
"""

from __future__ import annotations

from fractions import Fraction

from tvm import ir, tirx

# variable (or an opaque part) -> coefficient; the constant term stands under None
Linear = dict[ir.Expr | None, Fraction]


def lower_bound(expr: ir.Expr, least: int, most: int) -> Fraction | None:
    """A number that `expr` never falls below when each variable lies in [least, most]; None if none is known."""
    total = Fraction(0)
    for atom, coefficient in _relaxed(expr, 1).items():
        if atom is None:
            total += coefficient
        elif not isinstance(atom, tirx.Var):
            return None
        else:
            total += coefficient * (least if coefficient > 0 else most)
    return total


def _relaxed(expr: ir.Expr, sign: int) -> Linear:
    """A linear function not above `sign * expr`."""
    if isinstance(expr, tirx.IntImm):
        return {None: Fraction(sign * expr.value)}
    if isinstance(expr, tirx.Add):
        return _sum(_relaxed(expr.a, sign), _relaxed(expr.b, sign))
    if isinstance(expr, tirx.Sub):
        return _sum(_relaxed(expr.a, sign), _relaxed(expr.b, -sign))
    factor = expr.b.value if hasattr(expr, "b") and isinstance(expr.b, tirx.IntImm) else None
    if isinstance(expr, tirx.Mul) and factor is not None:
        return _scaled(_relaxed(expr.a, sign if factor >= 0 else -sign), Fraction(abs(factor)))
    if isinstance(expr, tirx.FloorDiv) and factor is not None and factor > 0:
        result = _scaled(_relaxed(expr.a, sign), Fraction(1, factor))
        return _sum(result, {None: Fraction(1 - factor, factor)}) if sign > 0 else result
    return {expr: Fraction(sign)}


def _sum(a: Linear, b: Linear) -> Linear:
    result = dict(a)
    for atom, coefficient in b.items():
        result[atom] = result.get(atom, Fraction(0)) + coefficient
        if result[atom] == 0 and atom is not None:
            del result[atom]
    return result


def _scaled(a: Linear, factor: Fraction) -> Linear:
    return {atom: coefficient * factor for atom, coefficient in a.items()}
