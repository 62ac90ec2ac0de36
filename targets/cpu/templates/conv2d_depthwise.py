"""Depthwise NHWC convolution: vectors run over channels, a tile of pixels shares each input column it loads.

Strategy:
1. One parallel loop over (image, block of output rows, block of channels); a thread walks a row from left to right, so
   that the input streams through the cache once and the rows above are still in L2.
2. Borders are cut from the kernel, not padded: kernel rows by loop bounds, kernel columns by the range of a tile's
   pixels that they touch. Where the width is symbolic, border pixels are computed one by one with bounds on both axes.
3. Weights are packed as (KH, KW, C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx import For, ForKind, PrimFunc, Stmt

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec, TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape, conv_shape
from ...shared.index_math import (
    bound,
    bound_all,
    ceil_div,
    floor_div,
    minimum,
    nothing,
    ramp,
    ranged,
    split_index,
    when,
)
from ...shared.tir_loops import Index, i64, seq
from .conv_borders import Borders, border_runs, kernel_range
from .conv_traits import depthwise_traits
from .cpu_costs import EVERYTHING, PARALLEL_FLOPS
from .tile_builder import RegisterTile

# Bytes moved count like this many FLOPs when deciding whether a kernel is worth waking other threads.
FLOPS_PER_BYTE = 4
# Kernel columns are unrolled, at the borders once for each tile that they cut: 1025 of them took minutes to compile.
# Wider kernels go to the direct template, which loops.
MAX_TAPS = 64


class DepthwiseConv2D(Template):
    """A 2-D convolution with one input and one output channel per group, and constant float32 weights.

    Knobs: `tile` (pixels of a register tile), `vectors` (of channels in it), `rows` (output rows of a work item),
    `split` (parts the channels are divided into among work items).
    """

    name = "conv2d_depthwise"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """At most 16 configs; None for kernels too wide, and unless groups == channels == output channels > 1."""
        conv = conv_shape(op)
        if conv is None or not isinstance(target, CpuSpec):
            return None
        if conv.groups == 1 or not conv.groups == conv.channels == conv.out_channels:
            return None
        if conv.kernel[1] > MAX_TAPS:
            return None
        lanes = target.lanes("float32")
        width = conv.out_size[1] if isinstance(conv.out_size[1], int) else EVERYTHING
        rows, split = _work_items(conv, target)
        # Vectors that divide the channels come first: what is left over needs code of its own.
        registers = target.vector_registers // 2
        tiles = [(t, v) for v in (1, 2, 4) for t in (4, 6, 7, 8, 10, 12) if t <= width and t * v <= registers]
        fitting = [(t, v) for t, v in tiles if v * lanes <= max(lanes, conv.channels)]
        preferred = _preferred_tile(conv, target, width)
        ranked = sorted(
            fitting or [(min(width, 4), 1)],
            key=lambda t: (conv.channels % (t[1] * lanes) > 0, *_distance(t, preferred, width)),
        )
        configs = [Config.of(tile=t, vectors=v, rows=rows, split=split) for t, v in ranked]
        configs.insert(1, Config.of(tile=ranked[0][0], vectors=ranked[0][1], rows=max(1, rows // 2), split=split))
        return Space(configs[0], tuple(dict.fromkeys(configs)))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, with weights (C, 1, KH, KW) packed as (KH * KW * C,)."""
        conv = conv_shape(op)
        assert conv is not None, "match accepts only convolutions"
        assert isinstance(target, CpuSpec)
        nest = _DepthwiseNest(
            op, conv, target.lanes("float32"), config.int("tile"), config.int("vectors"), config.int("rows"),
            config.int("split"),
        )  # fmt: skip
        return Candidate(nest.build(), {1: pack_depthwise})

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        conv = conv_shape(op)
        assert conv is not None, "match accepts only convolutions"
        assert isinstance(target, CpuSpec)
        return depthwise_traits(conv, target, configs)


def pack_depthwise(weight: np.ndarray) -> np.ndarray:
    """(C, 1, KH, KW) -> (KH, KW, C), flat."""
    return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)).reshape(-1)


def _preferred_tile(conv: ConvShape, target: CpuSpec, width: int) -> tuple[int, int]:
    """(pixels, vectors). Measured on Cascade Lake: an image larger than L2 streams best in short tiles of whole cache
    lines side by side (4 x 4: 2.2 ms against 2.6 for 8 x 1 at 160 x 160 x 96); a small one, or a kernel wider than 3,
    is bound by loads, and long tiles share input columns (12 x 1: 77 us against 105 for 4 x 2 at 14 x 14 x 480, 5x5).
    """
    if conv.kernel[1] > 3:
        return (12, 1)
    pixels = conv.pixels(64) * (conv.stride[0] * conv.stride[1] + 1)
    return (4, 4) if pixels * conv.channels * 4 > target.l2_bytes else (7, 1)


