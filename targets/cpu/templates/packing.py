"""Weight layouts of the convolution templates, made once at compile time with numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BlockedWeights:
    """Weights in blocks of output channels, each a stream in the order in which the kernel reads it.

    A group has `full` blocks of `block` channels and, if `tail` is not 0, one of `tail` channels: the rest rounded up
    to vectors and filled with zeros. A block is an array [chunks][kernel height][kernel width][chunk channels][block]:
    with more than one chunk the input channels are reduced in that many passes.
    """

    groups: int
    group_out: int
    group_in: int
    kernel: tuple[int, int]
    block: int
    lanes: int
    chunks: int

    @property
    def full(self) -> int:
        """Blocks of `block` channels in a group."""
        return self.group_out // self.block

    @property
    def tail(self) -> int:
        """Channels of the last block, in whole vectors; 0 if there is none."""
        return -(-(self.group_out - self.full * self.block) // self.lanes) * self.lanes

    @property
    def blocks(self) -> int:
        """Blocks of a group, the tail included."""
        return self.full + (self.tail > 0)

    @property
    def depth(self) -> int:
        """Multiply-adds of one output element."""
        return self.group_in * self.kernel[0] * self.kernel[1]

    @property
    def group_size(self) -> int:
        """Elements of one group."""
        return self.depth * (self.full * self.block + self.tail)

    @property
    def size(self) -> int:
        """Elements of the packed array, which is one-dimensional."""
        return self.groups * self.group_size

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """OIHW weights (groups * group_out, group_in, kernel) as the packed array."""
        grouped = weight.reshape(self.groups, self.group_out, self.chunks, self.group_in // self.chunks, *self.kernel)
        streams = []
        for group in grouped:
            for start in range(0, self.group_out, self.block):
                part = group[start : start + self.block]
                width = self.block if part.shape[0] == self.block else self.tail
                stream = np.zeros((*part.transpose(1, 3, 4, 2, 0).shape[:-1], width), weight.dtype)
                stream[..., : part.shape[0]] = part.transpose(1, 3, 4, 2, 0)
                streams.append(stream.reshape(-1))
        return np.concatenate(streams)
