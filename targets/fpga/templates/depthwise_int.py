"""int8 depthwise convolution with int32 sums: Y[oh, ow, c] = sum of X[y, x, c] W[kh, kw, c]; channels last, any
stride and padding.

One nest: windows from line buffers, kh * kw products and their tree for each lane in every cycle.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....compiler.schedule.template import Config, Space
from ..kernel.affine import var
from ..kernel.builder import NestBuilder, array, both, kernel, load, op, reduce
from ..kernel.ir import Kernel
from ..kernel.types import INT32
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .conv_int import windows_of
from .gemm_int import within
from .window import Picture, slide


class DepthwiseInt(KernelTemplate[Picture]):
    """Knob: lanes over channels; each takes kh * kw multipliers."""

    name = "depthwise_int"

    def space(self, problem: Picture, spec: FpgaSpec) -> Space:
        most = max(1, spec.budget("dsp") // (problem.kh * problem.kw))
        return lane_space({"lanes": powers_to(problem.c)}, ("lanes",), most)

    def build(self, problem: Picture, config: Config) -> Kernel:
        p = problem
        check_sizes(self.name, p, h=p.h, w=p.w, c=p.c, out_h=p.out_h, out_w=p.out_w)
        lanes = check_knob(self.name, "lanes", config.int("lanes"), p.c)
        source = array("X", (p.h, p.w, p.c), "int8", factors=(1, 1, lanes), role="in")
        weights = array("W", (p.kh, p.kw, p.c), "int8", factors=(p.kh, p.kw, lanes), role="in")
        result = array("Y", (p.out_h, p.out_w, p.c), "int32", factors=(1, 1, lanes), role="out")
        nest = NestBuilder("slide")
        window = slide(nest, source, p, lanes)
        rows, columns, over = window.lanes
        channel = window.group * lanes + var("s")
        channels = within(channel, p.c, lanes)
        weight = load(weights, var("r"), var("j"), channel, guard=channels)
        term = op("mul", window.value[var("r"), var("j"), var("s")], weight, dtype=INT32)
        total = reduce("add", [rows, columns], term)
        nest.store(result, [window.y, window.x, channel], total, [over], guard=both(window.valid, channels))
        return kernel(self.name, [source, weights, result, *window.arrays], [nest.nest()])

    def reference(self, problem: Picture, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        weights = inputs["W"].astype(np.int32)
        terms = [piece.astype(np.int32) * weights[r, j] for r, j, piece in windows_of(inputs["X"], problem)]
        return {"Y": np.stack(terms).sum(0, dtype=np.int32)}
