"""What templates tell the cost model about a config, in words that mean the same for every template and target.

A template gives a column of numbers (one for each config of a space) for as many of these names as it can. Cycles are
those of one core; bytes and counts are of the whole operator where nothing else is said. They are estimates: the model
learns from measurements how far each can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Name -> what it means.
TRAITS: dict[str, str] = {
    "tile_rows": "rows of a register tile: pixels, or rows of a matrix",
    "tile_vectors": "vectors in a row of a register tile",
    "tiles": "register tiles computed",
    "inner_trip": "steps of the innermost loop",
    "tile_steps": "steps over which a register tile accumulates before it is stored",
    "fma_cycles": "cycles of the multiply-adds, limited by ports or by their latency",
    "load_cycles": "cycles of the loads that feed them",
    "edge_cycles": "cycles around the accumulation: clearing, addressing, storing",
    "tail_share": "share of fma_cycles in tiles that are smaller than the others",
    "border_share": "share of tiles that reach over the border of an image",
    "lane_use": "share of computed lanes that hold results",
    "set_use": "lines of L1 that the rows of a tile occupy, relative to what their sets hold",
    "multiply_share": "multiply-adds done relative to those of the plain algorithm",
    "algorithm": "which variant of the algorithm: side of a Winograd tile, else 0",
    "transform_cycles": "cycles of what is computed beside the multiply-adds: transforms, packing",
    "copied_bytes": "bytes copied to make operands contiguous",
    "items": "work items that cores share out among themselves",
    "imbalance": "time of the busiest core relative to an even share",
    "panel_bytes": "weights that pass by while a tile accumulates",
    "panel_tiles": "tiles in a row that use the same panel",
    "item_weight_bytes": "weights that a work item reads",
    "item_input_bytes": "input that a work item reads",
    "item_output_bytes": "output that a work item writes",
    "scratch_bytes": "intermediate results that a work item keeps",
    "weight_traffic": "bytes of weights that come from beyond L2, if caches behave",
    "input_traffic": "bytes of input, or of intermediate results, that come from beyond L2",
    "panel_traffic": "bytes of weights that register tiles read, from whichever cache",
    "fetch_weights": "1 if weights are prefetched",
    "fetch_data": "1 if input is prefetched",
    # Of devices with a program of their own (GPUs); the last four are read from the machine code once there is some.
    "device_cycles": "cycles of the whole kernel on the busiest core, launch and waiting included",
    "registers": "registers of a thread",
    "spill_bytes": "memory of a thread for registers that did not fit",
    "block_bytes": "shared memory of a block",
    "occupancy": "share of a core's places for warps that are taken",
}

Column = np.ndarray | float
Traits = Mapping[str, Column]