def _distance(tile: tuple[int, int], preferred: tuple[int, int], width: int) -> tuple[int, float]:
    """Orders tiles by likeness to the preferred one, idle pixels at the end of a narrow row counting against them."""
    idle = (-width) % tile[0] if width < 8 * tile[0] else 0
    return abs(tile[1] - preferred[1]), abs(tile[0] - preferred[0]) + 0.5 * idle


def _work_items(conv: ConvShape, target: CpuSpec) -> tuple[int, int]:
    """Rows of a work item and parts of the channels: at least four items per core where the image has them."""
    if not isinstance(conv.out_size[0], int):
        return 4, 1
    height = conv.out_size[0]
    rows = max(1, height // (4 * target.cores))
    # An even number of items on every core.
    rows = next((r for r in range(rows, 0, -1) if -(-height // r) % target.cores == 0), rows)
    return rows, target.cores if height < 2 * target.cores and conv.channels >= 64 else 1


@dataclass(frozen=True)
class _Place:
    """Where a tile lies: image, output row, offset of the image row its window starts at, kernel rows, and channel."""

    batch: Index
    row: Index
    base: Index
    kh: tuple[Index, Index]
    channel: Index


# Makes the place of a channel of the row at hand.
_Placing = Callable[[Index], _Place]


class _DepthwiseNest:
    """Generates the loops of one depthwise convolution."""

    def __init__(self, op: OpSpec, conv: ConvShape, lanes: int, tile: int, vectors: int, rows: int, split: int):
        self.op, self.conv, self.lanes, self.tile, self.vectors = op, conv, lanes, tile, vectors
        self.rows, self.split = rows, split
        self.operands = Operands(op, {1: conv.channels * conv.kernel[0] * conv.kernel[1]})
        size = self.operands.size
        self.batch = size(conv.batch)
        self.in_h, self.in_w = size(conv.size[0]), size(conv.size[1])
        self.out_h, self.out_w = size(conv.out_size[0]), size(conv.out_size[1])

    def build(self) -> PrimFunc:
        block = self.vectors * self.lanes
        blocks = ceil_div(self.conv.channels, block)
        extents = [self.batch, ceil_div(self.out_h, self.rows), self.split]
        items: Index = 1
        for extent in extents:
            items = extent * items
        per_split = ceil_div(blocks, self.split)
        moved = self.conv.pixels(64) * self.conv.channels * 8 * FLOPS_PER_BYTE
        parallel = max(self.conv.flops(), moved) >= PARALLEL_FLOPS

        def item(at: list[Index]) -> Stmt:
            batch, row_block, part = at
            first = row_block * self.rows
            even = isinstance(self.out_h, int) and self.out_h % self.rows == 0
            count = self.rows if even else minimum(self.rows, self.out_h - first)
            return ranged("y", first, count, lambda row: self._row(batch, row, part * per_split, per_split))

        var = tirx.Var("item", "int64")
        kind = ForKind.PARALLEL if parallel else ForKind.SERIAL
        body = bound_all(["batch", "row_block", "part"], split_index(var, extents), item)
        return self.operands.function(For(var, i64(0), i64(items), kind, body))

    def _row(self, batch: Index, row: Index, first: Index, count: int) -> Stmt:
        """One output row for `count` blocks of channels from block `first` on."""
        conv = self.conv
        top = row * conv.stride[0] - conv.pad[0]
        kh = kernel_range(top, self.in_h, conv.kernel[0], conv.dilation[0]) if conv.padded[0] else (0, conv.kernel[0])
        base = (batch * self.in_h + top) * (self.in_w * conv.channels)

        def body(at: list[Index]) -> Stmt:
            row, base, low, count_h = at

            def place(channel: Index) -> _Place:
                return _Place(batch, row, base, (low, count_h), channel)

            if isinstance(self.out_w, int):
                return self._static_columns(place, first, count)
            return self._symbolic_columns(place, first, count)

        return bound_all(["row", "base", "kh_low", "kh_count"], [row, base, *kh], body)

    def _static_columns(self, place: _Placing, first: Index, count: int) -> Stmt:
        runs = border_runs(self.conv, self.tile)
        return seq(
            *(
                ranged(
                    "t",
                    0,
                    n,
                    lambda t, s=start, w=pixels, e=edges: self._channels(place, first, count, s + t * w, w, e),
                )
                for start, n, pixels, edges in runs
            )
        )

    def _symbolic_columns(self, place: _Placing, first: Index, count: int) -> Stmt:
        """A row of unknown width: whole tiles, the last of which may overlap the one before, and border pixels.

        Where no tile fits between the borders, all pixels are computed like border pixels.
        """
        conv = self.conv
        reach = (conv.kernel[1] - 1) * conv.dilation[1]
        # The window of pixel x starts at x * stride - pad; it lies inside from `low` to before `high`.
        low = minimum(self.out_w, ceil_div(conv.pad[1], conv.stride[1]))
        inside = floor_div(self.in_w + (conv.pad[1] - reach - 1), conv.stride[1]) + 1
        high = minimum(self.out_w, inside)

        def body(at: list[Index]) -> Stmt:
            low, high = at
            tiles = ceil_div(high - low, self.tile)

            def tile(t: Index) -> Stmt:
                col = minimum(low + t * self.tile, high - self.tile)
                return bound("col", col, lambda c: self._channels(place, first, count, c, self.tile, None))

            def border(side: Index) -> Stmt:
                begin = tirx.Select(side == 0, i64(0), high)
                end = tirx.Select(side == 0, low, i64(self.out_w))
                pixel = lambda x: self._channels(place, first, count, x, 1, None, guarded=True)  # noqa: E731
                return bound_all(["begin", "end"], [begin, end], lambda e: ranged("x", e[0], e[1] - e[0], pixel))

            return seq(ranged("t", 0, tiles, tile), ranged("side", 0, 2, border))

        fits = i64(high) - low >= self.tile
        ends = [tirx.Select(fits, i64(low), i64(self.out_w)), tirx.Select(fits, i64(high), i64(self.out_w))]
        return bound_all(["low", "high"], ends, body)

    def _channels(
        self,
        place: _Placing,
        first: Index,
        count: int,
        col: Index,
        pixels: int,
        edges: Borders,
        guarded: bool = False,
    ) -> Stmt:
        """All blocks of channels of an item for the pixels from `col` on; what fills no block in smaller vectors.

        `edges` are the taps that touch each pixel of a tile at a known place; `guarded` finds them at run time.
        """
        block = self.vectors * self.lanes
        whole = self.conv.channels // block

        def full(b: Index) -> Stmt:
            return self._tile(place((first + b) * block), col, pixels, self.vectors, self.lanes, edges, guarded)

        if self.split == 1:
            present: Index = whole
        else:
            present = count if whole == count * self.split else minimum(count, whole - first)
        parts = [ranged("cb", 0, present, full)] if whole else []
        at, rest, lanes = whole * block, self.conv.channels - whole * block, self.lanes
        pieces = []
        while rest:
            if lanes <= rest:
                pieces.append(self._tile(place(at), col, pixels, 1, lanes, edges, guarded))
                at, rest = at + lanes, rest - lanes
            else:
                lanes //= 2
        if pieces:
            last = seq(*pieces)
            here = tirx.all(i64(first) <= whole, i64(first) + count > whole)
            parts.append(last if self.split == 1 else when(here, last))
        return seq(*parts)

    def _tile(
        self, at: _Place, col: Index, pixels: int, vectors: int, lanes: int, edges: Borders, guarded: bool
    ) -> Stmt:
        """A register tile of `pixels` x `vectors` vectors of channels."""
        conv, channels = self.conv, self.conv.channels
        tile = RegisterTile(pixels, vectors, lanes)

        base = at.base + (col * conv.stride[1] - conv.pad[1]) * channels + at.channel

        def write(value: tirx.Expr, p: Index, c: Index) -> Stmt:
            return self.operands.write(value, at.batch, at.row, col + p, at.channel + c)

        def taps(kh: Index) -> Stmt:
            x = base + kh * (self.in_w * (conv.dilation[0] * channels))
            return self._kernel_row(tile, x, kh * (conv.kernel[1] * channels) + at.channel, col, edges, guarded)

        reduce = ranged("kh", *at.kh, taps)
        return seq(tile.declare(), tile.zero(), reduce, tile.finish(write, tile.width, len(self.op.epilogue)))

    def _inside(self, col: Index, k: int) -> tirx.Expr:
        """Whether kernel column k of output pixel `col` meets the image."""
        at = i64(col) * self.conv.stride[1] + (k * self.conv.dilation[1] - self.conv.pad[1])
        return tirx.all(at >= 0, at < self.in_w)

    def _kernel_row(self, tile: RegisterTile, x: Index, w: Index, col: Index, edges: Borders, guarded: bool) -> Stmt:
        """Accumulate one kernel row; `x` and `w` are offsets of its first input pixel and weight."""
        conv, channels = self.conv, self.conv.channels
        data, weights = self.operands.data, self.operands.weights

        def tap(k: Index, begin: int = 0, end: int | None = None) -> Stmt:
            def term(p: Index, c: Index) -> tirx.Expr:
                source = x + k * (conv.dilation[1] * channels) + p * (conv.stride[1] * channels) + c
                weight = tirx.BufferLoad(weights, [ramp(w + k * channels + c, tile.lanes)])
                return tirx.BufferLoad(data, [ramp(source, tile.lanes)]) * weight

            return tile.accumulate(term, begin, end)

        if guarded:
            return seq(*(when(self._inside(col, k), tap(k)) for k in range(conv.kernel[1])))
        ranges = edges or ((0, tile.pixels),) * conv.kernel[1]
        taps = [tap(k, low, high) for k, (low, high) in enumerate(ranges) if low < high]
        return seq(*taps) if taps else nothing()
