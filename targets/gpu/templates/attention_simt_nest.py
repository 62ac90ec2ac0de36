"""Attention by plain multiply-adds in float32 that never writes scores down, for any GPU: `SimtNest` writes the loops.

1. A block of across x down threads has `bm` rows of queries in shared memory, and walks through the keys by steps of
   `bn`, which come to shared memory, and after them their values, to the same place.
2. A thread computes the scores of every down-th row and every across-th key, by four numbers along the depth at a time.
   Masks apply to them; those behind the last key, or behind a row's own where attention is causal, become -infinity.
3. The threads of a row tell each other the largest score by shared memory. Weights exp(score - largest so far) go to
   shared memory; sums so far fade when the largest grows.
4. A thread adds up values by weights for its rows and every across-th four columns, in registers. In the end the
   threads of a row add up their sums of weights.
No shuffles and no matrix units: the same loops run on AMD's GPUs, NVIDIA's, and as OpenCL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from tvm import tirx
from tvm.tirx import For, ForKind, Stmt

from ....compiler.schedule import vector_math
from ...shared.tir_loops import Index, i64, seq, store
from ..launch import allocated, barrier, registers, shared
from .attention_problem import AttentionMemory, AttentionProblem, Batch, masked_scores
from .gemm_index import Held
from .gemm_matmul import Matrix
from .hidden_lengths import HiddenLengths
from .knobs import Knobs
from .vectors import load_vector, vector

# Numbers that are read from shared memory at once.
QUAD = 4
# Registers for addresses, statistics and counters; and for each key of a thread: compilers compute the weights of all,
# and read what masks hold for all, side by side.
_OTHER_REGISTERS, _PER_KEY = 48, 10
# Where wavefronts have 64 threads, LLVM takes a third more: medians of 45 kernels for gfx90a, of which eight in ten are
# within a fifth; 45 for gfx1100, with 32, are as near without it.
_OF_WAVES = {64: 4 / 3}


@dataclass(frozen=True)
class SimtTile(Knobs):
    """A block of `across` x `down` threads has `bm` queries, and takes `bn` keys at a time."""

    bm: int
    bn: int
    across: int
    down: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.across * self.down

    @property
    def rows(self) -> int:
        """Rows of a thread."""
        return self.bm // self.down

    @property
    def keys(self) -> int:
        """Keys of a thread in a step."""
        return self.bn // self.across

    def groups(self, columns: int) -> int:
        """Fours of columns of a thread."""
        return -(-columns // (QUAD * self.across))

    def pitch(self, depth: int, columns: int) -> int:
        """Numbers from one row of keys or values to the next: reads of whole groups stay within a row."""
        return max(-(-depth // QUAD), self.groups(columns) * self.across) * QUAD + QUAD

    def parts(self, depth: int, columns: int) -> tuple[int, int, int, int]:
        """Numbers in shared memory: queries, keys or values, weights, what threads of a row tell each other."""
        queries = self.bm * (-(-depth // QUAD) * QUAD + QUAD)
        return queries, self.bn * self.pitch(depth, columns), self.bm * (self.bn + QUAD), self.bm * self.across

    def shared_bytes(self, depth: int, columns: int) -> int:
        """Shared memory of a block."""
        return 4 * sum(self.parts(depth, columns))

    def registers(self, columns: int, warp: int = 32) -> int:
        """Registers of a thread, where `warp` threads execute together."""
        groups = self.groups(columns)
        sums = self.rows * (self.keys + groups * QUAD + 3)
        needed = sums + QUAD * (self.rows + max(self.keys, groups)) + _OTHER_REGISTERS + self.keys * _PER_KEY
        return round(needed * _OF_WAVES.get(warp, 1.0))


@dataclass(frozen=True)
class SimtNest:
    """The kernel for one tile size; `hide` says whether the compiler shall not know how short loops are."""

    tile: SimtTile
    problem: AttentionProblem
    memory: AttentionMemory
    indices: Held
    hide: bool = False

    def block(self, thread: tirx.Expr, row: Index, batch: Batch) -> Stmt:
        """What one block does, from the first load to the last store."""
        return _Block(self, self.indices.const(thread), row, batch).emit()


class _Block:
    """What one block does."""

    def __init__(self, nest: SimtNest, thread: Index, row: Index, batch: Batch) -> None:
        self.nest, self.tile, self.problem, self.batch, self.row = nest, nest.tile, nest.problem, batch, row
        tile, depth, columns = nest.tile, nest.problem.depth, nest.problem.columns
        self.thread = thread
        self.x = nest.indices.remainder(thread, tile.across)
        self.y = nest.indices.quotient(thread, tile.across)
        self.quads, self.groups = -(-depth // QUAD), tile.groups(columns)
        self.pitch, self.query_pitch, self.weight_pitch = (
            tile.pitch(depth, columns),
            self.quads * QUAD + QUAD,
            tile.bn + QUAD,
        )
        sizes = tile.parts(depth, columns)
        names = ("queries", "piece", "weights", "told")
        self.queries, self.piece, self.weights, self.told = map(shared, sizes, ("float32",) * 4, names)
        rows = tile.rows
        self.scores = registers(rows * tile.keys, "float32", "scores")
        self.sums = registers(rows * self.groups * QUAD, "float32", "sums")
        self.left = registers(rows * QUAD, "float32", "left")
        self.right = registers(max(tile.keys, self.groups) * QUAD, "float32", "right")
        self.top, self.total, self.fade = (registers(rows, "float32", n) for n in ("top", "total", "fade"))
        # Of the loops over fours of a query's numbers, and of a step's keys.
        self.lengths = HiddenLengths((self.quads, tile.bn // QUAD), "lengths")

    def emit(self) -> Stmt:
        """Everything from the first load to the last store."""
        tile, zero, lowest = self.tile, tirx.const(0, "float32"), _lowest()
        step = tirx.Var("step", "int32")
        first = self.nest.indices.const(step) * tile.bn
        begin = [store(self.sums, [k], zero) for k in range(int(self.sums.shape[0]))]
        begin += [store(b, [i], v) for b, v in ((self.total, zero), (self.top, lowest)) for i in range(tile.rows)]
        body = seq(
            self._load(self.batch.key, first, tile.bn, self.problem.depth, self.piece, self.pitch),
            barrier(),
            self._score(),
            *self._mask(first),
            *self._tell(lambda i: self._largest(i)),
            barrier(),
            self._load(self.batch.value, first, tile.bn, self.problem.columns, self.piece, self.pitch),
            *(self._weigh(i) for i in range(tile.rows)),
            barrier(),
            self._gather(),
            barrier(),
        )
        buffers = [self.queries, self.piece, self.weights, self.told, self.scores, self.sums, self.left, self.right]
        hidden = [self.lengths.buffer] if self.nest.hide else []
        return allocated(
            [*buffers, self.top, self.total, self.fade, *hidden],
            self.lengths.tell(self.thread) if self.nest.hide else None,
            self._load(self.batch.query, self.row, tile.bm, self.problem.depth, self.queries, self.query_pitch),
            *begin,
            For(step, tirx.const(0, "int32"), self._steps(), ForKind.SERIAL, body),
            *self._tell(lambda i: _get(self.total, i)),
            barrier(),
            *(self._written(i) for i in range(tile.rows)),
        )

    def _steps(self) -> tirx.Expr:
        """Steps until the last row of the block sees no more keys."""
        const, keys = self.nest.indices.const, self.nest.memory.keys
        if self.problem.causal:
            last = self.row + (self.tile.bm + self.problem.offset)
            keys = tirx.max(const(0), tirx.min(const(keys), last))
        steps = self.nest.indices.quotient(keys + (self.tile.bn - 1), self.tile.bn)
        return tirx.const(steps, "int32") if isinstance(steps, int) else steps.astype("int32")

    def _load(self, matrix: Matrix, first: Index, count: int, width: int, to: tirx.Buffer, pitch: int) -> Stmt:
        """`count` rows from `first` on into shared memory in float32; zeros where there is nothing."""
        quads, threads = -(-width // QUAD), self.tile.threads
        lanes = min(QUAD, matrix.lanes) if matrix.along_k and width % QUAD == 0 else 1
        dtype, slots = str(matrix.buffer.dtype), -(-count * quads // threads)
        held = registers(slots * QUAD, dtype, "held")
        fetches, stores = [], []
        for slot in range(slots):
            number = self.thread + slot * threads
            line = self.nest.indices.quotient(number, quads)
            rest = self.nest.indices.remainder(number, quads) * QUAD
            exists, buffer, index = matrix.fetch(slot, first + line, rest)
            mine = [number < count * quads] if (slot + 1) * threads > count * quads else []
            for e in range(0, QUAD, lanes):
                inside = [*mine, exists, *([rest + e < width] if width % QUAD else [])]
                load = load_vector(held, slot * QUAD + e, buffer, index + e * matrix.depth_stride, lanes)
                none = seq(*(store(held, [slot * QUAD + e + k], tirx.const(0, dtype)) for k in range(lanes)))
                fetches.append(tirx.IfThenElse(tirx.all(*inside), load, none))
            place = i64(line * pitch + rest)
            keep = _moved(to, place, held, slot * QUAD)
            stores.append(tirx.IfThenElse(tirx.all(*mine), keep, None) if mine else keep)
        return allocated([held], *fetches, *stores)

    def _score(self) -> Stmt:
        """Products of the thread's queries and keys."""
        tile = self.tile
        clear = [store(self.scores, [k], tirx.const(0, "float32")) for k in range(int(self.scores.shape[0]))]
        products = [
            _add_product(self.scores, i * tile.keys + j, _get(self.left, i * QUAD + e), _get(self.right, j * QUAD + e))
            for e in range(QUAD)
            for i in range(tile.rows)
            for j in range(tile.keys)
        ]

        def step(quad: tirx.Var) -> Stmt:
            rows = [(self.y + i * tile.down) * self.query_pitch for i in range(tile.rows)]
            keys = [(self.x + j * tile.across) * self.pitch for j in range(tile.keys)]
            reads = [_quad(self.left, i, self.queries, row, quad) for i, row in enumerate(rows)]
            reads += [_quad(self.right, j, self.piece, key, quad) for j, key in enumerate(keys)]
            return seq(*reads, *products)

        return seq(*clear, self._over_quads(0, step))

    def _over_quads(self, number: int, body: Callable[[tirx.Var], Stmt]) -> Stmt:
        """`body` for each four, in a loop of length `number`."""
        quad = tirx.Var("quad", "int64")
        if not self.nest.hide:
            return For(quad, i64(0), i64(self.lengths.lengths[number]), ForKind.SERIAL, body(quad))
        read, count = self.lengths.read(number)
        return seq(read, For(quad, i64(0), count, ForKind.SERIAL, body(quad)))

    def _mask(self, first: Index) -> list[Stmt]:
        """Scale, masks, and -infinity for what is not seen."""
        tile, problem = self.tile, self.problem
        rows = [self.row + self.y + i * tile.down for i in range(tile.rows)]
        found = []
        for j in range(tile.keys):
            key = first + self.x + j * tile.across

            def keep(i: int, score: tirx.Expr, j: int = j, key: Index = key) -> Stmt:
                seen = [key < self.batch.key.limit]
                seen += [key <= rows[i] + problem.offset] if problem.causal else []
                return store(self.scores, [i * tile.keys + j], tirx.Select(tirx.all(*seen), score, _lowest()))

            scores = [_get(self.scores, i * tile.keys + j) for i in range(tile.rows)]
            found += masked_scores(problem, self.batch, key, rows, scores, keep)
        return found

    def _largest(self, i: int) -> tirx.Expr:
        """The largest score of row `i` that the thread knows."""
        keys = self.tile.keys
        return reduce(tirx.max, (_get(self.scores, i * keys + j) for j in range(keys)))

    def _tell(self, value: Callable[[int], tirx.Expr]) -> list[Stmt]:
        """A number for each row of the thread, for the others of that row."""
        tile = self.tile
        return [store(self.told, [(self.y + i * tile.down) * tile.across + self.x], value(i)) for i in range(tile.rows)]

    def _heard(self, i: int) -> list[tirx.Expr]:
        """What all threads of row `i` told."""
        tile = self.tile
        start = (self.y + i * tile.down) * tile.across
        return [tirx.BufferLoad(self.told, [i64(start + k)]) for k in range(tile.across)]

    def _weigh(self, i: int) -> Stmt:
        """Weights of row `i`, and what its sums so far are worth."""
        tile, groups = self.tile, self.groups
        high, base = tirx.Var("high", "float32"), tirx.Var("base", "float32")
        largest = reduce(tirx.max, self._heard(i), _get(self.top, i))
        named = [
            tirx.Bind(high, largest),
            tirx.Bind(base, tirx.Select(high <= _lowest(), tirx.const(0, "float32"), high)),
            store(self.fade, [i], vector_math.exp(_get(self.top, i) - base)),
            store(self.top, [i], high),
        ]
        fade, part = _get(self.fade, i), []
        weights = []
        for j in range(tile.keys):
            at = i * tile.keys + j
            weights.append(store(self.scores, [at], vector_math.exp(_get(self.scores, at) - base)))
            place = (self.y + i * tile.down) * self.weight_pitch + self.x + j * tile.across
            weights.append(store(self.weights, [place], _get(self.scores, at)))
            part.append(_get(self.scores, at))
        total = store(self.total, [i], reduce(lambda a, b: a + b, part, _get(self.total, i) * fade))
        faded = [store(self.sums, [k], _get(self.sums, k) * fade) for k in _columns(i, groups)]
        return seq(*named, *weights, total, *faded)

    def _gather(self) -> Stmt:
        """Add up the values of a step by their weights."""
        tile, groups = self.tile, self.groups

        def step(quad: tirx.Var) -> Stmt:
            rows = [(self.y + i * tile.down) * self.weight_pitch for i in range(tile.rows)]
            body = [_quad(self.left, i, self.weights, row, quad) for i, row in enumerate(rows)]
            for e in range(QUAD):
                row, column = (quad * QUAD + e) * self.pitch, self.x.astype("int64")
                body += [_quad(self.right, g, self.piece, row, column + g * tile.across) for g in range(groups)]
                body += [
                    _add_product(self.sums, k, _get(self.left, i * QUAD + e), _get(self.right, k - i * groups * QUAD))
                    for i in range(tile.rows)
                    for k in _columns(i, groups)
                ]
            return seq(*body)

        return self._over_quads(1, step)

    def _written(self, i: int) -> Stmt:
        """Store row `i` of the thread."""
        tile, columns = self.tile, self.problem.columns
        total, inverse = tirx.Var("sum", "float32"), tirx.Var("inverse", "float32")
        one, zero = tirx.const(1, "float32"), tirx.const(0, "float32")
        shares = one / total
        if self.problem.zero_rows:
            shares = tirx.Select(total == zero, zero, shares)
        naming = [tirx.Bind(total, reduce(lambda a, b: a + b, self._heard(i))), tirx.Bind(inverse, shares)]
        rowing, row = self.nest.indices.name("out_row", self.row + self.y + i * tile.down)
        lanes = QUAD if columns % QUAD == 0 else 1
        dtype = self.problem.op.anchor_type.dtype
        writes = []
        for g in range(self.groups):
            start = (self.x + g * tile.across) * QUAD
            ranging, column = self.nest.indices.name("out_column", start, QUAD)
            writes += ranging
            for e in range(0, QUAD, lanes):
                numbers = [_get(self.sums, (i * self.groups + g) * QUAD + e + k) * inverse for k in range(lanes)]
                values = [n if dtype == "float32" else n.astype(dtype) for n in numbers]
                write = self.batch.write(row, [column + e + k for k in range(lanes)], values)
                whole = columns % (QUAD * tile.across) == 0
                writes.append(write if whole else tirx.IfThenElse(column + e < columns, write, None))
        return seq(*naming, *rowing, tirx.IfThenElse(row < self.batch.query.limit, seq(*writes), None))


def _lowest() -> tirx.Expr:
    return tirx.const(float("-inf"), "float32")


def _columns(i: int, groups: int) -> range:
    """Numbers of the sums of a thread's row `i`."""
    return range(i * groups * QUAD, (i + 1) * groups * QUAD)


def _get(buffer: tirx.Buffer, index: int) -> tirx.Expr:
    return tirx.BufferLoad(buffer, [i64(index)])


def _add_product(sums: tirx.Buffer, at: int, a: tirx.Expr, b: tirx.Expr) -> Stmt:
    return store(sums, [at], _get(sums, at) + a * b)


def _quad(into: tirx.Buffer, number: int, source: tirx.Buffer, row: Index, quad: Index) -> Stmt:
    """Four numbers of shared memory into registers."""
    return load_vector(into, number * QUAD, source, i64(row).astype("int64") + quad * QUAD, QUAD)


def _moved(to: tirx.Buffer, place: tirx.Expr, held: tirx.Buffer, at: int) -> Stmt:
    """Four numbers out of registers to shared memory, in float32."""
    start = place.astype("int64")
    return vector(QUAD, lambda k: store(to, [start + k], tirx.BufferLoad(held, [i64(at) + k]).astype("float32")))
