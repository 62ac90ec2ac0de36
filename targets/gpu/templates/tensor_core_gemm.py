"""A tile of C = A B on tensor cores by the warps of a block: what matmul and convolution have in common.

1. A block computes bm x bn elements of C, and walks through K in steps of bk. The pieces of A and B of the next
   `stages` - 1 steps are on their way to shared memory while one is multiplied. A piece whose vectors have 4, 8 or 16
   bytes is copied asynchronously; any other comes through registers, and so do all where the GPU knows no such copies.
2. A row of a piece in shared memory is a row of A (column of B), or one k where memory has it so and elements have two
   bytes: `ldmatrix` can transpose those. Its chunks of 16 bytes are exchanged so that eight rows fill all banks.
3. A warp multiplies (bm / wm) x (bn / wn) elements, their sums in registers. Or a warpgroup multiplies 64 rows and more
   by all columns straight from shared memory; it is not waited for before the next step begins, so that one step less
   is fetched ahead.
4. Results leave by slabs of 16 rows through the warp's own part of shared memory, so that they, and the epilogue's
   operands, are read and written in whole vectors.
Edges are cut by conditions around copies and stores; whatever lies beyond counts as zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import DeclBuffer, For, ForKind, Stmt

from ...shared.index_math import unrolled, when
from ...shared.tir_loops import Index, seq, store
from ..launch import allocated, barrier, registers
from . import tensor_core_ptx as ptx
from . import tensor_core_wgmma as wgmma
from .gemm_grid import Grid, Kernel, Operands, Tile
from .gemm_index import i32
from .gemm_operand import Operand, Write
from .tensor_core_piece import SHARED, Piece
from .tensor_core_results import Results, ends_within
from .tensor_core_tile import TensorTile
from .vectors import dtype_bytes

# Rows of tiles that blocks walk down before they go to the next column: their operands meet in the second-level cache.
RASTER_ROWS = 8
_WARP = 32


@dataclass(frozen=True)
class TensorNest:
    """The kernel for one tile size. `write(row, columns, values)` stores results that exist.

    Attributes:
        grid: the tiles of all products.
        dtypes: of A and of B.
        how: the multiplication for them.
        async_copy: whether the GPU copies to shared memory asynchronously.
    """

    tile: TensorTile
    grid: Grid
    dtypes: tuple[str, str]
    how: ptx.Multiply
    async_copy: bool

    def kernel(self, operands: Operands) -> Kernel:
        """All tiles; `operands(batch)` says where each product's matrices are."""
        return self.grid.product(self.tile.threads, operands, lambda *what: _Block(self, *what).emit())


