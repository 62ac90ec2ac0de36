"""Matrix-vector product with int8 or int4 weights that share a scale in each group of columns, for decoders:
Y[r] = sum over groups g of S[r, g] * (sum over the group's columns of W[r, c] X[c]).

float32 activations: weights become floats by a table of look-up tables; a row's `uk` products are summed by a tree,
times the scale, and added to Y. int8 activations: a group's sum is an exact integer, which becomes a float, times
the scale, and is added to Y. Additions take turns over `im` rows, so that none waits: II 1 from five rows on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.template import Config, Space
from ..kernel.affine import Affine, var
from ..kernel.builder import NestBuilder, array, both, const, equals, kernel, load, lookup, op, reduce
from ..kernel.ir import Array, Expr, Kernel, Loop
from ..kernel.model import product_dsps
from ..kernel.ops import FLOAT_ADD
from ..kernel.types import FLOAT32, INT32, float_bits, scalar
from ..spec import FpgaSpec
from .base import MAX_LANES, KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .float_math import Numpy, rows_sum
from .gemm_int import within

# 1.5 * 2^23: its last bits, plus an integer of magnitude below 2^22, are a float that far from it.
_BIAS = 1.5 * 2.0**23


@dataclass(frozen=True)
class DequantProblem:
    """`groups` groups of `group` columns; `bits` of a weight (4 or 8); activations "float32" or "int8"."""

    rows: int
    groups: int
    group: int
    bits: int = 8
    activations: str = "float32"


class GemvDequant(KernelTemplate[DequantProblem]):
    """W[rows, groups, group] int8 or int4, S[rows, groups] float32, X[groups, group] -> Y[rows] float32. Knobs: um rows
    and uk columns at a time; im rows of each lane take turns.
    """

    name = "gemv_dequant"

    def space(self, problem: DequantProblem, spec: FpgaSpec) -> Space:
        p = problem
        product = product_dsps(25, 25, spec.dsp)
        dsps = product if p.activations == "float32" else 1
        found = []
        for um in powers_to(p.rows):
            im = [min(-(-p.rows // um), FLOAT_ADD)]
            choices = {"um": [um], "uk": powers_to(p.group), "im": im}
            lanes = (c for c in lane_space(choices, ("um", "uk"), MAX_LANES))
            found += [c for c in lanes if um * (c.int("uk") * dsps + product) <= spec.budget("dsp")]
        found = found or [Config.of(um=1, uk=1, im=min(p.rows, FLOAT_ADD))]
        found.sort(key=lambda c: (-c.int("um") * c.int("uk") * min(c.int("im"), FLOAT_ADD), c.int("um"), c.int("uk")))
        return Space(found[0], tuple(found))

    def build(self, problem: DequantProblem, config: Config) -> Kernel:
        p = problem
        check_sizes(self.name, p, rows=p.rows, groups=p.groups, group=p.group)
        if p.bits not in (4, 8) or p.activations not in ("float32", "int8"):
            expected = "weights of 4 or 8 bits, activations of float32 or int8"
            raise KompiloError(f"FPGA template gemv_dequant: expected {expected}, found {p.bits}, {p.activations}.")
        if p.activations == "int8" and p.group << (p.bits + 6) > 1 << 22:
            raise KompiloError(f"FPGA template gemv_dequant: expected sums of a group of 2^22 at most, found {p}.")
        um = check_knob(self.name, "um", config.int("um"), p.rows)
        uk = check_knob(self.name, "uk", config.int("uk"), p.group)
        im = check_knob(self.name, "im", config.int("im"), -(-p.rows // um))
        return _Build(p, um, uk, im).kernel()

    def reference(self, problem: DequantProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.expected(problem, Config.of(um=1, uk=1, im=1), inputs)

    def expected(
        self, problem: DequantProblem, config: Config, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        m, w, x = Numpy(), inputs["W"], inputs["X"]
        total = np.zeros(problem.rows, np.float32)
        for g in range(problem.groups):
            if problem.activations == "int8":
                dots = [w[:, g].astype(np.int32) @ x[g].astype(np.int32)]
            else:
                dots = _trees(w[:, g].astype(np.float32), x[g], config.int("uk"))
            for dot in dots:
                total = m.add(total, m.mul(dot.astype(np.float32), inputs["S"][:, g]))
        return {"Y": total}


def _trees(w: np.ndarray, x: np.ndarray, uk: int) -> list[np.ndarray]:
    """The sums of uk products each, filled up with zeros."""
    products = Numpy().mul(w, x)
    padded = np.pad(products, ((0, 0), (0, -products.shape[1] % uk)))
    return [rows_sum(padded[:, k : k + uk]) for k in range(0, padded.shape[1], uk)]


class _Build:
    def __init__(self, p: DequantProblem, um: int, uk: int, im: int):
        self.p, self.um, self.uk, self.im = p, um, uk, im
        self.weights = array("W", (p.rows, p.groups, p.group), f"int{p.bits}", factors=(um, 1, uk), role="in")
        self.scales = array("S", (p.rows, p.groups), "float32", factors=(um, 1), role="in")
        self.x = array("X", (p.groups, p.group), p.activations, factors=(1, uk), role="in")
        self.y = array("Y", (p.rows,), "float32", factors=(um,), role="out")
        self.sums = array("sums", (im, um), "float32", "register")
        self.chunks = -(-p.group // uk)
        self.over = [Loop("ri", um)]

    def kernel(self) -> Kernel:
        p, nest = self.p, NestBuilder("product")
        blocks = -(-p.rows // (self.um * self.im))
        block, group = nest.serial("block", blocks), nest.serial("g", p.groups)
        chunk, turn = nest.serial("chunk", self.chunks), nest.serial("turn", self.im)
        row = (block * self.im + turn) * self.um + var("ri")
        rows = within(row, p.rows, self.um * self.im)
        term, local = (self._floats if p.activations == "float32" else self._integers)(nest, row, rows)
        scaled = op("mul", term, load(self.scales, row, group, guard=rows))
        start = both(equals(group, 0), equals(chunk, 0))
        last = both(equals(group, p.groups - 1), equals(chunk, self.chunks - 1))
        at = [turn, var("ri")]
        if p.activations == "int8" and self.chunks > 1:  # a group counts when it is complete
            scaled = op("select", equals(chunk, self.chunks - 1), scaled, const(0.0, FLOAT32))
        total = nest.accumulate("total", self.sums, at, scaled, start, self.over)
        nest.store(self.y, [row], total[var("ri")], self.over, guard=both(last, rows))
        return kernel("gemv_dequant", [self.weights, self.scales, self.x, self.y, self.sums, *local], [nest.nest()])

    def _operands(self, row: Affine, rows: Expr | None) -> tuple[Expr, Expr]:
        """A weight and what it meets, zero outside."""
        column = var("chunk") * self.uk + var("ki")
        columns = within(column, self.p.group, self.uk)
        guard = both(rows, columns) if rows is not None or columns is not None else None
        return load(self.weights, row, var("g"), column, guard=guard), load(self.x, var("g"), column, guard=columns)

    def _floats(self, nest: NestBuilder, row: Affine, rows: Expr | None) -> tuple[Expr, list[Array]]:
        """The sum of a chunk's products."""
        weight, x = self._operands(row, rows)
        bits = self.p.bits
        table = [float_bits(float(scalar(f"int{bits}").wrap(k))) for k in range(1 << bits)]
        value = op("bits_float", lookup(table, op("cast", weight, dtype=scalar(f"uint{bits}")), INT32), dtype=FLOAT32)
        return reduce("add", [Loop("ki", self.uk)], op("mul", value, x)), []

    def _integers(self, nest: NestBuilder, row: Affine, rows: Expr | None) -> tuple[Expr, list[Array]]:
        """The sum of a group's products so far, as a float."""
        weight, x = self._operands(row, rows)
        dot = reduce("add", [Loop("ki", self.uk)], op("mul", weight, x, dtype=INT32))
        local: list[Array] = []
        value: Expr = dot
        if self.chunks > 1:
            local = [array("dots", (self.im, self.um), "int32", "register")]
            at = [var("turn"), var("ri")]
            sums = nest.accumulate("dot", local[0], at, dot, equals(var("chunk"), 0), self.over)
            value = sums[var("ri")]
        near = op("bits_float", op("add", value, const(float_bits(_BIAS), INT32), dtype=INT32), dtype=FLOAT32)
        return op("sub", near, const(_BIAS, FLOAT32)), local
