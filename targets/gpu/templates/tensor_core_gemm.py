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

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import DeclBuffer, For, ForKind, Stmt

from ...shared.index_math import ceil_div, unrolled, when
from ...shared.tir_loops import Index, i64, seq, store
from ..launch import allocated, barrier, bound_to, registers
from . import tensor_core_ptx as ptx
from . import tensor_core_wgmma as wgmma
from .gemm_index import Held
from .gemm_tile import Operand, Write
from .tensor_core_piece import SHARED, Piece, i32
from .tensor_core_tile import SKEW, TensorTile
from .vectors import dtype_bytes, load_vector

# Rows of tiles that blocks walk down before they go to the next column: their operands meet in the second-level cache.
_RASTER_ROWS = 8
_WARP = 32


@dataclass(frozen=True)
class TensorNest:
    """The kernel for one tile size. `write(row, columns, values)` stores results that exist.

    Attributes:
        dtypes: of A and of B.
        how: the multiplication for them.
        result: type of the sums as the epilogue gets them.
        lanes: columns that are stored at once where n is a multiple of them.
        async_copy: whether the GPU copies to shared memory asynchronously.
        indices: how values are named, and of which type they are.
    """

    tile: TensorTile
    m: Index
    n: Index
    k: Index
    dtypes: tuple[str, str]
    how: ptx.Multiply
    result: str
    lanes: int
    async_copy: bool
    indices: Held

    def kernel(self, batches: Index, operands: Callable[[Index], tuple[Operand, Operand, Write]]) -> Stmt:
        """All tiles of `batches` products; `operands(batch)` says where each one's matrices are."""
        tile = self.tile
        down, along = ceil_div(self.m, tile.bm), ceil_div(self.n, tile.bn)

        def block(number: Index, thread: Index) -> Stmt:
            row, column, batch = self._place_of(self.indices.const(number), down, along, batches)
            naming, (row, column, batch) = self.named(tile_row=row, tile_column=column, batch=batch)
            return seq(*naming, _Block(self, thread, row * tile.bm, column * tile.bn, *operands(batch)).emit())

        return bound_to(
            "blockIdx.x",
            batches * down * along,
            lambda number: bound_to("threadIdx.x", tile.threads, lambda thread: block(number, _narrow(thread))),
        )

    def named(self, **values: Index) -> tuple[list[Stmt], list[Index]]:
        """Statements that compute `values`, and what stands for each."""
        pairs = [self.indices.name(name, value) for name, value in values.items()]
        return [s for statements, _ in pairs for s in statements], [value for _, value in pairs]

    def _place_of(self, number: Index, down: Index, along: Index, batches: Index) -> tuple[Index, Index, Index]:
        """Row and column of a block's tile, and its batch: column by column within bands of _RASTER_ROWS rows."""
        quotient, remainder = self.indices.quotient, self.indices.remainder
        batch: Index = 0
        if not (isinstance(batches, int) and batches == 1):
            batch, number = quotient(number, down * along), remainder(number, down * along)
        if isinstance(down, int) and down == 1:
            return 0, number, batch
        in_band = along * _RASTER_ROWS
        first = quotient(number, in_band) * _RASTER_ROWS
        rows: Index = _RASTER_ROWS
        if not (isinstance(down, int) and down % _RASTER_ROWS == 0):
            rows = tirx.min(self.indices.const(_RASTER_ROWS), self.indices.const(down) - first)
        within = remainder(number, in_band)
        return first + remainder(within, rows), quotient(within, rows), batch


def _narrow(thread: tirx.Expr) -> tirx.Expr:
    """The int32 variable of a thread; places in shared memory need no more."""
    return thread.value if isinstance(thread, tirx.Cast) else thread


