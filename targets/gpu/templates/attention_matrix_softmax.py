"""Online softmax of AMD's matrix units: each lane has scores of its own query only, and so few words with others."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.tir_loops import i64, store
from ..launch import allocated, registers
from .attention_matrix_tile import MatrixFlashTile
from .gemm_index import i32
from .matrix_core import exp2, other_lanes


def lowest() -> tirx.Expr:
    """The score of what is not seen."""
    return tirx.const(float("-inf"), "float32")


class LaneSoftmax:
    """Scores, weights and statistics of a lane's queries, one of each of the tile's `rows` fragments.

    `factor` makes scores the powers of two that weights are; `part_of` is which part of a query's scores the lane has.
    """

    def __init__(self, tile: MatrixFlashTile, lane: tirx.Expr, part_of: tirx.Expr, factor: float) -> None:
        self.tile, self.how, self.lane, self.part_of = tile, tile.how, lane, part_of
        self.factor = tirx.const(factor, "float32")
        self.each = tile.own * (2 if tile.how.twice else 1)
        self.scores = registers(tile.rows * tile.own, "float32", "scores")
        self.weights = registers(tile.rows * self.each, tile.how.carrier, "weights")
        self.top, self.total, self.worth, self.base = (
            registers(tile.rows, "float32", name) for name in ("top", "total", "worth", "base")
        )
        self.part, self.told = registers(1, "float32", "part"), registers(1, "int32", "told")

    @property
    def buffers(self) -> list[tirx.Buffer]:
        """All registers."""
        own = [self.scores, self.weights, self.top, self.total, self.worth, self.base]
        return [*own, self.part, self.told]

    def clear(self) -> list[Stmt]:
        """No score was seen."""
        pairs = ((self.total, tirx.const(0, "float32")), (self.top, lowest()))
        return [store(b, [i], value) for b, value in pairs for i in range(self.tile.rows)]

    def score(self, at: int) -> tirx.Expr:
        """Score, or weight, number `at`."""
        return tirx.BufferLoad(self.scores, [i64(at)])

    def worth_of(self, i: int) -> tirx.Expr:
        """What results so far of query fragment `i` are worth."""
        return tirx.BufferLoad(self.worth, [i64(i)])

    def share(self, i: int) -> tirx.Expr:
        """What results of query fragment `i` are to be multiplied by in the end, behind `finish`."""
        return tirx.BufferLoad(self.base, [i64(i)])

    def weigh(self, i: int) -> list[Stmt]:
        """Weights of query fragment `i`, and what its results so far are worth."""
        own, scale = range(i * self.tile.own, (i + 1) * self.tile.own), self.factor
        top, total, worth, base = (tirx.BufferLoad(b, [i64(i)]) for b in (self.top, self.total, self.worth, self.base))
        part = tirx.BufferLoad(self.part, [i64(0)])
        largest = [store(self.part, [0], top)]
        largest += [store(self.part, [0], tirx.max(part, self.score(at))) for at in own]
        largest += self._over_parts(tirx.max)
        none = tirx.const(0, "float32")
        known = [
            store(self.base, [i], tirx.Select(part == lowest(), none, part)),
            store(self.worth, [i], exp2((top - base) * scale)),
            store(self.top, [i], part),
            store(self.total, [i], total * worth),
        ]
        weights: list[Stmt] = []
        for at in own:
            weights.append(store(self.scores, [at], exp2((self.score(at) - base) * scale)))
            weights.append(store(self.total, [i], total + self.score(at)))
        return [*largest, *known, *weights, *self._rounded(i)]

    def finish(self, i: int, zero_rows: bool) -> list[Stmt]:
        """The share of query fragment `i`: one by the sum of all weights; `zero_rows`: zero where there are none."""
        part = tirx.BufferLoad(self.part, [i64(0)])
        one, zero = tirx.const(1, "float32"), tirx.const(0, "float32")
        share = tirx.Select(part == zero, zero, one / part) if zero_rows else one / part
        return [
            store(self.part, [0], tirx.BufferLoad(self.total, [i64(i)])),
            *self._over_parts(lambda a, b: a + b),
            store(self.base, [i], share),
        ]

    def _over_parts(self, combine: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]) -> list[Stmt]:
        """`part` of all lanes of a query, combined."""
        statements: list[Stmt] = []
        part, told = tirx.BufferLoad(self.part, [i64(0)]), tirx.BufferLoad(self.told, [i64(0)])
        distance = self.how.side
        while distance < self.how.wave:
            bits = tirx.reinterpret("int32", part)
            statements.append(store(self.told, [0], other_lanes(bits, self.lane, distance, self.how.wave)))
            statements.append(store(self.part, [0], combine(part, tirx.reinterpret("float32", told))))
            distance *= 2
        return statements

    def _rounded(self, i: int) -> list[Stmt]:
        """Weights of query fragment `i` as right operands of the second product."""
        how, own = self.how, self.tile.own
        if not how.twice:
            start = i * self.each
            return [store(self.weights, [start + k], self._element(i * own + k)) for k in range(own)]
        # A fragment's scores are half an operand; the halves change sides, two numbers at a time.
        statements: list[Stmt] = []
        low, told = self.part_of == 0, tirx.BufferLoad(self.told, [i64(0)])
        pair = registers(2, how.carrier, "pair")
        mine = registers(1, "int32", "mine_bits")
        both = tirx.BufferLoad(pair, [tirx.Ramp(i32(0), i32(1), 2)])
        own_bits = tirx.BufferLoad(mine, [i64(0)])
        for j in range(self.tile.bn // how.side):
            start = i * self.each + j * how.run
            for v in range(0, how.sums, 2):
                at = i * own + j * how.sums + v
                statements += [store(pair, [e], self._element(at + e)) for e in range(2)]
                statements.append(store(mine, [0], tirx.reinterpret("int32", both)))
                statements.append(store(self.told, [0], other_lanes(own_bits, self.lane, how.side, how.wave)))
                for half, (a, b) in enumerate(((own_bits, told), (told, own_bits))):
                    value = tirx.reinterpret(f"{how.carrier}x2", tirx.Select(low, a, b))
                    place = tirx.Ramp(i32(start + half * how.sums + v), i32(1), 2)
                    statements.append(tirx.BufferStore(self.weights, value, [place]))
        return [allocated([pair, mine], *statements)]

    def _element(self, at: int) -> tirx.Expr:
        """A weight as operands hold it: int16 stands for the bits of bfloat16, rounded to nearest even."""
        how, weight = self.how, self.score(at)
        if how.carrier == how.dtype:
            return weight if how.dtype == "float32" else weight.astype(how.dtype)
        bits = tirx.reinterpret("int32", weight)
        odd = tirx.bitwise_and(tirx.shift_right(bits, i32(16)), i32(1))
        # A weight is between 0 and 1, or NaN, whose upper half alone may be infinity's.
        number = tirx.Select(weight == weight, bits + odd + i32(0x7FFF), i32(0x7FC00000))
        return tirx.shift_right(number, i32(16)).astype(how.carrier)
