"""A tile of C = A B by the threads of a block, without matrix units: what matmul and convolution have in common.

1. A block computes bm x bn elements of C, and walks through K in steps of bk. Each step's pieces of A and B come from
   device memory into registers while the piece before is used, then into one of two buffers in shared memory: one
   barrier a step is enough.
2. A lies in shared memory with rows running fastest, so that what a thread multiplies is read in vectors of four.
3. A thread accumulates tm x tn elements in registers: groups of 4 x 4 that lie apart, so that the threads of a warp
   read neighbouring vectors.
Edges are cut by conditions around loads and stores; whatever lies beyond counts as zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.index_math import unrolled, when
from ...shared.tir_loops import Index, i64, loop, seq, store
from ..launch import allocated, registers
from .gemm_fetched import FetchedPiece, double_buffered
from .gemm_grid import Grid, Kernel, Operands, Tile
from .gemm_operand import Operand, Write
from .knobs import Knobs
from .vectors import vector

# Columns of C that a thread stores at once, and the side of its groups.
QUAD = 4
# Steps of k that are written out.
_UNROLLED = 8


@dataclass(frozen=True)
class GemmTile(Knobs):
    """Sizes of a block's tile (bm, bn, bk) and of a thread's (tm, tn); tm and tn are 1, 2, or multiples of 4.

    `split`: see gemm_shares.py.
    """

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    split: int = 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.bm // self.tm * (self.bn // self.tn)

    @property
    def pitch(self) -> int:
        """Elements from one k of A's piece to the next: the skew spreads transposing stores over the banks."""
        return self.bm + QUAD

    @property
    def shared_bytes(self) -> int:
        """Shared memory of both buffers, for float32."""
        return 2 * self.bk * (self.pitch + self.bn) * 4

    @property
    def registers(self) -> int:
        """Registers that a thread needs: accumulators, operands, what is fetched ahead, and addresses."""
        fetched = -(-self.bk * (self.bm + self.bn) // self.threads)
        return self.tm * self.tn + self.tm + self.tn + fetched + 40


@dataclass(frozen=True)
class GemmNest:
    """The kernel for one tile size. `write(row, columns, values)` stores results that exist."""

    tile: GemmTile
    grid: Grid

    def kernel(self, operands: Operands) -> Kernel:
        """All tiles; `operands(batch)` says where each product's matrices are."""
        return self.grid.product(self.tile.threads, operands, lambda *what: _Block(self, *what).emit())


class _Block:
    """What one block does."""

    def __init__(
        self, nest: GemmNest, thread: tirx.Expr, at: Tile, operands: tuple[Operand, Operand], write: Write
    ) -> None:
        self.grid, self.tile, self.write, self.at = nest.grid, nest.tile, write, at
        tile, grid = self.tile, nest.grid
        sizes = ((operands[0], tile.bm, tile.pitch, at.row, "a"), (operands[1], tile.bn, tile.bn, at.column, "b"))
        self.a, self.b = (
            _Piece(tile, operand, extent, pitch, tile.bk, first, thread, "float32", name, grid.k, grid.whole_steps)
            for operand, extent, pitch, first, name in sizes
        )
        self.acc = registers(tile.tm * tile.tn, "float32", "acc")
        self.left, self.right = registers(tile.tm, "float32", "left"), registers(tile.tn, "float32", "right")
        across = tile.bn // tile.tn
        wide = thread.astype("int64")
        self.x, self.y = tirx.truncmod(wide, i64(across)), tirx.truncdiv(wide, i64(across))

    def emit(self) -> Stmt:
        """Everything from the first fetch to the last store."""
        tile, pieces = self.tile, (self.a, self.b)
        clear = unrolled("i", 0, tile.tm * tile.tn, lambda i: store(self.acc, [i], tirx.const(0.0, "float32")))
        prepare = [s for p in pieces for s in p.prepare()]
        buffers, body = double_buffered(pieces, self.at, lambda buffer: self._multiply(buffer.astype("int64")))
        return allocated([self.acc, self.left, self.right, *buffers], *prepare, clear, *body, self._write())

    def _multiply(self, buffer: Index) -> Stmt:
        """One step of K: bk rank-one updates of the accumulators."""
        tile = self.tile

        def update(k: Index) -> Stmt:
            reads = [
                self._operand(self.left, self.a, buffer, k, tile.tm, tile.bm, self.y),
                self._operand(self.right, self.b, buffer, k, tile.tn, tile.bn, self.x),
            ]

            def row(i: Index) -> Stmt:
                def element(j: Index) -> Stmt:
                    at = i64(i * tile.tn + j)
                    product = tirx.BufferLoad(self.left, [i64(i)]) * tirx.BufferLoad(self.right, [i64(j)])
                    return store(self.acc, [at], tirx.BufferLoad(self.acc, [at]) + product)

                return unrolled("j", 0, tile.tn, element)

            return seq(*reads, unrolled("i", 0, tile.tm, row))

        # Longer runs of straight code have LLVM fetch all operands at once, into more registers than there are.
        run = min(tile.bk, _UNROLLED)
        return loop("k", tile.bk // run, lambda o: unrolled("k", 0, run, lambda k: update(o * run + k)))

    def _operand(
        self, into: tirx.Buffer, piece: _Piece, buffer: Index, k: Index, count: int, extent: int, who: Index
    ) -> Stmt:
        lanes = min(QUAD, count)

        def group(g: Index) -> Stmt:
            start = piece.at(buffer, who * lanes + g * (extent // (count // lanes)), k)
            return vector(lanes, lambda i: store(into, [g * lanes + i], tirx.BufferLoad(piece.buffer, [start + i])))

        return unrolled("g", 0, count // lanes, group)

    def _write(self) -> Stmt:
        """Store what exists of the thread's elements."""
        tile, m = self.tile, self.grid.m
        lanes, rows = min(QUAD, tile.tn), min(QUAD, tile.tm)
        statements = []
        for i in range(tile.tm):
            row = self.at.row + self.y * rows + (i // rows * (tile.bm // (tile.tm // rows)) + i % rows)
            groups = []
            for g in range(tile.tn // lanes):
                column = self.at.column + self.x * lanes + g * (tile.bn // (tile.tn // lanes))
                values = [tirx.BufferLoad(self.acc, [i64(i * tile.tn + g * lanes + j)]) for j in range(lanes)]
                groups.append(self._write_group(row, column, values))
            exact = isinstance(m, int) and m % tile.bm == 0
            statements.append(when(True if exact else row < m, seq(*groups)))
        return seq(*statements)

    def _write_group(self, row: Index, column: Index, values: list[tirx.Expr]) -> Stmt:
        n, lanes = self.grid.n, len(values)
        columns = [column + j for j in range(lanes)]
        if isinstance(n, int) and n % lanes == 0:
            exact = n % self.tile.bn == 0
            inside = self.write(row, columns, values)
            return inside if exact else tirx.IfThenElse(column < n, inside, None)
        each = [tirx.IfThenElse(c < n, self.write(row, [c], [v]), None) for c, v in zip(columns, values, strict=True)]
        return seq(*each)


class _Piece(FetchedPiece):
    """In shared memory the rows of A (columns of B) run fastest."""

    along_k = False
