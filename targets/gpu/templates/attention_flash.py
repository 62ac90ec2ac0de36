"""Attention on tensor cores that never writes scores down: FlashAttention-2 (Dao, 2023), for 16-bit floats.

1. A block has some rows of queries of one batch; each of its warps has 16 of them, or 32. It walks through the keys by
   steps; keys and values of the next `stages` - 1 steps are on their way to shared memory while one is computed.
2. Scores of a step are a product in registers. Masks apply to them, and those behind the last key, or behind a row's
   own where attention is causal, become -infinity; steps that no row of the block sees are not taken at all.
3. Weights are exp(score - largest so far); results summed up before fade when the largest grows. Rounded to 16 bits in
   registers they are the left operand of the second product, whose sums stay in registers in float32.
4. Results are divided by the sum of the weights, and leave by slabs of 16 rows through shared memory in whole vectors.
Rows in shared memory have 16 bytes more than their own, so that `ldmatrix` finds eight of them in different banks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import DeclBuffer, For, ForKind, Stmt

from ...shared.index_math import ceil_div, when
from ...shared.tir_loops import Index, i64, seq
from ..launch import allocated, barrier, bound_to, registers
from . import attention_ptx as flash
from . import tensor_core_ptx as ptx
from .attention_problem import AttentionMemory, AttentionProblem, Batch, masked_scores
from .attention_rows import Rows
from .attention_tile import SKEW, FlashTile, rounded, wide
from .gemm_index import Held
from .tensor_core_piece import i32
from .vectors import VECTOR_BYTES, dtype_bytes, load_vector

_WARP = 32
_LOG2E = math.log2(math.e)


@dataclass(frozen=True)
class FlashNest:
    """The kernel for one tile size; `how` multiplies operands of the problem's type."""

    tile: FlashTile
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

    def kernel(self) -> Stmt:
        """All rows of all batches, those that see most keys first."""
        tiles = ceil_div(self.memory.rows, self.tile.bm)

        def block(number: Index, thread: tirx.Expr) -> Stmt:
            batch, tile = self.indices.quotient(number, tiles), self.indices.remainder(number, tiles)
            if self.problem.causal:
                tile = self.indices.const(tiles) - 1 - tile
            naming, (row, batch) = self.named(row=tile * self.tile.bm, batch=batch)
            return seq(*naming, _Block(self, thread, row, self.memory.batch(batch)).emit())

        return bound_to(
            "blockIdx.x",
            self.memory.batches * tiles,
            lambda number: bound_to(
                "threadIdx.x", self.tile.threads, lambda thread: block(self.indices.const(number), _narrow(thread))
            ),
        )

    def named(self, **values: Index) -> tuple[list[Stmt], list[Index]]:
        """Statements that compute `values`, and what stands for each."""
        pairs = [self.indices.name(name, value) for name, value in values.items()]
        return [s for statements, _ in pairs for s in statements], [value for _, value in pairs]


def _narrow(thread: tirx.Expr) -> tirx.Expr:
    return thread.value if isinstance(thread, tirx.Cast) else thread


