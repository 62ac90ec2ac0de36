"""Sizes of attention's tiles on AMD's matrix units, and what they take of a compute unit."""

from __future__ import annotations

from dataclasses import dataclass

from ....compiler.schedule.template import Config
from .knobs import Knobs
from .matrix_core import READ_BYTES, MatrixInstruction
from .vectors import dtype_bytes

# Keys that lie side by side in shared memory once values are turned, and are stored at once.
TURNED = 4
# Registers for addresses, conditions and counters besides what is counted below.
_OTHER_REGISTERS = 48


@dataclass(frozen=True)
class MatrixFlashTile(Knobs):
    """A block of `waves` waves weighs values for `rows` x side queries of each, `bn` keys at a time.

    `stages`: how many steps' keys and values lie in shared memory; with 2, one barrier a step is enough. `held`:
    queries stay in registers; otherwise each lane keeps its own in shared memory, where registers are few.
    """

    waves: int
    rows: int
    bn: int
    stages: int
    held: int
    how: MatrixInstruction

    def config(self, **more: int) -> Config:
        """With the side of the instruction."""
        return super().config(side=self.how.side, **more)

    @property
    def bm(self) -> int:
        """Queries of a block."""
        return self.waves * self.rows * self.how.side

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.how.wave * self.waves

    @property
    def size(self) -> int:
        """Bytes of an operand's element."""
        return dtype_bytes(self.how.dtype)

    @property
    def skew(self) -> int:
        """Elements between rows in shared memory: rows that are read together lie in different banks."""
        return READ_BYTES // self.size

    @property
    def own(self) -> int:
        """Scores of a lane in a step, for each of `rows`."""
        return self.bn // self.how.parts

    def deep(self, depth: int) -> int:
        """Depth of queries and keys in registers and shared memory."""
        return -(-depth // self.how.chunk) * self.how.chunk

    def broad(self, columns: int) -> int:
        """Columns of values in registers and shared memory."""
        return -(-columns // self.how.side) * self.how.side

    def pieces(self, depth: int, columns: int) -> tuple[int, int]:
        """Elements of a step in shared memory: keys, and values, whose columns are lines there."""
        return self.bn * (self.deep(depth) + self.skew), self.broad(columns) * (self.bn + self.skew)

    def queries(self, depth: int) -> int:
        """Elements of a lane's operands out of queries."""
        return self.rows * self.deep(depth) // self.how.groups

    def shared_bytes(self, depth: int, columns: int) -> int:
        """Shared memory of a block; the number of steps takes a few bytes more."""
        queries = 0 if self.held else self.threads * self.queries(depth)
        return (queries + self.stages * sum(self.pieces(depth, columns))) * self.size + 16

    def slots(self, depth: int, columns: int, lanes: tuple[int, int]) -> tuple[int, int]:
        """Pieces of keys, and of values, that a thread fetches for a step, where `lanes` elements come at once."""
        keys = self.bn * (self.deep(depth) // lanes[0])
        values = self.bn // TURNED * (self.broad(columns) // lanes[1])
        return -(-keys // self.threads), -(-values // self.threads)

    def registers(self, depth: int, columns: int, lanes: tuple[int, int]) -> int:
        """Registers of a thread: scores, weights, results, queries, fragments, what is fetched ahead, addresses."""
        how, words = self.how, self.size / 4
        keys, values = self.slots(depth, columns, lanes)
        # Where lanes exchange halves, as many are on their way.
        weights = 0 if how.dtype == "float32" else self.own * (2 if how.twice else 1)
        exchanged = self.own if how.twice else 0
        queries = self.queries(depth) if self.held else self.rows * how.pack
        results = self.broad(columns) // how.parts
        each = self.own + exchanged + weights * words + results + 4
        ahead = keys * lanes[0] + values * TURNED * lanes[1]
        # LLVM reads the columns of a step ahead, as far as it has registers.
        fragments = how.pack * words * (4 if how.twice else 2 * (self.broad(columns) // how.side))
        return int(self.rows * each + (queries + ahead) * words + fragments) + 3 * (keys + values) + _OTHER_REGISTERS
