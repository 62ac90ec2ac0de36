"""Pieces of A and B that pass through registers into one of two buffers in shared memory, and the loop over K.

Each step's pieces come from device memory while those of the step before are multiplied: one barrier a step is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx import DeclBuffer, Stmt

from ...shared.index_math import unrolled, when
from ...shared.tir_loops import Index, i64, loop, seq, store
from ..launch import barrier, registers, shared
from .gemm_grid import Tile
from .gemm_index import i32
from .gemm_operand import Operand
from .hidden_lengths import HiddenLengths
from .vectors import load_vector, vector

# Steps over K up to which compilers are not told their number.
_HIDDEN = 32


class FetchedPiece:
    """The part of A or B that a block multiplies in one step: fetched into registers, kept in shared memory.

    Subclasses say where elements lie in shared memory: `at`, and whether k runs fastest there: `along_k`.
    """

    along_k: bool

    def __init__(
        self, tile: Any, operand: Operand, extent: int, pitch: int, lines: int, first: Index, thread: tirx.Expr,
        dtype: str, name: str, depth: Index, whole: bool,
    ) -> None:  # fmt: skip
        """A piece of `extent` rows of A (columns of B), in shared memory `lines` lines of `pitch` elements of `dtype`.

        `depth` is the length of K, `whole` says that no step reaches over it.
        """
        self.tile, self.operand, self.extent, self.pitch, self.lines = tile, operand, extent, pitch, lines
        self.first, self.thread, self.dtype, self.depth, self.whole = first, thread, dtype, depth, whole
        lanes = operand.lanes
        self.vectors, self.slots = fetches(tile.bk * extent, tile.threads, lanes)
        self.ahead = registers(self.slots * lanes, dtype, f"{name}_ahead")
        self.buffer = shared(2 * lines * pitch, dtype, f"{name}_piece")
        per_line = (tile.bk if operand.along_k else extent) // lanes
        self.views: dict[tirx.Buffer, tirx.Buffer] = {}
        self.places = []
        for slot in range(self.slots):
            number = thread + slot * tile.threads
            line, rest = tirx.truncdiv(number, i32(per_line)), tirx.truncmod(number, i32(per_line)) * lanes
            self.places.append((line, rest) if operand.along_k else (rest, line))

    def at(self, buffer: tirx.Expr, position: Index, k: Index) -> tirx.Expr:
        """Where element (position, k) of the piece lies (int32)."""
        line, rest = (position, k) if self.along_k else (k, position)
        return buffer * (self.lines * self.pitch) + line * self.pitch + rest

    def prepare(self) -> list[Stmt]:
        """What is computed once."""
        positions = [self.first + p.astype("int64") for p, _ in self.places]
        prepared = [s for slot, p in enumerate(positions) for s in self.operand.prepare(slot, p)]
        source = self.operand.fetch(0, positions[0], i64(0))[1]
        return [*self._declare(source), *prepared]

    def _declare(self, source: tirx.Buffer) -> list[Stmt]:
        """A view of `source` with elements as kernels keep them."""
        if str(source.dtype) == self.dtype:
            return []
        self.views[source] = tirx.decl_buffer(source.shape, self.dtype, f"{source.name}_bits", data=source.data)
        return [DeclBuffer(self.views[source], data=source.data)]

    def fetch(self, start: Index) -> Stmt:
        """Bring the piece that begins at k = `start` into registers."""
        return seq(*(self._if_mine(slot, self._fetch(slot, start)) for slot in range(self.slots)))

    def _fetch(self, slot: int, start: Index) -> Stmt:
        lanes = self.operand.lanes
        position, k = self.places[slot]
        depth = start + k.astype("int64")
        exists, source, index = self.operand.fetch(slot, self.first + position.astype("int64"), depth)
        conditions = [c for c in (True if self.whole else depth < self.depth, exists) if c is not True]
        load = load_vector(self.ahead, slot * lanes, self.views.get(source, source), index, lanes)
        if not conditions:
            return load
        zero = tirx.const(0, self.dtype)
        clear = unrolled("i", 0, lanes, lambda i: store(self.ahead, [slot * lanes + i], zero))
        return tirx.IfThenElse(tirx.all(*conditions), load, clear)

    def keep(self, buffer: tirx.Expr) -> Stmt:
        """Put the registers into shared memory."""
        return seq(*(self._if_mine(slot, self._keep(slot, buffer)) for slot in range(self.slots)))

    def _keep(self, slot: int, buffer: tirx.Expr) -> Stmt:
        lanes = self.operand.lanes
        position, k = self.places[slot]
        straight = self.operand.along_k == self.along_k

        def element(i: Index) -> Stmt:
            value = tirx.BufferLoad(self.ahead, [i64(slot * lanes) + i])
            if straight:
                return store(self.buffer, [self.at(buffer, position, k).astype("int64") + i], value)
            place = (position, k + i) if self.operand.along_k else (position + i, k)
            return store(self.buffer, [self.at(buffer, *place).astype("int64")], value)

        return vector(lanes, element) if straight else seq(*(element(i) for i in range(lanes)))

    def _if_mine(self, slot: int, statement: Stmt) -> Stmt:
        """The last slot may have fewer vectors than there are threads."""
        threads = self.tile.threads
        if (slot + 1) * threads <= self.vectors:
            return statement
        return tirx.IfThenElse(self.thread + slot * threads < i32(self.vectors), statement, None)


def fetches(elements: int, threads: int, lanes: int) -> tuple[int, int]:
    """Vectors of `lanes` elements that make up a piece, and how many of them each of `threads` threads fetches."""
    vectors = elements // lanes
    return vectors, -(-vectors // threads)


def double_buffered(
    pieces: Sequence[FetchedPiece], tile: Tile, multiply: Callable[[tirx.Expr], Stmt]
) -> tuple[list[tirx.Buffer], list[Stmt]]:
    """What is allocated, and all that is done, from the first fetch of `tile`'s pieces to the last multiplication.

    `multiply(b)` multiplies what is in buffer b (int32). All threads have passed a barrier behind the last step.
    """
    steps, thread = tile.share.steps, pieces[0].thread
    buffers = [b for p in pieces for b in (p.ahead, p.buffer)]
    start = [*(p.fetch(i64(tile.k)) for p in pieces), *(p.keep(i32(0)) for p in pieces)]
    if isinstance(steps, int) and steps == 1:
        return buffers, [*start, barrier(), multiply(i32(0))]
    if isinstance(steps, int) and steps <= _HIDDEN:
        lengths = HiddenLengths((steps,), "steps")
        read, count = lengths.read(0)
        steps_of = _steps(pieces, tile, count, multiply)
        return [*buffers, lengths.buffer], [*start, lengths.tell(thread), barrier(), read, steps_of]
    return buffers, [*start, barrier(), _steps(pieces, tile, steps, multiply)]


def _steps(pieces: Sequence[FetchedPiece], tile: Tile, count: Index, multiply: Callable[[tirx.Expr], Stmt]) -> Stmt:
    """The loop over K."""
    bk = pieces[0].tile.bk

    def step(number: Index) -> Stmt:
        following = number + 1
        more = following < count
        ahead = [when(more, p.fetch(tile.k + following * bk)) for p in pieces]
        keep = [when(more, p.keep(tirx.truncmod(i64(following), i64(2)).astype("int32"))) for p in pieces]
        current = tirx.truncmod(i64(number), i64(2)).astype("int32")
        return seq(*ahead, multiply(current), *keep, barrier())

    return loop("step", count, step)
