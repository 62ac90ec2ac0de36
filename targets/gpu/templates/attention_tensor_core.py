"""Fused attention on NVIDIA's tensor cores, for float16 and bfloat16: the template around attention_flash."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .attention_block import FlashNest
from .attention_costs import Work, attention_traits, offered
from .attention_flash import WarpBlock
from .attention_problem import AttentionMemory, AttentionProblem, read_attention
from .attention_ptx import ROUNDING
from .attention_tile import FlashTile, config_of, rounded, tile_of
from .gemm_index import Held
from .tensor_core_ptx import Multiply, multiply_of

# Deeper heads leave no registers for results.
_DEEPEST = 256
# Vectors that asynchronous copies know, bytes.
_COPIED = (4, 8, 16)
# Rows that a copy has to find addresses for at most, in registers.
_SLOTS = 16

_Found = tuple[AttentionProblem, Multiply, GpuSpec]


class TensorCoreAttention(Template):
    """Attention by mma.sync, scores in registers, keys and values by cp.async."""

    name = "attention_tensor_core"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """16-bit floats whose rows are whole vectors in memory."""
        found = _read(op, target)
        if found is None:
            return None
        problem, _, spec = found
        tiles = [(t, _work(problem, spec, t)) for t in _tiles(spec, rounded(problem.depth), rounded(problem.columns))]
        configs = tuple(config_of(t) for t in offered(problem, spec, tiles) if isinstance(t, FlashTile))
        return Space(configs[0], configs) if configs else None

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel."""
        found = _read(op, target)
        assert found is not None, "match accepts only such operators"
        problem, how, _ = found
        indices = Held.of(op)
        memory = AttentionMemory(problem, indices)
        nest = FlashNest(tile_of(config), problem, how, memory, indices)
        return Candidate(memory.function(nest.kernel(WarpBlock)))

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        found = _read(op, target)
        assert found is not None, "match accepts only such operators"
        problem, _, spec = found
        return attention_traits(problem, spec, [_work(problem, spec, tile_of(c)) for c in configs])


def _read(op: OpSpec, target: TargetSpec) -> _Found | None:
    problem = read_attention(op)
    if problem is None or not isinstance(target, GpuSpec) or not target.async_copy:
        return None
    how = multiply_of(target, problem.dtype, problem.dtype) if problem.dtype in ROUNDING else None
    if how is None or max(problem.depth, problem.columns) > _DEEPEST:
        return None
    batch = AttentionMemory(problem, Held.of(op)).batch(0)
    matrices = (batch.query, batch.key, batch.value)
    copied = all(m.along_k and m.lanes * how.size in _COPIED for m in matrices)
    return (problem, how, target) if copied else None


@cache
def _tiles(spec: GpuSpec, depth: int, columns: int) -> tuple[FlashTile, ...]:
    """All tiles that run on `spec` without spilling registers."""
    return tuple(
        tile
        for warps in (1, 2, 4, 8)
        for rows in (1, 2)
        for bn in (16, 32, 64, 128)
        for stages in (2, 3)
        for held in (0, 1)
        if _runs(tile := FlashTile(warps, rows, bn, stages, held), spec, depth, columns)
    )


def _runs(tile: FlashTile, spec: GpuSpec, depth: int, columns: int) -> bool:
    registers, shared = tile.registers(depth, columns), tile.shared_bytes(depth, columns)
    if registers > spec.registers_per_thread or tile.bn * max(depth, columns) // 8 > _SLOTS * tile.threads:
        return False
    return resident_blocks(spec, tile.threads, registers, shared) > 0


def _work(problem: AttentionProblem, spec: GpuSpec, tile: FlashTile) -> Work:
    """What a block of `tile` does."""
    depth, columns = rounded(problem.depth), rounded(problem.columns)
    rate = spec.peak_flops(problem.dtype) / (2 * spec.sms * spec.clock_hz)
    pair = tile.bn * (depth + columns) * 2
    queries = 0 if tile.held else tile.bm * depth * 2
    return Work(
        queries=tile.bm,
        keys=tile.bn,
        multiply=tile.bm * tile.bn * (depth + columns) / rate,
        shared=tile.warps * pair + pair + queries,
        fetched=pair,
        threads=tile.threads,
        registers=tile.registers(depth, columns),
        shared_bytes=tile.shared_bytes(depth, columns),
    )
