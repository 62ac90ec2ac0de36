"""Which tile and blocking suit a direct convolution on a CPU: a model of its registers, caches and cores, no measurement.

All costs are cycles of one core. The model only has to rank configs; what it leaves out (TLB, branches, prefetchers) is
about the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ....compiler.schedule.target_spec import CpuSpec
from .conv_shape import ConvShape

# Stands for a symbolic height, width or batch; spatial sizes met in practice are near it.
TYPICAL_SIZE = 80
FMA_LATENCY = 4
ISSUE_WIDTH = 4
LOAD_PORTS = 2
# Measured on Cascade Lake and Zen 4: bytes a cycle that streaming loads get from the second and third level cache.
L2_BYTES_PER_CYCLE = 40
L3_BYTES_PER_CYCLE = 12
ITEM_CYCLES = 300
EVERYTHING = 1 << 20


def tile_limit(vectors: int, target: CpuSpec) -> int:
    """Pixels whose accumulators fit beside one vector of weights per column and one broadcast input."""
    return max(1, (target.vector_registers - vectors - 1) // vectors)


def step_cycles(pixels: int, vectors: int, target: CpuSpec, streamed: bool) -> float:
    """Cycles of one multiply-add step of a tile; `streamed` says that its weights come from the second level cache."""
    fma = pixels * vectors
    stream = vectors * target.vector_bytes / L2_BYTES_PER_CYCLE if streamed else 0.0
    return max(
        fma / target.fma_ports,
        (pixels + vectors) / LOAD_PORTS,
        (fma + pixels + vectors + 3) / ISSUE_WIDTH,
        FMA_LATENCY,
        stream,
    )


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
        total = 0.0
        for blocks, v in ((full, vectors), (1, rest)):
            streamed = v * self.lanes * 4 * self.depth > self.target.l1_bytes // 2
            for tiles, p in ((whole, pixels), (1, tail)):
                if blocks and v and tiles and p:
                    total += blocks * tiles * (self.depth * step_cycles(p, v, self.target, streamed) + 2 * v * p)
        return total

    def tiles(self) -> list[tuple[float, int, int]]:
        """(cycles, vectors, pixels) of the sensible register tiles, best first."""
        found = []
        for vectors in range(1, min(8, self.vectors_out) + 1):
            limit = min(tile_limit(vectors, self.target), self.width)
            # The widest tile, and those that divide the row evenly into as many tiles or one more.
            counts = {-(-self.width // limit), -(-self.width // limit) + 1}
            for pixels in sorted({limit, *(-(-self.width // n) for n in counts)}):
                found.append((self.tile_cycles(vectors, pixels), vectors, pixels))
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
                    found.append(
                        (*self._item_cycles(vectors, pixels, rows, min(cols, tiles), count), rows, cols, count)
                    )
        return sorted((c, r, col, EVERYTHING if b >= blocks else b, k) for c, k, r, col, b in found)

    def _item_cycles(self, vectors: int, pixels: int, rows: int, cols: int, count: int) -> tuple[float, int]:
        """Cycles of the slowest core for items of `rows` x `cols` tiles x `count` blocks, and the chunks of channels used."""
        conv, target = self.conv, self.target
        blocks, tiles = -(-self.vectors_out // vectors), -(-self.width // pixels)
        pixel_items = self.batch * -(-self.rows // rows) * -(-tiles // cols)
        items = conv.groups * -(-blocks // count) * pixel_items
        compute = self.tile_cycles(vectors, pixels) * self.rows * self.batch * conv.groups / items
        panel = vectors * self.lanes * self.depth * 4
        group = panel * min(count, blocks)
        in_rows = (rows - 1) * conv.stride[0] + (conv.kernel[0] - 1) * conv.dilation[0] + 1
        data = in_rows * min(cols * pixels * conv.stride[1], 2 * self.width) * conv.group_in * 4
        chunks = self.chunks(panel, data, rows * min(cols * pixels, self.width) * vectors * self.lanes * 4)
        resident = 0.75 * target.l2_bytes
        # Weights are read from memory or L3 once for each item unless they stay in L2 from one to the next.
        stay = group + data <= resident
        weights = group / L3_BYTES_PER_CYCLE * (1 / max(1, pixel_items / target.cores) if stay else 1)
        # The input of an item stays in L2 for all blocks, or is read again for each.
        reread = data * (1 if panel / chunks + data <= resident else min(count, blocks)) / L3_BYTES_PER_CYCLE
        per_item = compute + weights + reread + ITEM_CYCLES
        return per_item * -(-items // target.cores), chunks

    def chunks(self, panel: int, data: int, sums: int) -> int:
        """Passes over the input channels: more than one if a panel of weights would push the item's input out of L2.

        A pass should then keep its weights in a quarter of L2; the sums kept between passes must fit as well.
        """
        target = self.target
        if not self.conv.is_static:
            return 1
        if panel + data <= 0.6 * target.l2_bytes or panel <= target.l2_bytes // 8 or sums > target.l2_bytes // 4:
            return 1
        wanted = -(-4 * panel // target.l2_bytes)
        divisors = [
            n for n in range(1, self.conv.group_in + 1) if self.conv.group_in % n == 0 and self.conv.group_in // n >= 16
        ]
        return next((n for n in divisors if n >= wanted), 1)


def _typical(size: int | str) -> int:
    return size if isinstance(size, int) else TYPICAL_SIZE


def _options(count: int) -> list[int]:
    """Sizes of a part when `count` things are cut into 1, 2, 3, 4, 6, 8, ... parts of nearly equal size."""
    parts = {p for p in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512) if p <= count}
    return sorted({-(-count // p) for p in parts} | ({1} if count <= 64 else set()))
