"""Which tiles tensor cores may compute for a problem, what they cost, and which is taken where nothing was measured.

The estimate counts cycles of one SM: multiplications, fragments read from shared memory, operands from the second-level
cache, and how much of their latency the copies under way hide. Its constants are round numbers for current hardware,
not measurements: it ranks tiles, it does not predict times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType

from ....compiler.schedule.template import Config, Space
from ....compiler.schedule.traits import Traits
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .gemm_costs import KEPT_SPACES, Estimate, Problem, best_first, rounds_of, space_of
from .gemm_traits import TileFacts, product_traits
from .tensor_core_ptx import Multiply
from .tensor_core_tile import TensorTile
from .tensor_core_wgmma import ROWS

# Warps of a block, down and along its tile.
_WARPS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 4), (4, 2))
_WARPGROUPS = ((4, 1), (8, 1))
# Least rows and columns of a result for warpgroups, which multiply 64 x 64 and more.
_LEAST = 40
# Configs offered to the tuner.
_OFFERED = 48
# Bytes a cycle that one SM reads from the second-level cache when all do, and from its shared memory.
_L2_RATE, _SHARED_RATE = 40.0, 128.0
# Cycles until what is fetched is there, and bytes that one SM must have under way to read at that rate.
_LATENCY = 800
_UNDER_WAY = _LATENCY * _L2_RATE
# Multiplications by all warps of an SM that keep its four tensor cores busy: each takes about 16 cycles to its result,
# and may begin every second one.
_IN_FLIGHT = 4 * 8
# Cycles of a step that nothing overlaps (barrier, first fragments; about as many again where one step is fetched
# ahead, less where more are), and of a block (launch, first copies, results).
_STEP_CYCLES, _BLOCK_CYCLES = 60.0, 2000.0
# Registers for the place of a fetch in an image.
_PLACE = 4
# Fragments that are rounded are held twice for a while.
_ROUNDED = 32
# Elements that a thread may fetch ahead through registers.
_MOST_AHEAD = 32


@dataclass(frozen=True)
class Product:
    """How A and B are multiplied and come to shared memory.

    Attributes:
        rate: the type that names the rate.
        through_registers: whether A and B pass through registers.
        lanes: elements of A and of B that are fetched at once.
        window: whether A is an image, of which each fetch needs its place.
    """

    how: Multiply
    rate: str
    through_registers: tuple[bool, bool]
    lanes: tuple[int, int]
    window: bool = False

    @property
    def stages(self) -> tuple[int, ...]:
        """Numbers of stages worth trying: what passes through registers comes one step ahead only."""
        more = 0 if self.how.warps == 1 else 1
        most = 2 if all(self.through_registers) else 3 if any(self.through_registers) else 5
        return tuple(range(2 + more, most + more + 1))


@cache
def tiles(spec: GpuSpec, product: Product) -> Mapping[TensorTile, int]:
    """All tiles that run on `spec` without spilling registers, and how many of each an SM holds at once."""
    found = {}
    for bm in (16, 32, 64, 128, 256):
        for bn in (16, 32, 64, 128, 256):
            for wm, wn in _WARPS if product.how.warps == 1 else _WARPGROUPS:
                for depth in (1, 2, 4):
                    for stages in product.stages:
                        tile = TensorTile(bm, bn, depth * product.how.depth, wm, wn, stages)
                        most = _most_resident(tile, spec, product) if _runs(tile, spec, product) else 0
                        if most:
                            found[tile] = most
    return MappingProxyType(found)


def fills_warpgroups(problem: Problem) -> bool:
    """Whether results are not much smaller than what a warpgroup multiplies at once."""
    return all(d >= _LEAST for d in problem.sizes[:2])


def _runs(tile: TensorTile, spec: GpuSpec, product: Product) -> bool:
    if product.how.warps > 1 and tile.bn < ROWS:  # segments of columns
        return False
    if not tile.divides(product.how) or tile.threads > spec.threads_per_block:
        return False
    return _ahead(tile, product) <= _MOST_AHEAD and _registers(tile, product) <= spec.registers_per_thread


def _ahead(tile: TensorTile, product: Product) -> int:
    """Elements that a thread fetches through registers."""
    rows = sum(extent for extent, held in zip((tile.bm, tile.bn), product.through_registers, strict=True) if held)
    return -(-rows * tile.bk // tile.threads)


def _registers(tile: TensorTile, product: Product) -> int:
    """Registers of a thread. One that is fetched into holds a vector, or a single element of whatever size."""
    besides = _ROUNDED if product.how.rounding else 0
    for extent, held, lanes in zip((tile.bm, tile.bn), product.through_registers, product.lanes, strict=True):
        fetches = -(-extent * tile.bk // (lanes * tile.threads))
        besides += fetches * -(-lanes * product.how.size // 4) if held else 0
    if product.window:
        besides += _PLACE * -(-tile.bm * tile.bk // (product.lanes[0] * tile.threads))
    return tile.registers(besides)


def _most_resident(tile: TensorTile, spec: GpuSpec, product: Product) -> int:
    return resident_blocks(spec, tile.threads, _registers(tile, product), tile.shared_bytes(product.how.size))


def at_once(tile: TensorTile, spec: GpuSpec, product: Product) -> int:
    """Blocks that run at the same time."""
    return spec.sms * _most_resident(tile, spec, product)


def estimate(problem: Problem, tile: TensorTile, spec: GpuSpec, product: Product, most: int) -> Estimate:
    """What `tile` costs for `problem`, where an SM holds `most` blocks at once."""
    size = product.how.size
    found = rounds_of(problem, (tile.bm, tile.bn, tile.bk), tile.split, most, spec)
    resident, steps, depth = found.resident, found.steps, found.steps * tile.bk
    rate = spec.peak_flops(product.rate) / (2 * spec.sms * spec.clock_hz)
    multiply = tile.bm * tile.bn * depth / rate
    down, along = tile.bm // tile.wm, tile.bn // tile.wn
    copied = (tile.bm + tile.bn) * depth * size
    together = product.how.warps
    shared = (tile.warps // together * (down * together + along) * depth * size + copied) / _SHARED_RATE
    ahead = tile.ahead(product.how)
    under_way = resident * ahead * (tile.bm + tile.bn) * tile.bk * size
    global_ = copied / _L2_RATE / min(1.0, under_way / _UNDER_WAY)
    busy = min(1.0, resident * tile.warps * tile.rows * tile.columns / _IN_FLIGHT)
    work = resident * max(multiply / busy, shared, global_) + 0.25 * resident * min(multiply, shared + global_)
    # What is fetched ahead arrives after a while, whatever else there is to do.
    work = max(work, steps * _LATENCY / ahead)
    edge = _BLOCK_CYCLES + steps * _STEP_CYCLES * (1 + 1 / ahead) + tile.bm * tile.bn * 4 * 3 / _SHARED_RATE
    total = found.rounds * (work + edge) + found.added_up
    return Estimate(found.blocks, found.rounds, resident, multiply, shared, global_, edge, total, found.added_up)


@lru_cache(maxsize=KEPT_SPACES)
def tensor_space(problem: Problem, spec: GpuSpec, product: Product) -> Space | None:
    """The likeliest tiles, best first; None if none runs on `spec`."""

    def cost(tile: TensorTile, most: int) -> tuple[float, ...]:
        total = estimate(problem, tile, spec, product, most).total
        return total, tile.shared_bytes(product.how.size), tile.threads

    found = tiles(spec, product)
    ranked = best_first(found, problem, spec, lambda t: (t.bm, t.bn, t.bk), cost, True, _OFFERED)
    return space_of([t.config() for t in ranked])


def tensor_traits(problem: Problem, spec: GpuSpec, product: Product, configs: Sequence[Config]) -> Traits:
    """Traits of `configs`; a tile is a warp's."""

    def facts(t: TensorTile) -> TileFacts:
        size = product.how.size
        parts = (t.rows, t.columns, t.warps, t.threads, _registers(t, product), t.shared_bytes(size), size)
        return TileFacts(t.bm, t.bn, t.bk, t.split, *parts)

    chosen = [(t, _most_resident(t, spec, product)) for t in map(TensorTile.of, configs)]
    return product_traits(problem, spec, [(facts(t), estimate(problem, t, spec, product, most)) for t, most in chosen])
