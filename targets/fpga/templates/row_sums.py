"""Passes over the rows of a float32 matrix [rows, n], `lanes` neighbours a cycle; sums that never wait for the adder.

An addition takes five cycles, so a row's sum is kept in up to five parts that take turns: element ((k * parts + part)
* lanes + lane) is added, in the tree over its lanes, to that part in step k. A tree over the parts is the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernel.affine import Affine, var
from ..kernel.builder import NestBuilder, array, both, equals, load, op, reduce
from ..kernel.ir import Array, Expr, Loop
from ..kernel.model import product_dsps
from ..kernel.ops import FLOAT_ADD
from ..spec import FpgaSpec
from .float_math import Numpy, rows_sum
from .gemm_int import within

# Memories of more words than this are block RAM.
_LUTRAM_WORDS = 64


@dataclass(frozen=True)
class RowsProblem:
    """A float32 matrix [rows, n] that is normalised row by row."""

    rows: int
    n: int


def most_lanes(spec: FpgaSpec, products: int, others: int = 0) -> int:
    """Lanes of so many float32 products each that fit the part beside `others`."""
    return max(1, (spec.budget("dsp") // product_dsps(25, 25, spec.dsp) - others) // products)


def memory_of(words: int) -> str:
    """Where a bank of so many words lies."""
    return "lutram" if words <= _LUTRAM_WORDS else "bram"


class Rows:
    """How a problem's rows are walked with that many lanes; `over` are the lanes."""

    def __init__(self, problem: RowsProblem, lanes: int):
        self.rows, self.n, self.lanes = problem.rows, problem.n, lanes
        self.chunks = -(-problem.n // lanes)
        self.parts = min(FLOAT_ADD, self.chunks)
        self.steps = -(-self.chunks // self.parts)
        self.over = [Loop("lane", lanes)]

    def matrix(self, name: str, role: str = "local") -> Array:
        """A matrix of the problem's shape."""
        return array(name, (self.rows, self.n), "float32", factors=(1, self.lanes), role=role)

    def vector(self, name: str) -> Array:
        """A number for each row."""
        return array(name, (self.rows,), "float32", memory_of(self.rows))

    def parts_of(self, name: str) -> Array:
        """The parts of each row's sum."""
        return array(name, (self.rows, self.parts), "float32", memory_of(self.rows), (1, self.parts))

    def walk(self, nest: NestBuilder) -> tuple[Affine, Affine, Expr | None]:
        """Loops over rows and chunks: row, column of a lane, and the guard that the column needs."""
        row, chunk = nest.serial("row", self.rows), nest.serial("chunk", self.chunks)
        column = chunk * self.lanes + var("lane")
        return row, column, within(column, self.n, self.lanes)

    def walk_parts(self, nest: NestBuilder) -> tuple[Affine, Affine, Expr | None]:
        """The same in the order in which sums are taken."""
        row = nest.serial("row", self.rows)
        step, part = nest.serial("step", self.steps), nest.serial("part", self.parts)
        column = (step * self.parts + part) * self.lanes + var("lane")
        return row, column, within(column, self.n, self.lanes * self.parts)

    def store_sum(self, nest: NestBuilder, value: Expr, result: Array) -> list[Array]:
        """Within `walk_parts`: adds `value`, which is zero outside of the row, up to the parts in `result`; the
        registers it takes, if any."""
        row, step, part = var("row"), var("step"), var("part")
        terms = reduce("add", self.over, value)
        last, sums = equals(step, self.steps - 1), []
        if self.steps == 1:
            total = nest.let("total", terms)
        else:
            sums = [array(f"{result.name}_sums", (self.parts,), "float32", "register")]
            total = nest.accumulate("total", sums[0], [part], terms, equals(step, 0))
        for k in range(self.parts):  # each part has a bank
            nest.store(result, [row, k], total[()], guard=both(last, equals(part, k)))
        return sums

    def load_sum(self, row: Affine, parts: Array) -> Expr:
        """The sum of a row."""
        return reduce("add", [Loop("p", self.parts)], load(parts, row, var("p")))

    def sums(self, x: np.ndarray) -> np.ndarray:
        """What `store_sum` and `load_sum` make of x[rows, n]: [rows, 1]."""
        machine = Numpy()
        padded = np.zeros((len(x), self.steps * self.parts * self.lanes), np.float32)
        padded[:, : self.n] = x
        terms = rows_sum(padded.reshape(len(x), self.steps, self.parts, self.lanes))
        totals = terms[:, 0] if self.steps == 1 else machine.add(terms[:, 0], 0.0)
        for step in range(1, self.steps):
            totals = machine.add(totals, terms[:, step])
        return rows_sum(totals)[:, None]


def inside(guard: Expr | None, value: Expr, outside: Expr) -> Expr:
    """`value` where `guard` holds, else `outside`."""
    return value if guard is None else op("select", guard, value, outside)
