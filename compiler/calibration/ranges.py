"""Ranges of a model's values over calibration samples: the largest magnitude, or one that few numbers exceed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..errors import InputError, UsageError

Run = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]

MINMAX, PERCENTILE = "minmax", "percentile"
METHODS = (MINMAX, PERCENTILE)
# Percent of the magnitudes of a value that its range holds.
PERCENT = 99.99
_BINS = 8192


def check_method(method: str) -> None:
    """UsageError unless `method` is one of METHODS."""
    if method not in METHODS:
        raise UsageError(f"calibration method: expected {' or '.join(METHODS)}, found {method!r}.")


def measure_ranges(run: Run, samples: Sequence[dict[str, np.ndarray]], method: str) -> np.ndarray:
    """The range (largest magnitude, float64) of each array that `run` gives for a sample, over all samples.

    "minmax" takes the largest magnitude; "percentile" the upper end of the first of 8192 bins up to which PERCENT of
    all magnitudes lie, at the cost of a second run of each sample. Raises InputError where a value is not finite.
    """
    check_method(method)
    largest = _largest(map(run, samples))
    return largest if method == MINMAX else _percentiles(map(run, samples), largest)


def _largest(runs: Iterable[Sequence[np.ndarray]]) -> np.ndarray:
    found: np.ndarray | None = None
    for number, values in enumerate(runs):
        most = np.array([_magnitude(v) for v in values], np.float64)
        if not np.all(np.isfinite(most)):
            raise InputError(f"calibration: sample {number} gives values that are NaN or infinite within the model.")
        found = most if found is None else np.maximum(found, most)
    return np.zeros(0) if found is None else found


def _magnitude(value: np.ndarray) -> float:
    return float(max(abs(np.max(value)), abs(np.min(value)))) if value.size else 0.0


def _percentiles(runs: Iterable[Sequence[np.ndarray]], largest: np.ndarray) -> np.ndarray:
    counts = np.zeros((len(largest), _BINS), np.int64)
    for values in runs:
        for k, value in enumerate(values):
            if largest[k] > 0.0:
                counts[k] += np.histogram(np.abs(value), _BINS, (0.0, largest[k]))[0]
    totals = counts.sum(axis=1, keepdims=True)
    reached = np.cumsum(counts, axis=1) >= totals * (PERCENT / 100)
    return largest * (np.argmax(reached, axis=1) + 1) / _BINS
