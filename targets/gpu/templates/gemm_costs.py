"""Which tiles a block of threads may compute, what they cost, and which one is taken where nothing was measured.

The estimate counts cycles of one SM: multiply-adds, reads of shared memory and of the second-level cache, and how much
of their latency the resident warps hide. Its constants are round numbers for current hardware, not measurements: it
ranks tiles, it does not predict times.
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
from .gemm_tile import QUAD, GemmTile

# What an unknown size is taken for.
_UNKNOWN = 1024
# Elements that a thread fetches ahead at most: with 48, NVIDIA's assembler spills.
_AHEAD = 32
# Fetches of A, and of B, by one thread in a step.
_FETCHES = 8
# Threads of a block at most: more leave each too few registers for addresses of open sizes.
_MOST_THREADS = 256
# Configs offered to the tuner.
_OFFERED = 32
# Static shared memory that every GPU gives a block.
_SHARED = 48 * 1024
# Bytes a cycle that one SM reads from the second-level cache when all do, and from its shared memory.
_L2_RATE, _SHARED_RATE = 40.0, 128.0
# Warps times results per thread that keep an SM's multiply-adds busy: four schedulers, four cycles of latency, each.
_IN_FLIGHT = 4 * 4 * 4
# Cycles of a step that no overlap hides: barrier and first reads; and of a block: launch, first fetch, stores.
_STEP_CYCLES, _BLOCK_CYCLES = 40.0, 1500.0


@dataclass(frozen=True)
class Problem:
    """`batch` products of (m, k) and (k, n); sizes may be names of symbolic dimensions."""

    batch: int
    m: int | str
    n: int | str
    k: int | str

    @property
    def sizes(self) -> tuple[int, int, int]:
        """m, n, k, unknown ones guessed."""
        m, n, k = (d if isinstance(d, int) else _UNKNOWN for d in (self.m, self.n, self.k))
        return m, n, k


@dataclass(frozen=True)
class Estimate:
    """Cycles of the parts of a block's work, `edge` being what is done once, and of the kernel on the busiest SM."""

    blocks: int
    rounds: int
    resident: int
    multiply: float
    shared: float
    global_: float
    edge: float
    total: float


@cache
def tiles(spec: GpuSpec) -> tuple[GemmTile, ...]:
    """All tiles that run on `spec` without spilling registers."""
    found = []
    for bm in (16, 32, 64, 128, 256):
        for bn in (16, 32, 64, 128, 256):
            # With 32, LLVM reads the operands of a whole step at once, into more registers than there are.
            for bk in (8, 16):
                for tm in (1, 2, 4, 8):
                    for tn in (4, 8):
                        tile = GemmTile(bm, bn, bk, tm, tn)
                        if _runs(tile, spec):
                            found.append(tile)
    return tuple(found)


def _runs(tile: GemmTile, spec: GpuSpec) -> bool:
    threads = tile.threads
    if not spec.warp <= threads <= min(_MOST_THREADS, spec.threads_per_block) or threads % spec.warp:
        return False
    if tile.shared_bytes > min(_SHARED, spec.shared_bytes) or tile.bk * (tile.bm + tile.bn) > _AHEAD * threads:
        return False
    if tile.bk * max(tile.bm, tile.bn) // QUAD > _FETCHES * threads:
        return False
    registers = min(spec.registers_per_thread, 255)
    return tile.registers <= registers and resident_blocks(spec, threads, tile.registers, tile.shared_bytes) > 0


def estimate(problem: Problem, tile: GemmTile, spec: GpuSpec) -> Estimate:
    """What `tile` costs for `problem`."""
    m, n, k = problem.sizes
    blocks = problem.batch * -(-m // tile.bm) * -(-n // tile.bn)
    most = resident_blocks(spec, tile.threads, tile.registers, tile.shared_bytes)
    resident = max(1, min(most, -(-blocks // spec.sms)))
    rounds = -(-blocks // (spec.sms * resident))
    steps = -(-k // tile.bk)
    depth = steps * tile.bk
    lanes = spec.peak_flops("float32") / (2 * spec.sms * spec.clock_hz)
    warps = tile.threads / spec.warp
    multiply = tile.bm * tile.bn * depth / lanes
    shared = warps * depth * (tile.tm + tile.tn) * 4 * 8 / _SHARED_RATE * 2
    global_ = (tile.bm + tile.bn) * depth * 4 / _L2_RATE
    hidden = min(1.0, resident * warps * tile.tm * tile.tn / _IN_FLIGHT / 4)
    busy = resident * max(multiply / hidden, shared, global_) + 0.25 * resident * min(multiply, shared + global_)
    overhead = _BLOCK_CYCLES + steps * _STEP_CYCLES
    return Estimate(blocks, rounds, resident, multiply, shared, global_, overhead, rounds * (busy + overhead))


def gemm_space(problem: Problem, spec: GpuSpec, lanes: int = QUAD) -> Space | None:
    """The likeliest tiles, best first; None if none runs on `spec`. `lanes`: elements of A that a fetch brings."""
    # Each fetch keeps an address of its own in registers.
    found = [t for t in tiles(spec) if t.bk * t.bm <= _FETCHES * lanes * t.threads]
    ranked = sorted(found, key=lambda t: (estimate(problem, t, spec).total, t.bm * t.bn, t.bk))
    configs = tuple(config_of(t) for t in ranked[:_OFFERED])
    return Space(configs[0], configs) if configs else None


def config_of(tile: GemmTile) -> Config:
    """`tile` as a config."""
    return Config.of(bm=tile.bm, bn=tile.bn, bk=tile.bk, tm=tile.tm, tn=tile.tn)


def tile_of(config: Config) -> GemmTile:
    """The tile of a config."""
    return GemmTile(*(config.int(name) for name in ("bm", "bn", "bk", "tm", "tn")))


def gemm_traits(problem: Problem, spec: GpuSpec, configs: Sequence[Config]) -> Traits:
    """Traits of `configs`; cycles are those of one SM, a tile is a thread's."""
    chosen = [tile_of(c) for c in configs]
    found = [estimate(problem, t, spec) for t in chosen]
    m, n, k = problem.sizes
    pairs = list(zip(chosen, found, strict=True))
    wanted = problem.batch * m * n

    def column(values: Sequence[float]) -> np.ndarray:
        return np.asarray(values, dtype=np.float64)

    return {
        "tile_rows": column([t.tm for t in chosen]),
        "tile_vectors": column([t.tn / 4 for t in chosen]),
        "tiles": column([e.blocks * t.threads for t, e in pairs]),
        "inner_trip": column([t.bk for t in chosen]),
        "tile_steps": column([math.ceil(k / t.bk) * t.bk for t in chosen]),
        "fma_cycles": column([e.multiply * e.blocks for e in found]),
        "load_cycles": column([e.shared * e.blocks for e in found]),
        "edge_cycles": column([(_BLOCK_CYCLES + math.ceil(k / t.bk) * _STEP_CYCLES) * e.blocks for t, e in pairs]),
        "lane_use": column([wanted / (e.blocks * t.bm * t.bn) for t, e in pairs]),
        "items": column([e.blocks for e in found]),
        "imbalance": column([e.rounds * e.resident * spec.sms / e.blocks for e in found]),
        "scratch_bytes": column([t.shared_bytes for t in chosen]),
        "input_traffic": column([e.blocks * t.bm * k * 4 for t, e in pairs]),
        "weight_traffic": column([e.blocks * t.bn * k * 4 for t, e in pairs]),
    }
