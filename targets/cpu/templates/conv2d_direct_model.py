"""Which tile and blocking suit a direct convolution on a CPU: a model of its registers, caches and cores.

All costs are cycles of one core. The model only has to rank configs; what it leaves out (TLB, branches, prefetchers) is
about the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd

from ....compiler.schedule.target_spec import CpuSpec
from ...shared.conv_shape import ConvShape
from .cpu_costs import EVERYTHING, FMA_LATENCY

# Stands for a symbolic height, width or batch; spatial sizes met in practice are near it.
TYPICAL_SIZE = 80
# Measured on Cascade Lake: bytes a cycle that streaming loads get from the third level cache.
L3_BYTES_PER_CYCLE = 12
# The same for weights, which other layers' weights have pushed to memory since they were last used.
STREAM_BYTES_PER_CYCLE = 6
L2_BYTES_PER_CYCLE = 40
# Cycles that a line of output costs when an item's output is spread over more memory than L2 and the TLB cover.
SCATTERED_LINE_CYCLES = 12
ITEM_CYCLES = 300
# The part of L2 that a panel of weights may take while the input of an item stays there too.
PANEL_SHARE = 0.35
# Prefetching weights gains 5 to 8% with up to 16 tiles and nothing from 33 on (7x7 and 14x14 images).
FEW_TILES = 24
PAGE = 4096


def tile_limit(vectors: int, target: CpuSpec) -> int:
    """Pixels whose accumulators fit beside one vector of weights per column and one broadcast input."""
    return max(1, (target.vector_registers - vectors - 1) // vectors)


def step_cycles(pixels: int, vectors: int, target: CpuSpec, streamed: bool = False) -> float:
    """Cycles of one multiply-add step of a tile: its FMAs, or their latency if they are few, and a share of the loads.

    The share fits tiles from 1 x 28 to 6 x 4 on Cascade Lake: 4 x 6 reaches 138 GFLOP/s where 2 x 14 reaches 130.
    `streamed` says that the weights come from L2 at their full rate rather than from L1.
    """
    fma = pixels * vectors
    stream = vectors * target.vector_bytes / L2_BYTES_PER_CYCLE if streamed else 0.0
    return max(max(fma / target.fma_ports, FMA_LATENCY) * (1 + 0.4 * (pixels + vectors) / fma), stream)


def set_conflicts(pixels: int, pixel_bytes: int) -> float:
    """Factor on a tile's cycles where its pixels, `pixel_bytes` apart, meet in the same sets of an 8-way L1 cache."""
    if pixel_bytes % 64:
        return 1.0
    positions = PAGE // gcd(pixel_bytes, PAGE)
    return 1.25 if pixels / positions > 6 else 1.0


