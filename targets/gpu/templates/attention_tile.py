"""Sizes of attention's tiles on tensor cores, and what they take of an SM."""

from __future__ import annotations

from dataclasses import dataclass

from .knobs import Knobs
from .tensor_core_ptx import COLUMNS, ROWS

# Elements between the rows of a tile in shared memory beyond its own: 16 bytes more spread eight rows over all banks.
SKEW = 8
# Elements of two bytes in a row of Hopper's swizzle of 128 bytes.
SEGMENT = 64
# Registers for addresses, statistics, fragments on their way and counters.
_OTHER_REGISTERS = 56


@dataclass(frozen=True)
class FlashTile(Knobs):
    """A block weighs values for `warps` x `rows` x 16 queries, `bn` keys at a time, `stages` times these in memory.

    `held`: queries stay in registers, rather than being read from shared memory for each step.
    """

    warps: int
    rows: int
    bn: int
    stages: int
    held: int

    @property
    def bm(self) -> int:
        """Queries of a block."""
        return self.warps * self.rows * ROWS

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    def elements(self, depth: int, columns: int) -> int:
        """Elements in shared memory: queries, then `stages` times keys, then `stages` times values."""
        keys = self.stages * self.bn
        return (self.bm + keys) * (depth + SKEW) + keys * (columns + SKEW)

    def slab(self, columns: int) -> int:
        """Numbers of float32 in which a warp turns 16 rows of results."""
        return ROWS * (columns + SKEW)

    def shared_bytes(self, depth: int, columns: int) -> int:
        """Shared memory for operands of two bytes, `depth` and `columns` rounded up; results use the same."""
        return max(self.elements(depth, columns) * 2, self.warps * self.slab(columns) * 4)

    def registers(self, depth: int, columns: int) -> int:
        """Registers of a thread."""
        results, scores = self.rows * columns // 2, self.rows * self.bn // 2
        queries = self.rows * (depth // 4 if self.held else 4)
        return results + scores + self.rows * self.bn // 4 + queries + self.rows * 4 + _OTHER_REGISTERS


def rounded(width: int) -> int:
    """`width` rounded up to what one multiplication takes of a row."""
    return -(-width // (2 * COLUMNS)) * 2 * COLUMNS


def wide(columns: int) -> int:
    """Neighbouring fragments that are loaded at once: four where they come out even."""
    return 4 if columns % 4 == 0 else 2
