"""Fused attention by plain multiply-adds, for float32 and, where no matrix unit does it, 16-bit floats."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ..estimates import STATIC_SHARED_BYTES
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .attention_costs import Work, attention_traits, offered
from .attention_problem import AttentionMemory, AttentionProblem, read_attention
from .attention_simt_nest import QUAD, SimtNest, SimtTile, config_of, tile_of
from .gemm_index import Held
from .vectors import dtype_bytes

_TYPES = ("float32", "float16")
# Threads of a block at most, and registers of a thread.
_MOST_THREADS, _MOST_REGISTERS = 256, 176
# Fours that a thread fetches at once at most.
_FETCHES = 8


class SimtAttention(Template):
    """Attention by plain multiply-adds in float32."""

    name = "attention_simt"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """Any attention whose heads are not so deep that their rows do not fit shared memory."""
        problem = read_attention(op)
        if problem is None or not isinstance(target, GpuSpec) or problem.dtype not in _TYPES:
            return None
        tiles = [(t, _work(problem, target, t)) for t in _tiles(target, problem.depth, problem.columns)]
        configs = tuple(config_of(t) for t in offered(problem, target, tiles) if isinstance(t, SimtTile))
        return Space(configs[0], configs) if configs else None

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel."""
        problem = read_attention(op)
        assert problem is not None, "match accepts only such operators"
        assert isinstance(target, GpuSpec), "match accepts only such targets"
        indices = Held.of(op)
        memory = AttentionMemory(problem, indices)
        nest = SimtNest(tile_of(config), problem, memory, indices, target.writes_out_loops)
        return Candidate(memory.function(nest.kernel()))

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        problem = read_attention(op)
        assert problem is not None, "match accepts only such operators"
        assert isinstance(target, GpuSpec), "match accepts only such targets"
        return attention_traits(problem, target, [_work(problem, target, tile_of(c)) for c in configs])


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
