"""The kernel around a tile: which block computes which tiles of C, and what becomes of sums that are parts only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tvm import tirx
from tvm.tirx import For, ForKind, PrimFunc, Stmt

from ....compiler.schedule.op_spec import TensorType
from ....compiler.schedule.template import Candidate, Packer
from ...shared.index_math import ceil_div, unrolled, when
from ...shared.tir_loops import Index, i64, seq, store
from ..launch import allocated, bound_to, narrow, registers
from .gemm_index import Indices, i32
from .gemm_operand import Operand, Write
from .gemm_shares import EVENLY, Share, Sharing
from .vectors import load_vector, store_vector

# Elements of partial sums that a thread adds up at once, and threads of a block that does.
_LANES, _THREADS = 4, 256

Operands = Callable[[Index], tuple[Operand, Operand, Write]]


@dataclass(frozen=True)
class Tile:
    """A share of a tile of C whose first element is (`row`, `column`) of product number `batch`, of k from `k` on."""

    row: Index
    column: Index
    batch: Index
    k: Index
    share: Share


# (thread, share, A and B, what stores sums) -> what a block does.
ProductBody = Callable[[tirx.Expr, Tile, tuple[Operand, Operand], Write], Stmt]


@dataclass(frozen=True)
class Kernel:
    """A kernel, or two, and the workspace between them."""

    body: Stmt
    workspace: tirx.Buffer | None = None

    def candidate(self, func: PrimFunc, packers: Mapping[int, Packer]) -> Candidate:
        """What a template offers: `func` has the body, and gets the workspace as its last parameter."""
        if self.workspace is None:
            return Candidate(func, packers)
        size = int(self.workspace.shape[0])
        func = PrimFunc([*func.params, self.workspace], func.body, func.ret_type, func.attrs)
        return Candidate(func, packers, TensorType((size,), str(self.workspace.dtype)))


@dataclass(frozen=True)
class Grid:
    """Tiles of bm x bn results, steps of bk, of `batches` products C = A B of m x n results.

    Attributes:
        band: rows of tiles that blocks walk down before they go to the next column, so that the operands of blocks
            that run at once meet in the second-level cache.
        accumulator: type of sums.
        result: type of the sums as the epilogue gets them.
        lanes: columns that are stored at once where n is a multiple of them.
        indices: how values are named.
        split, at_once, stay: see gemm_shares.py.
    """

    m: Index
    n: Index
    k: Index
    bm: int
    bn: int
    bk: int
    batches: Index
    accumulator: str
    result: str
    lanes: int
    indices: Indices
    band: int = 1
    split: int = 1
    at_once: int = 1
    stay: bool = False

    @property
    def size(self) -> tuple[Index, Index]:
        """Tiles down and along C."""
        return ceil_div(self.m, self.bm), ceil_div(self.n, self.bn)

    @cached_property
    def sharing(self) -> Sharing:
        """How the work is shared out."""
        down, along = self.size
        return Sharing(self.batches * down * along, ceil_div(self.k, self.bk), self.split, self.at_once, self.stay)

    @property
    def whole_steps(self) -> bool:
        """Whether every step is one of K's from its first to its last k."""
        return isinstance(self.k, int) and self.k % self.bk == 0 and self.sharing.exact

    @cached_property
    def workspace(self) -> tirx.Buffer | None:
        """Where partial sums lie between the two kernels; None if there are none."""
        size = self.sharing.slots * self.bm * self.bn
        return tirx.decl_buffer((size,), self.accumulator, "partial_sums") if size else None

    def kernel(self, threads: int, operands: Operands, body: Callable[[tirx.Expr, Tile, Write], Stmt]) -> Kernel:
        """Everything: `body(thread, tile, write)` for each share of each block, and what adds up the parts."""

        def block(number: Index, thread: tirx.Expr) -> Stmt:
            return self.each(number, lambda tile: body(thread, tile, self.write(tile, operands(tile.batch)[2])))

        whole = bound_to(
            "blockIdx.x",
            self.sharing.blocks,
            lambda number: bound_to("threadIdx.x", threads, lambda thread: block(number, narrow(thread))),
        )
        return Kernel(seq(whole, self.added_up(operands)), self.workspace)

    def product(self, threads: int, operands: Operands, body: ProductBody) -> Kernel:
        """The same where a share multiplies a piece of A and one of B at a time."""

        def share(thread: tirx.Expr, tile: Tile, write: Write) -> Stmt:
            a, b, _ = operands(tile.batch)
            return body(thread, tile, (a, b), write)

        return self.kernel(threads, operands, share)

    def each(self, block: Index, body: Callable[[Tile], Stmt]) -> Stmt:
        """`body` for each share of block number `block`."""

        def of_tile(share: Share) -> Stmt:
            naming, tile = self._tile(share)
            return seq(*naming, body(tile))

        return self.sharing.each(self.indices.const(block), self.indices, of_tile)

    def _tile(self, share: Share) -> tuple[list[Stmt], Tile]:
        row, column, batch = self._place(self.indices.const(share.tile))
        names = ("row", "column", "batch", "k")
        values = (row * self.bm, column * self.bn, batch, share.first * self.bk)
        pairs = [self._named(name, value) for name, value in zip(names, values, strict=True)]
        (_, row), (_, column), (_, batch), (_, k) = pairs
        return [s for statements, _ in pairs for s in statements], Tile(row, column, batch, k, share)

    def _named(self, name: str, value: Index) -> tuple[list[Stmt], Index]:
        known = isinstance(value, int) and value == 0
        return ([], value) if known else self.indices.name(f"first_{name}", value)

    def _place(self, number: Index) -> tuple[Index, Index, Index]:
        """Row and column of tile `number` in tiles, and its batch: column by column within bands of rows."""
        quotient, remainder = self.indices.quotient, self.indices.remainder
        down, along = self.size
        batch: Index = 0
        if not (isinstance(self.batches, int) and self.batches == 1):
            batch, number = quotient(number, down * along), remainder(number, down * along)
        if isinstance(down, int) and down == 1:
            return 0, number, batch
        if self.band == 1:
            return quotient(number, along), remainder(number, along), batch
        in_band = along * self.band
        first = quotient(number, in_band) * self.band
        rows: Index = self.band
        if not (isinstance(down, int) and down % self.band == 0):
            rows = tirx.min(self.indices.const(self.band), self.indices.const(down) - first)
        within = remainder(number, in_band)
        return first + remainder(within, rows), quotient(within, rows), batch

    def write(self, tile: Tile, finish: Write) -> Write:
        """What stores sums of `tile`: by `finish`, the epilogue, or as a part."""

        def finished(row: Index, columns: Sequence[Index], values: Sequence[tirx.Expr]) -> Stmt:
            return finish(row, columns, [_cast(value, self.result) for value in values])

        def part(row: Index, columns: Sequence[Index], values: Sequence[tirx.Expr]) -> Stmt:
            assert self.workspace is not None
            const, lanes = self.indices.const, min(_LANES, len(values))
            place = const(tile.share.slot) * (self.bm * self.bn)
            place = place + (const(row) - const(tile.row)) * self.bn + (const(columns[0]) - const(tile.column))
            naming, start = self.indices.name("part", place, lanes)
            stores = [
                store_vector(self.workspace, start + at, values[at : at + lanes]) for at in range(0, len(values), lanes)
            ]
            return seq(*naming, *stores)

        whole = tile.share.whole
        if isinstance(whole, bool):
            return finished if whole else part
        return lambda *what: tirx.IfThenElse(whole, finished(*what), part(*what))

    def added_up(self, operands: Operands) -> Stmt | None:
        """The kernel that adds up partial sums and computes the epilogue."""
        workspace, sharing, indices = self.workspace, self.sharing, self.indices
        if workspace is None:
            return None
        lanes = min(_LANES, self.lanes)
        while lanes > 1 and self.n % lanes:
            lanes //= 2
        threads = min(_THREADS, self.bm * self.bn // lanes)
        per_tile = self.bm * self.bn // (lanes * threads)
        first, count = sharing.split_tiles
        sums, part = (registers(lanes, self.accumulator, name) for name in ("sums", "part"))

        def block(number: Index, thread: tirx.Expr) -> Stmt:
            naming, which = indices.name("tile", indices.quotient(indices.const(number), per_tile) + first)
            placing, tile = self._tile(Share(which, 0, sharing.steps))
            number = indices.remainder(indices.const(number), per_tile) * threads + indices.const(thread)
            lining, line = indices.name("line", indices.quotient(number, self.bn // lanes))
            resting, rest = indices.name("rest", indices.remainder(number, self.bn // lanes) * lanes, lanes)
            rows, row = indices.name("row", tile.row + line)
            columns, column = indices.name("column", tile.column + rest, lanes)
            counting, parts, slot = sharing.parts_of(which, indices)
            clear = unrolled("i", 0, lanes, lambda i: store(sums, [i], tirx.const(0, self.accumulator)))
            var = tirx.Var("number", "int32")
            start = slot(var) * (self.bm * self.bn) + line * self.bn + rest
            starting, start = indices.name("start", start, lanes)
            add = unrolled("i", 0, lanes, lambda i: store(sums, [i], _at(sums, i) + _at(part, i)))
            each = seq(*starting, load_vector(part, 0, workspace, start, lanes), add)
            loop = For(var, tirx.const(0, "int32"), i32(parts), ForKind.SERIAL, each)
            values = [_cast(_at(sums, j), self.result) for j in range(lanes)]
            finish = operands(tile.batch)[2](row, [column + j for j in range(lanes)], values)
            whole = self.m % self.bm == 0 and self.n % self.bn == 0
            inside: list[tirx.Expr] = [] if whole else [row < self.m, column < self.n]
            inside += [parts > 1] if sharing.split == EVENLY else []
            body = seq(clear, loop, finish)
            body = when(tirx.all(*inside) if inside else True, body)
            return seq(*naming, *placing, *lining, *resting, *rows, *columns, *counting, allocated([sums, part], body))

        return bound_to(
            "blockIdx.x",
            count * per_tile,
            lambda number: bound_to("threadIdx.x", threads, lambda thread: block(number, narrow(thread))),
        )


def _at(buffer: tirx.Buffer, index: Index) -> tirx.Expr:
    return tirx.BufferLoad(buffer, [i64(index)])


def _cast(value: tirx.Expr, dtype: str) -> tirx.Expr:
    return value if str(value.ty.dtype) == dtype else value.astype(dtype)
