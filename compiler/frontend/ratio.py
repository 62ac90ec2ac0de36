"""A symbolic size divided by a constant: what shape computations in floating point are made of."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from .symbols import Symbols
from .values import Dim

# Scales in models are small rationals (2, 0.5, 1/3 rounded to float is not): beyond this denominator a
# float32 product would no longer be exact, and neither would folding it.
_LARGEST_DENOMINATOR = 2**12


@dataclass(frozen=True)
class Ratio:
    """num / den, with den > 0."""

    num: Dim
    den: int = 1

    @staticmethod
    def of(value: object) -> Ratio:
        """A float, int, symbolic size or Ratio as a Ratio; ArithmeticError when the float is no small rational."""
        if isinstance(value, Ratio):
            return value
        if not isinstance(value, float):
            return Ratio(value)
        fraction = Fraction(value)  # raises OverflowError or ValueError for infinity and NaN
        if fraction.denominator > _LARGEST_DENOMINATOR:
            raise ArithmeticError(f"{value} is no ratio of small integers")
        return Ratio(fraction.numerator, fraction.denominator)

    def __add__(self, other: object) -> Ratio:
        other = Ratio.of(other)
        return Ratio(self.num * other.den + other.num * self.den, self.den * other.den)

    def __sub__(self, other: object) -> Ratio:
        other = Ratio.of(other)
        return Ratio(self.num * other.den - other.num * self.den, self.den * other.den)

    def __mul__(self, other: object) -> Ratio:
        other = Ratio.of(other)
        return Ratio(self.num * other.num, self.den * other.den)

    def __truediv__(self, other: object) -> Ratio:
        other = Ratio.of(other)
        if not isinstance(other.num, int) or other.num == 0:
            raise ArithmeticError("division by a symbolic size or zero")
        sign = 1 if other.num > 0 else -1
        return Ratio(self.num * (sign * other.den), self.den * abs(other.num))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: object) -> Ratio:
        return Ratio.of(other) - self

    def __rtruediv__(self, other: object) -> Ratio:
        return Ratio.of(other) / self

    def floor(self, symbols: Symbols) -> Ratio:
        return Ratio(symbols.floordiv(self.num, self.den))

    def ceil(self, symbols: Symbols) -> Ratio:
        return Ratio(symbols.floordiv(self.num + (self.den - 1), self.den))

    def trunc(self, symbols: Symbols) -> Dim:
        return symbols.truncdiv(self.num, self.den)
