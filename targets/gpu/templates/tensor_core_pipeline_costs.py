"""Which tiles Hopper's pipelines may compute for a problem, what they cost, and which is taken unmeasured.

As in tensor_core_costs.py the estimate counts cycles of one SM, and its constants are round numbers, not measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache

from ....compiler.schedule.template import Config, Space
from ....compiler.schedule.traits import Traits
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .gemm_costs import Estimate, Problem, rounds_of, splits_of
from .gemm_traits import TileFacts, product_traits
from .tensor_core_operands import Operands
from .tensor_core_pipeline_tile import PipelineTile, config_of, tile_of

# Configs offered to the tuner.
_OFFERED = 48
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
def tiles(spec: GpuSpec) -> tuple[PipelineTile, ...]:
    """All tiles that run on `spec`."""
    found = []
    for groups in (1, 2, 3):
        for bm in (64, 128, 192, 256):
            for bn in (64, 128, 192, 256):
                for stages in _STAGES:
                    for cluster in (1, 2):
                        tile = PipelineTile(bm, bn, groups, stages, cluster)
                        fits = tile.divides() and tile.fits_registers and tile.shared_bytes <= spec.shared_bytes
                        if fits and resident(tile, spec):
                            found.append(tile)
    return tuple(found)


@lru_cache(maxsize=4096)
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


def estimate(problem: Problem, tile: PipelineTile, spec: GpuSpec, unit: Operands) -> Estimate:
    """What `tile` costs for `problem`."""
    size = unit.how.size
    found = rounds_of(problem, tile.sizes(size), tile.split, resident(tile, spec), spec)
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


def _variants(problem: Problem, spec: GpuSpec, size: int) -> list[PipelineTile]:
    """All tiles, with the ways to share them out that may pay."""
    found = []
    for tile in tiles(spec):
        pairs = -(-problem.sizes[0] // tile.bm) % tile.cluster == 0 and problem.is_static
        if tile.cluster > 1 and not pairs:
            continue
        splits = splits_of(problem, tile.sizes(size), resident(tile, spec), spec, tile.cluster == 1)
        found += [replace(tile, split=split) for split in splits]
    return found


def pipeline_space(problem: Problem, spec: GpuSpec, unit: Operands) -> Space | None:
    """The likeliest tiles, best first; None if none runs on `spec`."""
    size = unit.how.size
    ranked = sorted(
        _variants(problem, spec, size),
        key=lambda t: (estimate(problem, t, spec, unit).total, -t.stages, t.threads),
    )
    configs = tuple(config_of(t) for t in ranked[:_OFFERED])
    # Clusters start later where an SM is still taken: they are left to measuring.
    alone = [config_of(t) for t in ranked if t.cluster == 1]
    return Space(alone[0], configs) if alone else None


def pipeline_traits(problem: Problem, spec: GpuSpec, unit: Operands, configs: Sequence[Config]) -> Traits:
    """Traits of `configs`; a tile is a warpgroup's."""

    def facts(t: PipelineTile) -> TileFacts:
        size = unit.how.size
        parts = (t.rows * 4, t.columns, t.groups, t.threads, t.registers, t.shared_bytes, size)
        return TileFacts(*t.sizes(size), t.split, *parts)

    chosen = [tile_of(c) for c in configs]
    return product_traits(problem, spec, [(facts(t), estimate(problem, t, spec, unit)) for t in chosen])
