"""The kernels of thin products (see gemv.py): lines along K, and lines side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.template import Config
from ...shared.loops import Index, ceildiv, floordiv, i64, loop, minimum, seq, unrolled, when
from ...shared.matmul_problem import MatmulProblem
from ..estimates import estimated
from ..launch import allocated, allreduce, barrier, bound_to, registers, shared
from ..spec import GpuSpec
from .gemm_matmul import MatmulMemory, Matrix
from .vectors import load_vector

# Threads of a block.
THREADS = 256


@dataclass(frozen=True)
class Thin:
    """A thin product: `lines` and `depth` of W (names where open), rows of X, number of products, where W lies."""

    problem: MatmulProblem
    rows: int
    lines: int | str
    depth: int | str
    large: int
    batch: int

    @property
    def known(self) -> tuple[int, int]:
        """Lines and depth, unknown ones guessed."""
        lines, depth = (estimated(d) for d in (self.lines, self.depth))
        return lines, depth

    def dtype(self, operand: int) -> str:
        """The type of W (operand `large`) or X."""
        return self.problem.op.inputs[operand].dtype


class _Nest:
    """What both kernels have in common: matrices by batch, rows of X, results."""

    def __init__(self, thin: Thin, memory: MatmulMemory, spec: GpuSpec, config: Config) -> None:
        self.thin, self.memory, self.spec = thin, memory, spec
        self.ahead = config.int("ahead")
        self.rows = thin.rows
        buffers = memory.buffers
        self.depth: Index = buffers.k
        self.limit: Index = buffers.n if thin.large == 1 else buffers.m

    def over_blocks(self, per_block: int, body: Callable[[Matrix, Matrix, Callable, Index], Stmt]) -> Stmt:
        """A grid over batches and pieces of `per_block` lines: `body(W, X, write, first line)`."""
        pieces = ceildiv(self.limit, per_block)

        def block(number: Index) -> Stmt:
            batch = floordiv(number, pieces)
            left, right, write = self.memory.operands(batch)
            large, small = (right, left) if self.thin.large == 1 else (left, right)

            def result(row: Index, line: Index, value: tirx.Expr) -> Stmt:
                place = (row, line) if self.thin.large == 1 else (line, row)
                return write(place[0], [place[1]], [value])

            return body(large, small, result, (number - batch * pieces) * per_block)

        return bound_to("blockIdx.x", self.memory.batches * pieces, block)

    def load_small(self, into: tirx.Buffer, small: Matrix, row: Index, k: Index, lanes: int) -> Stmt:
        """Elements k .. k + lanes of row `row` of X; 0 behind the last one, which packed lines may have too."""
        start = small.origin + row * small.stride
        if small.along_k and small.lanes >= lanes:
            return load_vector(into, 0, small.buffer, start + k, lanes)

        def one(e: Index) -> Stmt:
            value: tirx.Expr = tirx.BufferLoad(small.buffer, [i64(start + (k + e) * small.depth_stride)])
            if lanes > 1:
                value = tirx.if_then_else(k + e < self.depth, value, tirx.const(0, value.ty.dtype))
            return tirx.BufferStore(into, value, [i64(e)])

        return unrolled(lanes, one)


class Along(_Nest):
    """Lines along K: a warp, or several, for a few lines."""

    def __init__(self, thin: Thin, memory: MatmulMemory, spec: GpuSpec, config: Config) -> None:
        super().__init__(thin, memory, spec, config)
        self.lines, self.split = config.int("lines"), config.int("split")
        self.warps = THREADS // spec.warp
        self.per_block = self.lines * (self.warps // self.split)

    def kernel(self) -> Stmt:
        """The whole kernel."""
        warp = self.spec.warp

        def body(large: Matrix, small: Matrix, write: Callable, first: Index) -> Stmt:
            def thread(y: Index, x: Index) -> Stmt:
                sums = registers(self.rows * self.lines, "float32", "sums")
                partial = shared(self.split * self.rows * self.per_block, "float32", "partial")
                clear = unrolled(
                    self.rows * self.lines, lambda i: tirx.BufferStore(sums, tirx.const(0.0, "float32"), [i64(i)])
                )
                part, group = y % self.split, floordiv(y, self.split)
                walk = self._walk(sums, large, small, first + group * self.lines, part * warp + x)
                hand = self._hand_over(sums, partial, x, part, group * self.lines)
                finish = self._finish(partial, write, first, y * warp + x)
                return allocated([sums, partial], clear, walk, hand, barrier(), finish)

            return bound_to("threadIdx.y", self.warps, lambda y: bound_to("threadIdx.x", warp, lambda x: thread(y, x)))

        return self.over_blocks(self.per_block, body)

    def _walk(self, sums: tirx.Buffer, large: Matrix, small: Matrix, first: Index, place: Index) -> Stmt:
        """This thread's vectors of its lines: all that is whole first, several under way, then the rest."""
        lanes = large.lanes
        step = self.split * self.spec.warp * lanes
        whole = floordiv(self.depth, step * self.ahead)

        def piece(start: Index, count: int, guarded: bool) -> Stmt:
            held = registers(count * self.lines * lanes, str(large.buffer.dtype), "held")
            ks = [start + u * step + place * lanes for u in range(count)]
            fetch = [
                self._fetch(held, (u * self.lines + line) * lanes, large, first + line, k)
                for u, k in enumerate(ks)
                for line in range(self.lines)
            ]
            multiply = [self._multiply(sums, held, u, small, k, lanes) for u, k in enumerate(ks)]
            work = allocated([held], *fetch, *multiply)
            return when(ks[0] < self.depth, work) if guarded else work

        main = loop(whole, lambda s: piece(s * (step * self.ahead), self.ahead, guarded=False))
        done = whole * (step * self.ahead)
        rest = ceildiv(self.depth - done, step)
        return seq([main, loop(rest, lambda s: piece(done + s * step, 1, guarded=True))])

    def _fetch(self, held: tirx.Buffer, at: int, large: Matrix, line: Index, k: Index) -> Stmt:
        # Threads beyond the last line read that one again; nobody stores what they find.
        exact = isinstance(self.limit, int) and self.limit % self.per_block == 0
        line = line if exact else minimum(line, self.limit - 1)
        return load_vector(held, at, large.buffer, large.origin + line * large.stride + k, large.lanes)

    def _multiply(self, sums: tirx.Buffer, held: tirx.Buffer, u: int, small: Matrix, k: Index, lanes: int) -> Stmt:
        def row(r: int) -> Stmt:
            x = registers(lanes, str(small.buffer.dtype), "x")

            def element(e: Index) -> Stmt:
                factor = _wide(tirx.BufferLoad(x, [i64(e)]))

                def line(number: Index) -> Stmt:
                    place = [i64(r * self.lines + number)]
                    value = _wide(tirx.BufferLoad(held, [i64((u * self.lines + number) * lanes + e)]))
                    return tirx.BufferStore(sums, tirx.BufferLoad(sums, place) + value * factor, place)

                return unrolled(self.lines, line)

            return allocated([x], self.load_small(x, small, r, k, lanes), unrolled(lanes, element))

        return seq([row(r) for r in range(self.rows)])

    def _hand_over(self, sums: tirx.Buffer, partial: tirx.Buffer, x: Index, part: Index, line: Index) -> Stmt:
        """The warp's sums to shared memory: (part, row, line)."""
        statements, totals = [], []
        for r in range(self.rows):
            for number in range(self.lines):
                # TVM wants a variable for each reduction.
                total = registers(1, "float32", "total")
                totals.append(total)
                mine = tirx.BufferLoad(sums, [i64(r * self.lines + number)])
                zero = tirx.const(0.0, "float32")
                statements.append(allreduce(lambda a, b: a + b, zero, mine, total, [x]))
                place = (part * self.rows + r) * self.per_block + line + number
                keep = tirx.BufferStore(partial, tirx.BufferLoad(total, [i64(0)]), [i64(place)])
                statements.append(when(x < 1, keep))
        return allocated(totals, *statements)

    def _finish(self, partial: tirx.Buffer, write: Callable, first: Index, thread: Index) -> Stmt:
        """Results, neighbouring threads those that lie side by side in memory."""
        count = self.rows * self.per_block

        def one(step: Index) -> Stmt:
            item = thread + step * THREADS
            if self.thin.large == 1:
                r, line = floordiv(item, self.per_block), item % self.per_block
            else:
                line, r = floordiv(item, self.rows), item % self.rows
            value: tirx.Expr | None = None
            for part in range(self.split):
                term = tirx.BufferLoad(partial, [i64((part * self.rows + r) * self.per_block + line)])
                value = term if value is None else value + term
            inside = tirx.all(item < count, first + line < self.limit)
            return when(inside, write(r, first + line, value))

        return loop(ceildiv(count, THREADS), one)


