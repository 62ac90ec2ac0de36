"""Fused attention by Hopper's warpgroups, which multiply straight from shared memory while weights are computed.

1. Scores of a step are asked for one step ahead, right before the values of the step before are: while the tensor cores
   add up these, the warpgroup computes the next weights (FlashAttention-3, Shah et al., 2024, within a warpgroup).
2. So keys run one step ahead of values in shared memory. A group of copies is the keys of a step and the values of the
   one before; `stages` of each lie there at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import For, ForKind, Stmt

from ...shared.index_math import when
from ...shared.tir_loops import Index, seq
from ..launch import barrier
from . import attention_wgmma as wgmma
from . import tensor_core_ptx as ptx
from .attention_block import FlashBlock, FlashNest, first_of
from .attention_problem import Batch
from .attention_rows import Swizzled
from .attention_tile import SEGMENT, SKEW
from .gemm_index import Held, i32
from .knobs import Knobs
from .tensor_core_wgmma import ROWS, WARPS, fence_copies

# Registers for addresses, statistics and counters.
_OTHER_REGISTERS = 48


@dataclass(frozen=True)
class GroupTile(Knobs):
    """A block weighs values for 64 queries of each of `groups` warpgroups, `bn` keys at a time, `stages` in memory."""

    groups: int
    bn: int
    stages: int

    @property
    def rows(self) -> int:
        """Fragments of 16 rows of a warp."""
        return 1

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.groups * WARPS

    @property
    def bm(self) -> int:
        """Queries of a block."""
        return self.groups * ROWS

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    def slab(self, columns: int) -> int:
        """Numbers of float32 in which a warp turns 16 rows of results."""
        return ptx.ROWS * (columns + SKEW)

    def shared_bytes(self, depth: int, columns: int) -> int:
        """Shared memory for operands of two bytes; results use the same."""
        keys = self.stages * self.bn
        elements = (self.bm + keys) * segments(depth) * SEGMENT + keys * segments(columns) * SEGMENT
        return max(elements * 2, self.warps * self.slab(columns) * 4)

    def registers(self, columns: int) -> int:
        """Registers of a thread: results, scores, weights and the rest."""
        return columns // 2 + self.bn // 2 + self.bn // 4 + _OTHER_REGISTERS


def segments(width: int) -> int:
    """Segments of 128 bytes that a row of `width` elements takes."""
    return -(-width // SEGMENT)


class GroupBlock(FlashBlock):
    """What one block does: each of its warpgroups multiplies by itself."""

    alignment = 1024

    def __init__(self, nest: FlashNest, thread: tirx.Expr, row: Index, batch: Batch) -> None:
        super().__init__(nest, thread, row, batch)
        tile = self.tile
        self.key_size = tile.bn * segments(nest.depth) * SEGMENT
        self.value_size = tile.bn * segments(nest.columns) * SEGMENT
        self.key_start = tile.bm * segments(nest.depth) * SEGMENT
        self.value_start = self.key_start + tile.stages * self.key_size

    def layout(self, count: int, width: int) -> Swizzled:
        """See FlashBlock."""
        return Swizzled(count)

    def wide(self, columns: int) -> int:
        """See FlashBlock: a row of fragments is one result of the hardware."""
        return columns

    def prepare(self, down: tirx.Expr) -> tuple[list[tirx.Buffer], list[Stmt]]:
        """Nothing."""
        return [], []

    def walk(self, count: tirx.Expr) -> Stmt:
        """See FlashBlock. The values of the last step are added up behind the loop."""
        step, stages = tirx.Var("step", "int32"), self.tile.stages
        loop = For(step, i32(0), count - 1, ForKind.SERIAL, self._body(step, count))
        places, last = Held("int32").name("last", tirx.truncmod(count - 1, i32(stages)))
        end = [ptx.wait_copies(0), fence_copies(), barrier(), *places, self._gather(last), self._settle_sums()]
        whole = seq(self._first(), loop, *end)
        sees_none = self.problem.causal and self.problem.offset < 0
        return tirx.IfThenElse(count > 0, whole, None) if sees_none else whole

    def _first(self) -> Stmt:
        """Bring queries and the first keys and values; the weights of the first step."""
        tile, copies = self.tile, [self.queries.copy(self.row, self.pieces, i32(0)), self._keys(i32(0), i32(0))]
        copies.append(ptx.commit_copies())
        for step in range(tile.stages - 1):
            slot = i32((step + 1) % tile.stages)
            copies += [self._keys(i32(step + 1), slot), self._values(i32(step), i32(step)), ptx.commit_copies()]
        arrived = [ptx.wait_copies(tile.stages - 1), fence_copies(), barrier(), self._ask(i32(0))]
        scores = [wgmma.settle(0, first_of(self.scores), self.score.registers), *self.masked(i32(0))]
        return seq(*copies, *arrived, *scores, self.weigh(), self.fade())

    def _body(self, step: tirx.Var, count: tirx.Expr) -> Stmt:
        """Values of `step`, weights of the next one. Both products begin and end here, or ptxas puts them in a row."""
        stages = self.tile.stages

        def slot(name: str, ahead: int) -> tuple[list[Stmt], Index]:
            return Held("int32").name(name, tirx.truncmod(step + ahead, i32(stages)))

        places = [slot("current", 0), slot("following", 1), slot("free", stages - 1)]
        (_, current), (_, following), (_, free) = places
        return seq(
            *(s for statements, _ in places for s in statements),
            ptx.wait_copies(stages - 2),
            fence_copies(),
            barrier(),
            when(step + stages < count, self._keys(step + stages, current)),
            when(step + (stages - 1) < count, self._values(step + (stages - 1), free)),
            ptx.commit_copies(),
            self._ask(following),
            self._gather(current),
            wgmma.settle(1, first_of(self.scores), self.score.registers),
            *self.masked(step + 1),
            self.weigh(),
            self._settle_sums(),
            self.fade(),
        )

    def _settle_sums(self) -> Stmt:
        return wgmma.settle(0, first_of(self.sums), self.result.registers)

    def _keys(self, step: tirx.Expr, slot: Index) -> Stmt:
        return self.fetch(self.keys, step, slot * self.key_size + self.key_start)

    def _values(self, step: tirx.Expr, slot: Index) -> Stmt:
        return self.fetch(self.values, step, slot * self.value_size + self.value_start)

    def _ask(self, slot: Index) -> Stmt:
        """Begin to compute the scores of the step whose keys are in `slot`."""
        nest, tile = self.nest, self.tile
        group = tirx.truncdiv(self.warp, i32(WARPS))
        queries = ptx.address(self.pieces, group * (ROWS * SEGMENT))
        keys = ptx.address(self.pieces, slot * self.key_size + self.key_start)
        return wgmma.begin_scores(nest.how, tile.bm, tile.bn, nest.depth, first_of(self.scores), queries, keys)

    def _gather(self, slot: Index) -> Stmt:
        """Begin to add up the values in `slot` by their weights."""
        nest, tile = self.nest, self.tile
        values = ptx.address(self.pieces, slot * self.value_size + self.value_start)
        pointers = (first_of(self.sums), first_of(self.weights), values)
        return wgmma.begin_gather(nest.how, tile.bn, nest.columns, *pointers)
