"""A tile of C = A B on AMD's matrix units by the waves of a block: what matmul and convolution have in common.

1. A block computes bm x bn elements of C, and walks through K in steps of bk. Each step's pieces of A and B come from
   device memory into registers while the piece before is used, then into one of two buffers in shared memory: one
   barrier a step is enough.
2. In shared memory k runs fastest, for A and for B: a lane reads 16 bytes of its row at once.
3. A wave multiplies (bm / wm) x (bn / wn) elements, their sums in registers. Where a lane's sums of one instruction are
   neighbours down a column, A and B are exchanged: then they are neighbours in a row, and stored as a vector.
Edges are cut by conditions around loads and stores; whatever lies beyond counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import DeclBuffer, Stmt

from ...shared.index_math import ceil_div, unrolled, when
from ...shared.tir_loops import Index, i64, loop, seq, store
from ..launch import allocated, barrier, bound_to, registers, shared
from .gemm_tile import Operand, Write
from .matrix_core import READ_BYTES, in_order
from .matrix_core_tile import MatrixTile
from .vectors import load_vector, vector

# Steps over K up to which LLVM is not told their number.
_HIDDEN = 32


@dataclass(frozen=True)
class MatrixNest:
    """The kernel for one tile size. `write(row, columns, values)` stores results that exist.

    `result` is the type of the sums as the epilogue gets them.
    """

    tile: MatrixTile
    m: Index
    n: Index
    k: Index
    result: str

    def kernel(self, batches: Index, operands: Callable[[Index], tuple[Operand, Operand, Write]]) -> Stmt:
        """All tiles of `batches` products; `operands(batch)` says where each one's matrices are."""
        tile = self.tile
        down, along = ceil_div(self.m, tile.bm), ceil_div(self.n, tile.bn)

        def block(number: Index, thread: Index) -> Stmt:
            column = tirx.truncmod(i64(number), i64(along))
            rest = tirx.truncdiv(i64(number), i64(along))
            row, batch = tirx.truncmod(rest, i64(down)), tirx.truncdiv(rest, i64(down))
            batch = 0 if isinstance(batches, int) and batches == 1 else batch
            names = [tirx.Var(name, "int64") for name in ("first_row", "first_column", "batch")]
            values = [row * tile.bm, column * tile.bn, i64(batch)]
            bound = [tirx.Bind(name, value) for name, value in zip(names, values, strict=True)]
            return seq(*bound, _Block(self, thread, names[0], names[1], *operands(names[2])).emit())

        return bound_to(
            "blockIdx.x",
            batches * down * along,
            lambda number: bound_to("threadIdx.x", tile.threads, lambda thread: block(number, _narrow(thread))),
        )


def _narrow(thread: tirx.Expr) -> tirx.Expr:
    """The int32 variable of a thread; places in shared memory need no more."""
    return thread.value if isinstance(thread, tirx.Cast) else thread


def _i32(value: int) -> tirx.Expr:
    return tirx.const(value, "int32")


