"""Keys and values on their way to AMD's matrix units: through registers of all threads into shared memory.

Keys lie there as in memory, a line each. Values are turned: a line for each column, keys side by side in the order in
which a lane's weights are multiplied (`key_at`), so that lanes read 16 bytes of either at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

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


class Pieces(ABC):
    """Keys or values of one step: `count` vectors of `lanes` elements of `columns`, in a line each or several.

    `ahead` are registers of what is fetched ahead, `buffer` is shared memory.
    """

    name: str
    # Neighbouring lines whose vectors a thread fetches together.
    together: int

    def __init__(
        self, tile: MatrixFlashTile, indices: Held, matrix: Matrix, columns: int, whole: bool, thread: tirx.Expr
    ) -> None:
        """`whole`: no step reaches over the last key."""
        self.tile, self.indices, self.matrix, self.whole, self.thread = tile, indices, matrix, whole, thread
        self.source, self.lanes = Source(matrix, tile.how.carrier), matrix.lanes
        self.columns, self.wide, self.pitch, lines, self.count = self.sizes(columns)
        self.slots = -(-self.count // tile.threads)
        self.ahead = registers(self.slots * self.together * self.lanes, tile.how.carrier, f"{self.name}_ahead")
        self.stage_size = lines * self.pitch
        self.buffer = shared(tile.stages * self.stage_size, tile.how.carrier, self.name)

    @abstractmethod
    def sizes(self, columns: int) -> tuple[int, int, int, int, int]:
        """Columns, the same rounded up, elements of a line in shared memory, such lines, and vectors to fetch."""

    @abstractmethod
    def place(self, number: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr, tirx.Expr, int]:
        """Line and column of vector `number` in device memory, where it begins in shared memory, a multiple of what."""

    @abstractmethod
    def stored(self, slot: int, start: tirx.Expr) -> list[Stmt]:
        """Put the registers of a slot into shared memory from `start` on."""

    def prepare(self) -> list[Stmt]:
        """What is computed once."""
        statements, self.places = list(self.source.declaring), []
        const = self.indices.const
        for slot in range(self.slots):
            line, rest, to, unit = self.place(self.thread + slot * self.tile.threads)
            naming = [
                self.indices.name("line", const(line)),
                self.indices.name("rest", const(rest), self.lanes),
                self.indices.name("from", const(line) * self.matrix.stride + const(rest), self.lanes),
                Held("int32").name("to", to, unit),
            ]
            statements += [s for found, _ in naming for s in found]
            self.places.append(tuple(value for _, value in naming))
        return statements

    def fetch(self, first: Index) -> Stmt:
        """Bring the rows from `first` on into registers."""
        start, step = self.matrix.origin + first * self.matrix.stride, key_step(self.tile.how)

        def one(slot: int) -> Stmt:
            line, rest, place, _ = self.places[slot]
            loads = []
            for key in range(self.together):
                inside = [] if self.whole else [first + line + key * step < self.matrix.limit]
                inside += [rest < self.columns] if self.wide > self.columns else []
                index, at = start + key * step * self.matrix.stride + place, (slot * self.together + key) * self.lanes
                loads.append(self.source.load(self.ahead, at, index, self.lanes, inside))
            return seq(*loads)

        return self._each(one)

    def keep(self, stage: tirx.Expr) -> Stmt:
        """Put the registers into shared memory."""
        return self._each(lambda slot: seq(*self.stored(slot, stage * self.stage_size + self.places[slot][3])))

    def _each(self, one: Callable[[int], Stmt]) -> Stmt:
        """`one` for each slot; the last may have fewer vectors than there are threads."""
        threads = self.tile.threads

        def mine(slot: int) -> Stmt:
            if (slot + 1) * threads <= self.count:
                return one(slot)
            return tirx.IfThenElse(self.thread + slot * threads < i32(self.count), one(slot), None)

        return seq(*(mine(slot) for slot in range(self.slots)))

    def _held(self, numbers: Sequence[int]) -> list[tirx.Expr]:
        """What some registers hold."""
        return [tirx.BufferLoad(self.ahead, [i64(k)]) for k in numbers]


class Keys(Pieces):
    """`bn` keys of a step, a line of shared memory each."""

    name, together = "keys", 1

    def sizes(self, columns: int) -> tuple[int, int, int, int, int]:
        """See Pieces."""
        bn, wide = self.tile.bn, self.tile.deep(columns)
        return columns, wide, wide + self.tile.skew, bn, bn * (wide // self.lanes)

    def place(self, number: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr, tirx.Expr, int]:
        """See Pieces."""
        per_line = i32(self.wide // self.lanes)
        line, rest = tirx.truncdiv(number, per_line), tirx.truncmod(number, per_line) * self.lanes
        return line, rest, line * self.pitch + rest, self.lanes

    def stored(self, slot: int, start: tirx.Expr) -> list[Stmt]:
        """See Pieces."""
        own = range(slot * self.lanes, (slot + 1) * self.lanes)
        return [store_vector(self.buffer, start, self._held(own))]


class Values(Pieces):
    """`bn` values of a step, turned: a line of shared memory for each column."""

    name, together = "values", TURNED

    def sizes(self, columns: int) -> tuple[int, int, int, int, int]:
        """See Pieces."""
        bn, wide = self.tile.bn, self.tile.broad(columns)
        return columns, wide, bn + self.tile.skew, wide, bn // TURNED * (wide // self.lanes)

    def place(self, number: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr, tirx.Expr, int]:
        """See Pieces. Threads side by side have keys side by side: what they store lies in different banks then."""
        along = i32(self.tile.bn // TURNED)
        key, rest = tirx.truncmod(number, along) * TURNED, tirx.truncdiv(number, along) * self.lanes
        return key_at(self.tile.how, key), rest, rest * self.pitch + key, TURNED

    def stored(self, slot: int, start: tirx.Expr) -> list[Stmt]:
        """See Pieces."""
        columns = [[(slot * TURNED + key) * self.lanes + c for key in range(TURNED)] for c in range(self.lanes)]
        return [store_vector(self.buffer, start + c * self.pitch, self._held(own)) for c, own in enumerate(columns)]


def lane_reads(into: tirx.Buffer, pieces: Pieces, start: tirx.Expr, how: MatrixInstruction, size: int) -> list[Stmt]:
    """A lane's pack of a line, from `start` on, by reads of 16 bytes."""
    lanes = READ_BYTES // size
    return [
        load_vector(into, at, pieces.buffer, (start + at).astype("int64"), lanes) for at in range(0, how.pack, lanes)
    ]
