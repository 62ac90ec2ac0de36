"""What attention's tiles cost, and which is taken where nothing was measured.

The estimate counts cycles of one SM: products, exponentials and the arithmetic around them, shared memory, and keys and
values from the second-level cache. Its constants are round numbers for current hardware, not measurements: it ranks
tiles, it does not predict times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ....compiler.schedule.traits import Traits
from ..occupancy import resident_blocks, thread_traits
from ..spec import GpuSpec
from .attention_problem import AttentionProblem

Tiled = TypeVar("Tiled")

# Configs offered to the tuner.
_OFFERED = 32
# Bytes a cycle that one SM reads from the second-level cache when all do, and from its shared memory.
_L2_RATE, _SHARED_RATE = 40.0, 128.0
# Exponentials of an SM in a cycle.
_EXPONENTIALS = 16.0
# Multiply-adds and the like for each score beside the products: scale, largest, sum, rounding.
_AROUND = 6.0
# Cycles of a step that nothing overlaps (barrier, first fragments), and of a block (launch, first copies, results).
_STEP_CYCLES, _BLOCK_CYCLES = 80.0, 2000.0
# Warps of an SM that hide each other's waits; fewer leave it idle accordingly.
_BUSY_WARPS = 8


@dataclass(frozen=True)
class Work:
    """What a block of some tile does in a step of `keys` keys, and what it takes of an SM.

    Attributes:
        queries: rows of a block.
        multiply: cycles of both products.
        shared: bytes read from and written to shared memory.
        fetched: bytes of keys and values.
        threads, registers, shared_bytes: of a block, of a thread, of a block.
    """

    queries: int
    keys: int
    multiply: float
    shared: float
    fetched: float
    threads: int
    registers: int
    shared_bytes: int


@dataclass(frozen=True)
class Cost:
    """Blocks, their steps on average, blocks on one SM at once, rounds of these, and cycles of the busiest SM."""

    blocks: int
    steps: float
    resident: int
    rounds: int
    total: float


def cost(problem: AttentionProblem, spec: GpuSpec, work: Work) -> Cost:
    """What a kernel of such blocks costs."""
    batches, rows, keys = problem.sizes
    blocks = batches * -(-rows // work.queries)
    steps = max(1.0, _seen(problem, rows, keys, work.queries) / work.keys)
    most = resident_blocks(spec, work.threads, work.registers, work.shared_bytes)
    resident = max(1, min(most, -(-blocks // spec.sms)))
    rounds = -(-blocks // (spec.sms * resident))
    scores = work.queries * work.keys
    lanes = spec.peak_flops("float32") / (2 * spec.sms * spec.clock_hz)
    weigh = scores / _EXPONENTIALS + (scores * _AROUND + work.queries * problem.columns) / lanes
    parts = (work.multiply, weigh, work.shared / _SHARED_RATE, work.fetched / _L2_RATE)
    warps = resident * work.threads / spec.warp * min(1.0, rows / work.queries)
    idle = min(1.0, warps / _BUSY_WARPS)
    step = resident * (max(parts) + 0.3 * (sum(parts) - max(parts))) / idle + _STEP_CYCLES
    return Cost(blocks, steps, resident, rounds, rounds * (steps * step + _BLOCK_CYCLES))


def offered(problem: AttentionProblem, spec: GpuSpec, tiles: Sequence[tuple[Tiled, Work]]) -> list[Tiled]:
    """The likeliest of `tiles`, best first."""
    ranked = sorted(tiles, key=lambda pair: (cost(problem, spec, pair[1]).total, pair[1].shared_bytes))
    return [tile for tile, _ in ranked[:_OFFERED]]


def attention_traits(problem: AttentionProblem, spec: GpuSpec, works: Sequence[Work]) -> Traits:
    """Traits of tiles by what they do; cycles are those of one SM, a tile is a block's."""
    batches, rows, _ = problem.sizes
    found = [cost(problem, spec, w) for w in works]
    pairs = list(zip(works, found, strict=True))

    def column(values: Sequence[float]) -> np.ndarray:
        return np.asarray(values, dtype=np.float64)

    return {
        "tile_rows": column([w.queries for w in works]),
        "tile_vectors": column([w.keys for w in works]),
        "tiles": column([c.blocks for c in found]),
        "tile_steps": column([c.steps * w.keys for w, c in pairs]),
        "fma_cycles": column([w.multiply * c.steps * c.blocks for w, c in pairs]),
        "load_cycles": column([w.shared / _SHARED_RATE * c.steps * c.blocks for w, c in pairs]),
        "edge_cycles": column([(_BLOCK_CYCLES + c.steps * _STEP_CYCLES) * c.blocks for _, c in pairs]),
        "lane_use": column([batches * rows / (c.blocks * w.queries) for w, c in pairs]),
        "items": column([c.blocks for c in found]),
        "imbalance": column([c.rounds * c.resident * spec.sms / c.blocks for c in found]),
        "scratch_bytes": column([w.shared_bytes for w in works]),
        "input_traffic": column([w.fetched * c.steps * c.blocks for w, c in pairs]),
        "device_cycles": column([c.total for c in found]),
        **thread_traits(spec, [(w.threads, w.registers, w.shared_bytes) for w in works]),
    }


def _seen(problem: AttentionProblem, rows: int, keys: int, tile: int) -> float:
    """Keys that a block walks through on average."""
    if not problem.causal:
        return float(keys)
    ends = [min(keys, max(0, first + tile + problem.offset)) for first in range(0, rows, tile)]
    return sum(ends) / len(ends)
