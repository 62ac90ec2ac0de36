"""Traits (see compiler/schedule/traits.py) that all register-tiled kernels have in common, for many configs at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np

from ....compiler.schedule.target_spec import CpuSpec
from ....compiler.schedule.template import Config
from ....compiler.schedule.traits import Column

FMA_LATENCY = 4
LOAD_PORTS = 2
# Clearing and addressing a tile; each of its vectors is cleared and stored as well.
TILE_CYCLES = 12
L1_WAYS = 8
LINE = 64
PAGE = 4096


def knobs(configs: Sequence[Config], names: Sequence[str]) -> list[np.ndarray]:
    """The columns of the int knobs `names`."""
    rows = [dict(c.knobs) for c in configs]
    return [np.array([int(row[name]) for row in rows], dtype=np.int64) for name in names]


def ceil_to(count: Column, part: Column) -> np.ndarray:
    """ceil(count / part), in whole numbers."""
    return -(-np.asarray(count) // part)


def tile_work(
    target: CpuSpec,
    rows: np.ndarray,
    vectors: np.ndarray,
    height: Column,
    width: Column,
    steps: Column,
    own_loads: bool = False,
) -> dict[str, Column]:
    """Traits of covering `height` rows x `width` vectors of results with register tiles, each accumulated over `steps`.

    `own_loads` tells that every accumulator loads a vector of its own in each step (depthwise), instead of a tile
    sharing one value a row and one vector a column.
    """
    fma = loads = edge = tiles = tail = np.zeros(len(rows))
    for r, row_tiles in ((rows, height // rows), (height % rows, height % rows > 0)):
        for v, column_tiles in ((vectors, width // vectors), (width % vectors, width % vectors > 0)):
            count = row_tiles * column_tiles * ((r > 0) & (v > 0))
            each = steps * np.maximum(r * v / target.fma_ports, FMA_LATENCY) * count
            fma = fma + each
            tail = tail + each * ((r < rows) | (v < vectors))
            loads = loads + count * steps * ((r * v + v) if own_loads else (r + v)) / LOAD_PORTS
            edge = edge + count * (TILE_CYCLES + 2 * r * v)
            tiles = tiles + count
    return {
        "tile_rows": rows,
        "tile_vectors": vectors,
        "tiles": tiles,
        "tile_steps": steps,
        "fma_cycles": fma,
        "load_cycles": loads,
        "edge_cycles": edge,
        "tail_share": tail / np.maximum(fma, 1),
    }


def scaled(work: dict[str, Column], times: Column) -> dict[str, Column]:
    """The traits of `times` equal parts."""
    return {k: v * times if k in ("tiles", "fma_cycles", "load_cycles", "edge_cycles") else v for k, v in work.items()}


def set_use(rows: np.ndarray, pitch: int) -> np.ndarray:
    """How far rows `pitch` bytes apart fill the L1 sets that they meet in: above 1 they push each other out."""
    positions = PAGE // gcd(pitch, PAGE) if pitch % LINE == 0 else PAGE // LINE
    return rows / (positions * L1_WAYS)


def imbalance(items: Column, cores: int) -> np.ndarray:
    """Time of the busiest core relative to an even share, all items being equal."""
    return ceil_to(items, cores) * cores / np.maximum(items, 1)
