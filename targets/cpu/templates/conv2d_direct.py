"""Direct NHWC convolution: register tiles of pixels x output channels over packed weights, no copy of the data."""

from __future__ import annotations

from collections.abc import Sequence

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec, TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape, conv_shape, flatten_pixels
from .conv2d_direct_model import DirectModel
from .conv2d_direct_nest import Blocking, DirectNest
from .conv_traits import direct_traits
from .cpu_costs import PARALLEL_FLOPS
from .packing import BlockedWeights

# Alternatives offered to the tuner: register tiles, and work items for each.
TILE_CHOICES = 6
BLOCKING_CHOICES = 6


class DirectConv2D(Template):
    """Any 2-D convolution with constant float32 weights, grouped or not; depthwise ones have a template of their own.

    Knobs: `vectors` and `tile` (register tile: vectors of output channels x pixels), `rows` x `cols` x `blocks` (a work
    item: output rows, tiles in a row, blocks of output channels), `chunks` (passes over the input channels, so that the
    weights of one pass stay in cache), `pitch` (0: read the input in place; else copy it first, that many floats for
    each pixel), `ahead` (what tiles prefetch: "weights", "data" or "none").
    """

    name = "conv2d_direct"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """Up to TILE_CHOICES * BLOCKING_CHOICES configs; None unless data is NHWC float32 and weights are constant."""
        conv = conv_shape(op)
        if conv is None or not isinstance(target, CpuSpec):
            return None
        configs = direct_configs(flatten_pixels(conv, op) or conv, target)
        return Space(configs[0], tuple(configs))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, with the weights packed as `BlockedWeights` says."""
        conv = conv_shape(op)
        assert conv is not None, "match accepts only convolutions"
        assert isinstance(target, CpuSpec)
        flat = flatten_pixels(conv, op)
        conv = flat or conv
        weights = blocked_weights(conv, target, config)
        operands = Operands(op, {1: weights.size}, flatten=flat is not None)
        nest = DirectNest(operands, conv, weights, blocking_of(conv, config))
        return Candidate(operands.function(nest.body()), {1: weights.pack})

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        conv = conv_shape(op)
        assert conv is not None, "match accepts only convolutions"
        assert isinstance(target, CpuSpec)
        return direct_traits(flatten_pixels(conv, op) or conv, target, configs)


def direct_configs(conv: ConvShape, target: CpuSpec) -> list[Config]:
    """Configs of a direct convolution, the one the model likes best first."""
    model = DirectModel(conv, target)
    pitch = conv.group_in if _must_stage(conv) else 0
    configs = []
    for i, (_, vectors, tile) in enumerate(model.tiles()[:TILE_CHOICES]):
        # The best tile's work items are worth more trials than the others'.
        for _, rows, cols, blocks, chunks in model.blockings(vectors, tile)[: BLOCKING_CHOICES if i < 2 else 2]:
            cols = _staged_cols(conv, cols, tile) if pitch else cols
            ahead = model.ahead(vectors, tile, rows, cols, chunks)
            knobs = {"rows": rows, "cols": cols, "blocks": blocks, "chunks": chunks, "pitch": pitch, "ahead": ahead}
            configs.append(Config.of(vectors=vectors, tile=tile, **knobs))
    return list(dict.fromkeys(configs))


def blocked_weights(conv: ConvShape, target: CpuSpec, config: Config) -> BlockedWeights:
    """How `config` packs the weights."""
    lanes = target.lanes("float32")
    block, chunks = config.int("vectors") * lanes, config.int("chunks")
    return BlockedWeights(conv.groups, conv.group_out, conv.group_in, conv.kernel, block, lanes, chunks)


def blocking_of(conv: ConvShape, config: Config) -> Blocking:
    """How `config` cuts the convolution into work items."""
    return Blocking(
        tile=config.int("tile"),
        rows=config.int("rows"),
        cols=config.int("cols"),
        oc_blocks=config.int("blocks"),
        staged=config.int("pitch") > 0,
        pitch=config.int("pitch"),
        parallel=conv.flops() >= PARALLEL_FLOPS,
        ahead=str(config["ahead"]),
    )


def _must_stage(conv: ConvShape) -> bool:
    """Whether the input is copied before use: padded columns of unknown number, a padded single row (which is cut into
    columns), or so few channels that the borders of a tile would multiply the code (a 7x7 kernel over 3 channels)."""
    if not conv.padded[1]:
        return False
    return not isinstance(conv.out_size[1], int) or conv.out_size[0] == 1 or conv.group_in < 8


def _staged_cols(conv: ConvShape, cols: int, tile: int) -> int:
    """Tiles of a work item whose input is copied: the copy needs a size, also for a row of unknown width."""
    width = conv.out_size[1]
    return min(cols, -(-width // tile)) if isinstance(width, int) else min(cols, max(1, 64 // tile))
