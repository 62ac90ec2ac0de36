"""Convolutions and products of int8 with int32 sums: the loops of a direct convolution over groups of bytes.

Where the CPU adds up four products of bytes in each lane (VPDPBUSD), an element of the loops is a group of four
channels: the data are copied with their sign bits flipped, as that instruction wants unsigned numbers there,

    sum(x * w) = sum((x + 128) * w) - 128 * sum(w)

and sums begin with the last term, which is known at compile time and lies behind the weights. Elsewhere an element is
one channel, widened to int32. Channels are filled up to whole groups; their weights are 0, so that what the copy holds
there does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.target_spec import CpuSpec
from ....compiler.schedule.template import Config
from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape
from ...shared.index_math import ramp, splat
from ...shared.tir_loops import Index
from .conv2d_direct import BLOCKING_CHOICES, TILE_CHOICES
from .conv2d_direct_model import DirectModel
from .conv2d_direct_nest import Blocking, DirectNest, Pass
from .cpu_costs import PARALLEL_FLOPS
from .packing import BlockedWeights
from .stage import Stage
from .tile_builder import RegisterTile

# Bytes a cycle at which data are copied, flipped on the way.
COPY_BYTES_PER_CYCLE = 16
SIGN = -128


@dataclass(frozen=True)
class Dot:
    """How products of bytes are added up in a lane: `group` at a time, of data whose bits `flip` are inverted."""

    group: int
    flip: int


VNNI, WIDENED = Dot(4, SIGN), Dot(1, 0)


def dot_of(target: CpuSpec) -> Dot:
    """The widest way that the target has."""
    return VNNI if "avx512_vnni" in target.features and target.vector_bytes == 64 else WIDENED


def grouped(conv: ConvShape, dot: Dot) -> ConvShape:
    """`conv` in elements of `dot.group` channels."""
    inside = -(-conv.group_in // dot.group)
    return replace(conv, channels=inside * conv.groups)


def int8_configs(conv: ConvShape, target: CpuSpec) -> list[Config]:
    """Configs of a convolution of int8, the one that the model of direct convolutions likes best first.

    The model counts elements of four bytes, which groups are; copies are added to it.
    """
    dot = dot_of(target)
    small = grouped(conv, dot)
    model = DirectModel(small, target)
    pitch = small.group_in * dot.group
    found: list[tuple[float, Config]] = []
    for i, (_, vectors, tile) in enumerate(model.tiles()[:TILE_CHOICES]):
        blocks_all = -(-model.vectors_out // vectors)
        options = []
        for cycles, rows, cols, blocks, _ in model.blockings(vectors, tile):
            cols = _copied_cols(conv, cols, tile)
            copies = -(-blocks_all // min(blocks, blocks_all))
            copied = model.batch * model.rows * model.width * conv.stride[0] * conv.stride[1] * conv.channels * copies
            cost = cycles + copied / COPY_BYTES_PER_CYCLE / target.cores
            knobs = {"rows": rows, "cols": cols, "blocks": blocks, "chunks": 1, "pitch": pitch, "ahead": "none"}
            options.append((cost, Config.of(vectors=vectors, tile=tile, **knobs)))
        options.sort(key=lambda option: option[0])
        found += options[: BLOCKING_CHOICES if i < 2 else 2]
    return list(dict.fromkeys(config for _, config in found))


def _copied_cols(conv: ConvShape, cols: int, tile: int) -> int:
    """Tiles of a work item: the copy of its data needs a size, also for a row of unknown width."""
    width = conv.out_size[1]
    return min(cols, -(-width // tile)) if isinstance(width, int) else min(cols, max(1, 64 // tile))


class Int8Weights:
    """int8 weights as `BlockedWeights` of groups, lane after lane, and behind them what sums begin with."""

    def __init__(self, conv: ConvShape, target: CpuSpec, config: Config):
        self.dot = dot_of(target)
        self.small = grouped(conv, self.dot)
        lanes = target.lanes("int32")
        self.blocked = BlockedWeights(
            conv.groups, conv.group_out, self.small.group_in, conv.kernel, config.int("vectors") * lanes, lanes, 1
        )
        # Vectors of beginnings are loaded whole.
        self.beginnings = conv.out_channels + lanes * conv.groups if self.dot.flip else 0

    @property
    def size(self) -> int:
        """Bytes of the packed array."""
        return self.blocked.size * self.dot.group + 4 * self.beginnings

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """OIHW weights as the packed array, int8."""
        outs, ins, *kernel = weight.shape
        group = self.dot.group
        filled = np.zeros((outs, self.small.group_in * group, *kernel), np.int8)
        filled[:, :ins] = weight
        # Four bytes are one number while blocks are made.
        parts = np.moveaxis(filled.reshape(outs, -1, group, *kernel), 2, -1)
        numbers = np.ascontiguousarray(parts).view({1: np.int8, 4: np.int32}[group])[..., 0]
        stream = self.blocked.pack(numbers).view(np.int8)
        if not self.beginnings:
            return stream
        begin = np.zeros(self.beginnings, np.int32)
        begin[:outs] = SIGN * weight.reshape(outs, -1).sum(axis=1, dtype=np.int32)
        return np.concatenate([stream, begin.view(np.int8)])


class Int8Nest(DirectNest):
    """The kernel of a convolution of int8; data are always copied first."""

    def __init__(self, operands: Operands, conv: ConvShape, weights: Int8Weights, config: Config):
        self.whole, self.dot = conv, weights.dot
        self.begin_at = weights.blocked.size * self.dot.group
        blocking = Blocking(
            tile=config.int("tile"),
            rows=config.int("rows"),
            cols=config.int("cols"),
            oc_blocks=config.int("blocks"),
            staged=True,
            pitch=config.int("pitch"),
            parallel=conv.flops() >= PARALLEL_FLOPS,
        )
        super().__init__(operands, weights.small, weights.blocked, blocking)
        assert self.stage is not None
        self.pitch = self.stage.pitch // self.dot.group
        self.row_pitch = self.stage.row_pitch // self.dot.group

    def _image(self) -> ConvShape:
        return self.whole

    def _stage(self) -> Stage:
        return Stage(self.whole, self.blocking.rows, self.row_pixels, self.blocking.pitch, "int8", self.dot.flip)

    def new_tile(self, pixels: int, vectors: int) -> RegisterTile:
        """int32 accumulators."""
        return RegisterTile(pixels, vectors, self.weights.lanes, "int32")

    def clear(self, tile: RegisterTile, work: Pass) -> Stmt:
        """Zero, or what makes up for flipped signs."""
        if not self.dot.flip:
            return tile.zero()
        begin = self.begin_at + work.channel * 4
        return tile.fill(lambda c, lanes: tirx.reinterpret(f"int32x{lanes}", self._bytes(begin + c * 4, lanes)))

    def multiply_add(self, tile: RegisterTile, x: Index, step: Index, w: Index, begin: int, end: int | None) -> Stmt:
        """Of groups of bytes: indices count groups."""
        if self.dot.group == 1:
            return tile.multiply_add(
                lambda p: tirx.Cast("int32", tirx.BufferLoad(self.source, [x + p * step])),
                lambda v, lanes: tirx.Cast(
                    f"int32x{lanes}", tirx.BufferLoad(self.operands.weights, [ramp(w + v, lanes)])
                ),
                begin,
                end,
            )

        def added(sums: tirx.Expr, p: Index, c: Index) -> tirx.Expr:
            four = tirx.reinterpret("int32", tirx.BufferLoad(self.source, [ramp((x + p * step) * 4, 4)]))
            lanes = self.weights.lanes
            data = tirx.reinterpret(f"int8x{4 * lanes}", splat(four, lanes))
            operands = (sums, data, self._bytes((w + c) * 4, lanes))
            return tirx.call_llvm_pure_intrin(f"int32x{lanes}", "llvm.x86.avx512.vpdpbusd.512", *operands)

        return tile.update(added, begin, end)

    def _bytes(self, at: Index, lanes: int) -> tirx.Expr:
        """The bytes of `lanes` lanes at `at` in the packed weights."""
        return tirx.BufferLoad(self.operands.weights, [ramp(at, 4 * lanes)])
