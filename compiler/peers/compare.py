"""How far two sets of outputs are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OutputError:
    """The difference of one output from its reference.

    `max_abs` is the greatest absolute difference, `max_rel` that divided by the greatest absolute value of the finite
    part of the reference (or by 1 if that is 0); both are inf where shape or the places of NaN and infinities differ,
    which `mismatch` then says in words.
    """

    name: str
    max_abs: float
    max_rel: float
    mismatch: str | None = None

    def passes(self, tolerance: float) -> bool:
        """Whether max abs error / max abs output is at most `tolerance`."""
        return self.max_rel <= tolerance


def worst(first: OutputError, second: OutputError) -> OutputError:
    """The larger of two errors of the same output."""
    return second if second.max_rel > first.max_rel else first


def output_error(name: str, ours: np.ndarray, reference: np.ndarray) -> OutputError:
    """Compare one output with its reference; dtypes must agree in kind, shapes exactly."""
    inf = float("inf")
    if ours.shape != reference.shape:
        return OutputError(name, inf, inf, f"shape {ours.shape}, expected {reference.shape}")
    if (ours.dtype.kind in "OUS") or (reference.dtype.kind in "OUS"):
        wrong = int(np.count_nonzero(ours.astype(str) != reference.astype(str)))
        return OutputError(name, inf, inf, f"{wrong} strings differ") if wrong else OutputError(name, 0.0, 0.0)
    if ours.dtype != reference.dtype:
        return OutputError(name, inf, inf, f"dtype {ours.dtype}, expected {reference.dtype}")
    wide = np.complex128 if ours.dtype.kind == "c" else np.float64
    a, b = ours.astype(wide), reference.astype(wide)
    finite = np.isfinite(b)
    odd = int(np.count_nonzero((finite != np.isfinite(a)) | (~finite & ~_same_odd(a, b))))
    if odd:
        return OutputError(name, inf, inf, f"{odd} elements are NaN or infinite on one side only")
    a, b = a[finite], b[finite]
    if a.size == 0:
        return OutputError(name, 0.0, 0.0)
    max_abs = float(np.max(np.abs(a - b)))
    scale = float(np.max(np.abs(b)))
    return OutputError(name, max_abs, max_abs / scale if scale else max_abs)


def _same_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (np.isnan(a) & np.isnan(b)) | (a == b)


def output_errors(ours: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> list[OutputError]:
    """Compare all outputs, paired by name where the names agree, else by position; one that either lacks differs."""
    if set(ours) != set(reference) and len(ours) == len(reference):
        ours = dict(zip(reference, ours.values(), strict=True))
    inf = float("inf")
    errors = [
        output_error(name, np.asarray(ours[name]), np.asarray(expected))
        if name in ours
        else OutputError(name, inf, inf, "output is missing")
        for name, expected in reference.items()
    ]
    extra = [name for name in ours if name not in reference]
    return errors + [OutputError(name, inf, inf, "the reference has no such output") for name in extra]
