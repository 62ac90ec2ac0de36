"""Keys and values on their way to AMD's matrix units: through registers of all threads into shared memory.

Keys lie there as in memory, a line each. Values are turned: a line for each column, keys side by side in the order in
which a lane's weights are multiplied (`key_at`), so that lanes read 16 bytes of either at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tvm import tirx
from tvm.tirx import DeclBuffer, Stmt

from ...shared.tir_loops import Index, i64, seq, store
from ..launch import registers, shared
from .attention_matrix_tile import TURNED, MatrixFlashTile
from .gemm_index import Held, i32
from .gemm_matmul import Matrix
from .matrix_core import READ_BYTES, MatrixInstruction
from .vectors import load_vector, store_vector


def key_at(how: MatrixInstruction, place: tirx.Expr) -> tirx.Expr:
    """The key of a step that lies at `place`, a multiple of TURNED; those behind it are `1 or parts` keys apart.

    A lane's scores, in their order, are of the keys that it is to multiply: `chunk` places are as many for each of the
    `parts` lanes of a query, first those of the first.
    """
    part = how.chunk // how.parts
    chunk, within = tirx.truncdiv(place, i32(how.chunk)), tirx.truncmod(place, i32(how.chunk))
    score = chunk * part + tirx.truncmod(within, i32(part))
    fragment, number = tirx.truncdiv(score, i32(how.sums)), tirx.truncmod(score, i32(how.sums))
    return fragment * how.side + how.below(number) + tirx.truncdiv(within, i32(part)) * how.rows


def key_step(how: MatrixInstruction) -> int:
    """How far keys at neighbouring places are apart."""
    return 1 if how.rows % TURNED == 0 else how.parts


class Source:
    """A matrix in device memory as kernels keep its elements."""

    def __init__(self, matrix: Matrix, carrier: str) -> None:
        self.matrix, self.buffer = matrix, matrix.buffer
        self.declaring: list[Stmt] = []
        if str(matrix.buffer.dtype) != carrier:
            self.buffer = tirx.decl_buffer(
                matrix.buffer.shape, carrier, f"{matrix.buffer.name}_bits", data=matrix.buffer.data
            )
            self.declaring = [DeclBuffer(self.buffer, data=matrix.buffer.data)]

    def load(self, into: tirx.Buffer, at: int, index: Index, lanes: int, inside: Sequence[tirx.Expr]) -> Stmt:
        """`lanes` elements from `index` on into registers from `at` on; zeros unless all of `inside` hold."""
        load = load_vector(into, at, self.buffer, index, lanes)
        if not inside:
            return load
        zero = tirx.const(0, into.dtype)
        return tirx.IfThenElse(tirx.all(*inside), load, seq(*(store(into, [at + k], zero) for k in range(lanes))))


class Pieces(Protocol):
    """Keys or values of one step."""

    # Registers of what is fetched ahead, and shared memory.
    ahead: tirx.Buffer
    buffer: tirx.Buffer

    def prepare(self) -> list[Stmt]:
        """What is computed once."""

    def fetch(self, first: Index) -> Stmt:
        """Bring the rows from `first` on into registers."""

    def keep(self, stage: tirx.Expr) -> Stmt:
        """Put the registers into shared memory."""


class Keys:
    """`bn` keys of a step, a line of shared memory each."""

    def __init__(
        self, tile: MatrixFlashTile, indices: Held, matrix: Matrix, depth: int, whole: bool, thread: tirx.Expr
    ) -> None:
        """`whole`: no step reaches over the last key."""
        self.tile, self.indices, self.source, self.whole, self.thread = (
            tile,
            indices,
            Source(matrix, tile.how.carrier),
            whole,
            thread,
        )
        self.matrix, self.depth, self.wide, self.lanes = matrix, depth, tile.deep(depth), matrix.lanes
        self.pitch = self.wide + tile.skew
        self.per_line = self.wide // self.lanes
        self.slots = -(-tile.bn * self.per_line // tile.threads)
        self.ahead = registers(self.slots * self.lanes, tile.how.carrier, "keys_ahead")
        self.buffer = shared(tile.stages * tile.bn * self.pitch, tile.how.carrier, "keys")

    def prepare(self) -> list[Stmt]:
        """See Pieces."""
        statements, self.places = list(self.source.declaring), []
        for slot in range(self.slots):
            number = self.thread + slot * self.tile.threads
            line = tirx.truncdiv(number, i32(self.per_line))
            rest = tirx.truncmod(number, i32(self.per_line)) * self.lanes
            const = self.indices.const
            naming = [
                self.indices.name("key_line", const(line)),
                self.indices.name("key_rest", const(rest), self.lanes),
                self.indices.name("key_from", const(line) * self.matrix.stride + const(rest), self.lanes),
                Held("int32").name("key_to", line * self.pitch + rest, self.lanes),
            ]
            statements += [s for found, _ in naming for s in found]
            self.places.append(tuple(value for _, value in naming))
        return statements

    def fetch(self, first: Index) -> Stmt:
        """See Pieces."""
        start = self.matrix.origin + first * self.matrix.stride

        def one(slot: int) -> Stmt:
            line, rest, place, _ = self.places[slot]
            inside = [] if self.whole else [first + line < self.matrix.limit]
            inside += [rest < self.depth] if self.wide > self.depth else []
            return self.source.load(self.ahead, slot * self.lanes, start + place, self.lanes, inside)

        return _each(self.slots, self.tile.bn * self.per_line, self.tile.threads, self.thread, one)

    def keep(self, stage: tirx.Expr) -> Stmt:
        """See Pieces."""

        def one(slot: int) -> Stmt:
            values = [tirx.BufferLoad(self.ahead, [i64(slot * self.lanes + k)]) for k in range(self.lanes)]
            return store_vector(self.buffer, stage * (self.tile.bn * self.pitch) + self.places[slot][3], values)

        return _each(self.slots, self.tile.bn * self.per_line, self.tile.threads, self.thread, one)


class Values:
    """`bn` values of a step, turned: a line of shared memory for each column."""

    def __init__(
        self, tile: MatrixFlashTile, indices: Held, matrix: Matrix, columns: int, whole: bool, thread: tirx.Expr
    ) -> None:
        """`whole`: no step reaches over the last value."""
        self.tile, self.indices, self.source, self.whole, self.thread = (
            tile,
            indices,
            Source(matrix, tile.how.carrier),
            whole,
            thread,
        )
        self.matrix, self.columns, self.wide, self.lanes = matrix, columns, tile.broad(columns), matrix.lanes
        self.pitch = tile.bn + tile.skew
        # Threads side by side have keys side by side: what they store lies in different banks then.
        self.along = tile.bn // TURNED
        self.count = self.along * (self.wide // self.lanes)
        self.slots = -(-self.count // tile.threads)
        self.ahead = registers(self.slots * TURNED * self.lanes, tile.how.carrier, "values_ahead")
        self.buffer = shared(tile.stages * self.wide * self.pitch, tile.how.carrier, "values")

    def prepare(self) -> list[Stmt]:
        """See Pieces."""
        statements, self.places = list(self.source.declaring), []
        for slot in range(self.slots):
            number = self.thread + slot * self.tile.threads
            place = tirx.truncmod(number, i32(self.along)) * TURNED
            rest = tirx.truncdiv(number, i32(self.along)) * self.lanes
            key, const = key_at(self.tile.how, place), self.indices.const
            naming = [
                self.indices.name("value_line", const(key)),
                self.indices.name("value_rest", const(rest), self.lanes),
                self.indices.name("value_from", const(key) * self.matrix.stride + const(rest), self.lanes),
                Held("int32").name("value_to", rest * self.pitch + place, TURNED),
            ]
            statements += [s for found, _ in naming for s in found]
            self.places.append(tuple(value for _, value in naming))
        return statements

    def fetch(self, first: Index) -> Stmt:
        """See Pieces."""
        start, step = self.matrix.origin + first * self.matrix.stride, key_step(self.tile.how)

        def one(slot: int) -> Stmt:
            line, rest, place, _ = self.places[slot]
            loads = []
            for key in range(TURNED):
                inside = [] if self.whole else [first + line + key * step < self.matrix.limit]
                inside += [rest < self.columns] if self.wide > self.columns else []
                index = start + key * step * self.matrix.stride + place
                loads.append(
                    self.source.load(self.ahead, (slot * TURNED + key) * self.lanes, index, self.lanes, inside)
                )
            return seq(*loads)

        return _each(self.slots, self.count, self.tile.threads, self.thread, one)

    def keep(self, stage: tirx.Expr) -> Stmt:
        """See Pieces."""

        def one(slot: int) -> Stmt:
            stores = []
            for column in range(self.lanes):
                own = [(slot * TURNED + key) * self.lanes + column for key in range(TURNED)]
                start = stage * (self.wide * self.pitch) + self.places[slot][3] + column * self.pitch
                stores.append(store_vector(self.buffer, start, [tirx.BufferLoad(self.ahead, [i64(k)]) for k in own]))
            return seq(*stores)

        return _each(self.slots, self.count, self.tile.threads, self.thread, one)


def lane_reads(into: tirx.Buffer, pieces: Pieces, start: tirx.Expr, how: MatrixInstruction, size: int) -> list[Stmt]:
    """A lane's pack of a line, from `start` on, by reads of 16 bytes."""
    lanes = READ_BYTES // size
    return [
        load_vector(into, at, pieces.buffer, (start + at).astype("int64"), lanes) for at in range(0, how.pack, lanes)
    ]


def _each(slots: int, count: int, threads: int, thread: tirx.Expr, one: Callable[[int], Stmt]) -> Stmt:
    """`one` for each slot; the last may have fewer pieces than there are threads."""

    def mine(slot: int) -> Stmt:
        if (slot + 1) * threads <= count:
            return one(slot)
        return tirx.IfThenElse(thread + slot * threads < i32(count), one(slot), None)

    return seq(*(mine(slot) for slot in range(slots)))
