"""Which tiles AMD's matrix units may compute for a problem, what they cost, and which is taken unmeasured.

The estimate counts cycles of one compute unit: multiplications, fragments read from shared memory, operands from the
second-level cache, and how much of their latency the resident waves hide. Its constants are round numbers for current
hardware, not measurements: it ranks tiles, it does not predict times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType

from ....compiler.schedule.template import Config, Space
from ....compiler.schedule.traits import Traits
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .gemm_costs import KEPT_SPACES, Estimate, Problem, best_first, rounds_of, space_of
from .gemm_fetched import fetches
from .gemm_traits import TileFacts, product_traits
from .matrix_core import MatrixInstruction
from .matrix_core_tile import MatrixTile, tile_of

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
# Sums of a lane where sizes are open: addresses have 64 bits then, and batches strides of their own.
_MOST_SUMS_OPEN = 64


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
def tiles(spec: GpuSpec, matrices: Matrices) -> Mapping[MatrixTile, int]:
    """All tiles that run on `spec` without spilling registers, and how many of each a compute unit holds at once."""
    found = {}
    for how in matrices.instructions:
        for bm in (16, 32, 64, 128, 256):
            for bn in (16, 32, 64, 128, 256):
                for wm, wn in ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 4), (4, 2)):
                    for bk in (16, 32, 64):
                        tile = MatrixTile(bm, bn, bk, wm, wn, how)
                        most = _most_resident(tile, spec, matrices) if _runs(tile, spec, matrices) else 0
                        if most:
                            found[tile] = most
    return MappingProxyType(found)


def _runs(tile: MatrixTile, spec: GpuSpec, matrices: Matrices) -> bool:
    if not tile.divides() or tile.waves > _MOST_WAVES or tile.how.wave != spec.warp:
        return False
    if tile.rows * tile.columns * tile.how.sums > _MOST_SUMS:
        return False
    # The number of steps takes a few bytes more.
    if tile.shared_bytes + 16 > spec.shared_bytes or _slots(tile, matrices) > _MOST_SLOTS:
        return False
    return _registers(tile, matrices) <= spec.registers_per_thread


def _slots(tile: MatrixTile, matrices: Matrices) -> int:
    pairs = zip((tile.bm, tile.bn), matrices.lanes, strict=True)
    return sum(fetches(tile.bk * extent, tile.threads, n)[1] for extent, n in pairs)


def _registers(tile: MatrixTile, matrices: Matrices) -> int:
    pairs = zip((tile.bm, tile.bn), matrices.lanes, strict=True)
    ahead = sum(fetches(tile.bk * extent, tile.threads, n)[1] * n for extent, n in pairs)
    return tile.registers(_slots(tile, matrices), ahead)


def _most_resident(tile: MatrixTile, spec: GpuSpec, matrices: Matrices) -> int:
    return resident_blocks(spec, tile.threads, _registers(tile, matrices), tile.shared_bytes + 16)


def estimate(problem: Problem, tile: MatrixTile, spec: GpuSpec, matrices: Matrices, most: int) -> Estimate:
    """What `tile` costs for `problem`, where a compute unit holds `most` blocks at once."""
    found = rounds_of(problem, (tile.bm, tile.bn, tile.bk), tile.split, most, spec)
    resident, depth = found.resident, found.steps * tile.bk
    multiply = tile.bm * tile.bn * depth * 2 * spec.sms * spec.clock_hz / spec.peak_flops(matrices.dtype)
    copied = (tile.bm + tile.bn) * depth * tile.size
    read = tile.waves * (tile.rows + tile.columns) * tile.how.side * depth * tile.size
    shared = (read + copied) / _SHARED_RATE
    global_ = copied / _L2_RATE
    waves = resident * tile.waves
    busy = min(1.0, waves / _UNITS, waves * tile.rows * tile.columns / _IN_FLIGHT)
    work = resident * max(multiply / busy, shared, global_) + 0.25 * resident * min(multiply, shared + global_)
    edge = _BLOCK_CYCLES + found.steps * _STEP_CYCLES
    total = found.rounds * (work + edge) + found.added_up
    return Estimate(found.blocks, found.rounds, resident, multiply, shared, global_, edge, total, found.added_up)


@lru_cache(maxsize=KEPT_SPACES)
def matrix_space(problem: Problem, spec: GpuSpec, matrices: Matrices) -> Space | None:
    """The likeliest tiles, best first; None if none runs on `spec`."""
    sums = _MOST_SUMS if problem.is_static else _MOST_SUMS_OPEN
    found = {t: most for t, most in tiles(spec, matrices).items() if t.rows * t.columns * t.how.sums <= sums}

    def cost(tile: MatrixTile, most: int) -> tuple[float, ...]:
        return estimate(problem, tile, spec, matrices, most).total, tile.shared_bytes, tile.threads

    ranked = best_first(found, problem, spec, lambda t: (t.bm, t.bn, t.bk), cost, False, _OFFERED)
    return space_of([t.config() for t in ranked])


def matrix_traits(problem: Problem, spec: GpuSpec, matrices: Matrices, configs: Sequence[Config]) -> Traits:
    """Traits of `configs`; a tile is a wave's."""

    def facts(t: MatrixTile) -> TileFacts:
        parts = (t.rows, t.columns, t.waves, t.threads, _registers(t, matrices), t.shared_bytes, t.size)
        return TileFacts(t.bm, t.bn, t.bk, t.split, *parts)

    tiled = [tile_of(c, matrices.instructions) for c in configs]
    chosen = [(t, _most_resident(t, spec, matrices)) for t in tiled]
    return product_traits(problem, spec, [(facts(t), estimate(problem, t, spec, matrices, most)) for t, most in chosen])