class Across(_Nest):
    """Lines side by side: a thread for a vector of them, columns of threads share out K."""

    def kernel(self) -> Stmt:
        """The whole kernel."""
        lanes = self.memory.operands(0)[self.thin.large].lanes
        vectors = -(-self.thin.known[0] // lanes)
        columns = next(c for c in (1, 2, 4, 8, 16, 32) if c >= min(vectors, 32))
        depth = THREADS // columns
        width = columns * lanes

        def body(large: Matrix, small: Matrix, write: Callable, first: Index) -> Stmt:
            def thread(y: Index, x: Index) -> Stmt:
                sums = registers(self.rows * lanes, "float32", "sums")
                partial = shared(depth * width, "float32", "partial")
                clear = unrolled(
                    self.rows * lanes, lambda i: tirx.BufferStore(sums, tirx.const(0.0, "float32"), [i64(i)])
                )
                start = first + x * lanes
                walk = self._walk(sums, large, small, start, y, depth)
                # Threads beyond the last line have nothing to read, and come by the barriers all the same.
                walk = walk if self._exact(width) else when(start < self.limit, walk)
                rounds = [self._round(sums, partial, write, (first, x, y), r, width, depth) for r in range(self.rows)]
                return allocated([sums, partial], clear, walk, *rounds)

            return bound_to("threadIdx.y", depth, lambda y: bound_to("threadIdx.x", columns, lambda x: thread(y, x)))

        return self.over_blocks(width, body)

    def _exact(self, width: int) -> bool:
        return isinstance(self.limit, int) and self.limit % width == 0

    def _walk(self, sums: tirx.Buffer, large: Matrix, small: Matrix, line: Index, y: Index, depth: int) -> Stmt:
        lanes = large.lanes
        whole = floordiv(self.depth, depth * self.ahead)

        def piece(start: Index, count: int, guarded: bool) -> Stmt:
            held = registers(count * lanes, str(large.buffer.dtype), "held")
            ks = [start + u * depth + y for u in range(count)]
            fetch = [
                load_vector(held, u * lanes, large.buffer, large.origin + k * large.depth_stride + line, lanes)
                for u, k in enumerate(ks)
            ]
            work = allocated([held], *fetch, *(self._multiply(sums, held, u, small, k) for u, k in enumerate(ks)))
            return when(ks[0] < self.depth, work) if guarded else work

        main = loop(whole, lambda s: piece(s * (depth * self.ahead), self.ahead, guarded=False))
        done = whole * (depth * self.ahead)
        rest = ceildiv(self.depth - done, depth)
        return seq([main, loop(rest, lambda s: piece(done + s * depth, 1, guarded=True))])

    def _multiply(self, sums: tirx.Buffer, held: tirx.Buffer, u: int, small: Matrix, k: Index) -> Stmt:
        lanes = int(sums.shape[0]) // self.rows

        def row(r: int) -> Stmt:
            x = registers(1, str(small.buffer.dtype), "x")
            factor = _wide(tirx.BufferLoad(x, [i64(0)]))

            def element(e: Index) -> Stmt:
                place = [i64(r * lanes + e)]
                value = _wide(tirx.BufferLoad(held, [i64(u * lanes + e)]))
                return tirx.BufferStore(sums, tirx.BufferLoad(sums, place) + value * factor, place)

            return allocated([x], self.load_small(x, small, r, k, 1), unrolled(lanes, element))

        return seq([row(r) for r in range(self.rows)])

    def _round(
        self,
        sums: tirx.Buffer,
        partial: tirx.Buffer,
        write: Callable,
        at: tuple[Index, Index, Index],
        r: int,
        width: int,
        depth: int,
    ) -> Stmt:
        """One row of X: what the threads of a column have, summed up by one thread for each line."""
        first, x, y = at
        lanes = int(sums.shape[0]) // self.rows

        def keep(e: Index) -> Stmt:
            return tirx.BufferStore(
                partial, tirx.BufferLoad(sums, [i64(r * lanes + e)]), [i64(y * width + x * lanes + e)]
            )

        item = y * (width // lanes) + x
        total = registers(1, "float32", "total")
        zero = tirx.BufferStore(total, tirx.const(0.0, "float32"), [i64(0)])

        def add(s: Index) -> Stmt:
            term = tirx.BufferLoad(partial, [i64(s * width + item)])
            return tirx.BufferStore(total, tirx.BufferLoad(total, [i64(0)]) + term, [i64(0)])

        done = write(r, first + item, tirx.BufferLoad(total, [i64(0)]))
        inside = tirx.all(item < width, first + item < self.limit)
        finish = when(inside, allocated([total], zero, loop(depth, add), done))
        return seq([unrolled(lanes, keep), barrier(), finish, barrier() if r + 1 < self.rows else None])


def _wide(value: tirx.Expr) -> tirx.Expr:
    return value if str(value.ty.dtype) == "float32" else value.astype("float32")
