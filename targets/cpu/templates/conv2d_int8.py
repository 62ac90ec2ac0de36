"""Convolution of int8 NHWC data with constant int8 weights, sums in int32."""

from __future__ import annotations

from collections.abc import Sequence

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec, TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape, conv_sizes, flatten_pixels
from .conv_traits import direct_traits
from .int8_nest import Int8Nest, Int8Weights, dot_of, grouped, int8_configs


class Int8Conv2D(Template):
    """Convolutions whose groups have vectors of output channels; knobs are those of `DirectConv2D`."""

    name = "conv2d_int8"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """Configs as of direct convolutions; None unless data and weights are int8, and sums int32."""
        conv = _shape(op, target)
        if conv is None or not isinstance(target, CpuSpec):
            return None
        configs = int8_configs(flatten_pixels(conv, op) or conv, target)
        return Space(configs[0], tuple(configs))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, with the weights packed as `Int8Weights` says."""
        conv = _shape(op, target)
        assert conv is not None, "match accepts only convolutions"
        assert isinstance(target, CpuSpec)
        flat = flatten_pixels(conv, op)
        conv = flat or conv
        weights = Int8Weights(conv, target, config)
        operands = Operands(op, {1: weights.size}, flatten=flat is not None)
        nest = Int8Nest(operands, conv, weights, config)
        return Candidate(operands.function(nest.body()), {1: weights.pack})

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`, of groups of channels as if they were float32."""
        conv = _shape(op, target)
        assert conv is not None, "match accepts only convolutions"
        assert isinstance(target, CpuSpec)
        return direct_traits(grouped(flatten_pixels(conv, op) or conv, dot_of(target)), target, configs)


def _shape(op: OpSpec, target: TargetSpec) -> ConvShape | None:
    """The sizes of `op` if this template takes it: a vector of channels from less than half a vector's is waste."""
    conv = conv_sizes(op)
    if conv is None or not isinstance(target, CpuSpec):
        return None
    dtypes = (op.inputs[0].dtype, op.inputs[1].dtype, op.anchor_type.dtype)
    wide_enough = 2 * conv.group_out >= target.lanes("int32") or conv.groups == 1
    return conv if dtypes == ("int8", "int8", "int32") and wide_enough else None
