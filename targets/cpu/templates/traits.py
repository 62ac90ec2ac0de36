"""Traits (see compiler/schedule/traits.py) that all register-tiled kernels have in common, for many configs at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np

from ....compiler.schedule.target_spec import CpuSpec
from ....compiler.schedule.template import Config
from ....compiler.schedule.traits import Column
from .cpu_costs import FMA_LATENCY, LOAD_PORTS

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
    # Four parts: whole tiles, those cut in their vectors, those cut in their rows, and the corner cut in both.
    full_r, full_v, rest_r, rest_v = height // rows, width // vectors, height % rows, width % vectors
    r, v = np.stack([rows, rows, rest_r, rest_r]), np.stack([vectors, rest_v, vectors, rest_v])
    counts = np.stack([full_r * full_v, full_r * (rest_v > 0), (rest_r > 0) * full_v, (rest_r > 0) * (rest_v > 0)])
    fmas = r * v
    fma = counts * np.maximum(fmas / target.fma_ports, FMA_LATENCY)
    loads = counts * ((fmas + v) if own_loads else (r + v))
    total = fma.sum(axis=0)
    return {
        "tile_rows": rows,
        "tile_vectors": vectors,
        "tiles": counts.sum(axis=0),
        "tile_steps": steps,
        "fma_cycles": steps * total,
        "load_cycles": steps * loads.sum(axis=0) / LOAD_PORTS,
        "edge_cycles": (counts * (TILE_CYCLES + 2 * fmas)).sum(axis=0),
        "tail_share": 1 - fma[0] / total,
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
