"""A small linear programme: the shares of routes that together serve the most requests."""

from __future__ import annotations

import numpy as np

_EPSILON = 1e-12


def most(limits: np.ndarray) -> np.ndarray:
    """The x >= 0 of greatest sum with limits @ x <= 1, by the simplex method with Bland's rule.

    `limits` is float64 of shape (resources, routes), nothing below 0, and something above it in every column.
    """
    rows, columns = limits.shape
    table = np.zeros((rows + 1, columns + rows + 1))
    table[:rows, :columns] = limits
    table[:rows, columns : columns + rows] = np.eye(rows)
    table[:rows, -1] = 1.0
    table[rows, :columns] = -1.0
    basis = list(range(columns, columns + rows))
    while True:
        entering = next((c for c in range(columns + rows) if table[rows, c] < -_EPSILON), None)
        if entering is None:
            break
        ratios = [
            (table[r, -1] / table[r, entering], basis[r], r) for r in range(rows) if table[r, entering] > _EPSILON
        ]
        _, _, leaving = min(ratios)
        table[leaving] /= table[leaving, entering]
        for r in range(rows + 1):
            if r != leaving:
                table[r] -= table[r, entering] * table[leaving]
        basis[leaving] = entering
    x = np.zeros(columns)
    for r, column in enumerate(basis):
        if column < columns:
            x[column] = table[r, -1]
    return x
