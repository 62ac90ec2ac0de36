"""How a Winograd convolution is cut into work items, and the layouts that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .winograd_transforms import POINTS, TAPS, toom_cook

LINE = 16  # floats in a cache line


@dataclass(frozen=True)
class WinogradPlan:
    """How F(m x m, 3 x 3) of `channels` -> `out_channels` is cut.

    A work item transforms `tiles` tiles of m x m output pixels and computes 1 / `parts` of the output channels, in
    passes of `blocks` blocks of `vectors` vectors. Products are register tiles of `rows` tiles; `tiles` is a multiple
    of `rows`, and `parts` * `blocks` divides the number of blocks.
    """

    m: int
    channels: int
    out_channels: int
    lanes: int
    rows: int
    vectors: int
    tiles: int
    blocks: int
    parts: int

    @property
    def edge(self) -> int:
        """Input pixels along a side of a tile."""
        return self.m + TAPS - 1

    @property
    def positions(self) -> int:
        """Products of matrices."""
        return self.edge * self.edge

    @property
    def width(self) -> int:
        """Output channels of a block."""
        return self.vectors * self.lanes

    @property
    def block_count(self) -> int:
        """Blocks of output channels; the last one is filled up with zeros."""
        return -(-self.out_channels // self.width)

    @property
    def panel(self) -> int:
        """Transformed weights of a block at one position, in floats: an array [channels][width]."""
        return self.channels * self.width

    @property
    def passes(self) -> int:
        """Passes over output channels of a work item."""
        return self.block_count // (self.parts * self.blocks)

    @cached_property
    def row_pitch(self) -> int:
        """Floats between the transformed inputs of two tiles; multiples of 1024 bytes would share few L1 sets."""
        lines = -(-self.channels // LINE)
        return LINE * (lines + (lines % 16 == 0))

    @cached_property
    def data_pitch(self) -> int:
        """Floats between the transformed inputs of two positions: an odd number of cache lines."""
        return LINE * (self.tiles * self.row_pitch // LINE | 1)

    @cached_property
    def product_pitch(self) -> int:
        """Floats between the products of two positions: an odd number of cache lines."""
        return LINE * (-(-self.blocks * self.tiles * self.width // LINE) | 1)

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """OIHW weights (out_channels, channels, 3, 3) transformed in float64, in the order in which they are read.

        The flat float32 array is [parts * passes][positions][blocks][channels][width].
        """
        g = np.array([[float(c) for c in row] for row in toom_cook(self.m, POINTS[self.m]).filter])
        out, inner = weight.shape[:2]
        padded = np.zeros((self.block_count * self.width, inner, TAPS, TAPS))
        padded[:out] = weight
        # Two products instead of einsum, which has no fast path for two matrices.
        half = np.tensordot(padded, g, axes=(3, 1))
        u = np.tensordot(half, g, axes=(2, 1)).transpose(3, 2, 1, 0)  # (row, column, channel, output channel)
        u = u.reshape(self.positions, inner, -1, self.blocks, self.width).astype("float32")
        return np.ascontiguousarray(u.transpose(2, 0, 3, 1, 4)).reshape(-1)

    @property
    def size(self) -> int:
        """Floats of the packed weights."""
        return self.block_count * self.positions * self.panel
