"""How the warps of tensor-core kernels store what they have summed up: through shared memory, in whole vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.tirx import For, ForKind, Stmt

from ...shared.tir_loops import Index, i64, seq
from ..launch import allocated, registers
from . import tensor_core_ptx as ptx
from .gemm_index import Indices, i32
from .gemm_operand import Write
from .tensor_core_tile import SKEW
from .vectors import load_vector

_WARP = 32

# (row in the slab, column of the vector in the slab, its numbers) -> what names its place in C, and what stores it.
StoreVector = Callable[[tirx.Expr, tirx.Expr, list[tirx.Expr]], tuple[list[Stmt], Stmt]]


@dataclass(frozen=True)
class Results:
    """A warp's results: `rows` x `columns` fragments, which leave by slabs of 16 rows and `at_once` fragments.

    Attributes:
        how: the multiplication.
        size: rows and columns of C.
        whole: whether tiles end where C does, down and along.
        lanes: columns that are stored at once where rows are multiples of them.
        indices: how values are named.
    """

    how: ptx.Multiply
    rows: int
    columns: int
    at_once: int
    size: tuple[Index, Index]
    whole: tuple[bool, bool]
    lanes: int
    indices: Indices

    @property
    def pitch(self) -> int:
        """Elements from one row of a slab to the next."""
        return self.at_once * ptx.COLUMNS + SKEW

    def store(
        self,
        sums: tirx.Buffer,
        slab: tuple[tirx.Buffer, tirx.Expr],
        lane: tirx.Expr,
        corner: tuple[Index, Index],
        place: Callable[[int], tuple[tirx.Expr, tirx.Expr]],
        write: Write,
    ) -> Stmt:
        """Store what exists of `sums`; `slab` is a place for ROWS * `pitch` elements.

        `corner` is where the tile begins in C, `place(i)` where the warp's rows of fragment i begin in the tile.
        """
        width = self.at_once * ptx.COLUMNS
        lanes = store_lanes(self.size[1], min(self.lanes, width // 2))
        values = registers(lanes, self.how.accumulator, "values")
        memory, base = slab
        here = base + tirx.truncdiv(lane, i32(4)) * self.pitch + tirx.truncmod(lane, i32(4)) * 2
        statements: list[Stmt] = []
        for i in range(self.rows):
            for first in range(0, self.columns, self.at_once):
                from_ = ptx.address(sums, i32((i * self.columns + first) * ptx.RESULTS))
                kept = ptx.keep_results(self.how, ptx.address(memory, here), from_, self.at_once, self.pitch)
                down, along = place(i)
                start = down, along + first * ptx.COLUMNS
                stored = partial(self._stored, corner, start, write)
                each = Slab(memory, base, width, self.pitch).each(values, lane, stored)
                statements.append(seq(kept, ptx.sync_warp(), each, ptx.sync_warp()))
        return allocated([values], *statements)

    def _stored(
        self,
        corner: tuple[Index, Index],
        start: tuple[tirx.Expr, tirx.Expr],
        write: Write,
        line: tirx.Expr,
        rest: tirx.Expr,
        results: list[tirx.Expr],
    ) -> tuple[list[Stmt], Stmt]:
        """Store a vector of the slab that begins at `start` within the tile."""
        lining, row = self._name("row", corner[0], start[0] + line)
        ranging, column = self._name("column", corner[1], start[1] + rest, len(results))
        return [*lining, *ranging], self._write(row, column, results, write)

    def _name(self, name: str, start: Index, within: tirx.Expr, unit: int = 1) -> tuple[list[Stmt], Index]:
        return self.indices.name(name, start + self.indices.const(within), unit)

    def _write(self, row: Index, column: Index, values: list[tirx.Expr], write: Write) -> Stmt:
        pairs = zip((row, column), self.size, self.whole, strict=True)
        conditions = [at < limit for at, limit, whole in pairs if not whole]
        body = write(row, [column + j for j in range(len(values))], values)
        return tirx.IfThenElse(tirx.all(*conditions), body, None) if conditions else body


@dataclass(frozen=True)
class Slab:
    """ROWS rows of a warp's results in shared memory, `pitch` elements from one to the next, `width` of them to store.

    They begin at place `base` of `memory`.
    """

    memory: tirx.Buffer
    base: tirx.Expr
    width: int
    pitch: int

    def each(self, values: tirx.Buffer, lane: tirx.Expr, body: StoreVector) -> Stmt:
        """`body` for each vector of as many numbers as `values` has, shared out among the lanes of the warp."""
        lanes = int(values.shape[0])
        number, per_row = tirx.Var("vector", "int32"), self.width // lanes
        vector = number * _WARP + lane
        line, rest = tirx.truncdiv(vector, i32(per_row)), tirx.truncmod(vector, i32(per_row)) * lanes
        naming, writing = body(line, rest, [tirx.BufferLoad(values, [i64(j)]) for j in range(lanes)])
        read = _read(values, self.memory, self.base + line * self.pitch + rest, lanes)
        count = i32(ptx.ROWS * per_row // _WARP)
        return For(number, i32(0), count, ForKind.SERIAL, seq(*naming, read, writing))


def store_lanes(n: Index, most: int) -> int:
    """Columns to store at once: vectors must end where rows do."""
    lanes = most
    while lanes > 1 and not (isinstance(n, int) and n % lanes == 0):
        lanes //= 2
    return lanes


def ends_within(size: Index, tile: int) -> bool:
    """Whether tiles of that size end where a matrix of `size` rows (columns) does."""
    return isinstance(size, int) and size % tile == 0


def _read(into: tirx.Buffer, source: tirx.Buffer, start: tirx.Expr, lanes: int) -> Stmt:
    """`lanes` results out of the slab, by vectors of at most four."""
    step = min(4, lanes)
    return seq(*(load_vector(into, at, source, start.astype("int64") + at, step) for at in range(0, lanes, step)))
