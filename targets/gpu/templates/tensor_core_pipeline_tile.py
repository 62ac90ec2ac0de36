"""Sizes of a tile that Hopper's warpgroups compute from a ring of stages, and what it takes of an SM."""

from __future__ import annotations

from dataclasses import dataclass

from .knobs import Knobs
from .tensor_core_ptx import COLUMNS, ROWS
from .tensor_core_tile import SKEW
from .tensor_core_wgmma import ROW_BYTES, WARPS
from .tensor_core_wgmma import ROWS as GROUP_ROWS

# The warpgroup whose first thread has pieces copied.
PRODUCER_THREADS = 128
# Registers of each thread of the first warpgroup, and of the others, where these take over what the first gives away:
# with two others 64512 of 65536, with three 65024.
_HANDED_OVER = {2: (40, 232), 3: (24, 160)}
# Registers for addresses, predicates and counters besides sums.
_OTHER_REGISTERS = 64
# Columns of a slab of results; 64 fill whole lines of device memory with two bytes each.
_SLABS = (64, 32, 16)
_BARRIER_BYTES = 8
# Shared memory of a block on Hopper.
_MOST_SHARED = 232448


@dataclass(frozen=True)
class PipelineTile(Knobs):
    """A block computes bm x bn results by `groups` warpgroups, with `stages` steps of 128 bytes of k in shared memory.

    Attributes:
        cluster: blocks, one below the other, that bring B together.
        split: see gemm_shares.py.
    """

    bm: int
    bn: int
    groups: int
    stages: int
    cluster: int = 1
    split: int = 1

    @property
    def warps(self) -> int:
        """Warps that multiply."""
        return self.groups * WARPS

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return PRODUCER_THREADS + 32 * self.warps

    @property
    def rows(self) -> int:
        """Times 64 rows that a warpgroup multiplies."""
        return self.bm // self.groups // GROUP_ROWS

    @property
    def columns(self) -> int:
        """Times eight columns that it multiplies."""
        return self.bn // COLUMNS

    def sizes(self, size: int) -> tuple[int, int, int]:
        """Rows, columns and k of a step, for elements of `size` bytes."""
        return self.bm, self.bn, ROW_BYTES // size

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a piece."""
        return ROW_BYTES

    @property
    def slab_start(self) -> int:
        """Where results pass through shared memory, behind the stages."""
        return self.stages * (self.bm + self.bn) * ROW_BYTES

    def _slab_bytes(self, columns: int) -> int:
        return self.warps * ROWS * (columns + SKEW) * 4

    @property
    def slab_columns(self) -> int:
        """Columns of a slab: as many as there is room for."""
        room = _MOST_SHARED - self.slab_start - 2 * self.stages * _BARRIER_BYTES
        for columns in _SLABS:
            if self.bn % columns == 0 and self._slab_bytes(columns) <= room:
                return columns
        return _SLABS[-1]

    @property
    def barrier_start(self) -> int:
        """Where barriers lie."""
        return self.slab_start + self._slab_bytes(self.slab_columns)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return self.barrier_start + 2 * self.stages * _BARRIER_BYTES

    @property
    def hands_over_registers(self) -> tuple[int, int] | None:
        """Registers of the first warpgroup's threads and of the others'; None where all have enough from the start."""
        return _HANDED_OVER.get(self.groups)

    @property
    def sums(self) -> int:
        """Sums that a thread holds."""
        return self.rows * self.columns * 4

    @property
    def registers(self) -> int:
        """Registers of a thread at launch."""
        return 168 if self.groups == 2 else 128 if self.groups == 3 else self.sums + _OTHER_REGISTERS

    @property
    def fits_registers(self) -> bool:
        """Whether sums leave enough for all else."""
        most = self.hands_over_registers[1] if self.hands_over_registers else 255
        return self.sums + _OTHER_REGISTERS <= most

    def divides(self) -> bool:
        """Whether warpgroups make up the tile."""
        return self.bm % (self.groups * GROUP_ROWS) == 0 and self.bn % (2 * COLUMNS) == 0 and self.bn <= 256
