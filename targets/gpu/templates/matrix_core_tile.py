"""Sizes of a tile that AMD's matrix units compute, and what it takes of a compute unit."""

from __future__ import annotations

from dataclasses import dataclass

from ....compiler.schedule.template import Config
from .knobs import Knobs
from .matrix_core import READ_BYTES, MatrixInstruction, with_side
from .vectors import dtype_bytes

# Registers for addresses, conditions and counters besides sums, fragments and what is fetched ahead.
_OTHER_REGISTERS = 56


@dataclass(frozen=True)
class MatrixTile(Knobs):
    """A block computes bm x bn results in steps of bk along K, with wm x wn waves, each by instructions of one size.

    `split`: see gemm_shares.py.
    """

    bm: int
    bn: int
    bk: int
    wm: int
    wn: int
    how: MatrixInstruction
    split: int = 1

    @property
    def waves(self) -> int:
        """Waves of a block."""
        return self.wm * self.wn

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.how.wave * self.waves

    @property
    def rows(self) -> int:
        """Fragments of A that a wave multiplies."""
        return self.bm // self.wm // self.how.side

    @property
    def columns(self) -> int:
        """Fragments of B that a wave multiplies."""
        return self.bn // self.wn // self.how.side

    @property
    def size(self) -> int:
        """Bytes of an operand's element."""
        return dtype_bytes(self.how.dtype)

    @property
    def pitch(self) -> int:
        """Elements from one row to the next in shared memory: rows that are read together lie in different banks."""
        return self.bk + READ_BYTES // self.size

    @property
    def shared_bytes(self) -> int:
        """Shared memory of both buffers."""
        return 2 * (self.bm + self.bn) * self.pitch * self.size

    def registers(self, slots: int, ahead: int) -> int:
        """Registers of a thread that fetches `ahead` elements of the next step in `slots` pieces."""
        sums = self.rows * self.columns * self.how.sums
        # LLVM reads the next fragments while the last are multiplied.
        fragments = 2 * (self.rows + self.columns) * -(-self.how.pack * self.size // 4)
        return sums + fragments + -(-ahead * self.size // 4) + 4 * slots + _OTHER_REGISTERS

    def divides(self) -> bool:
        """Whether waves and instructions make up the tile."""
        side = self.how.side
        return self.bm % (self.wm * side) == 0 and self.bn % (self.wn * side) == 0 and self.bk % self.how.chunk == 0

    def config(self, **more: int) -> Config:
        """With the side of the instruction, before `split`."""
        knobs = {name: int(value) for name, value in super().config(**more).knobs}
        split = knobs.pop("split")
        return Config.of(**knobs, side=self.how.side, split=split)


def tile_of(config: Config, instructions: tuple[MatrixInstruction, ...]) -> MatrixTile:
    """The tile of a config."""
    return MatrixTile.of(config, how=with_side(config, instructions))
