"""Traits of the matmul template's configs."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ....compiler.schedule.target_spec import CpuSpec
from ....compiler.schedule.template import Config
from ....compiler.schedule.traits import Traits
from ...shared.matmul_problem import MatmulProblem
from .traits import ceil_to, imbalance, knobs, scaled, set_use, tile_work

# Sizes that only run time tells are taken to be this.
TYPICAL = 64
RESIDENT = 0.75


def matmul_traits(problem: MatmulProblem, target: CpuSpec, configs: Sequence[Config], in_place: bool) -> Traits:
    """Traits of register-tiled matmuls; `in_place` tells that the second operand's rows are contiguous in memory."""
    rows, vectors, chunk = knobs(configs, ("rows", "vectors", "chunk"))
    lanes = target.lanes("float32")
    m, n, k, *batch = (d if isinstance(d, int) else TYPICAL for d in (problem.m, problem.n, problem.k, *problem.batch))
    count = prod(batch)
    width = -(-n // lanes)
    # A panel is always computed whole: its last vectors are zeros.
    panels = ceil_to(n, vectors * lanes)
    work = scaled(tile_work(target, rows, vectors, m, panels * vectors, k), count)
    row_tiles = ceil_to(m, rows)
    chunk = np.minimum(chunk, row_tiles)
    chunks = ceil_to(row_tiles, chunk)
    items = count * chunks * panels
    panel = k * vectors * (lanes * 4)
    data = np.minimum(chunk * rows, m) * (k * 4)
    constant = problem.op.constant[1]
    packed = not constant and not (in_place and n % lanes == 0)
    kept = data + panel <= RESIDENT * target.l2_bytes
    return {
        **work,
        "inner_trip": k,
        "lane_use": n / (panels * vectors * lanes),
        "set_use": set_use(rows, k * 4),
        "multiply_share": panels * vectors / width,
        "algorithm": 0.0,
        "transform_cycles": 0.0,
        "copied_bytes": items * panel * (1.0 if packed else 0.0),
        "items": items,
        "imbalance": imbalance(items, target.cores),
        "panel_bytes": panel,
        "panel_tiles": chunk,
        "item_weight_bytes": panel,
        "item_input_bytes": data,
        "item_output_bytes": np.minimum(chunk * rows, m) * vectors * (lanes * 4),
        "scratch_bytes": panel * (1.0 if packed else 0.0),
        "weight_traffic": items * panel,
        "input_traffic": np.where(kept, count * m * k * 4, items * data),
        "panel_traffic": work["tiles"] * panel,
        "fetch_weights": 0.0,
        "fetch_data": 0.0,
    }