@dataclass(frozen=True)
class DirectModel:
    """Costs of the configs of one direct convolution; `conv` is already flattened if it can be."""

    conv: ConvShape
    target: CpuSpec

    @cached_property
    def lanes(self) -> int:
        return self.target.lanes("float32")

    @cached_property
    def rows(self) -> int:
        return _typical(self.conv.out_size[0])

    @cached_property
    def width(self) -> int:
        size = self.conv.out_size[1]
        return TYPICAL_SIZE * TYPICAL_SIZE if size == "*" else _typical(size)

    @cached_property
    def batch(self) -> int:
        return self.conv.batch if isinstance(self.conv.batch, int) else 1

    @cached_property
    def depth(self) -> int:
        return self.conv.group_in * self.conv.kernel[0] * self.conv.kernel[1]

    @cached_property
    def vectors_out(self) -> int:
        """Vectors of output channels in a group."""
        return -(-self.conv.group_out // self.lanes)

    def tile_cycles(self, vectors: int, pixels: int) -> float:
        """Cycles of one row of output pixels, all channels of a group, without memory stalls."""
        full, rest = divmod(self.vectors_out, vectors)
        whole, tail = divmod(self.width, pixels)
        conflicts = set_conflicts(pixels, 4 * self.conv.channels * self.conv.stride[1])
        total = 0.0
        for blocks, v in ((full, vectors), (1, rest)):
            for tiles, p in ((whole, pixels), (1, tail)):
                if blocks and v and tiles and p:
                    total += blocks * tiles * (self.depth * step_cycles(p, v, self.target) * conflicts + 2 * v * p)
        return total

    def tiles(self) -> list[tuple[float, int, int]]:
        """(cycles, vectors, pixels) of the sensible register tiles, best first."""
        found = []
        for vectors in range(1, min(8, self.vectors_out) + 1):
            limit = min(tile_limit(vectors, self.target), self.width)
            # The widest tile, and those that divide the row evenly into as many tiles or one more.
            counts = {-(-self.width // limit), -(-self.width // limit) + 1}
            for pixels in sorted({limit, *(-(-self.width // n) for n in counts)}):
                # An incomplete last block or tile takes code of its own: it must be worth more than a trifle.
                ragged = (self.vectors_out % vectors > 0) + (self.width % pixels > 0)
                found.append((self.tile_cycles(vectors, pixels) * (1 + 0.01 * ragged), vectors, pixels))
        return sorted(found)

    def blockings(self, vectors: int, pixels: int) -> list[tuple[float, int, int, int, int]]:
        """(cycles, rows, cols, blocks, chunks) of the sensible work items for a register tile, best first."""
        blocks = -(-self.vectors_out // vectors)
        tiles = -(-self.width // pixels)
        one_row = self.conv.out_size[0] == 1
        row_options = [1] if one_row else _options(self.rows)
        col_options = _options(tiles) if one_row else [EVERYTHING]
        found = []
        for rows in row_options:
            for cols in col_options:
                for count in _options(blocks):
                    found.append((*self.item_cycles(vectors, pixels, rows, min(cols, tiles), count), rows, cols, count))
        return sorted((c, r, col, EVERYTHING if b >= blocks else b, k) for c, k, r, col, b in found)

    def item_cycles(self, vectors: int, pixels: int, rows: int, cols: int, count: int) -> tuple[float, int]:
        """Cycles of the slowest core for items of `rows` x `cols` tiles x `count` blocks, and the chunks used."""
        conv, target = self.conv, self.target
        blocks, tiles = -(-self.vectors_out // vectors), -(-self.width // pixels)
        pixel_items = self.batch * -(-self.rows // rows) * -(-tiles // cols)
        items = conv.groups * -(-blocks // count) * pixel_items
        compute = self.tile_cycles(vectors, pixels) * self.rows * self.batch * conv.groups / items
        panel = vectors * self.lanes * self.depth * 4
        group = panel * min(count, blocks)
        in_rows = (rows - 1) * conv.stride[0] + (conv.kernel[0] - 1) * conv.dilation[0] + 1
        data = in_rows * min(cols * pixels * conv.stride[1], 2 * self.width) * conv.group_in * 4
        chunks = self.chunks(panel, rows * min(cols * pixels, self.width) * vectors * self.lanes * 4)
        resident = 0.75 * target.l2_bytes
        out = rows * min(cols * pixels, self.width) * self.vectors_out * self.lanes * 4
        # Weights come from memory or L3 once for each item, unless they stay in L2 from one to the next.
        loads = 1 / max(1, pixel_items / target.cores) if group + data <= resident else 1
        weights = loads * group / STREAM_BYTES_PER_CYCLE
        # The input of an item stays in L2 for all blocks, or is read again for each.
        reread = data * (1 if panel / chunks + data <= resident else min(count, blocks)) / L3_BYTES_PER_CYCLE
        if min(count, blocks) > 1 and out + data > target.l2_bytes / 2:
            reread += out / 64 * SCATTERED_LINE_CYCLES
        per_item = compute + weights + reread + ITEM_CYCLES
        return per_item * -(-items // target.cores), chunks

    def chunks(self, panel: int, sums: int) -> int:
        """Passes over the input channels: more than one if a panel of weights would push the item's input out of L2.

        A pass then keeps its weights in a quarter of L2; the sums kept between passes must fit as well.
        """
        target = self.target
        if not self.conv.is_static or panel <= PANEL_SHARE * target.l2_bytes or sums > target.l2_bytes // 4:
            return 1
        wanted = -(-4 * panel // target.l2_bytes)
        channels = self.conv.group_in
        divisors = [n for n in range(1, channels + 1) if channels % n == 0 and channels // n >= 16]
        return next((n for n in divisors if n >= wanted), 1)

    def ahead(self, vectors: int, pixels: int, rows: int, cols: int, chunks: int) -> str:
        """What tiles should prefetch.

        "weights", the next panel of them, where few tiles share the time that it takes to arrive from memory; "data",
        the next pixels of a pointwise convolution, where they are used for few blocks of output channels; else "none".
        """
        half, conv = self.target.l2_bytes // 2, self.conv
        panel = vectors * self.lanes * self.depth * 4 // chunks
        weights = conv.group_out * self.depth * 4
        tiles = min(rows, self.rows) * min(cols, -(-self.width // pixels))
        if weights > half and panel <= 2 * PANEL_SHARE * half and tiles <= FEW_TILES:
            return "weights"
        data = self.rows * self.width * conv.channels * 4
        few_blocks = conv.groups == 1 and self.vectors_out <= 2 * vectors
        return "data" if conv.is_pointwise and few_blocks and data > half else "none"


def _typical(size: int | str) -> int:
    return size if isinstance(size, int) else TYPICAL_SIZE


def _options(count: int) -> list[int]:
    """Sizes of a part when `count` things are cut into 1, 2, 3, 4, 6, 8, ... parts of nearly equal size."""
    parts = {p for p in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512) if p <= count}
    return sorted({-(-count // p) for p in parts} | ({1} if count <= 64 else set()))