class _Block:
    """What one block does."""

    def __init__(
        self, nest: TensorNest, thread: tirx.Expr, at: Tile, operands: tuple[Operand, Operand], write: Write
    ) -> None:
        self.nest, self.grid, self.tile, self.write, self.at = nest, nest.grid, nest.tile, write, at
        tile, size = nest.tile, nest.how.size
        self.lane, self.warp = tirx.Var("lane", "int32"), tirx.Var("warp", "int32")
        self.indices = [
            tirx.Bind(self.lane, tirx.truncmod(thread, i32(_WARP))),
            tirx.Bind(self.warp, tirx.truncdiv(thread, i32(_WARP))),
        ]
        self.down, self.along = (
            tirx.truncdiv(self.warp, i32(tile.wn)) * (tile.bm // tile.wm),
            tirx.truncmod(self.warp, i32(tile.wn)) * (tile.bn // tile.wn),
        )
        self.grouped = nest.how.warps > 1
        # The swizzle that warpgroups read by counts from multiples of 1024 bytes.
        self.memory = tirx.decl_buffer(
            (tile.shared_bytes(size),), "uint8", "memory", scope="shared.dyn", data_alignment=1024
        )
        (a, b), whole, start = operands, self.grid.whole_steps, tile.stages * tile.bm * tile.bk
        self.a = Piece(nest, a, tile.bm, at.row, thread, self._view(nest.dtypes[0], "a_piece"), 0, "a", whole)
        self.b = Piece(nest, b, tile.bn, at.column, thread, self._view(nest.dtypes[1], "b_piece"), start, "b", whole)
        self.pieces = (self.a, self.b)
        self.results = self._view(nest.how.accumulator, "results")
        self.left = registers(tile.rows * ptx.A_REGISTERS, "uint32", "left")
        self.right = registers(tile.columns * ptx.B_REGISTERS, "uint32", "right")
        self.sums = registers(tile.rows * tile.columns * ptx.RESULTS, nest.how.accumulator, "sums")
        self.steps = at.share.steps
        self.direct = any(p.direct for p in self.pieces)

    def _view(self, dtype: str, name: str) -> tirx.Buffer:
        """The block's shared memory as an array of `dtype`."""
        size = self.tile.shared_bytes(self.nest.how.size) // dtype_bytes(dtype)
        return tirx.decl_buffer((size,), dtype, name, data=self.memory.data, scope="shared.dyn")

    def emit(self) -> Stmt:
        """Everything from the first copy to the last store."""
        zero = tirx.const(0, self.nest.how.accumulator)
        clear = unrolled("i", 0, self.sums.shape[0].value, lambda i: store(self.sums, [i], zero))
        views = [DeclBuffer(v, data=self.memory.data) for v in (self.a.buffer, self.b.buffer, self.results)]
        prepare = [s for p in self.pieces for s in p.prepare()]
        fragments = [] if self.grouped else [self.left, self.right]
        buffers = [self.memory, self.sums, *fragments, *(p.ahead for p in self.pieces if not p.direct)]
        sums, number = ptx.address(self.sums, i32(0)), int(self.sums.shape[0])
        drained = [wgmma.wait_multiplies(self.nest.how, 0, sums, number)] if self.grouped else []
        drained += [ptx.wait_copies(0)] if self.direct else []
        return allocated(
            buffers,
            *views,
            *self.indices,
            *prepare,
            clear,
            self._first(),
            self._steps(),
            *drained,
            barrier(),
            self._results(),
            barrier() if self.grid.sharing.loops else None,
        )

    def _first(self) -> Stmt:
        """Bring the pieces of the first steps before the loop over K begins."""
        ahead, bk = self.tile.ahead(self.nest.how), self.tile.bk
        if isinstance(self.steps, int):
            count: Index = ptx.hidden(min(ahead, self.steps)) if ahead > 1 else 1
            empty = max(0, ahead - self.steps)
        else:
            count, empty = tirx.min(i32(ahead), self.steps.astype("int32")), 0

        def step(number: Index) -> Stmt:
            start = self.at.k + self.grid.indices.const(number) * bk
            copies = [s for p in self.pieces for s in (*p.enter(start), p.fetch(number), p.keep(number))]
            return seq(*copies, self._commit())

        if isinstance(count, int):
            return step(i32(0))
        var = tirx.Var("first", "int32")
        fetched = For(var, i32(0), count, ForKind.SERIAL, step(var))
        # A group for each step that there is not, so that the loop waits for the right ones.
        missing = [self._commit() for _ in range(empty)]
        if not isinstance(self.steps, int) and self.direct:
            more = tirx.Var("missing", "int32")
            missing = [For(more, i32(0), i32(ahead) - count, ForKind.SERIAL, ptx.commit_copies())]
        return seq(fetched, *missing)

    def _commit(self) -> Stmt | None:
        return ptx.commit_copies() if self.direct else None

    def _steps(self) -> Stmt:
        """The loop over K."""
        tile, ahead = self.tile, self.tile.ahead(self.nest.how)
        count = i32(self.steps) if isinstance(self.steps, int) else self.steps.astype("int32")
        step = tirx.Var("step", "int32")
        following, stages = step + ahead, i32(tile.stages)
        more = following < count
        places, current = SHARED.name("current", tirx.truncmod(step, stages))
        fetch: list[Stmt | None] = []
        keep: list[Stmt | None] = []
        if not isinstance(self.steps, int) or self.steps > ahead:
            entered, stage = SHARED.name("stage", tirx.truncmod(following, stages))
            start = self.at.k + self.grid.indices.const(following) * tile.bk
            places += entered
            copies = [s for p in self.pieces for s in (*p.enter(start), p.fetch(stage))]
            fetch = [when(more, seq(*copies))]
            keep = [when(more, p.keep(stage)) for p in self.pieces if not p.direct]
        arrived = [ptx.wait_copies(ahead - 1)] if self.direct else []
        arrived += [wgmma.fence_copies()] if self.grouped else []
        body = seq(*arrived, barrier(), *places, *fetch, self._commit(), self._multiply(current), *keep)
        return For(step, i32(0), _count(self.steps), ForKind.SERIAL, body)

    def _multiply(self, stage: tirx.Expr) -> Stmt:
        """One step of K."""
        if self.grouped:
            return self._begin_multiply(stage)
        tile, how = self.tile, self.nest.how
        pointers = [ptx.address(b, i32(0)) for b in (self.sums, self.left, self.right)]

        def part(k: int) -> Stmt:
            left = self.a.load(pointers[1], stage, self.down, k, self.lane, tile.rows, False)
            right = self.b.load(pointers[2], stage, self.along, k, self.lane, tile.columns // 2, True)
            counts = (tile.rows * ptx.A_REGISTERS, tile.columns * ptx.B_REGISTERS)
            rounded = [ptx.round_registers(how, p, c) for p, c in zip(pointers[1:], counts, strict=True)]
            return seq(left, right, *rounded, ptx.multiply_tile(how, tile.rows, tile.columns, *pointers))

        return seq(*(part(k) for k in range(0, tile.bk, how.depth)))

    def _begin_multiply(self, stage: tirx.Expr) -> Stmt:
        """One step of K by warpgroups, and the end of the step before: its stage is filled again after the barrier."""
        tile, how = self.tile, self.nest.how
        rows = tirx.truncdiv(self.warp, i32(how.warps)) * (tile.rows * wgmma.ROWS)
        sums = ptx.address(self.sums, i32(0))
        pieces = (self.a.shared_operand, self.b.shared_operand)
        starts = (self.a.beginning(stage, rows), self.b.beginning(stage))
        begin = wgmma.multiply_step(how, tile.rows, tile.columns, *pieces, sums, *starts)
        return seq(begin, wgmma.wait_multiplies(how, 1, sums, 0))

    def _row(self, i: int) -> tirx.Expr:
        """The first row of the warp's fragment i within the tile."""
        warps = self.nest.how.warps
        if warps == 1:
            return self.down + i * ptx.ROWS
        group, member = tirx.truncdiv(self.warp, i32(warps)), tirx.truncmod(self.warp, i32(warps))
        return group * (self.tile.rows * wgmma.ROWS) + i * wgmma.ROWS + member * ptx.ROWS

    def _results(self) -> Stmt:
        """Store what exists of the warp's results, slab by slab."""
        tile, grid = self.tile, self.grid
        results = Results(
            how=self.nest.how,
            rows=tile.rows,
            columns=tile.columns,
            at_once=tile.columns,
            size=(grid.m, grid.n),
            whole=(ends_within(grid.m, tile.bm), ends_within(grid.n, tile.bn)),
            lanes=grid.lanes,
            indices=grid.indices,
        )
        slab, corner = (self.results, self.warp * tile.slab), (self.at.row, self.at.column)
        return results.store(self.sums, slab, self.lane, corner, lambda i: (self._row(i), self.along), self.write)


def _count(steps: Index) -> tirx.Expr:
    """The length of the loop over K, not to be written out by the compiler."""
    return ptx.hidden(steps) if isinstance(steps, int) else steps.astype("int32")
