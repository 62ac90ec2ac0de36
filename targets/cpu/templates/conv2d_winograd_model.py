"""What a Winograd convolution costs on a CPU: finds the best plan without measuring, and whether it beats a direct one.

All costs are cycles of one core. The constants were set by hand to follow some 100 plans of 20 layers measured on
Cascade Lake. Comparing two algorithms needs absolute costs, so this model shares none with
the direct template's, which ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from ....compiler.schedule.target_spec import CpuSpec
from ...shared.conv_shape import ConvShape
from .conv2d_direct_model import tile_limit
from .conv2d_winograd_plan import WinogradPlan
from .cpu_costs import FMA_LATENCY, LOAD_PORTS
from .winograd_transforms import POINTS, TAPS, linear_program, toom_cook

# Bytes a cycle of weights that a core fetches ahead from the third level cache and from memory (where the weights of a
# layer are when a whole network runs), and of scratch data that does not fit into the second level.
L3_BYTES = 5.0
MEMORY_BYTES = 4.0
SCRATCH_BYTES = 8.0
# The share of the time to read weights from memory that prefetching does not hide behind the products.
EXPOSED = 0.7
# Bytes a cycle of input and output, which a direct convolution overlaps with arithmetic and separate transforms do not.
IMAGE_BYTES = 6.0
# Register tiles one vector wide load a broadcast value for every FMA, which is slower than their count of loads says.
NARROW = 1.4
# Cycles of a vector operation, load or store in the transforms.
TRANSFORM_STEP = 1.0
# Around the reduction of a register tile: clearing, addressing, and storing its vectors.
TILE_CYCLES = 25
ITEM_CYCLES = 300
ISSUE_WIDTH = 4
# The share of peak that direct convolutions reach.
DIRECT_EFFICIENCY = 0.95
MAX_SCRATCH = 24 << 20


@dataclass(frozen=True)
class WinogradModel:
    """Costs of the plans of one convolution."""

    conv: ConvShape
    target: CpuSpec

    @cached_property
    def lanes(self) -> int:
        return self.target.lanes("float32")

    @cached_property
    def batch(self) -> int:
        return self.conv.batch if isinstance(self.conv.batch, int) else 1

    def total(self, m: int) -> int:
        """Tiles of all images."""
        height, width = (int(d) for d in self.conv.out_size)
        return self.batch * -(-height // m) * -(-width // m)

    def plans(self) -> list[tuple[float, WinogradPlan]]:
        """(cycles, plan) of the sensible plans, best first."""
        found = [(self.cycles(plan), plan) for m in POINTS for plan in self._plans(m)]
        return sorted(found, key=lambda item: item[0])

    def _plans(self, m: int) -> Iterator[WinogradPlan]:
        total = self.total(m)
        for vectors in range(1, 5):
            if vectors > -(-self.conv.out_channels // self.lanes):
                break
            blocks = -(-self.conv.out_channels // (vectors * self.lanes))
            limit = min(tile_limit(vectors, self.target), total)
            counts = -(-total // limit)
            for rows in sorted({limit, -(-total // counts), -(-total // (counts + 1))}):
                for tiles in self._item_sizes(rows, total):
                    for parts in {1, self.target.cores} if blocks % self.target.cores == 0 else {1}:
                        for passes in {1, blocks // parts}:
                            yield WinogradPlan(
                                m,
                                self.conv.channels,
                                self.conv.out_channels,
                                self.lanes,
                                rows,
                                vectors,
                                tiles,
                                blocks // parts // passes,
                                parts,
                            )

    def _item_sizes(self, rows: int, total: int) -> list[int]:
        """Multiples of `rows` that cut `total` tiles into few items, or into items of 1 to 8 tiles of rows."""
        steps = -(-total // rows)
        sizes = {min(steps, k) for k in (1, 2, 3, 4, 6, 8)}
        sizes |= {-(-steps // n) for n in (1, 2, 3, 4, 6, 8)}
        return [rows * s for s in sorted(sizes)]

    def cycles(self, plan: WinogradPlan) -> float:
        """Cycles of the slowest core."""
        target, total = self.target, self.total(plan.m)
        items = -(-total // plan.tiles) * plan.parts
        rounds = -(-items // target.cores)
        data, product = (plan.positions * p * 4 for p in (plan.data_pitch, plan.product_pitch))
        if data + product > MAX_SCRATCH:
            return float("inf")
        blocks = plan.block_count // plan.parts
        tiles = min(plan.tiles, total)
        step = self._step(plan.rows, plan.vectors)
        products = (
            plan.positions
            * blocks
            * -(-tiles // plan.rows)
            * (plan.channels * step + TILE_CYCLES + 2 * plan.rows * plan.vectors)
        )
        weights = plan.size * 4 / plan.parts
        resident = weights + data + product <= 0.75 * target.l2_bytes
        stream = weights / L3_BYTES
        # Every item reads the weights; only the first one on a core waits for memory.
        first = max(products + EXPOSED * weights / MEMORY_BYTES, weights / MEMORY_BYTES)
        later = products if resident else max(products, stream)
        spill = 0.0
        if data + product > 0.6 * target.l2_bytes:
            # Scratch is written and read in the third level cache: the data once a pass, the products once in all.
            spill = (
                data * (1 + plan.passes) + (2 * product * plan.passes if product > target.l2_bytes // 4 else 0)
            ) / SCRATCH_BYTES
        each = self._transforms(plan, tiles) + spill + ITEM_CYCLES
        return rounds * each + first + (rounds - 1) * later + self._image_bytes / IMAGE_BYTES / target.cores

    def _step(self, rows: int, vectors: int) -> float:
        """Cycles of one multiply-add step of a register tile."""
        fmas, loads = rows * vectors, rows + vectors + 1
        ports = (fmas / self.target.fma_ports, loads / LOAD_PORTS, (fmas + loads + 2) / ISSUE_WIDTH, FMA_LATENCY)
        return max(ports) * (NARROW if vectors == 1 else 1.0)

    @cached_property
    def _image_bytes(self) -> int:
        """Bytes of input read and output written; a line that is written is read before."""
        height, width = (int(d) for d in self.conv.out_size)
        return 4 * self.batch * height * width * (self.conv.channels + 2 * self.conv.out_channels)

    def _transforms(self, plan: WinogradPlan, tiles: int) -> float:
        """Cycles of both transforms of an item."""
        data, output = transform_steps(plan.m)
        vectors_in, vectors_out = (-(-c // self.lanes) for c in (plan.channels, plan.out_channels))
        return TRANSFORM_STEP * tiles * (data * vectors_in + output * vectors_out / plan.parts)


@cache
def transform_steps(m: int) -> tuple[int, int]:
    """Vector operations, loads and stores of both transforms, (input, output), for a tile's vector of channels."""
    matrices, edge = toom_cook(m, POINTS[m]), m + TAPS - 1
    data = 2 * edge * (linear_program(matrices.data).operations() + 2 * edge)
    return data, (edge + m) * (linear_program(matrices.output).operations() + edge + m) + m * m * 3


def direct_cycles(conv: ConvShape, target: CpuSpec) -> float:
    """Cycles of a direct convolution of the same sizes, its weights read from memory."""
    batch = conv.batch if isinstance(conv.batch, int) else 1
    height, width = (int(d) for d in conv.out_size)
    vectors = -(-conv.out_channels // target.lanes("float32"))
    fmas = batch * height * width * vectors * conv.channels * TAPS * TAPS
    weights = 4 * conv.channels * conv.out_channels * TAPS * TAPS
    return max(fmas / (target.fma_ports * DIRECT_EFFICIENCY * target.cores), weights / MEMORY_BYTES)
