"""What attention on tensor cores has in common, whichever instruction multiplies: rows, masks, weights, results.

1. A block has some rows of queries of one batch; each of its warps has 16 of them, or 32. It walks through the keys by
   steps; keys and values of later steps are on their way to shared memory while one is computed.
2. Scores of a step are a product in registers. Masks apply to them, and those behind the last key, or behind a row's
   own where attention is causal, become -infinity; steps that no row of the block sees are not taken at all.
3. Weights are exp(score - largest so far); results summed up before fade when the largest grows. Rounded to 16 bits in
   registers they are the left operand of the second product, whose sums stay in registers in float32.
4. Results are divided by the sum of the weights, and leave by slabs of 16 rows through shared memory in whole vectors.
So do FlashAttention-2 (Dao, 2023) and its successors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tvm import tirx
from tvm.tirx import DeclBuffer, Stmt

from ...shared.index_math import ceil_div
from ...shared.tir_loops import Index, i64
from ..launch import allocated, barrier, registers
from . import attention_ptx as flash
from . import tensor_core_ptx as ptx
from .attention_problem import AttentionMemory, AttentionProblem, Batch, masked_scores
from .attention_rows import Layout, Rows
from .attention_tile import SKEW, rounded
from .gemm_index import Held, i32
from .tensor_core_results import Slab
from .vectors import VECTOR_BYTES, dtype_bytes

_WARP = 32
_LOG2E = math.log2(math.e)


class Tile(Protocol):
    """Sizes of a block: warps, fragments of 16 rows of each, keys of a step, steps in shared memory."""

    @property
    def warps(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def bn(self) -> int: ...

    @property
    def stages(self) -> int: ...

    @property
    def bm(self) -> int:
        """Queries of a block."""

    @property
    def threads(self) -> int:
        """Threads of a block."""

    def slab(self, columns: int) -> int:
        """Numbers of float32 in which a warp turns 16 rows of results."""

    def shared_bytes(self, depth: int, columns: int) -> int:
        """Shared memory of a block."""


@dataclass(frozen=True)
class FlashNest:
    """The kernel for one tile size; `how` multiplies operands of the problem's type."""

    tile: Tile
    problem: AttentionProblem
    how: ptx.Multiply
    memory: AttentionMemory
    indices: Held

    @property
    def depth(self) -> int:
        """Of queries and keys in shared memory."""
        return rounded(self.problem.depth)

    @property
    def columns(self) -> int:
        """Of values in shared memory."""
        return rounded(self.problem.columns)

    @property
    def natural(self) -> bool:
        """Whether scores are scaled before the largest is looked for: masks may be as large as float32 allows."""
        return bool(self.problem.masks) or self.problem.scale <= 0


