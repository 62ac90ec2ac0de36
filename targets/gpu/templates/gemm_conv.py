"""The matrices of a convolution as kernels by tiles read and write them.

A row of A is an output pixel, a column of B an output channel, and k runs over the kernel's rows, its columns and the
input channels, the last fastest. A's elements are read from the image where they lie; those outside count as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from ....compiler.schedule.op_spec import OpSpec
from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape, is_column
from ...shared.tir_loops import Index, i64, seq
from .gemm_costs import Problem
from .gemm_epilogue import epilogue
from .gemm_index import Bound, Indices
from .tensor_core_maps import Tiled
from .vectors import VECTOR_BYTES, dtype_bytes, store_vector


def sizes_of(conv: ConvShape) -> Problem:
    """What the estimates of costs ask for."""
    pixels = conv.pixels(0) if conv.is_static else "pixels"
    return Problem(conv.groups, pixels, conv.group_out, conv.depth)


def is_depthwise(conv: ConvShape) -> bool:
    """Whether there is one channel in and out per group."""
    return conv.groups > 1 and conv.groups == conv.channels == conv.out_channels


@dataclass(frozen=True)
class WeightPacking:
    """Weights as (groups, KH * KW * I, O), or (groups, O, KH * KW * I) if `turned`; the last rounded up to `unit`."""

    conv: ConvShape
    unit: int
    turned: bool

    @property
    def lines(self) -> int:
        """Rows of one group's matrix."""
        return self.conv.group_out if self.turned else self.conv.depth

    @property
    def length(self) -> int:
        """Elements of a row."""
        plain = self.conv.depth if self.turned else self.conv.group_out
        return -(-plain // self.unit) * self.unit

    @property
    def size(self) -> int:
        """Elements in all."""
        return self.conv.groups * self.lines * self.length

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """OIHW weights, for a column standing up or lying down, flat; zeros beyond."""
        conv = self.conv
        grouped = weight.reshape(conv.groups, conv.group_out, conv.group_in, *conv.kernel)
        matrix = grouped.transpose(0, 3, 4, 2, 1).reshape(conv.groups, conv.depth, conv.group_out)
        matrix = matrix.transpose(0, 2, 1) if self.turned else matrix
        return np.pad(matrix, ((0, 0), (0, 0), (0, self.length - matrix.shape[2]))).reshape(-1)


class _Image:
    """A: the input, read where the kernel's window lies."""

    along_k = True

    def __init__(self, memory: ConvMemory, group: Index) -> None:
        self.memory, self.conv, self.group = memory, memory.conv, group
        self.lanes = VECTOR_BYTES // dtype_bytes(str(memory.operands.data.dtype))
        while self.conv.group_in % self.lanes:
            self.lanes //= 2
        self._places: dict[int, list[Index]] = {}
        self._depths: dict[int, list[Index]] = {}

    def prepare(self, slot: int, position: Index) -> list[Stmt]:
        """The window's first row and column in the image, and where its first channel lies in memory."""
        conv, memory = self.conv, self.memory
        if conv.is_pointwise:
            self._places[slot] = [0, 0, position * conv.channels + self.group * conv.group_in]
            return []
        n, oh, ow = memory.indices.split(position, memory.pixels)
        top, left = (o * s - p for o, s, p in zip((oh, ow), conv.stride, conv.pad, strict=True))
        height, width = memory.size
        base = ((n * height + top) * width + left) * conv.channels + self.group * conv.group_in
        name = memory.indices.name
        found = [name(f"top{slot}", top), name(f"left{slot}", left), name(f"base{slot}", base, self.lanes)]
        self._places[slot] = [value for _, value in found]
        return [s for statements, _ in found for s in statements]

    def enter(self, number: int, k: Index) -> list[Stmt]:
        """The kernel's row and column, scaled, and what they and the channel add to an address."""
        down, right, offset = self._kernel_place(k)
        name = self.memory.indices.name
        found = [name("down", down), name("right", right), name("offset", offset, self.lanes)]
        self._depths[number] = [value for _, value in found]
        return [s for statements, _ in found for s in statements]

    def _kernel_place(self, k: Index) -> tuple[Index, Index, Index]:
        conv = self.conv
        kh, kw, channel = self.memory.indices.split(k, [*conv.kernel, conv.group_in])
        down, right = kh * conv.dilation[0], kw * conv.dilation[1]
        return down, right, (down * self.memory.size[1] + right) * conv.channels + channel

    def fetch(
        self, slot: int, position: Index, k: Index, entered: int | None = None
    ) -> tuple[tirx.Expr | bool, tirx.Buffer, Index]:
        """Whether that element lies inside the image, and where."""
        conv, memory = self.conv, self.memory
        top, left, base = self._places[slot]
        down, right, offset = self._kernel_place(k) if entered is None else self._depths[entered]
        conditions = [] if memory.whole_tiles else [position < memory.count]
        for padded, start, step, extent in zip(conv.padded, (top, left), (down, right), memory.size, strict=True):
            if padded:
                conditions += [start + step >= 0, start + step < extent]
        return tirx.all(*conditions) if conditions else True, memory.operands.data, base + offset


class _Weights:
    """B: packed weights of one group."""

    def __init__(self, memory: ConvMemory, group: Index) -> None:
        packing = memory.packing
        self.memory, self.group, self.packing = memory, group, packing
        self.along_k, self.lanes = packing.turned, packing.unit
        self.limit = packing.lines if packing.turned else packing.length

    def prepare(self, slot: int, position: Index) -> list[Stmt]:
        """Nothing: addresses are linear."""
        return []

    def enter(self, number: int, k: Index) -> list[Stmt]:
        """Nothing."""
        return []

    def fetch(
        self, slot: int, position: Index, k: Index, entered: int | None = None
    ) -> tuple[tirx.Expr | bool, tirx.Buffer, Index]:
        """Whether that channel exists, and where it is."""
        packing = self.packing
        line, rest = (position, k) if packing.turned else (k, position)
        index = (self.group * packing.lines + line) * packing.length + rest
        exact = self.limit % self.memory.columns == 0
        return True if exact else position < self.limit, self.memory.operands.weights, index


class ConvMemory:
    """The parameters of a convolution's kernel for tiles of rows x columns, and the matrices of each group in them."""

    def __init__(
        self, op: OpSpec, packing: WeightPacking, rows: int, columns: int, indices: Indices | None = None
    ) -> None:
        self.packing, self.columns, self.indices = packing, columns, indices or Bound()
        conv = self.conv = packing.conv
        self.op, self._lying = op, is_column(op)
        self.operands = Operands(op, {1: packing.size})
        size = self.operands.size
        self.size = (size(conv.size[0]), size(conv.size[1]))
        self.pixels = [size(d) for d in (conv.batch, *conv.out_size)]
        self.count: Index = conv.pixels(0) if conv.is_static else prod(self.pixels, start=i64(1))
        self.whole_tiles = conv.is_static and self.count % rows == 0

    def function(self, body: Stmt) -> PrimFunc:
        """The kernel with `body`."""
        return self.operands.function(body)

    def matrices(self, group: Index) -> tuple[_Image, _Weights, object]:
        """A, B, and what writes results, of one group."""
        group = 0 if self.conv.groups == 1 else group
        return _Image(self, group), _Weights(self, group), lambda *what: self._write(group, *what)

    def tiled(self) -> tuple[Tiled, Tiled] | None:
        """A and B for copies by descriptors, where the image is a matrix; None where rows do not begin at 16 bytes."""
        conv, packing = self.conv, self.packing
        image, weights, _ = self.matrices(0)
        pairs = ((image, self.operands.data), (weights, self.operands.weights))
        whole = all(m.lanes * dtype_bytes(str(b.dtype)) == VECTOR_BYTES for m, b in pairs)
        if not (whole and packing.turned and conv.is_pointwise and conv.groups == 1):
            return None
        left = Tiled(self.operands.params[0], True, self.count, conv.depth, conv.channels)
        return left, Tiled(self.operands.params[1], True, packing.lines, conv.depth, packing.length)

    def _offset(self, k: int, indices: Sequence[Index]) -> Index:
        place: Index = 0
        for index, dim in zip(indices, self.op.inputs[k].shape, strict=True):
            place = place * self.operands.size(dim) + index
        return place

    def _write(self, group: Index, pixel: Index, columns: Sequence[Index], values: Sequence[tirx.Expr]) -> Stmt:
        n, row, col = self.indices.split(pixel, self.pixels)
        channels = [group * self.conv.group_out + c for c in columns]
        lead = [n, col, row] if self._lying else [n, row, col]
        first, results = epilogue(self.op, values, lead, channels, self.operands.flat, self._offset)
        out = self.operands.flat(-1)
        start = pixel * self.conv.out_channels + channels[0]
        if len(values) > 1 and self.conv.out_channels % len(values) == 0:
            return seq(*first, store_vector(out, start, results))
        return seq(*first, *(tirx.BufferStore(out, r, [i64(start + k)]) for k, r in enumerate(results)))
