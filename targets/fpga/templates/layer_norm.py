"""Normalisation of the rows of a float32 matrix: layer norm (x - mean) / sqrt(variance + epsilon) * gain + bias, and
root-mean-square norm, which has neither mean nor bias. II 1 in each nest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.template import Config, Space
from ..kernel.affine import Affine
from ..kernel.builder import NestBuilder, array, const, kernel, load
from ..kernel.ir import Array, Expr, Kernel, Nest
from ..kernel.types import FLOAT32
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .float_math import Machine, Number, Numpy, Pipeline, rsqrt
from .row_sums import Rows, RowsProblem, inside, most_lanes

KINDS = ("layer", "rms")
# Float products: the square and two of the result for each lane; means and a root for a row.
_LANE_PRODUCTS, _ROW_PRODUCTS = 3, 9


@dataclass(frozen=True)
class NormProblem(RowsProblem):
    """`kind` is "layer" (inputs X, G: gain, B: bias) or "rms" (X, G)."""

    epsilon: float = 1e-5
    kind: str = "layer"


class LayerNorm(KernelTemplate[NormProblem]):
    """X[rows, n], G[n], B[n] -> Y[rows, n]. Knob: lanes over n."""

    name = "layer_norm"

    def space(self, problem: NormProblem, spec: FpgaSpec) -> Space:
        return lane_space(
            {"lanes": powers_to(min(problem.n, 64))}, ("lanes",), most_lanes(spec, _LANE_PRODUCTS, _ROW_PRODUCTS)
        )

    def build(self, problem: NormProblem, config: Config) -> Kernel:
        check_sizes(self.name, problem, rows=problem.rows, n=problem.n)
        if problem.kind not in KINDS or not problem.epsilon >= 1e-37:
            raise KompiloError(
                f"FPGA template layer_norm: expected a kind of {', '.join(KINDS)} and an epsilon of at least 1e-37, "
                f"found {problem.kind!r}, {problem.epsilon}."
            )
        rows = Rows(problem, check_knob(self.name, "lanes", config.int("lanes"), problem.n))
        return _Build(problem, rows).kernel()

    def reference(self, problem: NormProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.expected(problem, Config.of(lanes=1), inputs)

    def expected(self, problem: NormProblem, config: Config, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        m, rows, x = Numpy(), Rows(problem, config.int("lanes")), inputs["X"]
        if problem.kind == "layer":
            x = m.sub(x, m.mul(rows.sums(x), 1 / problem.n))
        scale = _scale(m, rows.sums(m.mul(x, x)), problem)
        y = m.mul(m.mul(x, scale), inputs["G"])
        return {"Y": m.add(y, inputs["B"]) if problem.kind == "layer" else y}


def _scale(m: Machine, squares: Number, problem: NormProblem) -> Number:
    """1 / sqrt(mean of squares + epsilon)."""
    return rsqrt(m, m.add(m.mul(squares, 1 / problem.n), problem.epsilon))


class _Build:
    def __init__(self, problem: NormProblem, rows: Rows):
        self.problem, self.rows = problem, rows
        self.x, self.y = rows.matrix("X", "in"), rows.matrix("Y", "out")
        names = ("G", "B") if problem.kind == "layer" else ("G",)
        self.affine = [array(n, (rows.n,), "float32", factors=(rows.lanes,), role="in") for n in names]
        self.means = rows.vector("means") if problem.kind == "layer" else None
        self.local: list[Array] = [self.means] if self.means is not None else []

    def kernel(self) -> Kernel:
        nests = []
        if self.means is not None:
            sums, parts = self._sum("sums", squared=False)
            nests += [sums, self._per_row("average", self.means, parts)]
        squares, parts = self._sum("squares", squared=True)
        scales = self.rows.vector("scales")
        self.local.append(scales)
        nests += [squares, self._per_row("invert", scales, parts), self._apply(scales)]
        return kernel("layer_norm", [self.x, *self.affine, self.y, *self.local], nests)

    def _centred(self, m: Pipeline, row: Affine, column: Affine, guard: Expr | None) -> Expr:
        """x - mean in a lane; not zero outside of the row."""
        value: Expr = load(self.x, row, column, guard=guard)
        return m.sub(value, load(self.means, row)) if self.means is not None else m.name(value)

    def _sum(self, name: str, squared: bool) -> tuple[Nest, Array]:
        """The nest that sums x, or the squares of x - mean; the array of the parts of sums."""
        nest = NestBuilder(name)
        parts = self.rows.parts_of(f"{name}_parts")
        row, column, guard = self.rows.walk_parts(nest)
        m = Pipeline(nest, self.rows.over)
        value: Expr = load(self.x, row, column, guard=guard)
        if squared:
            centred = self._centred(m, row, column, guard)
            value = m.mul(centred, centred)
            value = inside(guard, value, const(0.0, FLOAT32)) if self.means is not None else value
        self.local += [parts, *self.rows.store_sum(nest, value, parts)]
        return nest.nest(), parts

    def _per_row(self, name: str, result: Array, parts: Array) -> Nest:
        """The nest that makes means, or scales, of sums."""
        nest = NestBuilder(name)
        row, m = nest.serial("row", self.rows.rows), Pipeline(nest)
        total = m.name(self.rows.load_sum(row, parts))
        made = m.mul(total, 1 / self.rows.n) if result is self.means else _scale(m, total, self.problem)
        nest.store(result, [row], made)
        return nest.nest()

    def _apply(self, scales: Array) -> Nest:
        nest = NestBuilder("apply")
        row, column, guard = self.rows.walk(nest)
        m = Pipeline(nest, self.rows.over)
        value = m.mul(self._centred(m, row, column, guard), load(scales, row))
        value = m.mul(value, load(self.affine[0], column, guard=guard))
        if len(self.affine) == 2:
            value = m.add(value, load(self.affine[1], column, guard=guard))
        nest.store(self.y, [row, column], value, self.rows.over, guard=guard)
        return nest.nest()
