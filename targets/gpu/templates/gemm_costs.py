"""Which tiles a block of threads may compute, what they cost, and which one is taken where nothing was measured.

The estimate counts cycles of one SM: multiply-adds, reads of shared memory and of the second-level cache, and how much
of their latency the resident warps hide. Its constants are round numbers for current hardware, not measurements: it
ranks tiles, it does not predict times.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Protocol, TypeVar

from ....compiler.schedule.template import Config, Space
from ..estimates import STATIC_SHARED_BYTES, estimated
from ..occupancy import resident_blocks
from ..spec import GpuSpec
from .gemm_shares import EVENLY
from .gemm_tile import QUAD, GemmTile

# Elements that a thread fetches ahead at most: with 48, NVIDIA's assembler spills.
_AHEAD = 32
# Fetches of A, and of B, by one thread in a step.
_FETCHES = 8
# Threads of a block at most: more leave each too few registers for addresses of open sizes.
_MOST_THREADS = 256
# Configs offered to the tuner, and how many at least of each way to share out steps.
_OFFERED, _OF_EACH = 32, 3
# Spaces that are kept: operators that differ in their epilogue only have the same.
KEPT_SPACES = 256
# Bytes a cycle that one SM reads from the second-level cache when all do, and from its shared memory.
_L2_RATE, _SHARED_RATE = 40.0, 128.0
# Warps times results per thread that keep an SM's multiply-adds busy: four schedulers, four cycles of latency, each.
_IN_FLIGHT = 4 * 4 * 4
# Cycles of a step that no overlap hides: barrier and first reads; and of a block: launch, first fetch, stores.
_STEP_CYCLES, _BLOCK_CYCLES = 40.0, 1500.0
# Cycles from the end of a kernel to the work of the next, which adds up partial sums.
_ADD_CYCLES = 3000.0
# Time of tiles that are shared out evenly: their blocks begin at different places of K, and share less in caches.
_EVEN_LOSS = 1.1
# Parts of K at most and their steps at least, bytes of partial sums at most, and rounds of tiles up to which it may pay
# to share them out evenly.
_MOST_SPLIT, _LEAST_STEPS, _WORKSPACE, _EVEN_ROUNDS = 32, 4, 64 << 20, 6


@dataclass(frozen=True)
class Problem:
    """`batch` products of (m, k) and (k, n); sizes may be names of symbolic dimensions.

    `known` says whether `batch` is; unknown axes do not count in it.
    """

    batch: int
    m: int | str
    n: int | str
    k: int | str
    known: bool = True

    @property
    def is_static(self) -> bool:
        """Whether all sizes are known."""
        return self.known and all(isinstance(d, int) for d in (self.m, self.n, self.k))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """m, n, k, unknown ones guessed."""
        m, n, k = (estimated(d) for d in (self.m, self.n, self.k))
        return m, n, k


@dataclass(frozen=True)
class Estimate:
    """Cycles of the parts of the work for one share of a tile, and of the kernel on the busiest SM.

    Attributes:
        blocks: shares (see gemm_shares.py; whole tiles where work is shared out evenly).
        rounds: shares that follow each other in the same place of the busiest SM, which has `resident` such places.
        edge: what is done once for a share.
        added_up: cycles of the kernel that adds up partial sums.
    """

    blocks: int
    rounds: float
    resident: int
    multiply: float
    shared: float
    global_: float
    edge: float
    total: float
    added_up: float = 0.0


@dataclass(frozen=True)
class Rounds:
    """How shares of a split follow each other on an SM: see `Estimate`; `depth` of them have `steps` steps."""

    blocks: int
    rounds: float
    resident: int
    steps: int
    added_up: float


def rounds_of(problem: Problem, size: tuple[int, int, int], split: int, most: int, spec: GpuSpec) -> Rounds:
    """For tiles of `size` (bm, bn, bk), of which an SM holds `most` at once."""
    m, n, k = problem.sizes
    bm, bn, bk = size
    tiles = problem.batch * -(-m // bm) * -(-n // bn)
    blocks = tiles * max(1, split)
    steps = math.ceil(math.ceil(k / bk) / max(1, split))
    resident = max(1, min(most, -(-blocks // spec.sms)))
    if split == EVENLY:
        added_up = _added_up(2 * spec.sms * most, bm * bn, spec)
        return Rounds(blocks, _EVEN_LOSS * blocks / (spec.sms * resident), resident, steps, added_up)
    added_up = _added_up(blocks, bm * bn, spec) if split > 1 else 0.0
    return Rounds(blocks, -(-blocks // (spec.sms * resident)), resident, steps, added_up)


def _added_up(slots: int, elements: int, spec: GpuSpec) -> float:
    """Cycles to launch the kernel that adds up partial sums, and to write and read these."""
    return _ADD_CYCLES + 2 * slots * elements * 4 / (spec.sms * _L2_RATE)


def splits_of(problem: Problem, size: tuple[int, int, int], most: int, spec: GpuSpec, even: bool) -> list[int]:
    """The ways to share out tiles of `size` that may pay, where an SM holds `most` of them; `even`: evenly, too."""
    found = [1]
    if not problem.is_static:
        return found
    m, n, k = problem.sizes
    tiles = problem.batch * -(-m // size[0]) * -(-n // size[1])
    steps, at_once, elements = -(-k // size[2]), most * spec.sms, size[0] * size[1]
    if tiles < at_once:
        limit = min(steps // _LEAST_STEPS, _MOST_SPLIT, _WORKSPACE // (4 * tiles * elements))
        fill = at_once // tiles, spec.sms // tiles
        found += sorted({s for s in (2, 3, 4, 8, 16, *fill) if 2 <= s <= limit and s <= max(fill)})
    elif even and tiles % at_once and tiles < _EVEN_ROUNDS * at_once and steps >= _LEAST_STEPS:
        found += [EVENLY]
    return found


class Shared(Protocol):
    """A tile whose steps over K may be shared out."""

    @property
    def split(self) -> int:
        """See gemm_shares.py."""


T = TypeVar("T", bound=Shared)


def best_first(
    tiles: Mapping[T, int],
    problem: Problem,
    spec: GpuSpec,
    size: Callable[[T], tuple[int, int, int]],
    cost: Callable[[T, int], tuple[float, ...]],
    even: bool,
    offered: int,
) -> list[T]:
    """The `offered` likeliest of `tiles`, each shared out in the ways that may pay; some of every way are among them.

    Tiles come with how many of them an SM holds at once; `size` gives bm, bn, bk.
    """
    found: list[tuple[tuple[float, ...], int, T]] = []
    for tile, most in tiles.items():
        for split in splits_of(problem, size(tile), most, spec, even):
            shared_out = tile if split == 1 else replace(tile, split=split)  # type: ignore[type-var]
            found.append((cost(shared_out, most), len(found), shared_out))
    ranked = [tile for _, _, tile in sorted(found, key=lambda item: item[:2])]
    kinds: Counter[int] = Counter()
    first = []
    for tile in ranked:
        kinds[tile.split] += 1
        first.append(kinds[tile.split] <= _OF_EACH)
    room = offered - sum(first)
    chosen = []
    for tile, kept in zip(ranked, first, strict=True):
        room -= not kept
        if kept or room >= 0:
            chosen.append(tile)
    return chosen[:offered]


def space_of(configs: Sequence[Config]) -> Space | None:
    """The space whose default is the first of `configs`; None if there are none."""
    return Space(configs[0], tuple(configs)) if configs else None


@cache
def tiles(spec: GpuSpec) -> Mapping[GemmTile, int]:
    """All tiles that run on `spec` without spilling registers, and how many of each an SM holds at once."""
    found = {}
    for bm in (16, 32, 64, 128, 256):
        for bn in (16, 32, 64, 128, 256):
            # With 32, LLVM reads the operands of a whole step at once, into more registers than there are.
            for bk in (8, 16):
                for tm in (1, 2, 4, 8):
                    for tn in (4, 8):
                        tile = GemmTile(bm, bn, bk, tm, tn)
                        most = most_resident(tile, spec) if _runs(tile, spec) else 0
                        if most:
                            found[tile] = most
    return MappingProxyType(found)


def _runs(tile: GemmTile, spec: GpuSpec) -> bool:
    threads = tile.threads
    if not spec.warp <= threads <= min(_MOST_THREADS, spec.threads_per_block) or threads % spec.warp:
        return False
    if (
        tile.shared_bytes > min(STATIC_SHARED_BYTES, spec.shared_bytes)
        or tile.bk * (tile.bm + tile.bn) > _AHEAD * threads
    ):
        return False
    if tile.bk * max(tile.bm, tile.bn) // QUAD > _FETCHES * threads:
        return False
    return tile.registers <= min(spec.registers_per_thread, 255)


def most_resident(tile: GemmTile, spec: GpuSpec) -> int:
    """Blocks that an SM holds at once."""
    return resident_blocks(spec, tile.threads, tile.registers, tile.shared_bytes)


def estimate(problem: Problem, tile: GemmTile, spec: GpuSpec, most: int) -> Estimate:
    """What `tile` costs for `problem`, where an SM holds `most` blocks at once."""
    found = rounds_of(problem, (tile.bm, tile.bn, tile.bk), tile.split, most, spec)
    resident, depth = found.resident, found.steps * tile.bk
    lanes = spec.peak_flops("float32") / (2 * spec.sms * spec.clock_hz)
    warps = tile.threads / spec.warp
    multiply = tile.bm * tile.bn * depth / lanes
    shared = warps * depth * (tile.tm + tile.tn) * 4 * 8 / _SHARED_RATE * 2
    global_ = (tile.bm + tile.bn) * depth * 4 / _L2_RATE
    hidden = min(1.0, resident * warps * tile.tm * tile.tn / _IN_FLIGHT / 4)
    busy = resident * max(multiply / hidden, shared, global_) + 0.25 * resident * min(multiply, shared + global_)
    edge = _BLOCK_CYCLES + found.steps * _STEP_CYCLES
    total = found.rounds * (busy + edge) + found.added_up
    return Estimate(found.blocks, found.rounds, resident, multiply, shared, global_, edge, total, found.added_up)


@lru_cache(maxsize=KEPT_SPACES)
def gemm_space(problem: Problem, spec: GpuSpec, lanes: int = QUAD) -> Space | None:
    """The likeliest tiles, best first; None if none runs on `spec`. `lanes`: elements of A that a fetch brings."""
    # Each fetch keeps an address of its own in registers.
    found = {t: most for t, most in tiles(spec).items() if t.bk * t.bm <= _FETCHES * lanes * t.threads}

    def cost(tile: GemmTile, most: int) -> tuple[float, ...]:
        return estimate(problem, tile, spec, most).total, tile.bm * tile.bn, tile.bk

    ranked = best_first(found, problem, spec, lambda t: (t.bm, t.bn, t.bk), cost, False, _OFFERED)
    return space_of([t.config() for t in ranked])
