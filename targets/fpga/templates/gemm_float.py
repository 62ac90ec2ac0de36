"""float32 and float16 matrix product, one multiply-add per lane and cycle: C[m, n] = A[m, k] B[k, n].

An adder takes 5 cycles, so a sum that is added to every cycle would wait for itself. Between two terms of one sum
the loops over im rows and jn column groups, inside of that over k, add to im * jn - 1 others: with im * jn >= 5 an
iteration starts every cycle. Terms are added in the order of k, starting from zero; every product and sum is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....compiler.schedule.template import Config, Space
from ..kernel.affine import var
from ..kernel.builder import NestBuilder, array, both, equals, kernel, load, op
from ..kernel.ir import Kernel, Loop
from ..kernel.ops import FLOAT_ADD
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .gemm_int import GemmProblem, within


class GemmFloat(KernelTemplate[GemmProblem]):
    """Knobs: un lanes over columns; im and jn sums that are interleaved, over rows and over groups of columns."""

    name = "gemm_float"

    def space(self, problem: GemmProblem, spec: FpgaSpec) -> Space:
        p = problem
        found = []
        dsps = 2 if p.dtype == "float32" else 1
        for un in powers_to(p.n):
            groups = -(-p.n // un)
            for im in powers_to(min(p.m, 8)):
                jn = min(groups, -(-FLOAT_ADD // im))
                found.append({"un": [un], "im": [im], "jn": [jn]})
        configs = [c for f in found for c in lane_space(f, ("un",), spec.budget("dsp") // dsps)] if found else []
        # Most lanes among those that never wait for the adder; otherwise those that wait least.
        configs.sort(key=lambda c: (-c.int("un") * min(c.int("im") * c.int("jn"), FLOAT_ADD), c.int("im")))
        return Space(configs[0], tuple(configs))

    def build(self, problem: GemmProblem, config: Config) -> Kernel:
        p = problem
        check_sizes(self.name, p, m=p.m, n=p.n, k=p.k)
        un = check_knob(self.name, "un", config.int("un"), p.n)
        im = check_knob(self.name, "im", config.int("im"), p.m)
        groups = -(-p.n // un)
        jn = check_knob(self.name, "jn", config.int("jn"), groups)
        a = array("A", (p.m, p.k), p.dtype, role="in")
        b = array("B", (p.k, p.n), p.dtype, factors=(1, un), role="in")
        c = array("C", (p.m, p.n), p.dtype, factors=(1, un), role="out")
        sums = array("sums", (im, jn, un), p.dtype, "register")
        nest = NestBuilder("product")
        io, jo = nest.serial("io", -(-p.m // im)), nest.serial("jo", -(-groups // jn))
        k, ii, jj = nest.serial("k", p.k), nest.serial("ii", im), nest.serial("jj", jn)
        i, j = io * im + ii, (jo * jn + jj) * un + var("lane")
        rows, columns = within(i, p.m, im), within(j, p.n, un * jn)
        lanes = [Loop("lane", un)]
        product = op("mul", load(a, i, k, guard=rows), load(b, k, j, guard=columns))
        total = nest.accumulate("total", sums, [ii, jj, var("lane")], product, equals(k, 0), lanes)
        nest.store(c, [i, j], total[var("lane")], lanes, guard=both(equals(k, p.k - 1), rows, columns))
        return kernel(self.name, [a, b, c, sums], [nest.nest()])

    def reference(self, problem: GemmProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        a, b = inputs["A"], inputs["B"]
        total = np.zeros((problem.m, problem.n), a.dtype)
        for k in range(problem.k):
            total = total + a[:, k : k + 1] * b[k : k + 1]
        return {"C": total}
