"""Pooling of int8 pictures, channels last: the largest value of each window (int8), or the sum (int32; averages are
scaled later).

One nest: windows from line buffers, reduced by a tree in every cycle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.template import Config, Space
from ..kernel.affine import var
from ..kernel.builder import NestBuilder, array, both, kernel, op, reduce
from ..kernel.ir import Kernel
from ..kernel.types import scalar
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .conv_int import windows_of
from .gemm_int import within
from .window import Picture, slide

# Kind: operation, type of the result, value of pixels outside.
KINDS = {"max": ("max", "int8", -128), "sum": ("add", "int32", 0)}


@dataclass(frozen=True)
class PoolProblem:
    """A picture, and "max" or "sum"."""

    picture: Picture
    kind: str = "max"


class Pool(KernelTemplate[PoolProblem]):
    """Knob: lanes over channels."""

    name = "pool"

    def space(self, problem: PoolProblem, spec: FpgaSpec) -> Space:
        return lane_space({"lanes": powers_to(problem.picture.c)}, ("lanes",), 64)

    def build(self, problem: PoolProblem, config: Config) -> Kernel:
        p = problem.picture
        check_sizes(self.name, problem, h=p.h, w=p.w, c=p.c, out_h=p.out_h, out_w=p.out_w)
        if problem.kind not in KINDS:
            raise KompiloError(f"FPGA template pool: expected a kind of {', '.join(KINDS)}, found {problem.kind!r}.")
        combine, dtype, outside = KINDS[problem.kind]
        lanes = check_knob(self.name, "lanes", config.int("lanes"), p.c)
        source = array("X", (p.h, p.w, p.c), "int8", factors=(1, 1, lanes), role="in")
        result = array("Y", (p.out_h, p.out_w, p.c), dtype, factors=(1, 1, lanes), role="out")
        nest = NestBuilder("slide")
        window = slide(nest, source, p, lanes, outside)
        rows, columns, over = window.lanes
        pixel = window.value[var("r"), var("j"), var("s")]
        value = reduce(combine, [rows, columns], op("cast", pixel, dtype=scalar(dtype)))
        channel = window.group * lanes + var("s")
        guard = both(window.valid, within(channel, p.c, lanes))
        nest.store(result, [window.y, window.x, channel], value, [over], guard=guard)
        return kernel(self.name, [source, result, *window.arrays], [nest.nest()])

    def reference(self, problem: PoolProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        combine, dtype, outside = KINDS[problem.kind]
        parts = np.stack([piece for _, _, piece in windows_of(inputs["X"], problem.picture, outside)])
        return {"Y": parts.max(0) if combine == "max" else parts.sum(0, dtype=np.dtype(dtype))}
