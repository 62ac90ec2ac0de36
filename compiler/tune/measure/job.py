"""What a pool is asked to measure."""

from __future__ import annotations

from dataclasses import dataclass

from ...schedule.op_spec import OpSpec
from ..record import Point

# How weights lie in the caches when a candidate is timed: "cold" as inside a large model, whose other weights have
# pushed them out since the last inference, or "warm" as when the operator runs alone again and again.
CACHES = ("cold", "warm")


@dataclass(frozen=True)
class Job:
    """One candidate: `op` built at `point`, checked on operands drawn with `seed`; `cache` is one of CACHES."""

    op: OpSpec
    point: Point
    seed: int = 0
    cache: str = "cold"
