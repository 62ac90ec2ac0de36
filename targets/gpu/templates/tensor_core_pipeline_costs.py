"""Which tiles Hopper's pipelines may compute for a problem, what they cost, and which is taken unmeasured.

As in tensor_core_costs.py the estimate counts cycles of one SM, and its constants are round numbers, not measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from types import MappingProxyType

from ....compiler.schedule.template import Config, Space
from ....compiler.schedule.traits import Traits
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .gemm_costs import KEPT_SPACES, Estimate, Problem, best_first, rounds_of, space_of
from .gemm_traits import TileFacts, product_traits
from .tensor_core_operands import Operands
from .tensor_core_pipeline_tile import PipelineTile

# Configs offered to the tuner, and those in clusters.
_OFFERED, _CLUSTERS = 40, 12
_STAGES = (3, 4, 5, 6, 8)
# Bytes a cycle that one SM gets from the second-level cache when all read, and reads from its shared memory.
_L2_RATE, _SHARED_RATE = 48.0, 128.0
# Cycles until what is copied is there, and bytes that one SM must have under way to read at that rate.
_LATENCY = 900
_UNDER_WAY = _LATENCY * _L2_RATE
# Cycles of a step that nothing overlaps, of a tile (first piece, last multiplication), and of a launch.
_STEP_CYCLES, _TILE_CYCLES, _LAUNCH_CYCLES = 15.0, 600.0, 2500.0
# Columns of results that warps store at once: see gemm_grid.py's bands.
_MOST_BAND = 32


@cache
def tiles(spec: GpuSpec) -> Mapping[PipelineTile, int]:
    """All tiles that run on `spec`, and how many of each an SM holds at once."""
    found = {}
    for groups in (1, 2, 3):
        for bm in (64, 128, 192, 256):
            for bn in (64, 128, 192, 256):
                for stages in _STAGES:
                    for cluster in (1, 2):
                        tile = PipelineTile(bm, bn, groups, stages, cluster)
                        fits = tile.divides() and tile.fits_registers and tile.shared_bytes <= spec.shared_bytes
                        most = resident(tile, spec) if fits else 0
                        if most:
                            found[tile] = most
    return MappingProxyType(found)


def resident(tile: PipelineTile, spec: GpuSpec) -> int:
    """Blocks that an SM holds at once."""
    return resident_blocks(spec, tile.threads, tile.registers, tile.shared_bytes)


def at_once(tile: PipelineTile, spec: GpuSpec) -> int:
    """Blocks that run at the same time, in whole clusters."""
    return resident(tile, spec) * spec.sms // tile.cluster * tile.cluster


def band_of(tile: PipelineTile, spec: GpuSpec) -> int:
    """Rows of tiles in a band: blocks that run at once read about as much of A as of B."""
    rows = math.sqrt(spec.sms * tile.bn / tile.bm)
    return min(_MOST_BAND, max(2, 1 << round(math.log2(rows))))


def estimate(problem: Problem, tile: PipelineTile, spec: GpuSpec, unit: Operands, most: int) -> Estimate:
    """What `tile` costs for `problem`, where an SM holds `most` blocks at once."""
    size = unit.how.size
    found = rounds_of(problem, tile.sizes(size), tile.split, most, spec)
    together, steps = found.resident, found.steps
    depth = steps * tile.row_bytes // size
    rate = spec.peak_flops(unit.rate) / (2 * spec.sms * spec.clock_hz)
    multiply = tile.bm * tile.bn * depth / rate
    shared = (tile.groups * tile.rows * (64 + tile.bn) + tile.bm + tile.bn) * depth * size / _SHARED_RATE
    copied = (tile.bm + tile.bn / tile.cluster) * depth * size
    under_way = together * tile.stages * (tile.bm + tile.bn) * tile.row_bytes
    global_ = copied / _L2_RATE / min(1.0, under_way / _UNDER_WAY)
    work = together * max(multiply, shared, global_) + 0.1 * together * min(multiply, shared + global_)
    work = max(work, steps * _LATENCY / tile.stages) + steps * _STEP_CYCLES
    edge = _TILE_CYCLES + together * tile.bm * tile.bn * 4 * 3 / _SHARED_RATE
    total = found.rounds * (work + edge) + _LAUNCH_CYCLES + found.added_up
    return Estimate(found.blocks, found.rounds, together, multiply, shared, global_, edge, total, found.added_up)


@lru_cache(maxsize=KEPT_SPACES)
def pipeline_space(problem: Problem, spec: GpuSpec, unit: Operands) -> Space | None:
    """The likeliest tiles, best first; None if none runs on `spec`."""
    size = unit.how.size

    def ranked(cluster: int, offered: int) -> list[PipelineTile]:
        found = {t: most for t, most in tiles(spec).items() if t.cluster == cluster and _pairs(problem, t)}
        return best_first(found, problem, spec, lambda t: t.sizes(size), cost, cluster == 1, offered)

    def cost(tile: PipelineTile, most: int) -> tuple[float, ...]:
        return estimate(problem, tile, spec, unit, most).total, -tile.stages, tile.threads

    # Clusters start later where an SM is still taken: they are left to measuring.
    return space_of([t.config() for t in (*ranked(1, _OFFERED), *ranked(2, _CLUSTERS))])


def _pairs(problem: Problem, tile: PipelineTile) -> bool:
    """Whether the blocks of a cluster always have tiles one below the other."""
    return tile.cluster == 1 or (problem.is_static and -(-problem.sizes[0] // tile.bm) % tile.cluster == 0)


def pipeline_traits(problem: Problem, spec: GpuSpec, unit: Operands, configs: Sequence[Config]) -> Traits:
    """Traits of `configs`; a tile is a warpgroup's."""

    def facts(t: PipelineTile) -> TileFacts:
        size = unit.how.size
        parts = (t.rows * 4, t.columns, t.groups, t.threads, t.registers, t.shared_bytes, size)
        return TileFacts(*t.sizes(size), t.split, *parts)

    chosen = [(t, resident(t, spec)) for t in map(PipelineTile.of, configs)]
    return product_traits(problem, spec, [(facts(t), estimate(problem, t, spec, unit, most)) for t, most in chosen])