class _Block:
    """What one block does."""

    def __init__(self, nest: FlashNest, thread: tirx.Expr, row: Index, batch: Batch) -> None:
        self.nest, self.tile, self.problem, self.batch, self.row = nest, nest.tile, nest.problem, batch, row
        tile, size = nest.tile, nest.tile.shared_bytes(nest.depth, nest.columns)
        self.memory = tirx.decl_buffer((size,), "uint8", "memory", scope="shared.dyn", data_alignment=128)
        self.pieces = self._view(self.problem.dtype, "pieces", size)
        self.results = self._view("float32", "results", size)
        self.key_start = tile.bm * (nest.depth + SKEW)
        self.value_start = self.key_start + tile.stages * tile.bn * (nest.depth + SKEW)
        self.lane, self.warp = tirx.Var("lane", "int32"), tirx.Var("warp", "int32")
        self.naming = [
            tirx.Bind(self.lane, tirx.truncmod(thread, i32(_WARP))),
            tirx.Bind(self.warp, tirx.truncdiv(thread, i32(_WARP))),
        ]
        self.queries = Rows(nest.indices, tile.threads, batch.query, tile.bm, self.problem.depth, thread)
        self.keys = Rows(nest.indices, tile.threads, batch.key, tile.bn, self.problem.depth, thread)
        self.values = Rows(nest.indices, tile.threads, batch.value, tile.bn, self.problem.columns, thread)
        self.score = flash.Fragments(tile.rows, tile.bn // ptx.COLUMNS, wide(tile.bn // ptx.COLUMNS))
        self.result = flash.Fragments(tile.rows, nest.columns // ptx.COLUMNS, wide(nest.columns // ptx.COLUMNS))
        held = nest.depth // self.nest.how.depth if tile.held else 1
        self.left = registers(held * tile.rows * ptx.A_REGISTERS, "uint32", "left")
        self.right = registers(max(self.score.wide, self.result.wide) * ptx.B_REGISTERS, "uint32", "right")
        self.scores = registers(self.score.registers, "float32", "scores")
        self.weights = registers(self.score.registers // 2, "uint32", "weights")
        self.sums = registers(self.result.registers, "float32", "sums")
        self.top = registers(2 * tile.rows, "float32", "top")
        self.total = registers(2 * tile.rows, "float32", "total")

    def _view(self, dtype: str, name: str, size: int) -> tirx.Buffer:
        count = size // dtype_bytes(dtype)
        return tirx.decl_buffer((count,), dtype, name, data=self.memory.data, scope="shared.dyn")

    def emit(self) -> Stmt:
        """Everything from the first copy to the last store."""
        tile = self.tile
        eighth = tirx.truncmod(self.lane, i32(8))
        half = tirx.truncmod(tirx.truncdiv(self.lane, i32(8)), i32(2))
        quarter = tirx.truncdiv(self.lane, i32(16))
        pitch, value_pitch = self.nest.depth + SKEW, self.nest.columns + SKEW
        places = Held("int32")
        down = self.warp * (tile.rows * ptx.ROWS)
        names = {
            "query_lane": (down + eighth + half * 8) * pitch + quarter * 8,
            "key_lane": (eighth + quarter * 8) * pitch + half * 8,
            "value_lane": (eighth + half * 8) * value_pitch + quarter * 8,
        }
        pairs = [places.name(name, value, 8) for name, value in names.items()]
        self.query_lane, self.key_lane, self.value_lane = (value for _, value in pairs)
        # The first row of a lane, and the number of keys that the block's rows see.
        naming, self.mine = places.name("mine", _narrowed(self.row) + down + tirx.truncdiv(self.lane, i32(4)))
        counting, self.end = places.name("end", _narrowed(self._visible()))
        prepare = [s for rows in (self.queries, self.keys, self.values) for s in rows.prepare()]
        lanes = [s for statements, _ in pairs for s in statements]
        buffers = [self.memory, self.left, self.right, self.scores, self.weights, self.sums, self.top, self.total]
        return allocated(
            buffers,
            DeclBuffer(self.pieces, data=self.memory.data),
            DeclBuffer(self.results, data=self.memory.data),
            *self.naming,
            *lanes,
            *naming,
            *counting,
            *prepare,
            self._first(),
            self._steps(),
            ptx.wait_copies(0),
            barrier(),
            flash.finish(self.result, self.problem.zero_rows, _start(self.sums), _start(self.total)),
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

    def _first(self) -> Stmt:
        """Bring queries and the first keys and values; meanwhile clear what is summed up."""
        groups = []
        for stage in range(self.tile.stages - 1):
            queries = [self.queries.copy(self.row, self.pieces, i32(0))] if stage == 0 else []
            groups += [*queries, self._fetch(i32(stage)), ptx.commit_copies()]
        clear = [
            flash.fill(_start(self.sums), self.result.registers),
            flash.fill(_start(self.total), 2 * self.tile.rows),
            flash.fill(_start(self.top), 2 * self.tile.rows, lowest=True),
        ]
        load = []
        if self.tile.held:
            load = [ptx.wait_copies(self.tile.stages - 2), barrier()]
            load += [self._load_queries(k) for k in range(0, self.nest.depth, self.nest.how.depth)]
        return seq(*groups, *clear, *load)

    def _fetch(self, step: tirx.Expr, stage: tirx.Expr | None = None) -> Stmt:
        """Begin to copy keys and values of `step` into `stage`."""
        tile, stage = self.tile, step if stage is None else stage
        first = self.nest.indices.const(step) * tile.bn
        keys = self.keys.copy(first, self.pieces, stage * (tile.bn * (self.nest.depth + SKEW)) + self.key_start)
        start = stage * (tile.bn * (self.nest.columns + SKEW)) + self.value_start
        return seq(keys, self.values.copy(first, self.pieces, start))

    def _steps(self) -> Stmt:
        """The walk through the keys."""
        tile, ahead = self.tile, self.tile.stages - 1
        count = tirx.truncdiv(self.end + (tile.bn - 1), i32(tile.bn))
        step = tirx.Var("step", "int32")
        places, current = Held("int32").name("current", tirx.truncmod(step, i32(tile.stages)))
        entered, following = Held("int32").name("following", tirx.truncmod(step + ahead, i32(tile.stages)))
        body = seq(
            ptx.wait_copies(ahead - 1),
            barrier(),
            *places,
            *entered,
            when(step + ahead < count, self._fetch(step + ahead, following)),
            ptx.commit_copies(),
            self._score(current),
            *self._masked(step),
            self._weigh(),
            self._gather(current),
        )
        return For(step, i32(0), count, ForKind.SERIAL, body)

    def _load_queries(self, k: int) -> Stmt:
        """The fragments of queries from `k` on."""
        pitch, at = self.nest.depth + SKEW, self._queries_at(k)
        place = ptx.address(self.pieces, self.query_lane + k)
        row_bytes = ptx.ROWS * pitch * self.nest.how.size
        into = ptx.address(self.left, i32(at))
        return ptx.load_fragments(into, place, i32(0), i32(0), self.tile.rows, row_bytes, 0, False)

    def _queries_at(self, k: int) -> int:
        return k // self.nest.how.depth * self.tile.rows * ptx.A_REGISTERS if self.tile.held else 0

    def _score(self, stage: tirx.Expr) -> Stmt:
        """Products of queries and keys."""
        nest, shape, pitch = self.nest, self.score, self.nest.depth + SKEW
        start = stage * (self.tile.bn * pitch) + self.key_start + self.key_lane
        statements = [flash.fill(_start(self.scores), shape.registers)]
        for k in range(0, nest.depth, nest.how.depth):
            if not self.tile.held:
                statements.append(self._load_queries(k))
            for column in range(0, shape.columns, shape.wide):
                place = ptx.address(self.pieces, start + (column * ptx.COLUMNS * pitch + k))
                row_bytes = ptx.ROWS * pitch * nest.how.size
                pair = (_start(self.right), place, i32(0), i32(0), shape.wide // 2, row_bytes, 0, False)
                sums = ptx.address(self.scores, i32(shape.at(0, column)))
                left = ptx.address(self.left, i32(self._queries_at(k)))
                statements.append(ptx.load_fragments(*pair))
                statements.append(ptx.multiply_tile(nest.how, shape.rows, shape.wide, sums, left, _start(self.right)))
        return seq(*statements)

    def _masked(self, step: tirx.Expr) -> list[Stmt]:
        """What comes between scores and weights."""
        tile, problem, keys = self.tile, self.problem, self.nest.memory.keys
        statements = self._apply_masks(step) if self.nest.natural else []
        column = step * tile.bn + tirx.truncmod(self.lane, i32(4)) * 2
        limit = _narrowed(keys)
        seen = self.mine + (problem.offset + 1)
        hide = flash.hide(_start(self.scores), self.score, column, limit, seen, int(problem.causal))
        if problem.causal:
            # Rows from the warp's first on see that one's keys at least.
            first = _narrowed(self.row) + self.warp * (tile.rows * ptx.ROWS) + (problem.offset + 1)
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

    def _weigh(self) -> Stmt:
        natural, scale = self.nest.natural, self.problem.scale
        factor = tirx.const(_LOG2E if natural else scale * _LOG2E, "float32")
        state = [_start(b) for b in (self.sums, self.top, self.total)]
        weights, scores = _start(self.weights), _start(self.scores)
        return flash.weigh(self.problem.dtype, self.score, self.result, natural, weights, scores, state, factor)

    def _gather(self, stage: tirx.Expr) -> Stmt:
        """Add up values by their weights."""
        nest, shape, pitch = self.nest, self.result, self.nest.columns + SKEW
        start = stage * (self.tile.bn * pitch) + self.value_start + self.value_lane
        statements = []
        for k in range(0, self.tile.bn, nest.how.depth):
            for column in range(0, shape.columns, shape.wide):
                place = ptx.address(self.pieces, start + (k * pitch + column * ptx.COLUMNS))
                pair = (_start(self.right), place, i32(0), i32(0), shape.wide // 2, 0, ptx.ROWS // 8, True)
                sums = ptx.address(self.sums, i32(shape.at(0, column)))
                weights = ptx.address(self.weights, i32(k // nest.how.depth * shape.rows * ptx.A_REGISTERS))
                statements.append(ptx.load_fragments(*pair))
                statements.append(
                    ptx.multiply_tile(nest.how, shape.rows, shape.wide, sums, weights, _start(self.right))
                )
        return seq(*statements)

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
            statements += [ptx.sync_warp(), self._written(i, base, values, lanes), ptx.sync_warp()]
        return allocated([values], *statements)

    def _written(self, i: int, base: tirx.Expr, values: tirx.Buffer, lanes: int) -> Stmt:
        """Store a slab: 16 rows of fragments number `i`."""
        nest, width, pitch = self.nest, self.nest.columns, self.nest.columns + SKEW
        number = tirx.Var("vector", "int32")
        place, per_row = number * _WARP + self.lane, width // lanes
        line, rest = tirx.truncdiv(place, i32(per_row)), tirx.truncmod(place, i32(per_row)) * lanes
        step = min(4, lanes)
        start = (base + line * pitch + rest).astype("int64")
        read = [load_vector(values, at, self.results, start + at, step) for at in range(0, lanes, step)]
        down = self.warp * (self.tile.rows * ptx.ROWS) + i * ptx.ROWS + line
        lining, row = nest.indices.name("out_row", self.row + nest.indices.const(down))
        ranging, column = nest.indices.name("out_column", nest.indices.const(rest), lanes)
        results = [tirx.BufferLoad(values, [i64(j)]) for j in range(lanes)]
        dtype = self.problem.op.anchor_type.dtype
        typed = [r if dtype == "float32" else r.astype(dtype) for r in results]
        write = self.batch.write(row, [column + j for j in range(lanes)], typed)
        inside = [row < self.batch.query.limit]
        inside += [column < self.problem.columns] if width > self.problem.columns else []
        body = seq(*lining, *ranging, *read, tirx.IfThenElse(tirx.all(*inside), write, None))
        return For(number, i32(0), i32(ptx.ROWS * per_row // _WARP), ForKind.SERIAL, body)


def _start(buffer: tirx.Buffer) -> tirx.Expr:
    return ptx.address(buffer, i32(0))


def _narrowed(value: Index) -> tirx.Expr:
    if isinstance(value, int):
        return i32(value)
    return value if str(value.ty.dtype) == "int32" else value.astype("int32")
