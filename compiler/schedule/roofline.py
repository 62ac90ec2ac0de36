"""What one core, or a whole device, can do at most: arithmetic, and bytes from each level of memory.

The model of Williams, Waterman and Patterson 2009 ("Roofline: an insightful visual performance model"): work of F
operations on B bytes takes at least max(F / peak, B / bandwidth), the bandwidth being that of the first level which
holds all the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import TargetError


@dataclass(frozen=True)
class Level:
    """A level of memory: `capacity` in bytes (None: unlimited), `bandwidth` for reading in bytes per second."""

    name: str
    capacity: int | None
    bandwidth: float


@dataclass(frozen=True)
class Roofline:
    """Rates of one core or of a device: `peak` in float32 operations per second, `levels` from the fastest to main
    memory; `peaks` are (dtype, rate) where units multiply other types at other rates. Those of a device's maker are
    not `measured`."""

    peak: float
    levels: tuple[Level, ...]
    peaks: tuple[tuple[str, float], ...] = ()
    measured: bool = True

    def __post_init__(self) -> None:
        if not (self.peak > 0 and self.levels and all(level.bandwidth > 0 for level in self.levels)):
            raise TargetError(f"roofline: expected a peak and bandwidths above 0, found {self}.")

    def to_json(self) -> dict[str, Any]:
        """As a JSON value, for rates that are measured."""
        levels = [{"name": v.name, "bytes": v.capacity, "bytes_per_s": v.bandwidth} for v in self.levels]
        peaks = {"peaks": [list(pair) for pair in self.peaks]} if self.peaks else {}
        return {"flops_per_s": self.peak, "levels": levels, **peaks}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Roofline:
        """The inverse of `to_json`. Raises ValueError, KeyError, TypeError or TargetError if it makes no sense."""
        levels = tuple(Level(str(v["name"]), v["bytes"], float(v["bytes_per_s"])) for v in data["levels"])
        peaks = tuple((str(dtype), float(rate)) for dtype, rate in data.get("peaks", []))
        return cls(float(data["flops_per_s"]), levels, peaks)

    def level(self, size: float) -> Level:
        """The first level that holds `size` bytes, or the last one."""
        return next((v for v in self.levels if v.capacity is None or size <= v.capacity), self.levels[-1])

    def rate(self, dtype: str) -> float | None:
        """Operations per second on operands of `dtype`; None where that is not known."""
        return dict(self.peaks).get(dtype, self.peak if dtype == "float32" else None)

    def least_seconds(self, flops: float, size: float, dtype: str = "float32") -> float:
        """The shortest time for `flops` operations on `size` bytes; `dtype` is one whose rate is known."""
        return max(flops / (self.rate(dtype) or self.peak), size / self.level(size).bandwidth)
