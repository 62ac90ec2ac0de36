"""Softmax of the rows of a float32 matrix: exp(x - max) / sum of exp(x - max). II 1 in each of its four nests."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ....compiler.schedule.template import Config, Space
from ..kernel.affine import var
from ..kernel.builder import NestBuilder, array, const, equals, kernel, load, op, reduce
from ..kernel.ir import Array, Kernel, Nest
from ..kernel.types import FLOAT32
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .float_math import Numpy, Pipeline, exp, reciprocal
from .row_sums import Rows, RowsProblem, inside, most_lanes

# Float products: nine in exp and one that scales for each lane; four for a reciprocal.
_LANE_PRODUCTS, _ROW_PRODUCTS = 10, 4


class Softmax(KernelTemplate[RowsProblem]):
    """X -> Y, both [rows, n]. Elements may be minus infinity, if not all of a row are. Knob: lanes over n."""

    name = "softmax"

    def space(self, problem: RowsProblem, spec: FpgaSpec) -> Space:
        return lane_space(
            {"lanes": powers_to(min(problem.n, 64))}, ("lanes",), most_lanes(spec, _LANE_PRODUCTS, _ROW_PRODUCTS)
        )

    def build(self, problem: RowsProblem, config: Config) -> Kernel:
        check_sizes(self.name, problem, rows=problem.rows, n=problem.n)
        rows = Rows(problem, check_knob(self.name, "lanes", config.int("lanes"), problem.n))
        x, y, powers = rows.matrix("X", "in"), rows.matrix("Y", "out"), rows.matrix("powers")
        highest, scales, parts = rows.vector("highest"), rows.vector("scales"), rows.parts_of("parts")
        largest, best = _largest(rows, x, highest)
        exponentials = NestBuilder("exponentials")
        row, column, guard = rows.walk_parts(exponentials)
        pipeline = Pipeline(exponentials, rows.over)
        shifted = pipeline.sub(load(x, row, column, guard=guard), load(highest, row))
        power = pipeline.name(inside(guard, exp(pipeline, shifted), const(0.0, FLOAT32)))
        exponentials.store(powers, [row, column], power, rows.over, guard=guard)
        sums = rows.store_sum(exponentials, power, parts)
        invert = NestBuilder("invert")
        row = invert.serial("row", rows.rows)
        single = Pipeline(invert)
        invert.store(scales, [row], reciprocal(single, single.name(rows.load_sum(row, parts))))
        scale = NestBuilder("scale")
        row, column, guard = rows.walk(scale)
        product = op("mul", load(powers, row, column, guard=guard), load(scales, row))
        scale.store(y, [row, column], product, rows.over, guard=guard)
        arrays = [x, y, powers, highest, scales, parts, best, *sums]
        return kernel(self.name, arrays, [largest, exponentials.nest(), invert.nest(), scale.nest()])

    def reference(self, problem: RowsProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.expected(problem, Config.of(lanes=1), inputs)

    def expected(self, problem: RowsProblem, config: Config, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        m, x = Numpy(), inputs["X"]
        powers = exp(m, m.sub(x, x.max(1, keepdims=True)))
        return {"Y": m.mul(powers, reciprocal(m, Rows(problem, config.int("lanes")).sums(powers)))}


def _largest(rows: Rows, x: Array, highest: Array) -> tuple[Nest, Array]:
    """The nest that finds each row's maximum, and the register it takes."""
    nest, best = NestBuilder("largest"), array("best", (1,), "float32", "register")
    row, column, guard = rows.walk(nest)
    value = inside(guard, load(x, row, column, guard=guard), const(-math.inf, FLOAT32))
    first, last = equals(var("chunk"), 0), equals(var("chunk"), rows.chunks - 1)
    most = nest.accumulate("most", best, [0], reduce("max", rows.over, value), first, combine="max")
    nest.store(highest, [row], most[()], guard=last)
    return nest.nest(), best
