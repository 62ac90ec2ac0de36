"""Fused attention on NVIDIA's tensor cores, for float16 and bfloat16: templates around the kernels' blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from . import attention_warpgroup as group
from .attention_block import BlockOf, FlashNest, Tile
from .attention_costs import Work, attention_traits, offered
from .attention_flash import WarpBlock
from .attention_problem import AttentionMemory, AttentionProblem, read_attention
from .attention_ptx import ROUNDING
from .attention_tile import FlashTile, config_of, rounded, tile_of
from .attention_warpgroup import GroupBlock
from .gemm_index import Held
from .tensor_core_operands import MultiplyOf
from .tensor_core_ptx import Multiply, multiply_of
from .tensor_core_wgmma import warpgroup_multiply_of

# Deeper heads leave no registers for results.
_DEEPEST = 256
# Vectors that asynchronous copies know, bytes.
_COPIED = (4, 8, 16)
# Rows below which warpgroups multiply nothing but zeros for the most part.
_FEWEST_ROWS = 40
# Rows that a copy has to find addresses for at most, in registers.
_SLOTS = 16

_Found = tuple[AttentionProblem, Multiply, GpuSpec]


class TensorCoreAttention(Template):
    """Attention by mma.sync, scores in registers, keys and values by cp.async."""

    name = "attention_tensor_core"
    multiply: ClassVar[MultiplyOf] = staticmethod(multiply_of)
    block: ClassVar[BlockOf] = WarpBlock

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """16-bit floats whose rows are whole vectors in memory."""
        found = self._read(op, target)
        if found is None:
            return None
        problem, _, spec = found
        tiles = [(c, self._work(problem, spec, c)) for c in self._configs(problem, spec)]
        configs = tuple(c for c in offered(problem, spec, tiles) if isinstance(c, Config))
        return Space(configs[0], configs) if configs else None

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel."""
        found = self._read(op, target)
        assert found is not None, "match accepts only such operators"
        problem, how, _ = found
        indices = Held.of(op)
        memory = AttentionMemory(problem, indices)
        nest = FlashNest(self._tile(config), problem, how, memory, indices)
        return Candidate(memory.function(nest.kernel(type(self).block)))

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        found = self._read(op, target)
        assert found is not None, "match accepts only such operators"
        problem, _, spec = found
        return attention_traits(problem, spec, [self._work(problem, spec, c) for c in configs])

    def _read(self, op: OpSpec, target: TargetSpec) -> _Found | None:
        problem = read_attention(op)
        if problem is None or not isinstance(target, GpuSpec) or not target.async_copy:
            return None
        how = type(self).multiply(target, problem.dtype, problem.dtype) if problem.dtype in ROUNDING else None
        if how is None or max(problem.depth, problem.columns) > _DEEPEST:
            return None
        batch = AttentionMemory(problem, Held.of(op)).batch(0)
        matrices = (batch.query, batch.key, batch.value)
        copied = all(m.along_k and m.lanes * how.size in _COPIED for m in matrices)
        return (problem, how, target) if copied else None

    def _configs(self, problem: AttentionProblem, spec: GpuSpec) -> list[Config]:
        """All configs that run on `spec` without spilling registers."""
        return [config_of(t) for t in _tiles(spec, rounded(problem.depth), rounded(problem.columns))]

    def _tile(self, config: Config) -> Tile:
        return tile_of(config)

    def _work(self, problem: AttentionProblem, spec: GpuSpec, config: Config) -> Work:
        """What a block does. Every warp reads all keys and values, and its queries unless it holds them."""
        tile, depth, columns = tile_of(config), rounded(problem.depth), rounded(problem.columns)
        pair = tile.bn * (depth + columns) * 2
        queries = 0 if tile.held else tile.bm * depth * 2
        registers = tile.registers(depth, columns)
        return work_of(problem, spec, tile, registers, tile.warps * pair + pair + queries)


class WarpgroupAttention(TensorCoreAttention):
    """The same by Hopper's wgmma; not worth while for fewer rows than half a warpgroup's."""

    name = "attention_warpgroup"
    multiply: ClassVar[MultiplyOf] = staticmethod(warpgroup_multiply_of)
    block: ClassVar[BlockOf] = GroupBlock

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """As the other template, but for few rows."""
        found = self._read(op, target)
        if found is None or found[0].sizes[1] < _FEWEST_ROWS:
            return None
        return super().match(op, target)

    def _configs(self, problem: AttentionProblem, spec: GpuSpec) -> list[Config]:
        depth, columns = rounded(problem.depth), rounded(problem.columns)
        return [
            group.config_of(tile)
            for groups in (1, 2, 3)
            for bn in (32, 64, 96, 128)
            for stages in (2, 3)
            if _fits(tile := group.GroupTile(groups, bn, stages), spec, tile.registers(columns), depth, columns)
        ]

    def _tile(self, config: Config) -> Tile:
        return group.tile_of(config)

    def _work(self, problem: AttentionProblem, spec: GpuSpec, config: Config) -> Work:
        """What a block does. Every warpgroup reads its queries and all keys and values."""
        tile, depth, columns = group.tile_of(config), rounded(problem.depth), rounded(problem.columns)
        pair = tile.bn * (depth + columns) * 2
        shared = tile.groups * pair + pair + tile.bm * depth * 2
        return work_of(problem, spec, tile, tile.registers(columns), shared)


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
    return _fits(tile, spec, tile.registers(depth, columns), depth, columns)


def _fits(tile: Tile, spec: GpuSpec, registers: int, depth: int, columns: int) -> bool:
    """Whether a block runs on `spec`, and has threads enough to copy its keys."""
    if registers > spec.registers_per_thread or tile.bn * max(depth, columns) // 8 > _SLOTS * tile.threads:
        return False
    return resident_blocks(spec, tile.threads, registers, tile.shared_bytes(depth, columns)) > 0


def work_of(problem: AttentionProblem, spec: GpuSpec, tile: Tile, registers: int, shared: float) -> Work:
    """What a block of `tile` does that reads and writes `shared` bytes of shared memory in a step."""
    depth, columns = rounded(problem.depth), rounded(problem.columns)
    rate = spec.peak_flops(problem.dtype) / (2 * spec.sms * spec.clock_hz)
    return Work(
        queries=tile.bm,
        keys=tile.bn,
        multiply=tile.bm * tile.bn * (depth + columns) / rate,
        shared=shared,
        fetched=tile.bn * (depth + columns) * 2,
        threads=tile.threads,
        registers=registers,
        shared_bytes=tile.shared_bytes(depth, columns),
    )
