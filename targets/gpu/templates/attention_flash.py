"""Attention by mma.sync, whose fragments of keys and values are read from shared memory: FlashAttention-2 (Dao, 2023).

Keys and values of the next `stages` - 1 steps are on their way to shared memory while one is computed. Rows there have
16 bytes more than their own, so that `ldmatrix` finds eight of them in different banks.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx import For, ForKind, Stmt

from ...shared.index_math import when
from ...shared.tir_loops import Index, seq
from ..launch import barrier, registers
from . import attention_ptx as flash
from . import tensor_core_ptx as ptx
from .attention_block import FlashBlock, FlashNest, first_of
from .attention_problem import Batch
from .attention_rows import Padded
from .attention_tile import SKEW, FlashTile, wide
from .gemm_index import Held, i32


class WarpBlock(FlashBlock):
    """What one block does: each of its warps multiplies by itself."""

    tile: FlashTile

    def __init__(self, nest: FlashNest, thread: tirx.Expr, row: Index, batch: Batch) -> None:
        super().__init__(nest, thread, row, batch)
        tile = self.tile
        self.key_start = tile.bm * (nest.depth + SKEW)
        self.value_start = self.key_start + tile.stages * tile.bn * (nest.depth + SKEW)
        held = nest.depth // nest.how.depth if tile.held else 1
        self.left = registers(held * tile.rows * ptx.A_REGISTERS, "uint32", "left")
        self.right = registers(max(self.score.wide, self.result.wide) * ptx.B_REGISTERS, "uint32", "right")

    def layout(self, count: int, width: int) -> Padded:
        """See FlashBlock."""
        return Padded(width)

    def wide(self, columns: int) -> int:
        """See FlashBlock."""
        return wide(columns)

    def prepare(self, down: tirx.Expr) -> tuple[list[tirx.Buffer], list[Stmt]]:
        """Where a lane reads fragments of queries, keys and values from."""
        eighth = tirx.truncmod(self.lane, i32(8))
        half = tirx.truncmod(tirx.truncdiv(self.lane, i32(8)), i32(2))
        quarter = tirx.truncdiv(self.lane, i32(16))
        pitch, value_pitch = self.nest.depth + SKEW, self.nest.columns + SKEW
        names = {
            "query_lane": (down + eighth + half * 8) * pitch + quarter * 8,
            "key_lane": (eighth + quarter * 8) * pitch + half * 8,
            "value_lane": (eighth + half * 8) * value_pitch + quarter * 8,
        }
        pairs = [Held("int32").name(name, value, 8) for name, value in names.items()]
        self.query_lane, self.key_lane, self.value_lane = (value for _, value in pairs)
        return [self.left, self.right], [s for statements, _ in pairs for s in statements]

    def walk(self, count: tirx.Expr) -> Stmt:
        """See FlashBlock."""
        step = tirx.Var("step", "int32")
        return seq(self._first(), For(step, i32(0), count, ForKind.SERIAL, self._body(step, count)))

    def _first(self) -> Stmt:
        """Bring queries and the first keys and values."""
        groups = []
        for stage in range(self.tile.stages - 1):
            queries = [self.queries.copy(self.row, self.pieces, i32(0))] if stage == 0 else []
            groups += [*queries, self._fetch(i32(stage), i32(stage)), ptx.commit_copies()]
        load = []
        if self.tile.held:
            load = [ptx.wait_copies(self.tile.stages - 2), barrier()]
            load += [self._load_queries(k) for k in range(0, self.nest.depth, self.nest.how.depth)]
        return seq(*groups, *load)

    def _body(self, step: tirx.Var, count: tirx.Expr) -> Stmt:
        """One of `count` steps."""
        stages, ahead = self.tile.stages, self.tile.stages - 1
        places, current = Held("int32").name("current", tirx.truncmod(step, i32(stages)))
        entered, following = Held("int32").name("following", tirx.truncmod(step + ahead, i32(stages)))
        return seq(
            ptx.wait_copies(ahead - 1),
            barrier(),
            *places,
            *entered,
            when(step + ahead < count, self._fetch(step + ahead, following)),
            ptx.commit_copies(),
            self._score(current),
            *self.masked(step),
            self.weigh(),
            self.fade(),
            self._gather(current),
        )

    def _fetch(self, step: tirx.Expr, stage: tirx.Expr) -> Stmt:
        """Begin to copy keys and values of `step` into `stage`."""
        bn = self.tile.bn
        keys = self.fetch(self.keys, step, stage * (bn * (self.nest.depth + SKEW)) + self.key_start)
        return seq(keys, self.fetch(self.values, step, stage * (bn * (self.nest.columns + SKEW)) + self.value_start))

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
        statements = [flash.fill(first_of(self.scores), shape.registers)]
        for k in range(0, nest.depth, nest.how.depth):
            if not self.tile.held:
                statements.append(self._load_queries(k))
            for column in range(0, shape.columns, shape.wide):
                place = ptx.address(self.pieces, start + (column * ptx.COLUMNS * pitch + k))
                row_bytes = ptx.ROWS * pitch * nest.how.size
                pair = (first_of(self.right), place, i32(0), i32(0), shape.wide // 2, row_bytes, 0, False)
                sums = ptx.address(self.scores, i32(shape.at(0, column)))
                left = ptx.address(self.left, i32(self._queries_at(k)))
                statements.append(ptx.load_fragments(*pair))
                statements.append(ptx.multiply_tile(nest.how, shape.rows, shape.wide, sums, left, first_of(self.right)))
        return seq(*statements)

    def _gather(self, stage: tirx.Expr) -> Stmt:
        """Add up values by their weights."""
        nest, shape, pitch = self.nest, self.result, self.nest.columns + SKEW
        start = stage * (self.tile.bn * pitch) + self.value_start + self.value_lane
        statements = []
        for k in range(0, self.tile.bn, nest.how.depth):
            for column in range(0, shape.columns, shape.wide):
                place = ptx.address(self.pieces, start + (k * pitch + column * ptx.COLUMNS))
                pair = (first_of(self.right), place, i32(0), i32(0), shape.wide // 2, 0, ptx.ROWS // 8, True)
                sums = ptx.address(self.sums, i32(shape.at(0, column)))
                weights = ptx.address(self.weights, i32(k // nest.how.depth * shape.rows * ptx.A_REGISTERS))
                statements.append(ptx.load_fragments(*pair))
                statements.append(
                    ptx.multiply_tile(nest.how, shape.rows, shape.wide, sums, weights, first_of(self.right))
                )
        return seq(*statements)
