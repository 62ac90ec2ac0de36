"""Traits of the convolution templates' configs: direct, Winograd and depthwise; of pooling, too."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec
from ....compiler.schedule.template import Config
from ....compiler.schedule.traits import Traits
from ...shared.conv_shape import ConvShape
from .conv2d_direct_model import DirectModel
from .conv2d_winograd_model import WinogradModel, transform_steps
from .conv2d_winograd_plan import WinogradPlan
from .traits import ceil_to, imbalance, knobs, scaled, set_use, tile_work
from .winograd_transforms import TAPS

# Sizes that only run time tells are taken to be this.
TYPICAL = 64
# The part of L2 that can be counted on for what an item keeps.
RESIDENT = 0.75


def direct_traits(conv: ConvShape, target: CpuSpec, configs: Sequence[Config]) -> Traits:
    """Traits of direct convolutions; `conv` is already flattened if it can be."""
    model = DirectModel(conv, target)
    vectors, tile, rows, cols, blocks, chunks, pitch = knobs(
        configs, ("vectors", "tile", "rows", "cols", "blocks", "chunks", "pitch")
    )
    height, width, batch = model.rows, model.width, model.batch
    lanes, depth = model.lanes, model.depth
    per_row, all_blocks = ceil_to(width, tile), ceil_to(model.vectors_out, vectors)
    rows, cols, blocks = np.minimum(rows, height), np.minimum(cols, per_row), np.minimum(blocks, all_blocks)
    steps = depth // chunks
    work = scaled(
        tile_work(target, tile, vectors, width, model.vectors_out, steps), height * batch * conv.groups * chunks
    )
    pixel_items = batch * ceil_to(height, rows) * ceil_to(per_row, cols)
    items = conv.groups * ceil_to(all_blocks, blocks) * pixel_items
    pixels = rows * np.minimum(cols * tile, width)
    panel = vectors * (lanes * 4) * steps
    weights = panel * chunks * blocks
    in_rows = (rows - 1) * conv.stride[0] + (conv.kernel[0] - 1) * conv.dilation[0] + 1
    in_cols = np.minimum(cols * tile, width) * conv.stride[1] + (conv.kernel[1] - 1) * conv.dilation[1]
    data = in_rows * in_cols * (conv.group_in * 4)
    out = pixels * np.minimum(blocks * vectors * lanes, conv.group_out) * 4
    sums = np.where(chunks > 1, pixels * vectors * (lanes * 4), 0)
    kept = weights + data <= RESIDENT * target.l2_bytes
    reread = np.where(panel + data + sums <= RESIDENT * target.l2_bytes, 1, blocks)
    whole_rows = conv.dilation[1] == 1 and conv.groups == 1
    ahead = [str(c["ahead"]) for c in configs]
    return {
        **work,
        "inner_trip": np.where((chunks == 1) & whole_rows, conv.kernel[1], 1) * (conv.group_in // chunks),
        "border_share": np.where((pitch == 0) & conv.padded[1], np.minimum(1, 2 / per_row), 0),
        "lane_use": conv.group_out / (model.vectors_out * lanes),
        "set_use": set_use(tile, 4 * conv.channels * conv.stride[1]),
        "multiply_share": 1.0,
        "algorithm": 0.0,
        "transform_cycles": 0.0,
        "copied_bytes": np.where(pitch > 0, items * data, 0),
        "items": items,
        "imbalance": imbalance(items, target.cores),
        "panel_bytes": panel,
        "panel_tiles": rows * cols,
        "item_weight_bytes": weights,
        "item_input_bytes": data,
        "item_output_bytes": out,
        "scratch_bytes": sums,
        "weight_traffic": weights * np.where(kept, items / np.maximum(1, pixel_items), items),
        "input_traffic": items * data * reread,
        "panel_traffic": work["tiles"] * panel,
        "fetch_weights": np.array([a == "weights" for a in ahead], float),
        "fetch_data": np.array([a == "data" for a in ahead], float),
    }


def winograd_traits(conv: ConvShape, target: CpuSpec, configs: Sequence[Config]) -> Traits:
    """Traits of Winograd convolutions."""
    model = WinogradModel(conv, target)
    names = ("m", "rows", "vectors", "tiles", "blocks", "parts")
    m, rows, vectors, tiles, blocks, parts = knobs(configs, names)
    lanes, channels = model.lanes, conv.channels
    totals = {int(side): model.total(int(side)) for side in np.unique(m)}
    total = np.array([totals[int(side)] for side in m])
    positions = (m + TAPS - 1) ** 2
    vectors_out = -(-conv.out_channels // lanes)
    block_count = ceil_to(vectors_out, vectors)
    tile_rows = ceil_to(total, tiles) * ceil_to(tiles, rows)
    # The last item computes whole register tiles, and the last block all of its vectors.
    work = scaled(tile_work(target, rows, vectors, tile_rows * rows, block_count * vectors, channels), positions)
    plans = [
        WinogradPlan(channels=channels, out_channels=conv.out_channels, lanes=lanes, **dict(c.knobs)) for c in configs
    ]
    data, product = (positions * np.array([getattr(p, n) for p in plans]) * 4 for n in ("data_pitch", "product_pitch"))
    items = ceil_to(total, tiles) * parts
    panel = channels * vectors * (lanes * 4)
    weights = positions * block_count * panel // parts
    passes = block_count // (parts * blocks)
    image = 4 * model.batch * prod(int(d) for d in conv.size) * channels
    kept = weights + data + product <= RESIDENT * target.l2_bytes
    spilled = data + product > RESIDENT * target.l2_bytes
    inward, outward = np.array([transform_steps(int(side)) for side in m]).T
    transform = total * (inward * parts * -(-channels // lanes) + outward * vectors_out)
    return {
        **work,
        "tail_share": 1 - total * vectors_out / (tile_rows * rows * block_count * vectors),
        "inner_trip": channels,
        "border_share": 0.0,
        "lane_use": conv.out_channels / (block_count * vectors * lanes),
        "set_use": 0.0,
        "multiply_share": work["tiles"] * rows * vectors * channels * lanes * 2 / conv.flops(),
        "algorithm": m,
        "transform_cycles": transform,
        "copied_bytes": 0.0,
        "items": items,
        "imbalance": imbalance(items, target.cores),
        "panel_bytes": panel,
        "panel_tiles": ceil_to(np.minimum(tiles, total), rows),
        "item_weight_bytes": weights,
        "item_input_bytes": data,
        "item_output_bytes": product,
        "scratch_bytes": data + product,
        "weight_traffic": weights * np.where(kept, parts, items),
        "input_traffic": image * parts + np.where(spilled, items * (data * (1 + passes) + product * 2 * passes), 0),
        "panel_traffic": work["tiles"] * panel,
        "fetch_weights": 1.0,
        "fetch_data": 0.0,
    }


def depthwise_traits(conv: ConvShape, target: CpuSpec, configs: Sequence[Config]) -> Traits:
    """Traits of depthwise convolutions."""
    tile, vectors, rows, split = knobs(configs, ("tile", "vectors", "rows", "split"))
    batch, height, width = (d if isinstance(d, int) else TYPICAL for d in (conv.batch, *conv.out_size))
    lanes = target.lanes("float32")
    vectors_all = -(-conv.channels // lanes)
    taps = prod(conv.kernel)
    rows = np.minimum(rows, height)
    # What fills no block is computed in single vectors.
    whole = vectors_all // vectors * vectors
    work = tile_work(target, tile, vectors, width, vectors_all, taps, True)
    items = batch * ceil_to(height, rows) * split
    in_rows = (rows - 1) * conv.stride[0] + (conv.kernel[0] - 1) * conv.dilation[0] + 1
    in_width = width * conv.stride[1]
    per_item = conv.channels * 4 / split
    weights = taps * per_item
    return {
        **scaled(work, batch * height),
        "tail_share": 1 - whole * (width // tile * tile) / (vectors_all * width),
        "inner_trip": taps,
        "border_share": np.minimum(1, 2 / ceil_to(width, tile)) if conv.padded[1] else 0.0,
        "lane_use": conv.channels / (vectors_all * lanes),
        "set_use": set_use(tile * conv.stride[1] * conv.kernel[0], 4 * conv.channels),
        "multiply_share": 1.0,
        "items": items,
        "imbalance": imbalance(items, target.cores),
        "panel_bytes": taps * vectors * (lanes * 4),
        "panel_tiles": 1.0,
        "item_weight_bytes": weights,
        "item_input_bytes": in_rows * in_width * per_item,
        "item_output_bytes": rows * width * per_item,
        # The input columns that all blocks of channels of a tile read before the next tile begins.
        "scratch_bytes": (tile * conv.stride[1] + conv.kernel[1]) * (conv.kernel[0] * conv.channels * 4),
        "weight_traffic": items * weights,
        "input_traffic": items * in_rows * in_width * per_item,
        "panel_traffic": batch * height * ceil_to(width, tile) * (taps * conv.channels * 4),
        "algorithm": 0.0,
        "transform_cycles": 0.0,
        "copied_bytes": 0.0,
    }


def pool_traits(op: OpSpec, target: CpuSpec, configs: Sequence[Config]) -> Traits:
    """Traits of pooling."""
    (vectors,) = knobs(configs, ("vectors",))
    batch, height, width, channels = (d if isinstance(d, int) else TYPICAL for d in op.anchor_type.shape)
    lanes, taps = target.lanes("float32"), prod(op.ints("pool_size"))
    vectors_all = max(1, channels // lanes)
    one = np.ones(len(configs), np.int64)
    pixels = batch * height * width
    return {
        **scaled(tile_work(target, one, vectors, 1, vectors_all, taps, True), pixels),
        "inner_trip": taps,
        "lane_use": channels / (-(-channels // lanes) * lanes),
        "items": float(batch * height),
        "imbalance": imbalance(float(batch * height), target.cores),
        "input_traffic": 4.0 * prod(d if isinstance(d, int) else TYPICAL for d in op.inputs[0].shape),
        "weight_traffic": 0.0,
        "transform_cycles": 0.0,
        "copied_bytes": 0.0,
    }
