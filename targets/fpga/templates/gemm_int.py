"""int8 matrix product with int32 sums: C[m, n] = A[m, k] B[k, n], as an array of um x un x uk multipliers.

Operands lie in banked block RAM; every cycle reads a um x uk piece of A and a uk x un piece of B. Sizes that lanes
do not divide are filled up with zeros by guarded loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.schedule.template import Config, Space
from ..kernel.affine import Affine, var
from ..kernel.builder import NestBuilder, array, below, both, equals, kernel, load, op, reduce
from ..kernel.ir import Expr, Kernel, Loop
from ..kernel.types import scalar
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to


@dataclass(frozen=True)
class GemmProblem:
    """Sizes of C[m, n] = A[m, k] B[k, n], and the operands' type."""

    m: int
    n: int
    k: int
    dtype: str = "int8"


def within(index: Affine, size: int, lanes: int) -> Expr | None:
    """The guard `index < size`; None where lanes divide the size, so that it always holds."""
    return below(index, size) if size % lanes else None


class GemmInt(KernelTemplate[GemmProblem]):
    """Knobs: um, un, uk lanes over rows, columns and the reduction (uk shortens the sum, um and un reuse operands)."""

    name = "gemm_int"

    def space(self, problem: GemmProblem, spec: FpgaSpec) -> Space:
        choices = {"um": powers_to(problem.m), "un": powers_to(problem.n), "uk": powers_to(problem.k)}
        return lane_space(choices, ("um", "un", "uk"), spec.budget("dsp"))

    def build(self, problem: GemmProblem, config: Config) -> Kernel:
        p = problem
        check_sizes(self.name, p, m=p.m, n=p.n, k=p.k)
        um, un, uk = (
            check_knob(self.name, knob, config.int(knob), size)
            for knob, size in (("um", p.m), ("un", p.n), ("uk", p.k))
        )
        a = array("A", (p.m, p.k), p.dtype, factors=(um, uk), role="in")
        b = array("B", (p.k, p.n), p.dtype, factors=(uk, un), role="in")
        c = array("C", (p.m, p.n), "int32", factors=(um, un), role="out")
        sums = array("sums", (um, un), "int32", "register")
        nest = NestBuilder("product")
        io, jo = nest.serial("io", -(-p.m // um)), nest.serial("jo", -(-p.n // un))
        ko = nest.serial("ko", -(-p.k // uk))
        i, j, k = io * um + var("ii"), jo * un + var("ji"), ko * uk + var("ki")
        rows, columns, inner = within(i, p.m, um), within(j, p.n, un), within(k, p.k, uk)
        left = load(a, i, k, guard=_guard(rows, inner))
        right = load(b, k, j, guard=_guard(inner, columns))
        terms = reduce("add", [Loop("ki", uk)], op("mul", left, right, dtype=scalar("int32")))
        lanes = [Loop("ii", um), Loop("ji", un)]
        total = nest.accumulate("total", sums, [var("ii"), var("ji")], terms, equals(ko, 0), lanes)
        last = both(equals(ko, -(-p.k // uk) - 1), rows, columns)
        nest.store(c, [i, j], total[var("ii"), var("ji")], lanes, guard=last)
        return kernel(self.name, [a, b, c, sums], [nest.nest()])

    def reference(self, problem: GemmProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"C": inputs["A"].astype(np.int32) @ inputs["B"].astype(np.int32)}


def _guard(*conditions: Expr | None) -> Expr | None:
    return both(*conditions) if any(c is not None for c in conditions) else None
