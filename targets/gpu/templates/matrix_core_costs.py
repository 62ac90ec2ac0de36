"""Which tiles AMD's matrix units may compute for a problem, what they cost, and which is taken unmeasured.

The estimate counts cycles of one compute unit: multiplications, fragments read from shared memory, operands from the
second-level cache, and how much of their latency the resident waves hide. Its constants are round numbers for current
hardware, not measurements: it ranks tiles, it does not predict times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ....compiler.schedule.template import Config, Space
from ....compiler.schedule.traits import Traits
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .gemm_costs import Estimate, Problem
from .matrix_core import MatrixInstruction
from .matrix_core_gemm import fetches
from .matrix_core_tile import MatrixTile, config_of, tile_of

# Configs offered to the tuner.
_OFFERED = 48
# Bytes a cycle that one compute unit reads from the second-level cache when all do, and from its shared memory.
_L2_RATE, _SHARED_RATE = 32.0, 128.0
# Matrix units of a compute unit, each for its own waves; products in flight that keep all of them busy.
_UNITS, _IN_FLIGHT = 4, 4 * 4
# Cycles of a step that nothing overlaps (barrier, first fragments), and of a block (launch, first fetch, results).
_STEP_CYCLES, _BLOCK_CYCLES = 80.0, 2500.0
# Pieces that a thread may fetch ahead: each has an address of its own.
_MOST_SLOTS = 16
# Waves of a block at most, and sums of a lane: epilogues want registers too.
_MOST_WAVES, _MOST_SUMS = 8, 128


@dataclass(frozen=True)
class Matrices:
    """What the matrix units multiply: their instructions, and how many elements of A and B a fetch brings."""

    instructions: tuple[MatrixInstruction, ...]
    lanes: tuple[int, int]

    @property
    def dtype(self) -> str:
        """Of the operands."""
        return self.instructions[0].dtype


@cache
def tiles(spec: GpuSpec, matrices: Matrices) -> tuple[MatrixTile, ...]:
    """All tiles that run on `spec` without spilling registers."""
    found = []
    for how in matrices.instructions:
        for bm in (16, 32, 64, 128, 256):
            for bn in (16, 32, 64, 128, 256):
                for wm, wn in ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 4), (4, 2)):
                    for bk in (16, 32, 64):
                        tile = MatrixTile(bm, bn, bk, wm, wn, how)
                        if _runs(tile, spec, matrices):
                            found.append(tile)
    return tuple(found)


def _runs(tile: MatrixTile, spec: GpuSpec, matrices: Matrices) -> bool:
    if not tile.divides() or tile.waves > _MOST_WAVES or tile.how.wave != spec.warp:
        return False
    if tile.rows * tile.columns * tile.how.sums > _MOST_SUMS:
        return False
    # The number of steps takes a few bytes more.
    if tile.shared_bytes + 16 > spec.shared_bytes or _slots(tile, matrices) > _MOST_SLOTS:
        return False
    registers = _registers(tile, matrices)
    return registers <= spec.registers_per_thread and _most_resident(tile, spec, registers) > 0


def _slots(tile: MatrixTile, matrices: Matrices) -> int:
    return sum(fetches(tile, extent, n)[1] for extent, n in zip((tile.bm, tile.bn), matrices.lanes, strict=True))


def _registers(tile: MatrixTile, matrices: Matrices) -> int:
    pairs = zip((tile.bm, tile.bn), matrices.lanes, strict=True)
    ahead = sum(fetches(tile, extent, n)[1] * n for extent, n in pairs)
    return tile.registers(_slots(tile, matrices), ahead)


def _most_resident(tile: MatrixTile, spec: GpuSpec, registers: int) -> int:
    return resident_blocks(spec, tile.threads, registers, tile.shared_bytes + 16)


def estimate(problem: Problem, tile: MatrixTile, spec: GpuSpec, matrices: Matrices) -> Estimate:
    """What `tile` costs for `problem`."""
    m, n, k = problem.sizes
    blocks = problem.batch * -(-m // tile.bm) * -(-n // tile.bn)
    most = _most_resident(tile, spec, _registers(tile, matrices))
    resident = max(1, min(most, -(-blocks // spec.sms)))
    rounds = -(-blocks // (spec.sms * resident))
    steps = -(-k // tile.bk)
    depth = steps * tile.bk
    multiply = tile.bm * tile.bn * depth * 2 * spec.sms * spec.clock_hz / spec.peak_flops(matrices.dtype)
    copied = (tile.bm + tile.bn) * depth * tile.size
    read = tile.waves * (tile.rows + tile.columns) * tile.how.side * depth * tile.size
    shared = (read + copied) / _SHARED_RATE
    global_ = copied / _L2_RATE
    waves = resident * tile.waves
    busy = min(1.0, waves / _UNITS, waves * tile.rows * tile.columns / _IN_FLIGHT)
    work = resident * max(multiply / busy, shared, global_) + 0.25 * resident * min(multiply, shared + global_)
    edge = _BLOCK_CYCLES + steps * _STEP_CYCLES
    return Estimate(blocks, rounds, resident, multiply, shared, global_, edge, rounds * (work + edge))


def matrix_space(problem: Problem, spec: GpuSpec, matrices: Matrices) -> Space | None:
    """The likeliest tiles, best first; None if none runs on `spec`."""
    ranked = sorted(
        tiles(spec, matrices), key=lambda t: (estimate(problem, t, spec, matrices).total, t.shared_bytes, t.threads)
    )
    configs = tuple(config_of(t) for t in ranked[:_OFFERED])
    return Space(configs[0], configs) if configs else None


def matrix_traits(problem: Problem, spec: GpuSpec, matrices: Matrices, configs: Sequence[Config]) -> Traits:
    """Traits of `configs`; cycles are those of one compute unit, a tile is a wave's."""
    chosen = [tile_of(c, matrices.instructions) for c in configs]
    pairs = [(t, estimate(problem, t, spec, matrices)) for t in chosen]
    m, n, k = problem.sizes
    wanted = problem.batch * m * n

    def column(values: Sequence[float]) -> np.ndarray:
        return np.asarray(values, dtype=np.float64)

    return {
        "tile_rows": column([t.rows for t in chosen]),
        "tile_vectors": column([t.columns for t in chosen]),
        "tiles": column([e.blocks * t.waves for t, e in pairs]),
        "inner_trip": column([t.bk for t in chosen]),
        "tile_steps": column([math.ceil(k / t.bk) * t.bk for t in chosen]),
        "fma_cycles": column([e.multiply * e.blocks for _, e in pairs]),
        "load_cycles": column([e.shared * e.blocks for _, e in pairs]),
        "edge_cycles": column([e.edge * e.blocks for _, e in pairs]),
        "lane_use": column([wanted / (e.blocks * t.bm * t.bn) for t, e in pairs]),
        "items": column([e.blocks for _, e in pairs]),
        "imbalance": column([e.rounds * e.resident * spec.sms / e.blocks for _, e in pairs]),
        "scratch_bytes": column([t.shared_bytes for t in chosen]),
        "input_traffic": column([e.blocks * t.bm * k * t.size for t, e in pairs]),
        "weight_traffic": column([e.blocks * t.bn * k * t.size for t, e in pairs]),
    }
