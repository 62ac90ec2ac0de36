"""Any function of one int8 element as a table of 256 entries in look-up tables: quantised activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.template import Config, Space
from ..kernel.affine import var
from ..kernel.builder import NestBuilder, array, kernel, load, lookup, op
from ..kernel.ir import Kernel, Loop
from ..kernel.types import scalar
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .gemm_int import within


@dataclass(frozen=True)
class TableProblem:
    """`size` int8 elements A; Y[i] = table[A[i] mod 256], int8."""

    size: int
    table: tuple[int, ...]


class TableInt(KernelTemplate[TableProblem]):
    """Knob: lanes, elements per cycle, each with a table of its own."""

    name = "table_int"

    def space(self, problem: TableProblem, spec: FpgaSpec) -> Space:
        return lane_space({"lanes": powers_to(min(problem.size, 64))}, ("lanes",), 64)

    def build(self, problem: TableProblem, config: Config) -> Kernel:
        check_sizes(self.name, problem.size, size=problem.size)
        lanes = check_knob(self.name, "lanes", config.int("lanes"), problem.size)
        source, result = (
            array(name, (problem.size,), "int8", factors=(lanes,), role=role)
            for name, role in (("A", "in"), ("Y", "out"))
        )
        nest = NestBuilder("map")
        index = nest.serial("i", -(-problem.size // lanes)) * lanes + var("lane")
        guard = within(index, problem.size, lanes)
        place = op("cast", load(source, index, guard=guard), dtype=scalar("uint8"))
        nest.store(result, [index], lookup(problem.table, place, scalar("int8")), [Loop("lane", lanes)], guard=guard)
        return kernel(self.name, [source, result], [nest.nest()])

    def reference(self, problem: TableProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"Y": np.array(problem.table, np.int8)[inputs["A"].view(np.uint8)]}


_GELU = 0.044715, math.sqrt(2 / math.pi)
# Exact functions of float64 numbers.
EXACT: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "exp": math.exp,
    "sigmoid": lambda x: 0.5 * (1 + math.tanh(x / 2)),
    "tanh": math.tanh,
    "silu": lambda x: x * 0.5 * (1 + math.tanh(x / 2)),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x * math.sqrt(0.5))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + math.tanh(_GELU[1] * (x + _GELU[0] * x**3))),
}


def activation_table(kind: str, in_scale: float, out_scale: float) -> tuple[int, ...]:
    """The table of an activation of int8 times `in_scale` to int8 times `out_scale`: the nearest number (halves to
    even), saturated. KompiloError if the kind is unknown."""
    if kind not in EXACT:
        raise KompiloError(f"FPGA template table_int: expected one of {', '.join(EXACT)}, found {kind!r}.")
    values = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64) * in_scale
    exact = np.array([EXACT[kind](float(x)) for x in values]) / out_scale
    return tuple(int(v) for v in np.clip(np.rint(exact), -128, 127))
