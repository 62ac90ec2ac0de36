"""Fused attention on AMD's matrix units: float16 and bfloat16 by MFMA (CDNA) and WMMA (RDNA3), float32 by MFMA."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from tvm.tirx import Stmt

from ....compiler.schedule.template import Config
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .attention_costs import Work
from .attention_matrix_block import MatrixFlashNest
from .attention_matrix_tile import MatrixFlashTile
from .attention_problem import AttentionMemory, AttentionProblem
from .attention_template import AttentionTemplate, Found, each_block
from .gemm_index import Held
from .matrix_core import MatrixInstruction, instructions_for, with_side

# Pieces that a thread may fetch ahead, each with an address of its own.
_MOST_SLOTS = 8
# Registers of a thread at most, by lanes of a wave: LLVM takes up to a fifth more than is reckoned where it has them.
_MOST_REGISTERS = {64: 400, 32: 232}


class MatrixCoreAttention(AttentionTemplate):
    """Attention by MFMA (CDNA) and WMMA (RDNA3), scores and results in registers."""

    name = "attention_matrix_core"

    def read(self, problem: AttentionProblem, spec: GpuSpec) -> Found | None:
        """What the matrix units multiply, with rows whose elements follow each other in memory."""
        how = instructions_for(spec, problem.dtype, problem.dtype)
        how = tuple(i for i in how if i.accumulator == "float32")
        if not how:
            return None
        batch = AttentionMemory(problem, Held.of(problem.op)).batch(0)
        if not all(m.along_k for m in (batch.query, batch.key, batch.value)):
            return None
        return Found(problem, spec, (how, (batch.key.lanes, batch.value.lanes)))

    def tiles(self, found: Found) -> Iterable[MatrixFlashTile]:
        """See AttentionTemplate."""
        return _tiles(found.spec, found.problem.depth, found.problem.columns, *found.unit)

    def tile_of(self, found: Found, config: Config) -> MatrixFlashTile:
        """See AttentionTemplate."""
        return MatrixFlashTile.of(config, how=with_side(config, found.unit[0]))

    def work(self, found: Found, tile: MatrixFlashTile) -> Work:
        """What a block does. Every wave reads all keys and values."""
        problem, spec, lanes = found.problem, found.spec, found.unit[1]
        deep, broad = tile.deep(problem.depth), tile.broad(problem.columns)
        rate = spec.peak_flops(problem.dtype) / (2 * spec.sms * spec.clock_hz)
        pair = tile.bn * (deep + broad) * tile.size
        queries = 0 if tile.held else tile.threads * tile.queries(problem.depth) * tile.size
        return Work(
            queries=tile.bm,
            keys=tile.bn,
            multiply=tile.bm * tile.bn * (deep + broad) / rate,
            shared=(tile.waves * (2 if tile.how.twice else 1) + 1) * pair + queries,
            fetched=pair,
            threads=tile.threads,
            registers=tile.registers(problem.depth, problem.columns, lanes),
            shared_bytes=tile.shared_bytes(problem.depth, problem.columns),
        )

    def kernel(self, found: Found, tile: MatrixFlashTile, memory: AttentionMemory, indices: Held) -> Stmt:
        """See AttentionTemplate."""
        nest = MatrixFlashNest(tile, found.problem, memory.keys, indices)
        return each_block(found.problem, memory, indices, tile, nest.block)


@cache
def _tiles(
    spec: GpuSpec, depth: int, columns: int, instructions: tuple[MatrixInstruction, ...], lanes: tuple[int, int]
) -> tuple[MatrixFlashTile, ...]:
    """All tiles that run on `spec` without spilling registers."""
    return tuple(
        tile
        for how in instructions
        for waves in (1, 2, 4, 8)
        for rows in (1, 2)
        for bn in (16, 32, 64, 128)
        for stages in (1, 2)
        for held in (0, 1)
        if _runs(tile := MatrixFlashTile(waves, rows, bn, stages, held, how), spec, depth, columns, lanes)
    )


def _runs(tile: MatrixFlashTile, spec: GpuSpec, depth: int, columns: int, lanes: tuple[int, int]) -> bool:
    how = tile.how
    if how.wave != spec.warp or tile.bn % how.side or tile.bn % how.chunk:
        return False
    if sum(tile.slots(depth, columns, lanes)) > _MOST_SLOTS:
        return False
    registers, shared_bytes = tile.registers(depth, columns, lanes), tile.shared_bytes(depth, columns)
    if registers > _MOST_REGISTERS[spec.warp] or shared_bytes > spec.shared_bytes:
        return False
    return resident_blocks(spec, tile.threads, registers, shared_bytes) > 0
