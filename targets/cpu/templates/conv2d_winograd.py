"""Two-dimensional 3x3 convolutions of stride 1 by Winograd's minimal filtering, F(m x m, 3 x 3).

A tile of m x m outputs takes (m + 2)^2 multiplications for each pair of channels instead of 9 m^2: 4 times fewer for
m = 4, 3.24 for m = 3, 2.25 for m = 2. The price is (m + 2)^2 / 9 times as many weights, two transforms, and rounding.

Accuracy: the largest error of a layer relative to its largest output, against float64, worst of three random inputs
(one of them positive, as after a ReLU) to 28 x 28 images (14 x 14 at 256 channels):

    input channels    16      64      128     256     512
    direct            5e-7    1.1e-6  1.5e-6  2.0e-6  3.3e-6
    m = 2             2e-7    4e-7    5e-7    7e-7    1.0e-6
    m = 3             7e-7    1.2e-6  1.6e-6  2.2e-6  3.2e-6
    m = 4             9e-7    2.5e-6  2.0e-6  3.0e-6  4.7e-6
"""

from __future__ import annotations

from collections.abc import Sequence

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec, TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_shape import ConvShape, conv_shape
from .conv2d_winograd_model import WinogradModel, direct_cycles
from .conv2d_winograd_nest import WinogradNest
from .conv2d_winograd_plan import WinogradPlan
from .conv_traits import winograd_traits
from .cpu_costs import PARALLEL_FLOPS

KNOBS = ("m", "rows", "vectors", "tiles", "blocks", "parts")
# Plans offered to the tuner, the model's favourites of each m.
CHOICES = {2: 4, 3: 8, 4: 8}
# By how much the model must see a gain. It understates that of small layers, which it takes to start with cold caches.
MARGIN = 1.0


class WinogradConv2D(Template):
    """3x3 convolutions of stride 1 over images of static size, where a model says that they beat the direct template.

    Knobs: `m` (side of an output tile), `rows` and `vectors` (register tile of the products: tiles x vectors of output
    channels), `tiles` (of a work item), `blocks` (of output channels between two output transforms), `parts` (work
    items among which the output channels of the same tiles are divided; each transforms the input again).
    """

    name = "conv2d_winograd"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """At most 20 configs, the model's favourite as default; None where a direct convolution is predicted faster."""
        conv = conv_shape(op)
        if conv is None or not isinstance(target, CpuSpec) or not _applies(conv, target):
            return None
        plans = WinogradModel(conv, target).plans()
        if plans[0][0] * MARGIN > direct_cycles(conv, target):
            return None
        favourites = [
            _config(plan) for m, count in CHOICES.items() for _, plan in [p for p in plans if p[1].m == m][:count]
        ]
        return Space(_config(plans[0][1]), tuple(favourites))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, with OIHW weights transformed and packed as `WinogradPlan.pack` says."""
        conv = conv_shape(op)
        plan = WinogradPlan(
            channels=conv.channels,
            out_channels=conv.out_channels,
            lanes=target.lanes("float32"),
            **{knob: config.int(knob) for knob in KNOBS},
        )
        nest = WinogradNest(op, conv, plan, parallel=conv.flops() >= PARALLEL_FLOPS)
        return Candidate(nest.build(), {1: plan.pack})

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        conv = conv_shape(op)
        assert conv is not None, "match accepts only convolutions"
        assert isinstance(target, CpuSpec)
        return winograd_traits(conv, target, configs)


def _config(plan: WinogradPlan) -> Config:
    return Config.of(**{knob: getattr(plan, knob) for knob in KNOBS})


def _applies(conv: ConvShape, target: CpuSpec) -> bool:
    """Whether this is a plain 3x3 convolution of known image size, with a vector of input channels at least."""
    plain = conv.kernel == (3, 3) and conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    sizes = (*conv.size, *conv.out_size)
    return plain and all(isinstance(d, int) for d in sizes) and conv.channels >= target.lanes("float32")
