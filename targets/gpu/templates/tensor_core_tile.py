"""Sizes of a tile that tensor cores compute, and what it takes of an SM."""

from __future__ import annotations

from dataclasses import dataclass

from .knobs import Knobs
from .tensor_core_ptx import A_REGISTERS, B_REGISTERS, COLUMNS, ROWS, Multiply

# Shared memory is swizzled by pieces of this many bytes: a row of an 8x8 matrix.
CHUNK_BYTES = 16
# Columns between the rows of a slab of results in shared memory beyond the slab's own: spreads them over the banks.
SKEW = 8
# Registers for addresses, predicates and counters: NVRTC's cubins need 40 to 70 besides sums and fragments.
_OTHER_REGISTERS = 64


@dataclass(frozen=True)
class TensorTile(Knobs):
    """A block computes bm x bn results by steps of bk along K: wm x wn warps, `stages` steps in shared memory.

    `split`: see gemm_shares.py.
    """

    bm: int
    bn: int
    bk: int
    wm: int
    wn: int
    stages: int
    split: int = 1

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.wm * self.wn

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def rows(self) -> int:
        """Fragments of A that a warp multiplies."""
        return self.bm // self.wm // ROWS

    @property
    def columns(self) -> int:
        """Fragments of B that a warp multiplies."""
        return self.bn // self.wn // COLUMNS

    def ahead(self, how: Multiply) -> int:
        """Steps that are fetched ahead. Warpgroups leave a step behind that still reads its pieces."""
        return self.stages - (1 if how.warps == 1 else 2)

    @property
    def slab(self) -> int:
        """Elements of the shared memory in which a warp turns 16 rows of results."""
        return ROWS * (self.bn // self.wn + SKEW)

    def shared_bytes(self, size: int) -> int:
        """Shared memory for operands of `size` bytes an element; results pass through the same place."""
        return max(self.stages * (self.bm + self.bn) * self.bk * size, self.warps * self.slab * 4)

    def registers(self, besides: int) -> int:
        """Registers of a thread that needs so many `besides` to fetch what is multiplied."""
        sums = self.rows * self.columns * 4
        fragments = self.rows * A_REGISTERS + self.columns * B_REGISTERS
        return sums + fragments + besides + _OTHER_REGISTERS

    def divides(self, how: Multiply) -> bool:
        """Whether warps and multiplications of that kind make up the tile."""
        down, along = self.bm // self.wm, self.bn // self.wn
        if how.warps > 1 and not (self.wm % how.warps == 0 and self.wn == 1 and self.bk == 4 * how.depth):
            return False
        return (
            down * self.wm == self.bm
            and along * self.wn == self.bn
            and down % ROWS == 0
            and along % (2 * COLUMNS) == 0
            and self.bk % how.depth == 0
        )
