"""How well outputs of lower precision stand for those of float32, over many samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass
class Accuracy:
    """The accuracy of one output, which grows by samples.

    Attributes:
        name: of the output.
        max_abs: greatest absolute difference.
        low, high: range of the reference's numbers.
        signal, noise: sums of the squares of the reference and of the difference.
        agreed, judged: rows whose largest element stands where the reference's does, and all rows; of outputs (rows,
            classes), perhaps with axes of size 1 behind.
        right, reference_right, labelled: rows of such an output whose largest element is where a label says, those of
            the reference, and rows with a label.
    """

    name: str
    max_abs: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    signal: float = 0.0
    noise: float = 0.0
    agreed: int = 0
    judged: int = 0
    right: int = 0
    reference_right: int = 0
    labelled: int = 0

    def add(self, ours: np.ndarray, reference: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Take in a sample; arrays of one shape, labels one for each row."""
        a, b = ours.astype(np.float64), reference.astype(np.float64)
        if not b.size:
            return
        self.max_abs = max(self.max_abs, float(np.max(np.abs(a - b))))
        self.low, self.high = min(self.low, float(b.min())), max(self.high, float(b.max()))
        self.signal += float(np.sum(b * b))
        self.noise += float(np.sum((a - b) ** 2))
        if is_classes(b):
            a, b = a.reshape(b.shape[:2]), b.reshape(b.shape[:2])
            ours_top, reference_top = a.argmax(axis=1), b.argmax(axis=1)
            self.agreed += int(np.sum(ours_top == reference_top))
            self.judged += len(b)
            if labels is not None:
                self.right += int(np.sum(ours_top == labels))
                self.reference_right += int(np.sum(reference_top == labels))
                self.labelled += len(labels)

    @property
    def error(self) -> float:
        """Greatest absolute difference over the range of the reference (over 1 if that is a single number)."""
        return self.max_abs / ((self.high - self.low) or 1.0)

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise in decibels: 10 log10(signal / noise); infinite without noise."""
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def agreement(self) -> float | None:
        """Share of rows with the same largest element; None if the output is no classifier's."""
        return self.agreed / self.judged if self.judged else None

    @property
    def correct(self) -> tuple[float, float] | None:
        """Share of rows with the label's element largest: the reference's, and ours; None without labels."""
        return (self.reference_right / self.labelled, self.right / self.labelled) if self.labelled else None

    def as_dict(self) -> dict[str, object]:
        """As JSON values."""
        before, after = self.correct or (None, None)
        return {
            "name": self.name,
            "max_abs": self.max_abs,
            "error_of_range": self.error,
            "sqnr_db": self.sqnr,
            "top1_agreement": self.agreement,
            "accuracy_before": before,
            "accuracy_after": after,
        }


def is_classes(output: np.ndarray) -> bool:
    """Whether an output has the shape of a classifier's."""
    return output.ndim >= 2 and output.shape[1] > 1 and all(d == 1 for d in output.shape[2:])


def add_outputs(
    found: dict[str, Accuracy],
    ours: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
) -> None:
    """Take a sample's float outputs, paired by position, into `found`, by the reference's names."""
    for value, (name, expected) in zip(ours.values(), reference.items(), strict=True):
        if expected.dtype.kind == "f" and value.shape == expected.shape:
            found.setdefault(name, Accuracy(name)).add(value, expected, labels)
