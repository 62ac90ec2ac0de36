"""What the cost model learns about kernels of products, whatever unit multiplies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....compiler.schedule.traits import Traits
from ..occupancy import thread_traits
from ..spec import GpuSpec
from .gemm_costs import Estimate, Problem


@dataclass(frozen=True)
class TileFacts:
    """A tile of bm x bn results and bk of k, by `workers` that each sum up `rows` rows and `vectors` vectors of them.

    `threads`, `registers` of each, and `shared_bytes` are those of a block; `size` bytes are in an operand's element.
    """

    bm: int
    bn: int
    bk: int
    split: int
    rows: int
    vectors: float
    workers: int
    threads: int
    registers: int
    shared_bytes: int
    size: int


def product_traits(problem: Problem, spec: GpuSpec, found: Sequence[tuple[TileFacts, Estimate]]) -> Traits:
    """Traits of tiles with their estimates; cycles are those of one SM."""
    m, n, k = problem.sizes
    wanted = problem.batch * m * n

    def column(value: Callable[[TileFacts, Estimate], Any]) -> np.ndarray:
        return np.asarray([value(t, e) for t, e in found], dtype=np.float64)

    def tiles(tile: TileFacts, e: Estimate) -> float:
        return e.blocks / max(1, tile.split)

    return {
        "tile_rows": column(lambda t, e: t.rows),
        "tile_vectors": column(lambda t, e: t.vectors),
        "tiles": column(lambda t, e: e.blocks * t.workers),
        "inner_trip": column(lambda t, e: t.bk),
        "tile_steps": column(lambda t, e: math.ceil(k / max(1, t.split) / t.bk) * t.bk),
        "fma_cycles": column(lambda t, e: e.multiply * e.blocks),
        "load_cycles": column(lambda t, e: e.shared * e.blocks),
        "edge_cycles": column(lambda t, e: e.edge * e.blocks),
        "lane_use": column(lambda t, e: wanted / (tiles(t, e) * t.bm * t.bn)),
        "items": column(lambda t, e: e.blocks),
        "imbalance": column(lambda t, e: e.rounds * e.resident * spec.sms / e.blocks),
        "scratch_bytes": column(lambda t, e: t.shared_bytes),
        "transform_cycles": column(lambda t, e: e.added_up * spec.sms),
        "input_traffic": column(lambda t, e: tiles(t, e) * t.bm * k * t.size),
        "weight_traffic": column(lambda t, e: tiles(t, e) * t.bn * k * t.size),
        "device_cycles": column(lambda t, e: e.total),
        **thread_traits(spec, [(t.threads, t.registers, t.shared_bytes) for t, _ in found]),
    }
