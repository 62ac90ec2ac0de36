"""Fused attention on NVIDIA's tensor cores, for float16 and bfloat16: templates around the kernels' blocks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar

from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Config, Space
from ...shared.tir_loops import Index
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .attention_block import BlockOf, FlashNest, Tile
from .attention_costs import Work
from .attention_flash import WarpBlock
from .attention_problem import AttentionMemory, AttentionProblem, Batch
from .attention_ptx import ROUNDING
from .attention_template import AttentionTemplate, Found, each_block
from .attention_tile import FlashTile, rounded
from .attention_warpgroup import GroupBlock, GroupTile
from .gemm_index import Held
from .tensor_core_operands import MultiplyOf
from .tensor_core_ptx import multiply_of
from .tensor_core_wgmma import warpgroup_multiply_of

# Deeper heads leave no registers for results.
_DEEPEST = 256
# Vectors that asynchronous copies know, bytes.
_COPIED = (4, 8, 16)
# Rows below which warpgroups multiply nothing but zeros for the most part.
_FEWEST_ROWS = 40
# Rows that a copy has to find addresses for at most, in registers.
_SLOTS = 16


class TensorCoreAttention(AttentionTemplate):
    """Attention by mma.sync, scores in registers, keys and values by cp.async."""

    name = "attention_tensor_core"
    multiply: ClassVar[MultiplyOf] = staticmethod(multiply_of)
    block: ClassVar[BlockOf] = WarpBlock

    def read(self, problem: AttentionProblem, spec: GpuSpec) -> Found | None:
        """16-bit floats whose rows are whole vectors in memory."""
        if not spec.async_copy:
            return None
        how = type(self).multiply(spec, problem.dtype, problem.dtype) if problem.dtype in ROUNDING else None
        if how is None or max(problem.depth, problem.columns) > _DEEPEST:
            return None
        batch = AttentionMemory(problem, Held.of(problem.op)).batch(0)
        matrices = (batch.query, batch.key, batch.value)
        copied = all(m.along_k and m.lanes * how.size in _COPIED for m in matrices)
        return Found(problem, spec, how) if copied else None

    def tiles(self, found: Found) -> Iterable[Any]:
        """See AttentionTemplate."""
        return _tiles(found.spec, rounded(found.problem.depth), rounded(found.problem.columns))

    def tile_of(self, found: Found, config: Config) -> Any:
        """See AttentionTemplate."""
        return FlashTile.of(config)

    def kernel(self, found: Found, tile: Tile, memory: AttentionMemory, indices: Held) -> Stmt:
        """See AttentionTemplate."""
        nest = FlashNest(tile, found.problem, found.unit, memory, indices)

        def block(thread: tirx.Expr, row: Index, batch: Batch) -> Stmt:
            return type(self).block(nest, thread, row, batch).emit()

        return each_block(found.problem, memory, indices, tile, block)

    def work(self, found: Found, tile: Any) -> Work:
        """What a block does. Every warp reads all keys and values, and its queries unless it holds them."""
        depth, columns = rounded(found.problem.depth), rounded(found.problem.columns)
        pair = tile.bn * (depth + columns) * 2
        queries = 0 if tile.held else tile.bm * depth * 2
        return work_of(found, tile, tile.registers(depth, columns), tile.warps * pair + pair + queries)


class WarpgroupAttention(TensorCoreAttention):
    """The same by Hopper's wgmma; not worth while for fewer rows than half a warpgroup's."""

    name = "attention_warpgroup"
    multiply: ClassVar[MultiplyOf] = staticmethod(warpgroup_multiply_of)
    block: ClassVar[BlockOf] = GroupBlock

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """As the other template, but for few rows."""
        found = self._found(op, target)
        if found is None or found.problem.sizes[1] < _FEWEST_ROWS:
            return None
        return super().match(op, target)

    def tiles(self, found: Found) -> Iterable[Any]:
        """See AttentionTemplate."""
        depth, columns = rounded(found.problem.depth), rounded(found.problem.columns)
        return [
            tile
            for groups in (1, 2, 3)
            for bn in (32, 64, 96, 128)
            for stages in (2, 3)
            if _fits(tile := GroupTile(groups, bn, stages), found.spec, tile.registers(columns), depth, columns)
        ]

    def tile_of(self, found: Found, config: Config) -> Any:
        """See AttentionTemplate."""
        return GroupTile.of(config)

    def work(self, found: Found, tile: Any) -> Work:
        """What a block does. Every warpgroup reads its queries and all keys and values."""
        depth, columns = rounded(found.problem.depth), rounded(found.problem.columns)
        pair = tile.bn * (depth + columns) * 2
        return work_of(found, tile, tile.registers(columns), tile.groups * pair + pair + tile.bm * depth * 2)


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


def work_of(found: Found, tile: Tile, registers: int, shared: float) -> Work:
    """What a block of `tile` does that reads and writes `shared` bytes of shared memory in a step."""
    problem, spec = found.problem, found.spec
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
