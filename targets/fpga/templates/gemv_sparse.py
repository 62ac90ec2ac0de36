"""int8 matrix-vector product with N of every M weights kept (2:4, 1:4): y[r] = sum of value * x[group of M + index].

As in a sparse DSP chain, each multiplier picks its operand from a group of M by a multiplexer that the weight's index
drives: the kept weights alone take cycles. With N = M the product is dense and needs no multiplexer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.template import Config, Space
from ..kernel.affine import Affine, var
from ..kernel.builder import NestBuilder, array, both, const, equals, kernel, load, op, reduce
from ..kernel.ir import Array, Expr, Kernel, Loop
from ..kernel.types import scalar
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .gemm_int import within


@dataclass(frozen=True)
class SparseProblem:
    """y[rows] = W[rows, columns] x[columns], `kept` of every `group` weights of a row stored; `group` divides
    columns."""

    rows: int
    columns: int
    kept: int = 2
    group: int = 4

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return self.columns // self.group


class GemvSparse(KernelTemplate[SparseProblem]):
    """Knobs: rows at a time; groups of a row at a time, each with `kept` multipliers."""

    name = "gemv_sparse"

    def space(self, problem: SparseProblem, spec: FpgaSpec) -> Space:
        choices = {"rows": powers_to(problem.rows), "groups": powers_to(problem.groups)}
        return lane_space(choices, ("rows", "groups"), max(1, spec.budget("dsp") // problem.kept))

    def build(self, problem: SparseProblem, config: Config) -> Kernel:
        p = problem
        check_sizes(self.name, p, rows=p.rows, columns=p.columns, kept=p.kept, group=p.group)
        if p.columns % p.group or p.kept > p.group:
            raise KompiloError(f"FPGA template gemv_sparse: expected whole groups with at most all kept, found {p}.")
        rows = check_knob(self.name, "rows", config.int("rows"), p.rows)
        groups = check_knob(self.name, "groups", config.int("groups"), p.groups)
        shape, factors = (p.rows, p.groups, p.kept), (rows, groups, p.kept)
        values = array("V", shape, "int8", factors=factors, role="in")
        places = array("I", shape, index_type(p.group), factors=factors, role="in")
        x = array("X", (p.groups, p.group), "int8", factors=(groups, p.group), role="in")
        y = array("Y", (p.rows,), "int32", factors=(rows,), role="out")
        sums = array("sums", (rows,), "int32", "register")
        nest = NestBuilder("product")
        ro, go = nest.serial("ro", -(-p.rows // rows)), nest.serial("go", -(-p.groups // groups))
        r, g = ro * rows + var("ri"), go * groups + var("gi")
        row, group = within(r, p.rows, rows), within(g, p.groups, groups)
        guard = both(row, group) if row is not None or group is not None else None
        operand = self._operand(p, x, load(places, r, g, var("n"), guard=guard), g, group)
        term = op("mul", load(values, r, g, var("n"), guard=guard), operand, dtype=scalar("int32"))
        terms = reduce("add", [Loop("gi", groups), Loop("n", p.kept)], term)
        lanes = [Loop("ri", rows)]
        total = nest.accumulate("total", sums, [var("ri")], terms, equals(go, 0), lanes)
        nest.store(y, [r], total[var("ri")], lanes, guard=both(equals(go, -(-p.groups // groups) - 1), row))
        arrays = [values, x, y, sums] if p.kept == p.group else [values, places, x, y, sums]
        return kernel(self.name, arrays, [nest.nest()])

    def _operand(self, p: SparseProblem, x: Array, place: Expr, g: Affine, guard: Expr | None) -> Expr:
        """The element of x that a weight meets."""
        if p.kept == p.group:
            return load(x, g, var("n"), guard=guard)
        chosen: Expr = load(x, g, p.group - 1, guard=guard)
        for k in reversed(range(p.group - 1)):
            here = op("eq", place, const(k, place.dtype))
            chosen = op("select", here, load(x, g, k, guard=guard), chosen)
        return chosen

    def reference(self, problem: SparseProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x, values = inputs["X"].astype(np.int32), inputs["V"].astype(np.int32)
        places = inputs.get("I", np.broadcast_to(np.arange(problem.kept), values.shape))
        # The multiplexer has one input per place: an index beyond the group is the last one.
        places = np.minimum(places, problem.group - 1).astype(np.int64)
        return {"Y": (values * x[np.arange(problem.groups)[:, None], places]).sum((1, 2), dtype=np.int32)}


def index_type(group: int) -> str:
    """The type of a weight's place in its group."""
    return f"uint{max(2, (group - 1).bit_length())}"


def compress(weights: np.ndarray, kept: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """V and I of an int8 matrix [rows, columns] that has at most `kept` nonzeros in each group; KompiloError if it
    has more."""
    grouped = weights.reshape(len(weights), -1, group)
    most = int((grouped != 0).sum(2).max(initial=0))
    if most > kept:
        raise KompiloError(f"FPGA template gemv_sparse: expected {kept} nonzeros of {group} at most, found {most}.")
    places = np.argsort(grouped == 0, axis=2, kind="stable")[:, :, :kept]
    return np.take_along_axis(grouped, places, 2), places.astype(np.uint8)
