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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.index_math import ceil_div, unrolled, when
from ...shared.tir_loops import Index, i64, loop, seq, store
from ..launch import allocated, barrier, launch, registers, shared
from .vectors import vector

# Columns of C that a thread stores at once, and the side of its groups.
QUAD = 4
# Steps of k that are written out.
_UNROLLED = 8
# Steps over K up to which compilers are not told their number.
_HIDDEN = 32


@dataclass(frozen=True)
class GemmTile:
    """Sizes of a block's tile (bm, bn, bk) and of a thread's (tm, tn); tm and tn are 1, 2, or multiples of 4."""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int

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


class Operand(Protocol):
    """Where the pieces of A or B come from. `lanes` elements that follow each other are fetched at once.

    Along k if `along_k`, along the rows of A (or columns of B) otherwise, from multiples of `lanes` on.
    """

    lanes: int
    along_k: bool

    def prepare(self, slot: int, position: Index) -> list[Stmt]:
        """Statements before the loop over K that compute what depends on the row of A (column of B) only."""

    def enter(self, number: int, k: Index) -> list[Stmt]:
        """Statements that compute what depends on k only, for a `fetch` that is told the same number."""

    def fetch(
        self, slot: int, position: Index, k: Index, entered: int | None = None
    ) -> tuple[tirx.Expr | bool, tirx.Buffer, Index]:
        """When the element (position, k) exists, and where it is in which flat buffer."""


Write = Callable[[Index, Sequence[Index], Sequence[tirx.Expr]], Stmt]


@dataclass
class GemmNest:
    """The kernel for one tile size. `write(row, columns, values)` stores results that exist."""

    tile: GemmTile
    m: Index
    n: Index
    k: Index

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
            body = _Block(self, thread, names[0], names[1], *operands(names[2])).emit()
            return seq(*bound, body)

        return launch(batches * down * along, tile.threads, block)


