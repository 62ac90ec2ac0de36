"""A tile of accumulators that stays in vector registers: some output pixels times some vectors of output channels.

Every index into the accumulator array is a constant once its loops are unrolled, so LLVM keeps it in registers. The
inner step loads one vector of weights per column and multiplies it with one broadcast input value per pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tvm import tirx
from tvm.tirx import For, ForKind, Stmt

from ...shared.index_math import minimum, ramp, ranged, splat, unrolled
from ...shared.tir_loops import Index, i64, seq, store

Scalar = Callable[[Index], tirx.Expr]
Vector = Callable[[Index, int], tirx.Expr]
Finish = Callable[[tirx.Expr, Index, Index], Stmt]

# From this many epilogue steps on, the epilogue runs in a loop over the tile's pixels instead of being repeated for
# each.
ROLLED_EPILOGUE_STEPS = 6
# TVM puts a buffer on the stack, where LLVM can turn it into registers, only under this size and in scope "global";
# others come from a memory pool. In memory, the accumulators of a second tile are spilled in the innermost loop: half
# the speed.
STACK_BYTES = 1023


def on_stack(size: int, name: str, dtype: str = "float32") -> tirx.Buffer:
    """`size` numbers of four bytes on the stack."""
    return tirx.decl_buffer((size,), dtype, name, scope="global")


@dataclass(frozen=True)
class RegisterTile:
    """`pixels` x `vectors` accumulators of `lanes` float32 (or int32) each.

    They live in several arrays ("banks") of whole pixels, each small enough for the stack.
    """

    pixels: int
    vectors: int
    lanes: int
    dtype: str = "float32"
    banks: tuple[tirx.Buffer, ...] = field(init=False)

    def __post_init__(self) -> None:
        count = -(-self.pixels // self.bank_pixels)
        banks = tuple(on_stack(self.bank_pixels * self.width, f"acc{b}", self.dtype) for b in range(count))
        object.__setattr__(self, "banks", banks)

    @property
    def width(self) -> int:
        """Channels of the tile."""
        return self.vectors * self.lanes

    @property
    def bank_pixels(self) -> int:
        """Pixels of one bank."""
        return max(1, STACK_BYTES // (4 * self.width))

    def declare(self) -> Stmt:
        """Allocate the accumulators."""
        return seq(*(tirx.AllocBuffer(b) for b in self.banks))

    def _each(
        self, body: Callable[[tirx.Buffer, Index, Index, int], Stmt], begin: int = 0, end: int | None = None
    ) -> Stmt:
        """`body(bank, pixel within the bank, pixel, channel)` for every vector of the pixels in [begin, end)."""
        end = self.pixels if end is None else end
        parts = []
        for b, bank in enumerate(self.banks):
            base = b * self.bank_pixels
            low, high = max(begin, base) - base, min(end, base + self.bank_pixels) - base
            if low < high:
                parts.append(
                    unrolled("p", low, high, lambda q, bank=bank, base=base: self._vectors(body, bank, q, base))
                )
        return seq(*parts)

    def _vectors(self, body: Callable[..., Stmt], bank: tirx.Buffer, q: Index, base: int) -> Stmt:
        return unrolled("v", 0, self.vectors, lambda v: body(bank, q, q + base, v * self.lanes))

    def _get(self, bank: tirx.Buffer, q: Index, c: Index) -> tirx.Expr:
        return tirx.BufferLoad(bank, [ramp(q * self.width + c, self.lanes)])

    def _set(self, bank: tirx.Buffer, q: Index, c: Index, value: tirx.Expr) -> Stmt:
        return store(bank, [ramp(q * self.width + c, self.lanes)], value)

    def zero(self) -> Stmt:
        """Clear all accumulators."""
        nothing = splat(tirx.const(0, self.dtype), self.lanes)
        return self._each(lambda bank, q, p, c: self._set(bank, q, c, nothing))

    def load(self, source: tirx.Buffer, offset: Index) -> Stmt:
        """Accumulators = the tile saved at `source[offset:]`."""

        def one(bank: tirx.Buffer, q: Index, p: Index, c: Index) -> Stmt:
            return self._set(bank, q, c, tirx.BufferLoad(source, [ramp(offset + (p * self.width + c), self.lanes)]))

        return self._each(one)

    def fill(self, value: Vector) -> Stmt:
        """accumulator(p, c) = value(c, lanes) for every pixel."""
        return self._each(lambda bank, q, p, c: self._set(bank, q, c, value(c, self.lanes)))

    def save(self, target: tirx.Buffer, offset: Index, begin: int = 0, end: int | None = None) -> Stmt:
        """`target[offset:]` = accumulators, of the pixels in [begin, end) only."""

        def one(bank: tirx.Buffer, q: Index, p: Index, c: Index) -> Stmt:
            return store(target, [ramp(offset + (p * self.width + c), self.lanes)], self._get(bank, q, c))

        return self._each(one, begin, end)

    def multiply_add(self, value: Scalar, weights: Vector, begin: int = 0, end: int | None = None) -> Stmt:
        """accumulator(p, c) += value(p) * weights(c, lanes), for pixels in [begin, end) and vectors at c."""
        return self.accumulate(lambda p, c: splat(value(p), self.lanes) * weights(c, self.lanes), begin, end)

    def accumulate(self, term: Callable[[Index, Index], tirx.Expr], begin: int = 0, end: int | None = None) -> Stmt:
        """accumulator(p, c) += term(p, c), a vector, for the pixels in [begin, end) and every vector at channel c."""

        return self.update(lambda sum_, p, c: sum_ + term(p, c), begin, end)

    def update(
        self, new: Callable[[tirx.Expr, Index, Index], tirx.Expr], begin: int = 0, end: int | None = None
    ) -> Stmt:
        """accumulator(p, c) = new(accumulator(p, c), p, c), vectors, for the pixels in [begin, end) and every c."""

        def step(bank: tirx.Buffer, q: Index, p: Index, c: Index) -> Stmt:
            return self._set(bank, q, c, new(self._get(bank, q, c), p, c))

        return self._each(step, begin, end)

    def finish(self, write: Finish, channels: int, steps: int, valid: Index | None = None) -> Stmt:
        """`write(value, p, c)` for every pixel p and each c of the first `channels` channels, in vectors.

        `value` and `c` are scalar expressions inside a loop over lanes. With many epilogue steps, or channels that do
        not fill the last vector, the accumulators go through memory so that the loops over them need not be unrolled;
        also if `valid` is given: then only that many pixels are written.
        """
        if valid is None and channels == self.width and steps < ROLLED_EPILOGUE_STEPS:
            return self._each(
                lambda bank, q, p, c: self._lanes(bank, q * self.width + c, lambda x, k: write(x, p, c + k), self.lanes)
            )

        def group(memory: tirx.Buffer, base: int, count: int) -> Stmt:
            def pixel(q: Index) -> Stmt:
                return self.lanes_of(memory, q * self.width, channels, lambda x, c: write(x, q + base, c))

            return ranged("q", 0, count if valid is None else minimum(count, valid - base), pixel)

        return self.through_memory(group)

    def through_memory(self, use: Callable[[tirx.Buffer, int, int], Stmt]) -> Stmt:
        """Copies the accumulators to memory in groups of pixels; `use(memory, first pixel, pixels)` reads each group.

        There, element (p, c) of a group is at p * width + c.
        """
        memory = on_stack(self.bank_pixels * self.width, "tile", self.dtype)
        parts = []
        for base in range(0, self.pixels, self.bank_pixels):
            end = min(self.pixels, base + self.bank_pixels)
            parts.append(self.save(memory, -base * self.width, base, end))
            parts.append(use(memory, base, end - base))
        return seq(tirx.AllocBuffer(memory), *parts)

    def lanes_of(
        self, source: tirx.Buffer, offset: Index, count: int, write: Callable[[tirx.Expr, Index], Stmt]
    ) -> Stmt:
        """`write(source[offset + k], k)` for k < `count`: in whole vectors, then in vectors of powers of two."""
        full = count // self.lanes

        def span(at: Index, lanes: int) -> Stmt:
            return self._lanes(source, offset + at, lambda x, k: write(x, at + k), lanes)

        whole = ranged("v", 0, full, lambda v: span(v * self.lanes, self.lanes)) if full else None
        pieces, at, rest = [], full * self.lanes, count - full * self.lanes
        while rest:
            lanes = 1 << (rest.bit_length() - 1)
            pieces.append(span(at, lanes))
            at, rest = at + lanes, rest - lanes
        return seq(whole, *pieces)

    @staticmethod
    def _lanes(source: tirx.Buffer, offset: Index, write: Callable[[tirx.Expr, Index], Stmt], lanes: int) -> Stmt:
        """`write(value, k)` for the `lanes` values at `source[offset:]`."""
        if lanes == 1:
            return write(tirx.BufferLoad(source, [i64(offset)]), 0)
        lane = tirx.Var("lane", "int64")
        body = write(tirx.BufferLoad(source, [offset + lane]), lane)
        return For(lane, i64(0), i64(lanes), ForKind.VECTORIZED, body)
