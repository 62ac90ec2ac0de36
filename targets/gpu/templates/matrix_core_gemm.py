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

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.index_math import unrolled, when
from ...shared.tir_loops import Index, i64, seq, store
from ..launch import allocated, registers
from .gemm_fetched import FetchedPiece, double_buffered
from .gemm_grid import Grid, Kernel, Operands, Tile
from .gemm_index import i32
from .gemm_operand import Operand, Write
from .matrix_core import READ_BYTES, in_order
from .matrix_core_tile import MatrixTile
from .vectors import load_vector


@dataclass(frozen=True)
class MatrixNest:
    """The kernel for one tile size. `write(row, columns, values)` stores results that exist."""

    tile: MatrixTile
    grid: Grid

    def kernel(self, operands: Operands) -> Kernel:
        """All tiles; `operands(batch)` says where each product's matrices are."""
        return self.grid.product(self.tile.threads, operands, lambda *what: _Block(self, *what).emit())


class _Block:
    """What one block does."""

    def __init__(
        self, nest: MatrixNest, thread: tirx.Expr, at: Tile, operands: tuple[Operand, Operand], write: Write
    ) -> None:
        self.grid, self.tile, self.how, self.write, self.at = nest.grid, nest.tile, nest.tile.how, write, at
        tile, how, grid = nest.tile, nest.tile.how, nest.grid
        self.lane, self.wave = tirx.Var("lane", "int32"), tirx.Var("wave", "int32")
        self.indices = [
            tirx.Bind(self.lane, tirx.truncmod(thread, i32(how.wave))),
            tirx.Bind(self.wave, tirx.truncdiv(thread, i32(how.wave))),
        ]
        self.down = tirx.truncdiv(self.wave, i32(tile.wn)) * (tile.bm // tile.wm)
        self.along = tirx.truncmod(self.wave, i32(tile.wn)) * (tile.bn // tile.wn)
        sizes = ((operands[0], tile.bm, at.row, "a"), (operands[1], tile.bn, at.column, "b"))
        self.a, self.b = (
            _Piece(
                tile, operand, extent, tile.pitch, extent, first, thread, how.carrier, name, grid.k, grid.whole_steps
            )
            for operand, extent, first, name in sizes
        )
        self.left = registers(tile.rows * how.pack, how.carrier, "left")
        self.right = registers(tile.columns * how.pack, how.carrier, "right")
        self.sums = registers(tile.rows * tile.columns * how.sums, how.accumulator, "sums")
        self.exchanged = how.rows > 1

    def emit(self) -> Stmt:
        """Everything from the first fetch to the last store."""
        pieces = (self.a, self.b)
        count = int(self.sums.shape[0])
        clear = unrolled("i", 0, count, lambda i: store(self.sums, [i], tirx.const(0, self.how.accumulator)))
        prepare = [s for p in pieces for s in p.prepare()]
        buffers, body = double_buffered(pieces, self.at, self._multiply)
        buffers = [self.sums, self.left, self.right, *buffers]
        return allocated(buffers, *self.indices, *prepare, clear, *body, self._results())

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
        row = first + number * how.side + tirx.truncmod(self.lane, i32(how.side))
        group = tirx.truncmod(tirx.truncdiv(self.lane, i32(how.side)), i32(how.groups)) if how.groups > 1 else i32(0)
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
        beside = tirx.truncmod(self.lane, i32(how.side))
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
                    row, column = self.at.row + place[0].astype("int64"), self.at.column + place[1].astype("int64")
                    statements.append(self._write(row, column, values))
        return seq(*statements)

    def _write(self, row: Index, column: Index, values: list[tirx.Expr]) -> Stmt:
        grid, tile, lanes = self.grid, self.tile, len(values)
        if not (isinstance(grid.n, int) and grid.n % lanes == 0):
            parts = [([column + k], [value]) for k, value in enumerate(values)]
        else:
            parts = [([column + k for k in range(lanes)], values)]
        exact = isinstance(grid.n, int) and grid.n % tile.bn == 0
        writes = [when(True if exact else c[0] < grid.n, self.write(row, c, v)) for c, v in parts]
        whole = isinstance(grid.m, int) and grid.m % tile.bm == 0
        return when(True if whole else row < grid.m, seq(*writes))


class _Piece(FetchedPiece):
    """In shared memory k runs fastest."""

    along_k = True
