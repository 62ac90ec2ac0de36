"""Integer requantization: int32 sums become int8 by a fixed-point multiplication, the same on every target.

    y = clip((acc * multiplier + (1 << (shift - 1))) >> shift, low, high)

acc: int32. multiplier: int32 in [2^30, 2^31), or 0. Product and sum: int64, which they never leave (2^31 * 2^31 + 2^61
< 2^63). The shift is arithmetic, in [1, 62]: together with the addition it rounds to nearest, halves upwards.
This module needs numpy only; `passes/quantize/lower.py` says the same in Relax's operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Largest magnitude of int8 weights and activations: symmetric, so that nothing changes when signs do.
LARGEST = 127
MULTIPLIER_BITS = 31
SHIFT_RANGE = (1, 62)


def fixed_point(factor: float) -> tuple[int, int]:
    """(multiplier, shift) with multiplier * 2^-shift closest to `factor`, which must be finite and not negative.

    Factors below 2^-32 become (0, 1): no int32 times them rounds to anything but 0. From 2^30 on, where any sum but 0
    saturates, it is the largest multiplier with a shift of 1. Raises ValueError for other numbers.
    """
    if not math.isfinite(factor) or factor < 0:
        raise ValueError(f"factor: expected a finite number of at least 0, found {factor}")
    fraction, exponent = math.frexp(factor)
    multiplier, shift = round(math.ldexp(fraction, MULTIPLIER_BITS)), MULTIPLIER_BITS - exponent
    if multiplier == 1 << MULTIPLIER_BITS:
        multiplier, shift = multiplier >> 1, shift - 1
    if factor == 0 or shift > SHIFT_RANGE[1]:
        return 0, 1
    if shift < SHIFT_RANGE[0]:
        return (1 << MULTIPLIER_BITS) - 1, 1
    return multiplier, shift


def fixed_points(factors: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multipliers and shifts (int32) of many factors, in their shape."""
    values = np.asarray(factors, np.float64)
    pairs = np.array([fixed_point(float(f)) for f in values.reshape(-1)], np.int32).reshape(-1, 2)
    return pairs[:, 0].reshape(values.shape), pairs[:, 1].reshape(values.shape)


def requantize(acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, low: int, high: int) -> np.ndarray:
    """int8 of the int32 `acc`; multiplier and shift (int32) broadcast against it."""
    rounding = np.int64(1) << (shift.astype(np.int64) - 1)
    moved = (acc.astype(np.int64) * multiplier.astype(np.int64) + rounding) >> shift.astype(np.int64)
    return np.clip(moved, low, high).astype(np.int8)
