"""Attention on AMD's matrix units: scores never leave registers, as in FlashAttention-2 (Dao, 2023).

1. Each wave of a block has some queries, whose fragments stay in registers, a column of the right operand in each lane.
   Scores are keys times queries: all that a lane has of them belongs to its own query, and so do the statistics.
2. Masks apply to scores, and those behind the last key, or behind a query's own where attention is causal, become
   -infinity. Steps that no query of the block sees are not taken at all.
3. Weights are exp(score - largest so far); results summed up before fade when the largest grows. The largest is known
   to all lanes of a query; sums of weights come together in the end.
4. Results are turned values times weights. A lane's scores are those numbers of the right operand that the hardware
   wants of it, once keys are counted in another order (attention_matrix_rows.py): nothing is exchanged. On RDNA3, where
   two lanes hold the same operand, each gets the half that it lacks from the other.
5. Keys and values of the next step come from device memory into registers while one is computed, then to shared memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import For, ForKind, Stmt

from ...shared.index_math import ceil_div, when
from ...shared.tir_loops import Index, i64, seq, store
from ..launch import allocated, barrier, registers, shared
from .attention_matrix_rows import Keys, Pieces, Source, Values, lane_reads
from .attention_matrix_softmax import LaneSoftmax, lowest
from .attention_matrix_tile import MatrixFlashTile
from .attention_problem import AttentionProblem, Batch, masked_scores
from .gemm_index import Held, i32
from .hidden_lengths import HiddenLengths
from .matrix_core import READ_BYTES, in_order
from .vectors import load_vector, store_vector

# A buffer of a lane's registers, and the first of those that count.
Place = tuple[tirx.Buffer, int]

_LOG2E = math.log2(math.e)
# Steps up to which LLVM is not told their number: it would write the loop out.
_HIDDEN = 32


@dataclass(frozen=True)
class MatrixFlashNest:
    """The kernel for one tile size, whose operands are in `keys` keys."""

    tile: MatrixFlashTile
    problem: AttentionProblem
    keys: Index
    indices: Held

    @property
    def natural(self) -> bool:
        """Whether scores are scaled before the largest is looked for: masks may be as large as float32 allows."""
        return bool(self.problem.masks) or self.problem.scale <= 0

    def block(self, thread: tirx.Expr, row: Index, batch: Batch) -> Stmt:
        """What one block does, from the first load to the last store."""
        return _Block(self, thread, row, batch).emit()


class _Block:
    """What one block does."""

    def __init__(self, nest: MatrixFlashNest, thread: tirx.Expr, row: Index, batch: Batch) -> None:
        self.nest, self.tile, self.how, self.problem = nest, nest.tile, nest.tile.how, nest.problem
        self.indices, self.batch, self.row, self.thread = nest.indices, batch, row, thread
        tile, how, problem = self.tile, self.how, self.problem
        self.deep, self.broad = tile.deep(problem.depth), tile.broad(problem.columns)
        whole = isinstance(nest.keys, int) and nest.keys % tile.bn == 0
        self.keys = Keys(tile, nest.indices, batch.key, problem.depth, whole, thread)
        self.values = Values(tile, nest.indices, batch.value, problem.columns, whole, thread)
        self.query = Source(batch.query, how.carrier)
        self.fragments, self.across = tile.bn // how.side, self.broad // how.side
        self.per_query = self.deep // how.groups
        # A lane's operands out of queries: all of them, or those of one multiplication, and all in shared memory.
        count = tile.queries(problem.depth)
        self.queries = registers(count if tile.held else tile.rows * how.pack, how.carrier, "queries")
        self.set_aside = None if tile.held else shared(tile.threads * count, how.carrier, "queries_aside")
        self.left = registers(how.pack, how.carrier, "left")
        self.sums = registers(tile.rows * self.across * how.sums, "float32", "sums")
        self.lane, self.side, self.part_of = (tirx.Var(n, "int32") for n in ("lane", "side", "part_of"))
        factor = _LOG2E if nest.natural else problem.scale * _LOG2E
        self.softmax = LaneSoftmax(tile, self.lane, self.part_of, factor)

    def emit(self) -> Stmt:
        """Everything from the first load to the last store."""
        tile, pieces = self.tile, (self.keys, self.values)
        buffers = [self.queries, self.left, self.sums, *self.softmax.buffers]
        buffers += [] if self.set_aside is None else [self.set_aside]
        buffers += [b for p in pieces for b in (p.ahead, p.buffer)]
        steps = ceil_div(self._visible(), tile.bn)
        telling: list[Stmt] = []
        if isinstance(steps, int) and steps <= _HIDDEN:
            lengths = HiddenLengths((steps,), "steps")
            buffers.append(lengths.buffer)
            telling = [s for s in (lengths.tell(self.thread),) if s is not None]
            reading, steps = lengths.read(0)
        else:
            reading, steps = None, self.indices.const(steps)
        zero = tirx.const(0, "float32")
        clear = [store(self.sums, [k], zero) for k in range(int(self.sums.shape[0]))]
        counting, count = Held("int32").name("steps", i32(steps))
        step = tirx.Var("step", "int32")
        return allocated(
            buffers,
            *self._places(),
            *(s for p in pieces for s in p.prepare()),
            *self.query.declaring,
            *telling,
            *self._load_queries(),
            *clear,
            *self.softmax.clear(),
            *(p.fetch(self.indices.const(0)) for p in pieces),
            *(p.keep(i32(0)) for p in pieces),
            barrier(),
            reading,
            *counting,
            For(step, i32(0), count, ForKind.SERIAL, self._step(step, count)),
            *(s for i in range(tile.rows) for s in self._results(i)),
        )

    def _places(self) -> list[Stmt]:
        """Who this lane is: its query of each fragment, and its part of what lanes of a query share."""
        tile, how = self.tile, self.how
        wave = tirx.truncdiv(self.thread, i32(how.wave)) * (tile.rows * how.side)
        naming = [
            tirx.Bind(self.lane, tirx.truncmod(self.thread, i32(how.wave))),
            tirx.Bind(self.side, tirx.truncmod(self.lane, i32(how.side))),
            tirx.Bind(self.part_of, tirx.truncdiv(self.lane, i32(how.side))),
        ]
        const = self.indices.const
        first, self.first = self.indices.name("wave_row", self.row + const(wave))
        mine, self.mine = self.indices.name("mine", self.first + const(self.side))
        # Where the lane's pack of a line of keys, and of values, begins.
        group = self.part_of * how.pack if how.groups > 1 else i32(0)
        reading = [
            Held("int32").name(name, self.side * pitch + group, tile.skew)
            for name, pitch in (("key_lane", self.keys.pitch), ("value_lane", self.values.pitch))
        ]
        self.key_lane, self.value_lane = (place for _, place in reading)
        return [*naming, *first, *mine, *(s for statements, _ in reading for s in statements)]

    def _visible(self) -> Index:
        """Keys that the last query of the block sees."""
        if not self.problem.causal:
            return self.nest.keys
        const = self.indices.const
        last = self.row + (self.tile.bm + self.problem.offset)
        return tirx.max(const(0), tirx.min(const(self.nest.keys), last))

    def _load_queries(self) -> list[Stmt]:
        """A lane's operands out of queries, to where they stay."""
        chunks = [(i, chunk) for i in range(self.tile.rows) for chunk in range(0, self.deep, self.how.chunk)]
        loads = [self._load_query(i, chunk) for i, chunk in chunks]
        if self.set_aside is None:
            return loads
        return [s for load, at in zip(loads, chunks, strict=True) for s in (load, *self._moved(*at, aside=True))]

    def _load_query(self, i: int, chunk: int) -> Stmt:
        """The lane's pack of query number `i`, from `chunk` on, out of device memory."""
        how, matrix = self.how, self.batch.query
        lanes = min(how.pack, matrix.lanes)
        group, const = self.part_of * how.pack if how.groups > 1 else i32(0), self.indices.const
        row = self.mine + i * how.side
        loads = []
        for e in range(0, how.pack, lanes):
            column = const(group) + (chunk + e)
            inside = [row < matrix.limit] + ([column < self.problem.depth] if self.deep > self.problem.depth else [])
            index = matrix.origin + row * matrix.stride + column
            loads.append(self.query.load(self.queries, self._query_at(i, chunk) + e, index, lanes, inside))
        return seq(*loads)

    def _query_at(self, i: int, chunk: int) -> int:
        """Where that pack is in registers."""
        held = i * self.per_query + chunk // self.how.groups
        return held if self.set_aside is None else i * self.how.pack

    def _moved(self, i: int, chunk: int, aside: bool) -> list[Stmt]:
        """That pack on its way to shared memory, or back: 16 bytes of each lane lie side by side."""
        if self.set_aside is None:
            return []
        lanes, at = READ_BYTES // self.tile.size, self._query_at(i, chunk)
        moves = []
        for e in range(0, self.how.pack, lanes):
            number = (i * self.per_query + chunk // self.how.groups + e) // lanes
            place = (self.thread + number * self.tile.threads) * lanes
            if aside:
                values = [tirx.BufferLoad(self.queries, [i64(at + e + k)]) for k in range(lanes)]
                moves.append(store_vector(self.set_aside, place.astype("int64"), values))
            else:
                moves.append(load_vector(self.queries, at + e, self.set_aside, place.astype("int64"), lanes))
        return moves

    def _step(self, step: tirx.Var, count: tirx.Expr) -> Stmt:
        """One of `count` steps."""
        tile, pieces = self.tile, (self.keys, self.values)
        following = self.indices.const(step + 1) * tile.bn
        stage = tirx.truncmod(step, i32(tile.stages))
        placing, current = Held("int32").name("current", stage) if tile.stages > 1 else ([], i32(0))
        to = tirx.truncmod(step + 1, i32(tile.stages)) if tile.stages > 1 else i32(0)
        more = step + 1 < count
        return seq(
            when(more, seq(*(p.fetch(following) for p in pieces))),
            *placing,
            self._score(current),
            *self._masked(step),
            *(s for i in range(tile.rows) for s in (*self.softmax.weigh(i), *self._faded(i))),
            self._gather(current),
            barrier() if tile.stages == 1 else None,
            when(more, seq(*(p.keep(to) for p in pieces))),
            barrier(),
        )

    def _score(self, stage: tirx.Expr) -> Stmt:
        """Products of keys and queries."""
        tile, how = self.tile, self.how
        start = stage * (tile.bn * self.keys.pitch) + self.key_lane
        scores = self.softmax.scores
        clear = [store(scores, [k], tirx.const(0, "float32")) for k in range(int(scores.shape[0]))]

        def right(i: int, chunk: int) -> Place:
            return self.queries, self._query_at(i, chunk)

        def sums(i: int, line: int) -> Place:
            return scores, i * tile.own + line * how.sums

        def ready(chunk: int) -> list[Stmt]:
            return [s for i in range(tile.rows) for s in self._moved(i, chunk, aside=False)]

        return seq(*clear, *self._products(self.keys, start, (self.deep, self.fragments), right, sums, ready))

    def _gather(self, stage: tirx.Expr) -> Stmt:
        """Add up values by their weights."""
        tile, how = self.tile, self.how
        start = stage * (self.broad * self.values.pitch) + self.value_lane

        def right(i: int, chunk: int) -> Place:
            return self.softmax.weights, i * self.softmax.each + chunk // how.groups

        def sums(i: int, line: int) -> Place:
            return self.sums, (i * self.across + line) * how.sums

        return seq(*self._products(self.values, start, (tile.bn, self.across), right, sums, lambda chunk: []))

    def _products(
        self, pieces: Pieces, start: tirx.Expr, sizes: tuple[int, int], right: Callable[[int, int], Place],
        sums: Callable[[int, int], Place], ready: Callable[[int], list[Stmt]],
    ) -> list[Stmt]:  # fmt: skip
        """`pieces` times right operands: `sizes` are the length that both share, and how many fragments of lines.

        `right(i, chunk)` and `sums(i, fragment)` are places of the i-th query fragment, `ready(chunk)` comes first.
        """
        tile, how, statements = self.tile, self.how, []
        for chunk in range(0, sizes[0], how.chunk):
            statements += ready(chunk)
            for line in range(sizes[1]):
                place = start + (line * how.side * pieces.pitch + chunk)
                statements += lane_reads(self.left, pieces, place, how, tile.size)
                for run in range(0, how.pack, how.run):
                    for i in range(tile.rows):
                        operand, at = right(i, chunk)
                        statements.append(how.multiply((self.left, run), (operand, at + run), sums(i, line)))
        return statements

    def _masked(self, step: tirx.Expr) -> list[Stmt]:
        """What comes between products and weights."""
        tile, problem, keys, const = self.tile, self.problem, self.nest.keys, self.indices.const
        first = const(step) * tile.bn
        statements = self._apply_masks(first) if self.nest.natural else []
        limit = const(keys)
        if problem.causal:
            # Queries from the wave's first on see that one's keys at least.
            limit = tirx.min(limit, self.first + (problem.offset + 1))
        elif isinstance(keys, int) and keys % tile.bn == 0:
            return statements
        return [*statements, tirx.IfThenElse(first + tile.bn > limit, seq(*self._hide(first)), None)]

    def _hide(self, first: Index) -> list[Stmt]:
        """-infinity for keys that are not there, or not seen; `first` is the step's first key."""
        tile, problem, const = self.tile, self.problem, self.indices.const
        statements: list[Stmt] = []
        for i in range(tile.rows):
            end = const(self.nest.keys)
            if problem.causal:
                end = tirx.min(end, self.mine + (i * self.how.side + problem.offset + 1))
            naming, end = Held("int32").name("end", i32(end - first) - self.part_of * self.how.rows)
            statements += naming
            for at, place in self._scores_of(i):
                seen = tirx.Select(end > place, self.softmax.score(at), lowest())
                statements.append(store(self.softmax.scores, [at], seen))
        return statements

    def _scores_of(self, i: int) -> list[tuple[int, int]]:
        """The scores of query fragment `i`, and how far their keys are behind the first one of the lane's part."""
        how = self.how
        return [
            (i * self.tile.own + j * how.sums + v, j * how.side + how.below(v))
            for j in range(self.fragments)
            for v in range(how.sums)
        ]

    def _apply_masks(self, first: Index) -> list[Stmt]:
        """Scale scores, and apply masks where there are such."""
        const, own = self.indices.const, self.tile.own
        rows = [self.mine + i * self.how.side for i in range(self.tile.rows)]
        naming, start = self.indices.name("first_key", first + const(self.part_of * self.how.rows))
        statements = list(naming)
        for at, place in self._scores_of(0):
            scores = [self.softmax.score(i * own + at) for i in range(self.tile.rows)]
            statements += masked_scores(
                self.problem,
                self.batch,
                start + place,
                rows,
                scores,
                lambda i, score, at=at: store(self.softmax.scores, [i * own + at], score),
            )
        return statements

    def _faded(self, i: int) -> list[Stmt]:
        """Results so far of query fragment `i` as they count beside the weights of a step."""
        count, worth = self.across * self.how.sums, self.softmax.worth_of(i)
        places = range(i * count, (i + 1) * count)
        return [store(self.sums, [k], tirx.BufferLoad(self.sums, [i64(k)]) * worth) for k in places]

    def _results(self, i: int) -> list[Stmt]:
        """Store what exists of the results of query fragment `i`."""
        how, problem, const = self.how, self.problem, self.indices.const
        dtype, lanes = problem.op.anchor_type.dtype, math.gcd(problem.columns, how.rows)
        row = self.mine + i * how.side
        besides, column = self.indices.name("out_column", const(self.part_of * how.rows), how.rows)
        writes: list[Stmt] = list(besides)
        for c in range(self.across):
            # Or LLVM loads the epilogue's operands of all fragments at once, into more registers than there are.
            writes.append(in_order())
            for v in range(0, how.sums, lanes):
                start = column + (c * how.side + how.below(v))
                at = (i * self.across + c) * how.sums + v
                numbers = [tirx.BufferLoad(self.sums, [i64(at + e)]) * self.softmax.share(i) for e in range(lanes)]
                typed = [n if dtype == "float32" else n.astype(dtype) for n in numbers]
                write = self.batch.write(row, [start + e for e in range(lanes)], typed)
                whole = self.broad == problem.columns
                writes.append(write if whole else tirx.IfThenElse(start < problem.columns, write, None))
        return [
            *self.softmax.finish(i, problem.zero_rows),
            tirx.IfThenElse(row < self.batch.query.limit, seq(*writes), None),
        ]
