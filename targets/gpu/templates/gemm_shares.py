"""How the tiles of C, and the steps over K that each takes, are shared out among blocks of threads.

| split | a block computes | partial sums |
|---|---|---|
| 1 | whole tiles | none |
| p > 1 | a p-th of a tile's steps: for few tiles with long K (split-K) | p for each tile |
| EVENLY | as many steps as any other block, of neighbouring tiles (stream-K) | up to two for each block |

Blocks that compute part of a tile leave their sums in a workspace; a second kernel adds them up, always in the order of
K, and computes the epilogue: results do not depend on which block is done first. Evenly shared are only the tiles of
the last one or two rounds: those before keep all SMs busy as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import For, ForKind, Stmt

from ...shared.tir_loops import Index, seq
from .gemm_index import Indices, i32

EVENLY = 0


@dataclass(frozen=True)
class Share:
    """What a block does for one tile: `steps` steps from number `first` on.

    `whole` says whether these are all; otherwise the sums go to place number `slot` of the workspace.
    """

    tile: Index
    first: Index
    steps: Index
    whole: tirx.Expr | bool = True
    slot: Index = 0


@dataclass(frozen=True)
class Sharing:
    """Work of `tiles` tiles, each of `steps` steps, for blocks of which `at_once` run at the same time.

    With `stay`, as many blocks as run at once do all the work; else there is one for each share. Sizes must be known
    where `split` is not 1.
    """

    tiles: Index
    steps: Index
    split: int = 1
    at_once: int = 1
    stay: bool = False

    @property
    def part(self) -> int:
        """Steps of a part: those beyond K's end multiply zeros."""
        return -(-self.steps // self.split)

    @property
    def exact(self) -> bool:
        """Whether parts end where K does."""
        return self.split in (EVENLY, 1) or self.part * self.split == self.steps

    @property
    def rounds(self) -> int:
        """Where tiles are shared evenly: those that each block computes alone before."""
        return max(0, -(-self.tiles // self.at_once) - 2)

    @property
    def even(self) -> int:
        """Steps of a block of the tiles that are shared evenly."""
        return -(-(self.tiles - self.rounds * self.at_once) * self.steps // self.at_once)

    @property
    def blocks(self) -> Index:
        """Blocks of the kernel."""
        if self.split == EVENLY:
            return self.at_once
        shares = self.tiles * self.split
        if not self.stay:
            return shares
        if isinstance(shares, int):
            return min(shares, self.at_once)
        return tirx.min(shares, tirx.const(self.at_once, "int64"))

    @property
    def slots(self) -> int:
        """Places of the workspace, each for a tile."""
        return 2 * self.at_once if self.split == EVENLY else self.tiles * self.split if self.split > 1 else 0

    @property
    def loops(self) -> bool:
        """Whether a block may have several shares."""
        return self.stay or self.split == EVENLY

    def each(self, block: Index, indices: Indices, body: Callable[[Share], Stmt]) -> Stmt:
        """`body` for each share of block number `block`."""
        if self.split == EVENLY:
            return self._evenly(block, indices, body)
        if not self.stay:
            return self._share(block, indices, body)
        at_once, turn = self.blocks, tirx.Var("turn", "int32")
        left = indices.const(self.tiles * self.split - 1) - indices.const(block)
        naming, count = indices.name("turns", indices.quotient(left, at_once) + 1)
        number = indices.const(block) + indices.const(turn) * indices.const(at_once)
        loop = For(turn, i32(0), i32(count), ForKind.SERIAL, self._share(number, indices, body))
        return seq(*naming, loop)

    def _share(self, number: Index, indices: Indices, body: Callable[[Share], Stmt]) -> Stmt:
        if self.split == 1:
            return body(Share(number, 0, self.steps))
        tiling, tile = indices.name("tile", indices.remainder(number, self.tiles))
        parting, first = indices.name("first_step", indices.quotient(number, self.tiles) * self.part)
        return seq(*tiling, *parting, body(Share(tile, first, self.part, False, number)))

    def _evenly(self, block: Index, indices: Indices, body: Callable[[Share], Stmt]) -> Stmt:
        const, quotient = indices.const, indices.quotient
        alone = self.rounds * self.at_once
        total = (self.tiles - alone) * self.steps
        begins, begin = indices.name("begin", const(block) * self.even)
        ends, end = indices.name("end", tirx.min(begin + self.even, const(total)))
        firsts, first = indices.name("first_tile", quotient(begin, self.steps))
        counts, count = indices.name(
            "shares", tirx.Select(begin < end, quotient(end - 1, self.steps) - first + 1, const(0)) + self.rounds
        )
        turn = tirx.Var("turn", "int32")

        def share() -> Stmt:
            number = const(turn) - self.rounds
            tiling, tile = indices.name("even_tile", first + number)
            start = tile * self.steps
            lows, low = indices.name("low", tirx.max(begin, start))
            sizes, size = indices.name("size", tirx.min(end, start + self.steps) - low)
            later = tirx.Select(begin < start, const(1), const(0))
            naming = [*tiling, *lows, *sizes]
            found = Share(tile + alone, low - start, size, size == self.steps, const(block) * 2 + later)
            if not self.rounds:
                return seq(*naming, body(found))
            own = turn < self.rounds
            which, where = indices.name("tile", tirx.Select(own, const(block) + const(turn) * self.at_once, found.tile))
            froms, from_ = indices.name("first_step", tirx.Select(own, const(0), found.first))
            lengths, length = indices.name("steps", tirx.Select(own, const(self.steps), size))
            body_of = Share(where, from_, length, length == self.steps, found.slot)
            return seq(*naming, *which, *froms, *lengths, body(body_of))

        loop = For(turn, i32(0), i32(count), ForKind.SERIAL, share())
        return seq(*begins, *ends, *firsts, *counts, loop)

    @property
    def split_tiles(self) -> tuple[int, int]:
        """The first of the tiles that may have partial sums, and how many there are."""
        alone = self.rounds * self.at_once if self.split == EVENLY else 0
        return alone, self.tiles - alone

    def parts_of(self, tile: Index, indices: Indices) -> tuple[list[Stmt], Index, Callable[[Index], Index]]:
        """Statements, the number of partial sums of `tile` (1: it is whole), and the slot of each."""
        const, quotient = indices.const, indices.quotient
        if self.split != EVENLY:
            return [], self.split, lambda part: const(part) * self.tiles + tile
        starts, start = indices.name("start", (const(tile) - self.split_tiles[0]) * self.steps)
        firsts, first = indices.name("first_block", quotient(start, self.even))
        counts, count = indices.name("parts", quotient(start + (self.steps - 1), self.even) - first + 1)

        def slot(part: Index) -> Index:
            block = first + const(part)
            return block * 2 + tirx.Select(block * self.even < start, const(1), const(0))

        return [*starts, *firsts, *counts], count, slot
