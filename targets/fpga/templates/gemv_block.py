"""int8 matrix-vector product with N of every M blocks of weights kept: y[r] = sum of V[r] * x[block of M that I names].

A block is `block_rows` rows by `block_columns` columns, and keeps or loses all its weights at once. One place, and one
multiplexer, serves a whole block of multipliers: where the weights of single columns are kept (`gemv_sparse`), each
multiplier needs its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.template import Config, Space
from ..kernel.affine import Affine, var
from ..kernel.builder import NestBuilder, array, both, const, equals, kernel, load, op, reduce
from ..kernel.ir import Expr, Kernel, Loop
from ..kernel.types import INT32
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .gemm_int import within
from .gemv_sparse import index_type


@dataclass(frozen=True)
class BlockProblem:
    """y[rows] = W[rows, columns] x[columns]; rows are whole blocks, columns whole groups of `group` blocks, of which
    `kept` are stored for every block of rows."""

    rows: int
    columns: int
    kept: int = 1
    group: int = 4
    block_rows: int = 4
    block_columns: int = 4

    @property
    def groups(self) -> int:
        """Groups of blocks along a row."""
        return self.columns // (self.group * self.block_columns)

    @property
    def strips(self) -> int:
        """Blocks of rows."""
        return self.rows // self.block_rows


class GemvBlock(KernelTemplate[BlockProblem]):
    """V[strips, block rows, groups, kept, block columns] int8, I[strips, groups, kept] places (unless all are kept),
    X[groups, group, block columns] int8 -> Y[strips, block rows] int32. Knobs: strips and groups at a time, each with
    `kept` blocks of multipliers.
    """

    name = "gemv_block"

    def space(self, problem: BlockProblem, spec: FpgaSpec) -> Space:
        p = problem
        choices = {"strips": powers_to(p.strips), "groups": powers_to(p.groups)}
        most = spec.budget("dsp") // (p.kept * p.block_rows * p.block_columns)
        return lane_space(choices, ("strips", "groups"), max(1, most))

    def build(self, problem: BlockProblem, config: Config) -> Kernel:
        p = problem
        sizes = {"kept": p.kept, "group": p.group, "block_rows": p.block_rows, "block_columns": p.block_columns}
        check_sizes(self.name, p, rows=p.rows, columns=p.columns, **sizes)
        whole = p.rows % p.block_rows == 0 and p.columns % (p.group * p.block_columns) == 0
        if not whole or p.kept > p.group:
            raise KompiloError(f"FPGA template gemv_block: expected whole blocks with at most all kept, found {p}.")
        strips = check_knob(self.name, "strips", config.int("strips"), p.strips)
        groups = check_knob(self.name, "groups", config.int("groups"), p.groups)
        return _Build(p, strips, groups).kernel()

    def reference(self, problem: BlockProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        p, x, values = problem, inputs["X"].astype(np.int32), inputs["V"].astype(np.int32)
        kept = np.broadcast_to(np.arange(p.kept), (p.strips, p.groups, p.kept))
        # The multiplexer has one input per place: an index beyond the group is the last one.
        places = np.minimum(inputs.get("I", kept), p.group - 1).astype(np.int64)
        met = x[np.arange(p.groups)[:, None], places]  # [strips, groups, kept, block columns]
        return {"Y": np.einsum("srgnc,sgnc->sr", values, met).astype(np.int32)}


class _Build:
    def __init__(self, p: BlockProblem, strips: int, groups: int):
        self.p, self.strips, self.groups = p, strips, groups
        shape = (p.strips, p.block_rows, p.groups, p.kept, p.block_columns)
        factors = (strips, p.block_rows, groups, p.kept, p.block_columns)
        self.values = array("V", shape, "int8", factors=factors, role="in")
        places = (p.strips, p.groups, p.kept)
        self.places = array("I", places, index_type(p.group), factors=(strips, groups, p.kept), role="in")
        blocks = (p.groups, p.group, p.block_columns)
        self.x = array("X", blocks, "int8", factors=(groups, p.group, p.block_columns), role="in")
        self.y = array("Y", shape[:2], "int32", factors=factors[:2], role="out")
        self.sums = array("sums", (strips, p.block_rows), "int32", "register")

    def kernel(self) -> Kernel:
        p, nest = self.p, NestBuilder("product")
        so, go = nest.serial("so", -(-p.strips // self.strips)), nest.serial("go", -(-p.groups // self.groups))
        s, g = so * self.strips + var("si"), go * self.groups + var("gi")
        strip, group = within(s, p.strips, self.strips), within(g, p.groups, self.groups)
        guard = both(strip, group) if strip is not None or group is not None else None
        place = load(self.places, s, g, var("n"), guard=guard)
        over = [Loop("gi", self.groups), Loop("n", p.kept), Loop("c", p.block_columns)]
        operands = nest.let("operands", self._operand(place, g, group), [Loop("si", self.strips), *over])
        weight = load(self.values, s, var("ri"), g, var("n"), var("c"), guard=guard)
        term = op("mul", weight, operands[var("si"), var("gi"), var("n"), var("c")], dtype=INT32)
        lanes, at = [Loop("si", self.strips), Loop("ri", p.block_rows)], (var("si"), var("ri"))
        total = nest.accumulate("total", self.sums, at, reduce("add", over, term), equals(go, 0), lanes)
        last = both(equals(go, -(-p.groups // self.groups) - 1), strip)
        nest.store(self.y, [s, var("ri")], total[at], lanes, guard=last)
        arrays = [self.values, *([self.places] if p.kept < p.group else []), self.x, self.y, self.sums]
        return kernel("gemv_block", arrays, [nest.nest()])

    def _operand(self, place: Expr, g: Affine, guard: Expr | None) -> Expr:
        """The element of x that a column of a block meets."""
        if self.p.kept == self.p.group:
            return load(self.x, g, var("n"), var("c"), guard=guard)
        chosen: Expr = load(self.x, g, self.p.group - 1, var("c"), guard=guard)
        for k in reversed(range(self.p.group - 1)):
            here = op("eq", place, const(k, place.dtype))
            chosen = op("select", here, load(self.x, g, k, var("c"), guard=guard), chosen)
        return chosen


def compress_blocks(weights: np.ndarray, problem: BlockProblem) -> tuple[np.ndarray, np.ndarray]:
    """V and I of an int8 matrix [rows, columns] with at most `kept` blocks in each group that are not zero;
    KompiloError if it has more."""
    p = problem
    blocks = weights.reshape(p.strips, p.block_rows, p.groups, p.group, p.block_columns)
    used = (blocks != 0).any((1, 4))  # [strips, groups, group]
    most = int(used.sum(2).max(initial=0))
    if most > p.kept:
        raise KompiloError(f"FPGA template gemv_block: expected {p.kept} blocks of {p.group} at most, found {most}.")
    places = np.argsort(~used, axis=2, kind="stable")[:, :, : p.kept]
    values = np.take_along_axis(blocks, places[:, None, :, :, None], 3)
    return np.ascontiguousarray(values), places.astype(np.uint8)
