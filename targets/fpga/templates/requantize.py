"""int32 sums to int8: bias, a multiplier and a rounding shift for each channel, saturation (with low 0: relu).

The arithmetic is that of compiler/schedule/requantize.py: y = clip((a * multiplier + 2^(shift - 1)) >> shift, low,
high) with a = sum + bias (wrapped to int32); halves are rounded up. The product of int32 and a multiplier below 2^31
fits into 63 bits. The shifter moves by shift - 1; one is added to what it leaves, and halved: the same number, with no
2^(shift - 1) to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.requantize import requantize
from ....compiler.schedule.template import Config, Space
from ..kernel.affine import var
from ..kernel.builder import NestBuilder, array, const, kernel, load, op
from ..kernel.ir import Expr, Kernel, Loop
from ..kernel.model import product_dsps
from ..kernel.types import INT32, scalar
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .gemm_int import within
from .row_sums import memory_of

_WIDE = scalar("int64")
_INT8 = scalar("int8")


@dataclass(frozen=True)
class RequantizeProblem:
    """Sums A[rows, channels]; results lie in [low, high], within int8. `bias`: whether there is an input B."""

    rows: int
    channels: int
    low: int = -128
    high: int = 127
    bias: bool = True


class Requantize(KernelTemplate[RequantizeProblem]):
    """A[rows, channels] int32, B[channels] int32 (if `bias`), M[channels] int32 multipliers in [0, 2^31), S[channels]
    uint6 shifts in [1, 62] -> Y[rows, channels] int8. Knob: lanes over channels.
    """

    name = "requantize"

    def space(self, problem: RequantizeProblem, spec: FpgaSpec) -> Space:
        most = max(1, spec.budget("dsp") // product_dsps(32, 32, spec.dsp))
        return lane_space({"lanes": powers_to(min(problem.channels, 64))}, ("lanes",), most)

    def build(self, problem: RequantizeProblem, config: Config) -> Kernel:
        p = problem
        check_sizes(self.name, p, rows=p.rows, channels=p.channels)
        if not _INT8.low <= p.low <= p.high <= _INT8.high:
            found = f"low {p.low}, high {p.high}"
            raise KompiloError(f"FPGA template requantize: expected -128 <= low <= high <= 127, found {found}.")
        lanes = check_knob(self.name, "lanes", config.int("lanes"), p.channels)
        source = array("A", (p.rows, p.channels), "int32", factors=(1, lanes), role="in")
        result = array("Y", (p.rows, p.channels), "int8", factors=(1, lanes), role="out")
        types = {"B": "int32", "M": "int32", "S": "uint6"}
        memory = memory_of(-(-p.channels // lanes))
        per_channel = {
            n: array(n, (p.channels,), t, memory, (lanes,), "in") for n, t in types.items() if n != "B" or p.bias
        }
        nest, over = NestBuilder("map"), [Loop("lane", lanes)]
        row, group = nest.serial("row", p.rows), nest.serial("group", -(-p.channels // lanes))
        channel = group * lanes + var("lane")
        guard = within(channel, p.channels, lanes)
        parameters = {n: load(a, channel, guard=guard) for n, a in per_channel.items()}
        total: Expr = load(source, row, channel, guard=guard)
        if p.bias:
            total = op("add", total, parameters["B"], dtype=INT32)
        value = requantized(nest, over, total, parameters["M"], parameters["S"], (p.low, p.high))
        nest.store(result, [row, channel], value, over, guard=guard)
        return kernel(self.name, [source, *per_channel.values(), result], [nest.nest()])

    def reference(self, problem: RequantizeProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        total = inputs["A"]
        if problem.bias:
            total = (total.astype(np.int64) + inputs["B"]).astype(np.int32)
        return {"Y": requantize(total, inputs["M"], inputs["S"], problem.low, problem.high)}


def requantized(
    nest: NestBuilder, lanes: list[Loop], total: Expr, multiplier: Expr, shift: Expr, bounds: tuple[int, int]
) -> Expr:
    """The int8 value of an int32 one in each lane; the multiplier in [0, 2^31), the shift in [1, 62] (uint6)."""
    positive = op("cast", multiplier, dtype=scalar("uint31"))
    product = op("mul", total, positive, dtype=_WIDE)
    less = op("cast", op("sub", shift, const(1, shift.dtype), dtype=scalar("int7")), dtype=scalar("uint6"))
    kept = op("shrv", product, less, dtype=_WIDE)
    halved = op("shr", op("add", kept, const(1, _WIDE), dtype=_WIDE), const(1, scalar("uint1")), dtype=_WIDE)
    clipped = op("min", op("max", halved, const(bounds[0], _WIDE)), const(bounds[1], _WIDE))
    value = nest.let("requantized", op("cast", clipped, dtype=_INT8), lanes)
    return value[tuple(var(lane.var) for lane in lanes)]