class FlashBlock(ABC):
    """What one block does. Subclasses lay out shared memory, and multiply."""

    # Alignment of shared memory, bytes.
    alignment = 128

    def __init__(self, nest: FlashNest, thread: tirx.Expr, row: Index, batch: Batch) -> None:
        self.nest, self.tile, self.problem, self.batch, self.row = nest, nest.tile, nest.problem, batch, row
        tile, size = nest.tile, nest.tile.shared_bytes(nest.depth, nest.columns)
        self.memory = tirx.decl_buffer((size,), "uint8", "memory", scope="shared.dyn", data_alignment=self.alignment)
        self.pieces = self._view(self.problem.dtype, "pieces", size)
        self.results = self._view("float32", "results", size)
        self.lane, self.warp = tirx.Var("lane", "int32"), tirx.Var("warp", "int32")
        self.naming = [
            tirx.Bind(self.lane, tirx.truncmod(thread, i32(_WARP))),
            tirx.Bind(self.warp, tirx.truncdiv(thread, i32(_WARP))),
        ]
        depth, columns = self.problem.depth, self.problem.columns
        sizes = ((batch.query, tile.bm, depth), (batch.key, tile.bn, depth), (batch.value, tile.bn, columns))
        self.queries, self.keys, self.values = (
            Rows(nest.indices, tile.threads, matrix, self.layout(rows, rounded(width)), rows, width, thread)
            for matrix, rows, width in sizes
        )
        along, across = tile.bn // ptx.COLUMNS, nest.columns // ptx.COLUMNS
        self.score = flash.Fragments(tile.rows, along, self.wide(along))
        self.result = flash.Fragments(tile.rows, across, self.wide(across))
        self.scores = registers(self.score.registers, "float32", "scores")
        self.weights = registers(self.score.registers // 2, "uint32", "weights")
        self.sums = registers(self.result.registers, "float32", "sums")
        self.top, self.total, self.worth = (
            registers(2 * tile.rows, "float32", name) for name in ("top", "total", "worth")
        )

    @abstractmethod
    def layout(self, count: int, width: int) -> Layout:
        """How `count` rows of `width` elements lie in shared memory."""

    @abstractmethod
    def wide(self, columns: int) -> int:
        """How many of `columns` fragments of a row follow each other in registers."""

    @abstractmethod
    def prepare(self, down: tirx.Expr) -> tuple[list[tirx.Buffer], list[Stmt]]:
        """Further registers, and what is computed once; `down` is the warp's first row within the block."""

    @abstractmethod
    def walk(self, count: tirx.Expr) -> Stmt:
        """All `count` steps, behind which results are there, but for the sums of weights."""

    def _view(self, dtype: str, name: str, size: int) -> tirx.Buffer:
        count = size // dtype_bytes(dtype)
        return tirx.decl_buffer((count,), dtype, name, data=self.memory.data, scope="shared.dyn")

    def emit(self) -> Stmt:
        """Everything from the first copy to the last store."""
        tile, places = self.tile, Held("int32")
        down = self.warp * (tile.rows * ptx.ROWS)
        more, preparing = self.prepare(down)
        # The first row of a lane, and the number of steps. The loop over them is not to be written out.
        naming, self.mine = places.name("mine", i32(self.row) + down + tirx.truncdiv(self.lane, i32(4)))
        steps = ceil_div(self._visible(), tile.bn)
        counting, count = places.name("steps", ptx.hidden(steps) if isinstance(steps, int) else i32(steps))
        copying = [s for rows in (self.queries, self.keys, self.values) for s in rows.prepare()]
        buffers = [self.memory, *more, self.scores, self.weights, self.sums, self.top, self.total, self.worth]
        return allocated(
            buffers,
            DeclBuffer(self.pieces, data=self.memory.data),
            DeclBuffer(self.results, data=self.memory.data),
            *self.naming,
            *preparing,
            *naming,
            *counting,
            *copying,
            *self._clear(),
            self.walk(count),
            ptx.wait_copies(0),
            barrier(),
            flash.finish(self.result, self.problem.zero_rows, first_of(self.sums), first_of(self.total)),
            self._results(),
        )

    def _visible(self) -> Index:
        """Keys that the last row of the block sees."""
        keys = self.nest.memory.keys
        if not self.problem.causal:
            return keys
        last = self.row + (self.tile.bm + self.problem.offset)
        const = self.nest.indices.const
        return tirx.max(const(0), tirx.min(const(keys), last))

    def _clear(self) -> list[Stmt]:
        """Nothing is summed up, and no score was seen."""
        return [
            flash.fill(first_of(self.sums), self.result.registers),
            flash.fill(first_of(self.total), 2 * self.tile.rows),
            flash.fill(first_of(self.top), 2 * self.tile.rows, lowest=True),
        ]

    def fetch(self, rows: Rows, step: tirx.Expr, place: Index) -> Stmt:
        """Begin to copy the keys or values of a step to `place`."""
        return rows.copy(self.nest.indices.const(step) * self.tile.bn, self.pieces, place)

    def masked(self, step: tirx.Expr) -> list[Stmt]:
        """What comes between scores and weights."""
        tile, problem, keys = self.tile, self.problem, self.nest.memory.keys
        statements = self._apply_masks(step) if self.nest.natural else []
        column = step * tile.bn + tirx.truncmod(self.lane, i32(4)) * 2
        limit = i32(keys)
        seen = self.mine + (problem.offset + 1)
        hide = flash.hide(first_of(self.scores), self.score, column, limit, seen, int(problem.causal))
        if problem.causal:
            # Rows from the warp's first on see that one's keys at least.
            first = i32(self.row) + self.warp * (tile.rows * ptx.ROWS) + (problem.offset + 1)
            limit = tirx.min(limit, first)
        elif isinstance(keys, int) and keys % tile.bn == 0:
            return statements
        return [*statements, tirx.IfThenElse((step + 1) * tile.bn > limit, hide, None)]

    def _apply_masks(self, step: tirx.Expr) -> list[Stmt]:
        """Scale scores, and apply masks where there are such."""
        shape, const = self.score, self.nest.indices.const
        first = const(step * self.tile.bn + tirx.truncmod(self.lane, i32(4)) * 2)
        places = [(i, h) for i in range(shape.rows) for h in range(2)]
        rows = [const(self.mine) + (16 * i + 8 * h) for i, h in places]
        statements = []
        for j in range(shape.columns):
            for e in range(2):
                at = [[i64(shape.at(i, j) + 2 * h + e)] for i, h in places]
                scores = [tirx.BufferLoad(self.scores, a) for a in at]
                statements += masked_scores(
                    self.problem,
                    self.batch,
                    first + (8 * j + e),
                    rows,
                    scores,
                    lambda i, score, at=at: tirx.BufferStore(self.scores, score, at[i]),
                )
        return statements

    def weigh(self) -> Stmt:
        """Weights of a step, in the place of its scores."""
        natural, scale = self.nest.natural, self.problem.scale
        factor = tirx.const(_LOG2E if natural else scale * _LOG2E, "float32")
        state = [first_of(b) for b in (self.top, self.total, self.worth)]
        return flash.weigh(self.score, natural, first_of(self.scores), state, factor)

    def fade(self) -> Stmt:
        """Weights as they are multiplied; results so far as they count beside them."""
        pointers = [first_of(b) for b in (self.weights, self.scores, self.sums, self.worth)]
        return flash.fade(self.problem.dtype, self.score, self.result, *pointers)

    def _results(self) -> Stmt:
        """Store what exists of the warp's results, slab by slab."""
        nest, shape, tile = self.nest, self.result, self.tile
        width, pitch = nest.columns, nest.columns + SKEW
        base = self.warp * tile.slab(width)
        lanes = math.gcd(self.problem.columns, VECTOR_BYTES // dtype_bytes(self.problem.op.output.dtype))
        values = registers(lanes, "float32", "values")
        statements = []
        for i in range(tile.rows):
            place = base + tirx.truncdiv(self.lane, i32(4)) * pitch + tirx.truncmod(self.lane, i32(4)) * 2
            for column in range(0, shape.columns, shape.wide):
                sums = ptx.address(self.sums, i32(shape.at(i, column)))
                slab = ptx.address(self.results, place + column * ptx.COLUMNS)
                statements.append(ptx.keep_results(nest.how, slab, sums, shape.wide, pitch))
            statements += [ptx.sync_warp(), self._written(i, base, values), ptx.sync_warp()]
        return allocated([values], *statements)

    def _written(self, i: int, base: tirx.Expr, values: tirx.Buffer) -> Stmt:
        """Store a slab: 16 rows of fragments number `i`."""
        width, dtype, indices = self.nest.columns, self.problem.op.anchor_type.dtype, self.nest.indices

        def stored(line: tirx.Expr, rest: tirx.Expr, results: list[tirx.Expr]) -> tuple[list[Stmt], Stmt]:
            down = self.warp * (self.tile.rows * ptx.ROWS) + i * ptx.ROWS + line
            lining, row = indices.name("out_row", self.row + indices.const(down))
            ranging, column = indices.name("out_column", indices.const(rest), len(results))
            typed = [r if dtype == "float32" else r.astype(dtype) for r in results]
            write = self.batch.write(row, [column + j for j in range(len(results))], typed)
            inside = [row < self.batch.query.limit]
            inside += [column < self.problem.columns] if width > self.problem.columns else []
            return [*lining, *ranging], tirx.IfThenElse(tirx.all(*inside), write, None)

        return Slab(self.results, base, width, width + SKEW).each(values, self.lane, stored)


def first_of(buffer: tirx.Buffer) -> tirx.Expr:
    """The address of the first register."""
    return ptx.address(buffer, i32(0))


BlockOf = Callable[[FlashNest, tirx.Expr, Index, Batch], FlashBlock]
