"""A tile of C = A B on Hopper by blocks whose warps do different work.

1. One thread has the copy engine bring the pieces of A and B of each step to a ring of stages in shared memory. Its
   warpgroup gives most of its registers away.
2. One or more warpgroups multiply, straight from shared memory, as soon as a stage is full; a step is not waited for
   before the next begins. Then a stage is empty and may be filled again. Both are told by barriers in shared memory.
3. Blocks stay: while the warps store the results of a tile, through a place of their own in shared memory, the first
   stages of the next tile are already on their way.
4. Two blocks, one below the other in C, may form a cluster: each brings half of the piece of B to both.
Whatever lies beyond A and B arrives as zeros; beyond C nothing is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx import DeclBuffer, For, ForKind, Stmt

from ...shared.index_math import unrolled, when
from ...shared.tir_loops import Index, seq, store
from ..launch import allocated, barrier, bound_to, if_any, narrow, registers
from . import tensor_core_ptx as ptx
from . import tensor_core_tma as tma
from . import tensor_core_wgmma as wgmma
from .gemm_grid import Grid, Kernel, Operands, Tile
from .gemm_index import i32
from .gemm_operand import Write
from .tensor_core_maps import TileMap
from .tensor_core_piece import SHARED
from .tensor_core_pipeline_tile import PRODUCER_THREADS, PipelineTile
from .tensor_core_results import Results, ends_within

_WARP = 32


@dataclass(frozen=True)
class PipelineNest:
    """The kernel for one tile size.

    Attributes:
        grid: of the tiles.
        how: the multiplication.
        maps: what brings A and B.
        axes: coordinates of A and of B in their batch axes, of one product.
    """

    tile: PipelineTile
    grid: Grid
    how: ptx.Multiply
    maps: tuple[TileMap, TileMap]
    axes: Callable[[Index], tuple[Sequence[Index], Sequence[Index]]]

    def kernel(self, operands: Operands) -> Kernel:
        """All tiles."""
        tile, grid = self.tile, self.grid
        parts = (1, tile.cluster)
        host = [s for m, part in zip(self.maps, parts, strict=True) for s in m.encode(part)]

        def block(number: Index, thread: tirx.Expr) -> Stmt:
            return _Block(self, grid.indices.const(number), thread, operands).emit()

        def threads(number: Index) -> Stmt:
            body = bound_to("threadIdx.x", tile.threads, lambda thread: block(number, narrow(thread)))
            return bound_to("clusterCtaIdx.x", tile.cluster, lambda _: body) if tile.cluster > 1 else body

        # A descriptor of tiles of an empty tensor is refused.
        count = grid.sharing.blocks
        blocks = if_any(count, lambda: seq(*host, bound_to("blockIdx.x", count, threads)))
        return Kernel(seq(blocks, grid.added_up(operands)), grid.workspace)


class _Block:
    """What one block does."""

    def __init__(self, nest: PipelineNest, number: tirx.Expr, thread: tirx.Expr, operands: Operands) -> None:
        self.nest, self.tile, self.operands = nest, nest.tile, operands
        tile = nest.tile
        self.number, self.thread = number, thread
        self.lane, self.warp = tirx.Var("lane", "int32"), tirx.Var("warp", "int32")
        self.block = tirx.Var("block", "int32")
        self.indices = [
            tirx.Bind(self.lane, tirx.truncmod(thread, i32(_WARP))),
            tirx.Bind(self.warp, tirx.truncdiv(thread - PRODUCER_THREADS, i32(_WARP))),
        ]
        total = tile.shared_bytes
        # The swizzle that warpgroups read by counts from multiples of 1024 bytes.
        self.memory = tirx.decl_buffer((total,), "uint8", "memory", scope="shared.dyn", data_alignment=1024)
        self.slabs = self._view(nest.how.accumulator, 4, "results")
        self.barriers = self._view("uint64", 8, "barriers")
        self.sums = registers(tile.rows * tile.columns * ptx.RESULTS, nest.how.accumulator, "sums")
        self.passed = registers(1, "int32", "passed")
        starts = (0, tile.stages * tile.bm * tile.row_bytes)
        self.places = [
            lambda stage, start=start, m=m: start + stage * m.piece_bytes
            for start, m in zip(starts, nest.maps, strict=True)
        ]

    def _view(self, dtype: str, size: int, name: str) -> tirx.Buffer:
        count = self.tile.shared_bytes // size
        return tirx.decl_buffer((count,), dtype, name, data=self.memory.data, scope="shared.dyn")

    def _barrier(self, stage: tirx.Expr | int, empty: bool) -> tirx.Expr:
        """The address of a stage's barrier: that it is full, or that it is empty."""
        start = self.tile.barrier_start // 8 + (self.tile.stages if empty else 0)
        return ptx.address(self.barriers, stage + i32(start))

    def emit(self) -> Stmt:
        """Everything."""
        tile = self.tile
        views = [DeclBuffer(v, data=self.memory.data) for v in (self.slabs, self.barriers)]
        start = [tma.start_barrier(self._barrier(s, False), 1) for s in range(tile.stages)]
        # The warps of all blocks that get this block's copies.
        start += [tma.start_barrier(self._barrier(s, True), tile.warps * tile.cluster) for s in range(tile.stages)]
        begin = when(self.thread < 1, seq(*start, tma.publish_barriers(tile.cluster)))
        zero = store(self.passed, [0], i32(0))
        hands_over = tile.hands_over_registers
        produce = seq(
            tma.keep_registers(hands_over[0], False) if hands_over else None,
            when(self.thread < 1, self._produce()),
        )
        consume = seq(tma.keep_registers(hands_over[1], True) if hands_over else None, self._consume())
        roles = tirx.IfThenElse(self.thread < PRODUCER_THREADS, produce, consume)
        meet = tma.sync_cluster() if tile.cluster > 1 else barrier()
        # A block's shared memory must be there as long as others copy to it or arrive in it.
        leave = tma.sync_cluster() if tile.cluster > 1 else None
        place = [tirx.Bind(self.block, tma.cluster_block())] if tile.cluster > 1 else []
        buffers = [self.memory, self.passed]
        return allocated(buffers, *views, *self.indices, *place, begin, meet, zero, roles, leave)

    def _steps(self, tile: Tile, body: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], Stmt]) -> Stmt:
        """`body(step, stage, turn)` for the steps of a tile; `turn` counts how often the ring was passed before."""
        stages = i32(self.tile.stages)
        passed = tirx.BufferLoad(self.passed, [i32(0)])
        step = tirx.Var("step", "int32")
        staging, stage = SHARED.name("stage", tirx.truncmod(passed, stages))
        turning, turn = SHARED.name("round", tirx.truncdiv(passed, stages))
        advance = store(self.passed, [0], passed + 1)
        count = tile.share.steps
        count = ptx.hidden(count) if isinstance(count, int) else i32(count)
        return For(step, i32(0), count, ForKind.SERIAL, seq(*staging, *turning, body(step, stage, turn), advance))

    def _produce(self) -> Stmt:
        """One thread's work: fill stages as they become empty."""
        nest = self.nest
        maps, const = nest.maps, nest.grid.indices.const
        together = self.tile.cluster
        # Each block of a cluster brings a share of B, to all of them.
        shares: tuple[Sequence[Any], Sequence[Any]] = ((), ((self.block, together), (1 << together) - 1))
        shares = shares if together > 1 else ((), ())

        def fill(tile: Tile) -> Stmt:
            batches = nest.axes(tile.batch)
            corners = (tile.row, tile.column)

            def piece(step: tirx.Expr, stage: tirx.Expr, turn: tirx.Expr) -> Stmt:
                k = tile.k + const(step) * maps[0].bk
                full = self._barrier(stage, False)
                wait = tma.wait_barrier(self._barrier(stage, True), tirx.bitwise_and(turn + 1, i32(1)))
                expect = tma.expect_bytes(full, sum(m.piece_bytes for m in maps))
                copies = [
                    m.copy(self.memory, at(stage), corner, k, batch, full, *share)
                    for m, at, corner, batch, share in zip(maps, self.places, corners, batches, shares, strict=True)
                ]
                return seq(wait, expect, *copies)

            return self._steps(tile, piece)

        return nest.grid.each(self.number, fill)

    def _consume(self) -> Stmt:
        """A warp's part in multiplying, and its results."""
        nest, how = self.nest, self.nest.how
        sums, count = ptx.address(self.sums, i32(0)), int(self.sums.shape[0])
        zero = tirx.const(0, how.accumulator)

        def release(stage: tirx.Expr) -> Stmt | None:
            empty = self._barrier(stage, True)
            if self.tile.cluster == 1:
                return when(self.lane < 1, tma.arrive(empty))
            # One lane for each block of the cluster.
            return when(self.lane < self.tile.cluster, tma.arrive_at(empty, self.lane))

        def work(tile: Tile) -> Stmt:
            def multiply(step: tirx.Expr, stage: tirx.Expr, turn: tirx.Expr) -> Stmt:
                wait = tma.wait_barrier(self._barrier(stage, False), tirx.bitwise_and(turn, i32(1)))
                left, right = (m.shared for m in nest.maps)
                a, b = self._operands(stage)
                begin = wgmma.multiply_step(how, self.tile.rows, self.tile.columns, left, right, sums, a, b)
                done = wgmma.wait_multiplies(how, 1, sums, 0)
                last = tirx.truncmod(stage + (self.tile.stages - 1), i32(self.tile.stages))
                return seq(wait, begin, done, when(step > 0, release(last)))

            clear = unrolled("i", 0, count, lambda i: store(self.sums, [i], zero))
            last = tirx.truncmod(tirx.BufferLoad(self.passed, [i32(0)]) - 1, i32(self.tile.stages))
            end = seq(wgmma.wait_multiplies(how, 0, sums, count), release(last))
            write = nest.grid.write(tile, self.operands(tile.batch)[2])
            return seq(clear, self._steps(tile, multiply), end, self._results(tile, write))

        return allocated([self.sums], nest.grid.each(self.number, work))

    def _operands(self, stage: tirx.Expr) -> list[tirx.Expr]:
        """Where the warpgroup's A and B begin."""
        group = tirx.truncdiv(self.warp, i32(wgmma.WARPS))
        down = group * (self.tile.rows * self.nest.maps[0].shared.below)
        a, b = (at(stage) for at in self.places)
        return [ptx.address(self.memory, a + down), ptx.address(self.memory, b)]

    def _results(self, at: Tile, write: Write) -> Stmt:
        tile, nest, grid = self.tile, self.nest, self.nest.grid
        results = Results(
            how=nest.how,
            rows=tile.rows,
            columns=tile.columns,
            at_once=tile.slab_columns // ptx.COLUMNS,
            size=(grid.m, grid.n),
            whole=(ends_within(grid.m, tile.bm), ends_within(grid.n, tile.bn)),
            lanes=grid.lanes,
            indices=grid.indices,
        )
        start = tile.slab_start // 4
        slab = self.slabs, self.warp * (ptx.ROWS * results.pitch) + start
        group, member = tirx.truncdiv(self.warp, i32(wgmma.WARPS)), tirx.truncmod(self.warp, i32(wgmma.WARPS))

        def place(i: int) -> tuple[tirx.Expr, tirx.Expr]:
            return (group * tile.rows + i) * wgmma.ROWS + member * ptx.ROWS, i32(0)

        return results.store(self.sums, slab, self.lane, (at.row, at.column), place, write)
