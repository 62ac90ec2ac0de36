"""Winograd's transforms as exact matrices (Toom-Cook) and as short straight-line programs on vectors.

F(m, r) computes m outputs of a one-dimensional filter of r taps with n = m + r - 1 multiplications:
y = A^T ((G g) * (B^T d)), d of n inputs, g of r taps. Each multiplication belongs to one of n - 1 interpolation points
or to infinity.
Construction: evaluate the filter polynomial at the points (G, divided by each point's product of differences), and
transpose the interpolation of a product of two polynomials (A^T, B^T); see Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", and Blahut, "Fast Algorithms for Signal Processing".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import combinations
from math import prod

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.index_math import splat

TAPS = 3
_HALF = Fraction(1, 2)
# The points of F(m, 3) for each m, by measured error over 512 channels: (0, 1, -1, -1/2) quadruples that of m = 3.
# For m = 4, (0, 1, -1, 2, -2) triples it and (0, 1, -1, 1/2, -2) adds 60 %, which doubles the error of all of VGG-19.
# F(6 x 6, 3 x 3) with (0, +-1, +-2, +-1/2) would save a fifth of the products, but its error reaches 3e-5.
POINTS: dict[int, tuple[Fraction, ...]] = {
    2: tuple(map(Fraction, (0, 1, -1))),
    3: tuple(map(Fraction, (0, 1, -_HALF, -2))),
    4: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}

Row = tuple[Fraction, ...]
Matrix = tuple[Row, ...]


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m, r): `data` = B^T (n x n), `filter` = G (n x r), `output` = A^T (m x n)."""

    data: Matrix
    filter: Matrix
    output: Matrix


@cache
def toom_cook(outputs: int, points: Sequence[Fraction], taps: int = TAPS) -> Transforms:
    """The transforms of F(outputs, taps) for its `outputs + taps - 2` finite points; infinity is the last one."""
    infinity_filter = (*[Fraction(0)] * (taps - 1), Fraction(1))
    filters, data = [], []
    for i, q in enumerate(points):
        others = [p for j, p in enumerate(points) if j != i]
        scale = prod(q - p for p in others)
        filters.append(tuple(q**k / scale for k in range(taps)))
        data.append((*_monic(others), Fraction(0)))
    columns = [tuple(q**k for k in range(outputs)) for q in points]
    columns.append((*[Fraction(0)] * (outputs - 1), Fraction(1)))
    return Transforms(
        data=(*data, _monic(points)),
        filter=(*filters, infinity_filter),
        output=tuple(zip(*columns, strict=True)),
    )


def _monic(roots: Sequence[Fraction]) -> Row:
    """Coefficients, constant first, of the product of (x - root)."""
    poly = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *poly], [*(-root * c for c in poly), Fraction(0)]
        poly = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return tuple(poly)


@dataclass(frozen=True)
class LinearProgram:
    """A constant matrix times a vector, with sums that several rows share computed once.

    Value number k < `inputs` is input k; value inputs + j is `shared[j]` = (a, ratio, b): value a + ratio * value b.
    Each row is a sum of (value, factor).
    """

    inputs: int
    shared: tuple[tuple[int, Fraction, int], ...]
    rows: tuple[tuple[tuple[int, Fraction], ...], ...]

    def operations(self) -> int:
        """Vector additions, multiplications or FMAs."""
        return len(self.shared) + sum(len(r) - (abs(r[0][1]) == 1) for r in self.rows)

    def emit(self, values: Sequence[tirx.Expr], lanes: int) -> tuple[list[Stmt], list[tirx.Expr]]:
        """Statements that bind the shared sums, and the expression of each row; `values` are float32 vectors."""
        dtype = f"float32x{lanes}" if lanes > 1 else "float32"
        known, binds = list(values), []
        for a, ratio, b in self.shared:
            var = tirx.Var("s", dtype)
            binds.append(tirx.Bind(var, _sum([(known[a], Fraction(1)), (known[b], ratio)], lanes)))
            known.append(var)
        return binds, [_sum([(known[k], factor) for k, factor in row], lanes) for row in self.rows]


@cache
def linear_program(matrix: Matrix) -> LinearProgram:
    """A short program for `matrix`: greedily names the pair of terms (up to a factor) that most rows have in common."""
    inputs = len(matrix[0])
    rows = [{k: c for k, c in enumerate(row) if c} for row in matrix]
    shared: list[tuple[int, Fraction, int]] = []
    while True:
        pairs = Counter((a, row[b] / row[a], b) for row in rows for a, b in combinations(sorted(row), 2))
        best, count = max(pairs.items(), key=lambda item: (item[1], -item[0][2]), default=((0, Fraction(0), 0), 0))
        if count < 2:
            break
        a, ratio, b = best
        name = inputs + len(shared)
        shared.append(best)
        for row in rows:
            if a in row and b in row and row[b] / row[a] == ratio:
                row[name] = row.pop(a)
                del row[b]
    # A factor of 1 first: it starts the sum without a multiplication.
    ordered = tuple(tuple(sorted(row.items(), key=lambda t: (t[1] != 1, t[1] != -1, t[0]))) for row in rows)
    return LinearProgram(inputs, tuple(shared), ordered)


def _sum(terms: Sequence[tuple[tirx.Expr, Fraction]], lanes: int) -> tirx.Expr:
    total = None
    for value, factor in terms:
        if total is None:
            total = value if factor == 1 else value * _constant(factor, lanes)
        elif abs(factor) == 1:
            total = total + value if factor == 1 else total - value
        else:
            total = total + value * _constant(factor, lanes)
    return total


def _constant(value: Fraction, lanes: int) -> tirx.Expr:
    return splat(tirx.const(float(value), "float32"), lanes)