class _Block:
    """What one block does."""

    def __init__(
        self, nest: TensorNest, thread: tirx.Expr, row: Index, column: Index, a: Operand, b: Operand, write: Write
    ) -> None:
        self.nest, self.tile, self.write = nest, nest.tile, write
        tile, size = nest.tile, nest.how.size
        self.row, self.column = row, column
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
        self.a = Piece(nest, a, tile.bm, row, thread, self._view(nest.dtypes[0], "a_piece"), 0, "a")
        start = tile.stages * tile.bm * tile.bk
        self.b = Piece(nest, b, tile.bn, column, thread, self._view(nest.dtypes[1], "b_piece"), start, "b")
        self.pieces = (self.a, self.b)
        self.results = self._view(nest.how.accumulator, "results")
        self.left = registers(tile.rows * ptx.A_REGISTERS, "uint32", "left")
        self.right = registers(tile.columns * ptx.B_REGISTERS, "uint32", "right")
        self.sums = registers(tile.rows * tile.columns * ptx.RESULTS, nest.how.accumulator, "sums")
        self.steps = ceil_div(nest.k, tile.bk)
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
            start = self.nest.indices.const(number) * bk
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
            start = self.nest.indices.const(following) * tile.bk
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
        tile, nest = self.tile, self.nest
        width = tile.bn // tile.wn
        pitch = width + SKEW
        base = self.warp * tile.slab
        lanes = _store_lanes(nest.n, min(nest.lanes, width // 2))
        values = registers(lanes, nest.how.accumulator, "values")
        statements = []
        for i in range(tile.rows):
            sums = ptx.address(self.sums, i32(i * tile.columns * ptx.RESULTS))
            place = base + tirx.truncdiv(self.lane, i32(4)) * pitch + tirx.truncmod(self.lane, i32(4)) * 2
            slab = ptx.keep_results(nest.how, ptx.address(self.results, place), sums, tile.columns, pitch)
            number = tirx.Var("vector", "int32")
            place = number * _WARP + self.lane
            per_row = width // lanes
            line, rest = tirx.truncdiv(place, i32(per_row)), tirx.truncmod(place, i32(per_row)) * lanes
            read = _read(values, self.results, base + line * pitch + rest, lanes)
            down, along = self._row(i) + line, self.along + rest
            lining, row = nest.indices.name("row", self.row + nest.indices.const(down))
            ranging, column = nest.indices.name("column", self.column + nest.indices.const(along), lanes)
            results = [tirx.BufferLoad(values, [i64(j)]) for j in range(lanes)]
            body = seq(*lining, *ranging, read, self._write(row, column, [_cast(r, nest.result) for r in results]))
            count = ptx.ROWS * per_row // _WARP
            each = For(number, i32(0), i32(count), ForKind.SERIAL, body)
            statements.append(seq(slab, ptx.sync_warp(), each, ptx.sync_warp()))
        return allocated([values], *statements)

    def _write(self, row: Index, column: Index, values: list[tirx.Expr]) -> Stmt:
        nest, lanes = self.nest, len(values)
        conditions = []
        if not (isinstance(nest.m, int) and nest.m % self.tile.bm == 0):
            conditions.append(row < nest.m)
        if not (isinstance(nest.n, int) and nest.n % self.tile.bn == 0):
            conditions.append(column < nest.n)
        body = self.write(row, [column + j for j in range(lanes)], values)
        return tirx.IfThenElse(tirx.all(*conditions), body, None) if conditions else body


def _read(into: tirx.Buffer, source: tirx.Buffer, start: tirx.Expr, lanes: int) -> Stmt:
    """`lanes` results out of the slab, by vectors of at most four."""
    step = min(4, lanes)
    return seq(*(load_vector(into, at, source, start.astype("int64") + at, step) for at in range(0, lanes, step)))


def _count(steps: Index) -> tirx.Expr:
    """The length of the loop over K, not to be written out by the compiler."""
    return ptx.hidden(steps) if isinstance(steps, int) else steps.astype("int32")


def _cast(value: tirx.Expr, dtype: str) -> tirx.Expr:
    return value if str(value.ty.dtype) == dtype else value.astype(dtype)


def _store_lanes(n: Index, most: int) -> int:
    """Columns to store at once: vectors must end where rows do."""
    lanes = most
    while lanes > 1 and not (isinstance(n, int) and n % lanes == 0):
        lanes //= 2
    return lanes
