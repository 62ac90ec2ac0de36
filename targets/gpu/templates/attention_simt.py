"""Fused attention by plain multiply-adds, for float32 and, where no matrix unit does it, 16-bit floats."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from tvm.tirx import Stmt

from ....compiler.schedule.template import Config
from ..estimates import STATIC_SHARED_BYTES
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .attention_costs import Work
from .attention_problem import AttentionMemory, AttentionProblem
from .attention_simt_nest import QUAD, SimtNest, SimtTile
from .attention_template import AttentionTemplate, Found, each_block
from .gemm_index import Held
from .vectors import dtype_bytes

_TYPES = ("float32", "float16")
# Threads of a block at most, and registers of a thread.
_MOST_THREADS, _MOST_REGISTERS = 256, 176
# Fours that a thread fetches at once at most.
_FETCHES = 8


class SimtAttention(AttentionTemplate):
    """Attention by plain multiply-adds in float32, whose heads are not so deep that their rows do not fit."""

    name = "attention_simt"

    def read(self, problem: AttentionProblem, spec: GpuSpec) -> Found | None:
        """Types that are read as float32."""
        return Found(problem, spec) if problem.dtype in _TYPES else None

    def tiles(self, found: Found) -> Iterable[SimtTile]:
        """See AttentionTemplate."""
        return _tiles(found.spec, found.problem.depth, found.problem.columns)

    def tile_of(self, found: Found, config: Config) -> SimtTile:
        """See AttentionTemplate."""
        return SimtTile.of(config)

    def work(self, found: Found, tile: SimtTile) -> Work:
        """See AttentionTemplate."""
        return _work(found.problem, found.spec, tile)

    def kernel(self, found: Found, tile: SimtTile, memory: AttentionMemory, indices: Held) -> Stmt:
        """See AttentionTemplate."""
        nest = SimtNest(tile, found.problem, memory, indices, found.spec.writes_out_loops)
        return each_block(found.problem, memory, indices, tile, nest.block)


@cache
def _tiles(spec: GpuSpec, depth: int, columns: int) -> tuple[SimtTile, ...]:
    """All tiles that run on `spec` without spilling registers."""
    return tuple(
        tile
        for bm in (16, 32, 64, 128)
        for bn in (16, 32, 64)
        for across in (8, 16)
        for down in (8, 16, 32)
        if _runs(tile := SimtTile(bm, bn, across, down), spec, depth, columns)
    )


def _runs(tile: SimtTile, spec: GpuSpec, depth: int, columns: int) -> bool:
    if tile.bm % tile.down or tile.bn % tile.across or tile.threads % spec.warp or tile.threads > _MOST_THREADS:
        return False
    bytes_ = tile.shared_bytes(depth, columns)
    fetches = max(tile.bm, tile.bn) * -(-max(depth, columns) // QUAD) / tile.threads
    if tile.registers(columns) > _MOST_REGISTERS or bytes_ > STATIC_SHARED_BYTES or fetches > _FETCHES:
        return False
    return resident_blocks(spec, tile.threads, tile.registers(columns, spec.warp), bytes_) > 0


def _work(problem: AttentionProblem, spec: GpuSpec, tile: SimtTile) -> Work:
    """What a block of `tile` does."""
    lanes = spec.peak_flops("float32") / (2 * spec.sms * spec.clock_hz)
    columns = tile.groups(problem.columns) * tile.across * QUAD
    products = tile.threads * problem.depth * (tile.rows + tile.keys)
    sums = tile.threads * tile.bn * (tile.rows + tile.groups(problem.columns) * QUAD)
    pair = tile.bn * (problem.depth + problem.columns)
    return Work(
        queries=tile.bm,
        keys=tile.bn,
        multiply=tile.bm * tile.bn * (problem.depth + columns) / lanes,
        shared=4.0 * (products + sums + pair + tile.bm * tile.bn * 2 + tile.threads * tile.rows * tile.across),
        fetched=pair * dtype_bytes(problem.dtype),
        threads=tile.threads,
        registers=tile.registers(problem.columns, spec.warp),
        shared_bytes=tile.shared_bytes(problem.depth, problem.columns),
    )
