"""Affine functions of loop variables: `3 * y + 2 * x - 1`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Affine:
    """`const` plus the sum of coefficient times variable; `terms` is sorted by name, without zeros."""

    const: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, const: int, coefficients: Mapping[str, int]) -> Affine:
        """From a dictionary."""
        return cls(const, tuple(sorted((v, c) for v, c in coefficients.items() if c)))

    def __add__(self, other: Index) -> Affine:
        other = affine(other)
        total = dict(self.terms)
        for v, c in other.terms:
            total[v] = total.get(v, 0) + c
        return Affine.of(self.const + other.const, total)

    __radd__ = __add__

    def __mul__(self, factor: int) -> Affine:
        return Affine.of(self.const * factor, {v: c * factor for v, c in self.terms})

    __rmul__ = __mul__

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: Index) -> Affine:
        return self + -affine(other)

    def __rsub__(self, other: Index) -> Affine:
        return -self + other

    def coefficient(self, name: str) -> int:
        """What `name` is multiplied with."""
        return dict(self.terms).get(name, 0)

    def fix(self, values: Mapping[str, int]) -> Affine:
        """With some variables replaced by numbers."""
        const = self.const + sum(c * values[v] for v, c in self.terms if v in values)
        return Affine(const, tuple((v, c) for v, c in self.terms if v not in values))

    def at(self, values: Mapping[str, int]) -> int:
        """The value where every variable is given."""
        return self.const + sum(c * values[v] for v, c in self.terms)

    def bounds(self, extents: Mapping[str, int]) -> tuple[int, int]:
        """Least and greatest value for variables in [0, extent)."""
        ends = [c * (extents[v] - 1) for v, c in self.terms]
        return self.const + sum(min(0, e) for e in ends), self.const + sum(max(0, e) for e in ends)

    def __str__(self) -> str:
        words = [f"{c} * {v}" if c != 1 else v for v, c in self.terms]
        return " + ".join([*words, *([str(self.const)] if self.const or not words else [])])


Index = int | Affine


def affine(value: Index) -> Affine:
    """`value` as an affine function."""
    return value if isinstance(value, Affine) else Affine(int(value))


def var(name: str) -> Affine:
    """The variable `name`."""
    return Affine(0, ((name, 1),))


def flat(indices: Iterable[Affine], shape: Iterable[int]) -> Affine:
    """Row-major position of `indices` in an array of `shape`."""
    position = Affine()
    for index, extent in zip(indices, shape, strict=True):
        position = position * extent + index
    return position


def banked(
    indices: Iterable[Affine], shape: Iterable[int], factors: Iterable[int]
) -> tuple[tuple[int, ...], Affine] | None:
    """Bank (a number per dimension) and position in it under cyclic partitioning; None where the bank varies."""
    bank, local, extents = [], [], []
    for index, extent, factor in zip(indices, shape, factors, strict=True):
        if any(c % factor for _, c in index.terms):
            return None
        bank.append(index.const % factor)
        local.append(Affine(index.const // factor, tuple((v, c // factor) for v, c in index.terms)))
        extents.append(-(-extent // factor))
    return tuple(bank), flat(local, extents)
