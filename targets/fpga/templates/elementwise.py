"""Elementwise operators over flat arrays: relu, saturating sum of integers or plain sum of floats, and both in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.template import Config, Space
from ..kernel.affine import var
from ..kernel.builder import NestBuilder, array, const, kernel, load, op
from ..kernel.ir import Array, Expr, Kernel, Loop
from ..kernel.types import Scalar, scalar
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .gemm_int import within

KINDS = ("relu", "add", "add_relu")


@dataclass(frozen=True)
class ElementwiseProblem:
    """`size` elements of `dtype`; `kind` is one of KINDS."""

    size: int
    kind: str
    dtype: str = "int8"


class Elementwise(KernelTemplate[ElementwiseProblem]):
    """Knob: lanes, elements per cycle."""

    name = "elementwise"

    def space(self, problem: ElementwiseProblem, spec: FpgaSpec) -> Space:
        return lane_space({"lanes": powers_to(min(problem.size, 64))}, ("lanes",), 64)

    def build(self, problem: ElementwiseProblem, config: Config) -> Kernel:
        p, t = problem, scalar(problem.dtype)
        check_sizes(self.name, p, size=p.size)
        if p.kind not in KINDS:
            raise KompiloError(f"FPGA template elementwise: expected one of {', '.join(KINDS)}, found {p.kind!r}.")
        lanes = check_knob(self.name, "lanes", config.int("lanes"), p.size)
        names = ["A"] if p.kind == "relu" else ["A", "B"]
        inputs = [array(n, (p.size,), p.dtype, factors=(lanes,), role="in") for n in names]
        result = array("Y", (p.size,), p.dtype, factors=(lanes,), role="out")
        nest = NestBuilder("map")
        index = nest.serial("i", -(-p.size // lanes)) * lanes + var("lane")
        guard = within(index, p.size, lanes)
        loads = [load(a, index, guard=guard) for a in inputs]
        value: Expr = loads[0] if len(loads) == 1 else _sum(loads[0], loads[1], t)
        if p.kind != "add":
            value = op("max", value, const(0.0 if t.is_float else 0, t))
        nest.store(result, [index], value, [Loop("lane", lanes)], guard=guard)
        return kernel(self.name, _arrays(inputs, result), [nest.nest()])

    def reference(self, problem: ElementwiseProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        value = inputs["A"]
        if problem.kind != "relu":
            t = scalar(problem.dtype)
            other = inputs["B"]
            exact = value + other if t.is_float else value.astype(np.int64) + other
            value = exact if t.is_float else np.clip(exact, t.low, t.high).astype(t.numpy())
        return {"Y": value if problem.kind == "add" else np.where(value > 0, value, value.dtype.type(0))}


def _arrays(inputs: list[Array], result: Array) -> list[Array]:
    return [*inputs, result]


def _sum(a: Expr, b: Expr, t: Scalar) -> Expr:
    if t.is_float:
        return op("add", a, b)
    wide = scalar(f"int{t.bits + 2}")
    clipped = op("min", op("max", op("add", a, b, dtype=wide), const(t.low, wide)), const(t.high, wide))
    return op("cast", clipped, dtype=t)
