"""float32 NHWC convolution as a matrix product that nobody writes down: tiles of pixels x output channels.

A row of A is an output pixel, a column of B an output channel, and k runs over the kernel's rows, its columns and the
input channels, the last fastest. A's elements are read from the image where they lie; those outside count as zero.
Weights are packed as (groups, K, output channels rounded up to whole vectors).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape, conv_shape
from ...shared.index_math import split_index
from ...shared.tir_loops import Index, i64, seq
from ..spec import GpuSpec
from .gemm_costs import Problem, gemm_space, gemm_traits, tile_of
from .gemm_tile import QUAD, GemmNest
from .vectors import store_vector


class ImplicitConv2D(Template):
    """Any 2-D convolution with constant weights, grouped or not, on the vector units."""

    name = "conv2d_implicit"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """NHWC float32 with constant weights; depthwise ones have a template of their own."""
        conv = conv_shape(op)
        if conv is None or not isinstance(target, GpuSpec):
            return None
        if conv.groups > 1 and conv.groups == conv.channels == conv.out_channels:
            return None
        return gemm_space(_sizes(conv), target)

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, and the packer of the weights."""
        conv = conv_shape(op)
        assert conv is not None, "match accepts only such operators"
        return Candidate(_Kernel(op, conv, config).function(), {1: lambda weight: pack(conv, weight)})

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        conv = conv_shape(op)
        assert conv is not None, "match accepts only such operators"
        assert isinstance(target, GpuSpec)
        return gemm_traits(_sizes(conv), target, configs)


def _sizes(conv: ConvShape) -> Problem:
    pixels = conv.pixels(0) if conv.is_static else "pixels"
    return Problem(conv.groups, pixels, conv.group_out, conv.depth)


def _packed_width(conv: ConvShape) -> int:
    return -(-conv.group_out // QUAD) * QUAD


def pack(conv: ConvShape, weight: np.ndarray) -> np.ndarray:
    """OIHW weights, for a column standing up or lying down, as (groups, KH * KW * I, O rounded up), flat."""
    grouped = weight.reshape(conv.groups, conv.group_out, conv.group_in, *conv.kernel)
    matrix = grouped.transpose(0, 3, 4, 2, 1).reshape(conv.groups, conv.depth, conv.group_out)
    return np.pad(matrix, ((0, 0), (0, 0), (0, _packed_width(conv) - conv.group_out))).reshape(-1)


class _Image:
    """A: the input, read where the kernel's window lies."""

    along_k = True

    def __init__(self, kernel: _Kernel, group: Index) -> None:
        self.kernel, self.conv, self.group = kernel, kernel.conv, group
        conv = self.conv
        self.lanes = next(n for n in (4, 2, 1) if conv.group_in % n == 0 and conv.channels % n == 0)
        self._places: dict[int, tuple[tirx.Var, tirx.Var, tirx.Var]] = {}

    def prepare(self, slot: int, position: Index) -> list[Stmt]:
        """The window's first row and column in the image, and where its first channel lies in memory."""
        conv, kernel = self.conv, self.kernel
        n, oh, ow = split_index(position, kernel.pixels)
        top, left = (o * s - p for o, s, p in zip((oh, ow), conv.stride, conv.pad, strict=True))
        height, width = kernel.size
        base = ((n * height + top) * width + left) * conv.channels + self.group * conv.group_in
        names = tuple(tirx.Var(f"{name}{slot}", "int64") for name in ("top", "left", "base"))
        self._places[slot] = names
        return [tirx.Bind(var, i64(value)) for var, value in zip(names, (top, left, base), strict=True)]

    def fetch(self, slot: int, position: Index, k: Index) -> tuple[tirx.Expr | bool, tirx.Buffer, Index]:
        """Whether that element lies inside the image, and where."""
        conv, kernel = self.conv, self.kernel
        top, left, base = self._places[slot]
        kh, kw, channel = split_index(k, [*conv.kernel, conv.group_in])
        down, right = kh * conv.dilation[0], kw * conv.dilation[1]
        conditions = [] if kernel.exact else [position < kernel.count]
        for padded, start, step, extent in zip(conv.padded, (top, left), (down, right), kernel.size, strict=True):
            if padded:
                conditions += [start + step >= 0, start + step < extent]
        exists = tirx.all(*conditions) if conditions else True
        return exists, kernel.operands.data, base + (down * kernel.size[1] + right) * conv.channels + channel


class _Weights:
    """B: packed weights of one group."""

    along_k = False
    lanes = QUAD

    def __init__(self, kernel: _Kernel, group: Index) -> None:
        self.kernel, self.group = kernel, group
        self.width = _packed_width(kernel.conv)

    def prepare(self, slot: int, position: Index) -> list[Stmt]:
        """Nothing: addresses are linear."""
        return []

    def fetch(self, slot: int, position: Index, k: Index) -> tuple[tirx.Expr | bool, tirx.Buffer, Index]:
        """Whether that channel exists, and where it is."""
        index = (self.group * self.kernel.conv.depth + k) * self.width + position
        exact = self.width % self.kernel.tile.bn == 0
        return True if exact else position < self.width, self.kernel.operands.weights, index


class _Kernel:
    """Generates one convolution kernel."""

    def __init__(self, op: OpSpec, conv: ConvShape, config: Config) -> None:
        self.conv = conv
        self.tile = tile_of(config)
        self.operands = Operands(op, {1: conv.groups * conv.depth * _packed_width(conv)})
        size = self.operands.size
        self.size = (size(conv.size[0]), size(conv.size[1]))
        self.pixels = [size(d) for d in (conv.batch, *conv.out_size)]
        self.count: Index = conv.pixels(0) if conv.is_static else prod(self.pixels, start=i64(1))
        self.exact = conv.is_static and self.count % self.tile.bm == 0

    def function(self) -> PrimFunc:
        """The whole kernel."""
        conv = self.conv

        def operands(group: Index) -> tuple[_Image, _Weights, object]:
            group = 0 if conv.groups == 1 else group
            return _Image(self, group), _Weights(self, group), lambda *what: self._write(group, *what)

        nest = GemmNest(self.tile, self.count, conv.group_out, conv.depth)
        body = nest.kernel(conv.groups, operands)
        return self.operands.function(body)

    def _write(self, group: Index, pixel: Index, columns: Sequence[Index], values: Sequence[tirx.Expr]) -> Stmt:
        n, row, col = split_index(pixel, self.pixels)
        channels = [group * self.conv.group_out + c for c in columns]
        results = [self.operands.result(v, n, row, col, c) for v, c in zip(values, channels, strict=True)]
        out = self.operands.flat(-1)
        start = pixel * self.conv.out_channels + channels[0]
        if len(values) > 1 and self.conv.out_channels % len(values) == 0:
            return store_vector(out, start, results)
        return seq(*(tirx.BufferStore(out, r, [i64(start + k)]) for k, r in enumerate(results)))