class _Block:
    """What one block does."""

    def __init__(
        self, nest: GemmNest, thread: Index, row: Index, column: Index, a: Operand, b: Operand, write: Write
    ) -> None:
        self.nest, self.tile, self.write = nest, nest.tile, write
        tile = self.tile
        self.thread, self.row, self.column = thread, row, column
        self.steps = ceil_div(nest.k, tile.bk)
        self.a = _Piece(tile, a, tile.bm, tile.pitch, row, thread, "a")
        self.b = _Piece(tile, b, tile.bn, tile.bn, column, thread, "b")
        self.acc = registers(tile.tm * tile.tn, "float32", "acc")
        self.left, self.right = registers(tile.tm, "float32", "left"), registers(tile.tn, "float32", "right")
        across = tile.bn // tile.tn
        self.x, self.y = tirx.truncmod(i64(thread), i64(across)), tirx.truncdiv(i64(thread), i64(across))

    def emit(self) -> Stmt:
        """Everything from the first fetch to the last store."""
        tile, pieces = self.tile, (self.a, self.b)
        clear = unrolled("i", 0, tile.tm * tile.tn, lambda i: store(self.acc, [i], tirx.const(0.0, "float32")))
        prepare = [s for p in pieces for s in p.prepare()]
        first = [p.fetch(i64(0), self.nest.k) for p in pieces]

        buffers = [self.acc, self.left, self.right, *(b for p in pieces for b in (p.ahead, p.buffer))]
        starts = [p.keep(i64(0)) for p in pieces]
        if isinstance(self.steps, int) and self.steps == 1:
            body = [*starts, barrier(), self._multiply(i64(0))]
        elif isinstance(self.steps, int) and self.steps <= _HIDDEN:
            # LLVM writes short loops out however much is in them, and brings the fetches of all steps forward, into
            # more registers than there are: so it shall not know how short this one is.
            told = shared(1, "int32", "steps")
            count = tirx.Var("count", "int64")
            tell = when(self.thread < 1, store(told, [0], tirx.const(self.steps, "int32")))
            read = tirx.Bind(count, tirx.BufferLoad(told, [i64(0)]).astype("int64"))
            buffers.append(told)
            body = [*starts, tell, barrier(), read, self._steps(count)]
        else:
            body = [*starts, barrier(), self._steps(self.steps)]
        return allocated(buffers, *prepare, clear, *first, *body, self._write())

    def _steps(self, count: Index) -> Stmt:
        """The loop over K, double-buffered."""
        pieces = (self.a, self.b)

        def step(number: Index) -> Stmt:
            following = number + 1
            more = following < count
            ahead = [when(more, p.fetch(following * self.tile.bk, self.nest.k)) for p in pieces]
            keep = [when(more, p.keep(tirx.truncmod(i64(following), i64(2)))) for p in pieces]
            return seq(*ahead, self._multiply(tirx.truncmod(i64(number), i64(2))), *keep, barrier())

        return loop("step", count, step)

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
            start = piece.at(buffer, k, who * lanes + g * (extent // (count // lanes)))
            return vector(lanes, lambda i: store(into, [g * lanes + i], tirx.BufferLoad(piece.buffer, [start + i])))

        return unrolled("g", 0, count // lanes, group)

    def _write(self) -> Stmt:
        """Store what exists of the thread's elements."""
        tile, nest = self.tile, self.nest
        lanes, rows = min(QUAD, tile.tn), min(QUAD, tile.tm)
        statements = []
        for i in range(tile.tm):
            row = self.row + self.y * rows + (i // rows * (tile.bm // (tile.tm // rows)) + i % rows)
            groups = []
            for g in range(tile.tn // lanes):
                column = self.column + self.x * lanes + g * (tile.bn // (tile.tn // lanes))
                values = [tirx.BufferLoad(self.acc, [i64(i * tile.tn + g * lanes + j)]) for j in range(lanes)]
                groups.append(self._write_group(row, column, values))
            exact = isinstance(nest.m, int) and nest.m % tile.bm == 0
            statements.append(when(True if exact else row < nest.m, seq(*groups)))
        return seq(*statements)

    def _write_group(self, row: Index, column: Index, values: list[tirx.Expr]) -> Stmt:
        n, lanes = self.nest.n, len(values)
        columns = [column + j for j in range(lanes)]
        if isinstance(n, int) and n % lanes == 0:
            exact = n % self.tile.bn == 0
            inside = self.write(row, columns, values)
            return inside if exact else tirx.IfThenElse(column < n, inside, None)
        each = [tirx.IfThenElse(c < n, self.write(row, [c], [v]), None) for c, v in zip(columns, values, strict=True)]
        return seq(*each)


class _Piece:
    """The part of A or B that a block multiplies in one step: fetched into registers, kept in shared memory."""

    def __init__(
        self, tile: GemmTile, operand: Operand, extent: int, pitch: int, first: Index, thread: Index, name: str
    ) -> None:
        self.tile, self.operand, self.extent, self.pitch, self.first = tile, operand, extent, pitch, first
        lanes = operand.lanes
        self.vectors = tile.bk * extent // lanes
        self.slots = -(-self.vectors // tile.threads)
        self.ahead = registers(self.slots * lanes, "float32", f"{name}_ahead")
        self.buffer = shared(2 * tile.bk * pitch, "float32", f"{name}_piece")
        per_line = (tile.bk if operand.along_k else extent) // lanes
        self.places = []
        for slot in range(self.slots):
            number = i64(thread + slot * tile.threads)
            line, rest = tirx.truncdiv(number, i64(per_line)), tirx.truncmod(number, i64(per_line)) * lanes
            self.places.append((line, rest) if operand.along_k else (rest, line))

    def at(self, buffer: Index, k: Index, position: Index) -> Index:
        """Where element (position, k) of the piece lies."""
        return buffer * (self.tile.bk * self.pitch) + k * self.pitch + position

    def prepare(self) -> list[Stmt]:
        """What is computed once."""
        return [s for slot, (p, _) in enumerate(self.places) for s in self.operand.prepare(slot, self.first + p)]

    def fetch(self, start: Index, limit: Index) -> Stmt:
        """Bring the piece that begins at k = `start` into registers; `limit` is the length of K."""
        lanes = self.operand.lanes
        zero = tirx.const(0.0, "float32")

        def one(slot: int) -> Stmt:
            position, k = self.places[slot]
            exists, source, index = self.operand.fetch(slot, self.first + position, start + k)
            whole = isinstance(limit, int) and limit % self.tile.bk == 0
            conditions = [c for c in (True if whole else start + k < limit, exists) if c is not True]
            load = vector(lanes, lambda i: store(self.ahead, [slot * lanes + i], tirx.BufferLoad(source, [index + i])))
            if not conditions:
                return load
            clear = vector(lanes, lambda i: store(self.ahead, [slot * lanes + i], zero))
            return tirx.IfThenElse(tirx.all(*conditions), load, clear)

        return seq(*(self._if_mine(slot, one(slot)) for slot in range(self.slots)))

    def keep(self, buffer: Index) -> Stmt:
        """Put the registers into shared memory."""
        lanes = self.operand.lanes

        def one(slot: int) -> Stmt:
            position, k = self.places[slot]

            def element(i: Index) -> Stmt:
                here = (position, k + i) if self.operand.along_k else (position + i, k)
                value = tirx.BufferLoad(self.ahead, [i64(slot * lanes + i)])
                return store(self.buffer, [self.at(buffer, here[1], here[0])], value)

            return unrolled("i", 0, lanes, element) if self.operand.along_k else vector(lanes, element)

        return seq(*(self._if_mine(slot, one(slot)) for slot in range(self.slots)))

    def _if_mine(self, slot: int, statement: Stmt) -> Stmt:
        """The last slot may have fewer vectors than there are threads."""
        if (slot + 1) * self.tile.threads <= self.vectors:
            return statement
        position, k = self.places[slot]
        inside = k < self.tile.bk if self.operand.along_k is False else position < self.extent
        return tirx.IfThenElse(inside, statement, None)