class _Block:
    """What one block does."""

    def __init__(
        self, nest: MatrixNest, thread: tirx.Expr, row: Index, column: Index, a: Operand, b: Operand, write: Write
    ) -> None:
        self.nest, self.tile, self.how, self.write = nest, nest.tile, nest.tile.how, write
        tile, how = nest.tile, nest.tile.how
        self.thread, self.row, self.column = thread, row, column
        self.lane, self.wave = tirx.Var("lane", "int32"), tirx.Var("wave", "int32")
        self.indices = [
            tirx.Bind(self.lane, tirx.truncmod(thread, _i32(how.wave))),
            tirx.Bind(self.wave, tirx.truncdiv(thread, _i32(how.wave))),
        ]
        self.down = tirx.truncdiv(self.wave, _i32(tile.wn)) * (tile.bm // tile.wm)
        self.along = tirx.truncmod(self.wave, _i32(tile.wn)) * (tile.bn // tile.wn)
        self.a = _Piece(nest, a, tile.bm, row, thread, "a")
        self.b = _Piece(nest, b, tile.bn, column, thread, "b")
        self.left = registers(tile.rows * how.pack, how.carrier, "left")
        self.right = registers(tile.columns * how.pack, how.carrier, "right")
        self.sums = registers(tile.rows * tile.columns * how.sums, "float32", "sums")
        self.steps = ceil_div(nest.k, tile.bk)
        self.exchanged = how.rows > 1

    def emit(self) -> Stmt:
        """Everything from the first fetch to the last store."""
        pieces = (self.a, self.b)
        count = int(self.sums.shape[0])
        clear = unrolled("i", 0, count, lambda i: store(self.sums, [i], tirx.const(0.0, "float32")))
        prepare = [s for p in pieces for s in p.prepare()]
        first = [p.fetch(i64(0)) for p in pieces]
        buffers = [self.sums, self.left, self.right, *(b for p in pieces for b in (p.ahead, p.buffer))]
        starts = [p.keep(_i32(0)) for p in pieces]
        if isinstance(self.steps, int) and self.steps == 1:
            body = [*starts, barrier(), self._multiply(_i32(0))]
        elif isinstance(self.steps, int) and self.steps <= _HIDDEN:
            # LLVM writes short loops out however much is in them, and brings the fetches of all steps forward, into
            # more registers than there are: so it shall not know how short this one is.
            told = shared(1, "int32", "steps")
            number = tirx.Var("count", "int64")
            tell = when(self.thread < 1, store(told, [0], _i32(self.steps)))
            read = tirx.Bind(number, tirx.BufferLoad(told, [i64(0)]).astype("int64"))
            buffers.append(told)
            body = [*starts, tell, barrier(), read, self._steps(number)]
        else:
            body = [*starts, barrier(), self._steps(self.steps)]
        return allocated(buffers, *self.indices, *prepare, clear, *first, *body, self._results())

    def _steps(self, count: Index) -> Stmt:
        """The loop over K, double-buffered."""
        pieces = (self.a, self.b)

        def step(number: Index) -> Stmt:
            following = number + 1
            more = following < count
            ahead = [when(more, p.fetch(following * self.tile.bk)) for p in pieces]
            keep = [when(more, p.keep(tirx.truncmod(i64(following), i64(2)).astype("int32"))) for p in pieces]
            current = tirx.truncmod(i64(number), i64(2)).astype("int32")
            return seq(*ahead, self._multiply(current), *keep, barrier())

        return loop("step", count, step)

    def _multiply(self, buffer: tirx.Expr) -> Stmt:
        """One step of K."""
        tile, how = self.tile, self.how

        def chunk(k: int) -> Stmt:
            left = [self._fragment(self.left, self.a, i, buffer, self.down, k) for i in range(tile.rows)]
            right = [self._fragment(self.right, self.b, j, buffer, self.along, k) for j in range(tile.columns)]
            products = [
                self._product(i, j, run)
                for run in range(0, how.pack, how.run)
                for i in range(tile.rows)
                for j in range(tile.columns)
            ]
            return seq(*left, *right, *products)

        return seq(*(chunk(k) for k in range(0, tile.bk, how.chunk)))

    def _fragment(
        self, into: tirx.Buffer, piece: _Piece, number: int, buffer: tirx.Expr, first: tirx.Expr, k: int
    ) -> Stmt:
        """This lane's pack of a fragment's row, by reads of 16 bytes."""
        how = self.how
        row = first + number * how.side + tirx.truncmod(self.lane, _i32(how.side))
        group = tirx.truncmod(tirx.truncdiv(self.lane, _i32(how.side)), _i32(how.groups)) if how.groups > 1 else _i32(0)
        start = piece.at(buffer, row, k + group * how.pack)
        lanes = READ_BYTES // self.tile.size
        reads = [
            load_vector(into, number * how.pack + at, piece.buffer, (start + at).astype("int64"), lanes)
            for at in range(0, how.pack, lanes)
        ]
        return seq(*reads)

    def _product(self, i: int, j: int, run: int) -> Stmt:
        how = self.how
        a, b = (self.left, i * how.pack + run), (self.right, j * how.pack + run)
        c = (self.sums, (i * self.tile.columns + j) * how.sums)
        return how.multiply(b, a, c) if self.exchanged else how.multiply(a, b, c)

    def _results(self) -> Stmt:
        """Store what exists of the wave's results."""
        tile, how = self.tile, self.how
        beside = tirx.truncmod(self.lane, _i32(how.side))
        statements: list[Stmt] = []
        for i in range(tile.rows):
            for j in range(tile.columns):
                # Or LLVM loads the epilogue's operands of all fragments at once, into more registers than there are.
                statements.append(in_order())
                first = (i * tile.columns + j) * how.sums
                down, along = self.down + i * how.side, self.along + j * how.side
                for v in range(0, how.sums, how.rows):
                    values = [tirx.BufferLoad(self.sums, [i64(first + v + e)]) for e in range(how.rows)]
                    within = how.row(self.lane, v)
                    place = (down + beside, along + within) if self.exchanged else (down + within, along + beside)
                    row, column = (x + y.astype("int64") for x, y in zip((self.row, self.column), place, strict=True))
                    statements.append(self._write(row, column, [_cast(x, self.nest.result) for x in values]))
        return seq(*statements)

    def _write(self, row: Index, column: Index, values: list[tirx.Expr]) -> Stmt:
        nest, tile, lanes = self.nest, self.tile, len(values)
        if not (isinstance(nest.n, int) and nest.n % lanes == 0):
            parts = [([column + k], [value]) for k, value in enumerate(values)]
        else:
            parts = [([column + k for k in range(lanes)], values)]
        exact = isinstance(nest.n, int) and nest.n % tile.bn == 0
        writes = [when(True if exact else c[0] < nest.n, self.write(row, c, v)) for c, v in parts]
        whole = isinstance(nest.m, int) and nest.m % tile.bm == 0
        return when(True if whole else row < nest.m, seq(*writes))


def _cast(value: tirx.Expr, dtype: str) -> tirx.Expr:
    return value if str(value.ty.dtype) == dtype else value.astype(dtype)


class _Piece:
    """The part of A or B that a block multiplies in one step: fetched into registers, kept in shared memory."""

    def __init__(
        self, nest: MatrixNest, operand: Operand, extent: int, first: Index, thread: tirx.Expr, name: str
    ) -> None:
        self.nest, self.tile, self.operand, self.extent, self.first = nest, nest.tile, operand, extent, first
        self.thread = thread
        tile, lanes = nest.tile, operand.lanes
        self.vectors, self.slots = fetches(tile, extent, lanes)
        self.ahead = registers(self.slots * lanes, tile.how.carrier, f"{name}_ahead")
        self.buffer = shared(2 * extent * tile.pitch, tile.how.carrier, f"{name}_piece")
        per_line = (tile.bk if operand.along_k else extent) // lanes
        self.views: dict[tirx.Buffer, tirx.Buffer] = {}
        self.places = []
        for slot in range(self.slots):
            number = thread + slot * tile.threads
            line, rest = tirx.truncdiv(number, _i32(per_line)), tirx.truncmod(number, _i32(per_line)) * lanes
            self.places.append((line, rest) if operand.along_k else (rest, line))

    def at(self, buffer: tirx.Expr, position: tirx.Expr, k: Index) -> tirx.Expr:
        """Where element (position, k) of the piece lies (int32)."""
        return buffer * (self.extent * self.tile.pitch) + position * self.tile.pitch + k

    def prepare(self) -> list[Stmt]:
        """What is computed once."""
        positions = [self.first + p.astype("int64") for p, _ in self.places]
        prepared = [s for slot, p in enumerate(positions) for s in self.operand.prepare(slot, p)]
        source = self.operand.fetch(0, positions[0], i64(0))[1]
        return [*self._declare(source), *prepared]

    def _declare(self, source: tirx.Buffer) -> list[Stmt]:
        """A view of `source` with elements as kernels keep them."""
        carrier = self.tile.how.carrier
        if str(source.dtype) == carrier:
            return []
        self.views[source] = tirx.decl_buffer(source.shape, carrier, f"{source.name}_bits", data=source.data)
        return [DeclBuffer(self.views[source], data=source.data)]

    def fetch(self, start: Index) -> Stmt:
        """Bring the piece that begins at k = `start` into registers."""
        return seq(*(self._if_mine(slot, self._fetch(slot, start)) for slot in range(self.slots)))

    def _fetch(self, slot: int, start: Index) -> Stmt:
        nest, lanes = self.nest, self.operand.lanes
        position, k = self.places[slot]
        depth = start + k.astype("int64")
        exists, source, index = self.operand.fetch(slot, self.first + position.astype("int64"), depth)
        whole = isinstance(nest.k, int) and nest.k % self.tile.bk == 0
        conditions = [c for c in (True if whole else depth < nest.k, exists) if c is not True]
        load = load_vector(self.ahead, slot * lanes, self.views.get(source, source), index, lanes)
        if not conditions:
            return load
        zero = tirx.const(0, self.tile.how.carrier)
        clear = unrolled("i", 0, lanes, lambda i: store(self.ahead, [slot * lanes + i], zero))
        return tirx.IfThenElse(tirx.all(*conditions), load, clear)

    def keep(self, buffer: tirx.Expr) -> Stmt:
        """Put the registers into shared memory."""
        return seq(*(self._if_mine(slot, self._keep(slot, buffer)) for slot in range(self.slots)))

    def _keep(self, slot: int, buffer: tirx.Expr) -> Stmt:
        lanes = self.operand.lanes
        position, k = self.places[slot]

        def element(i: Index) -> Stmt:
            value = tirx.BufferLoad(self.ahead, [i64(slot * lanes) + i])
            if self.operand.along_k:
                return store(self.buffer, [self.at(buffer, position, k).astype("int64") + i], value)
            return store(self.buffer, [self.at(buffer, position + i, k).astype("int64")], value)

        if self.operand.along_k:
            return vector(lanes, element)
        return seq(*(element(i) for i in range(lanes)))

    def _if_mine(self, slot: int, statement: Stmt) -> Stmt:
        """The last slot may have fewer vectors than there are threads."""
        threads = self.tile.threads
        if (slot + 1) * threads <= self.vectors:
            return statement
        return tirx.IfThenElse(self.thread + slot * threads < _i32(self.vectors), statement, None)


def fetches(tile: MatrixTile, extent: int, lanes: int) -> tuple[int, int]:
    """Vectors of `lanes` elements that make up a piece of `extent` rows, and how many of them each thread fetches."""
    vectors = tile.bk * extent // lanes
    return vectors, -(-vectors // tile.threads)
