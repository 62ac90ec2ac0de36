"""int8 matrix product with int32 sums: C[m, n] = A[m, k] B[k, n], as an array of um x un x uk multipliers.

Operands lie in banked block RAM; every cycle reads a um x uk piece of A and a uk x un piece of B. Sizes that lanes
do not divide are filled up with zeros by guarded loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.template import Config, Space
from ..kernel.affine import Affine, var
from ..kernel.builder import NestBuilder, array, below, both, const, equals, kernel, load, op, reduce
from ..kernel.ir import Array, Expr, Kernel, Loop
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
    """Knobs: um, un, uk lanes over rows, columns and the reduction (uk shortens the sum, um and un reuse operands);
    pack 2: one DSP block makes the products of two rows, where its multiplier is 27 bits wide; pack 3: one makes three
    products of a sum, where it is a DSP58 (uk a multiple of 3).
    """

    name = "gemm_int"

    def space(self, problem: GemmProblem, spec: FpgaSpec) -> Space:
        choices = {"um": powers_to(problem.m), "un": powers_to(problem.n), "uk": powers_to(problem.k)}
        packs = {1: choices}
        if spec.dsp.a_bits >= 27 and problem.dtype == "int8":
            packs[2] = {**choices, "um": [n for n in choices["um"] if n % 2 == 0]}
        if spec.dsp.int8_macs >= 3 and problem.dtype == "int8" and problem.k >= 3:
            packs[3] = {**choices, "uk": [3 * n for n in powers_to(problem.k // 3)]}
        configs: list[Config] = []
        for pack, knobs in reversed(packs.items()):
            if all(knobs.values()):
                limit = pack * spec.budget("dsp")
                configs += lane_space({**knobs, "pack": [pack]}, ("um", "un", "uk"), limit)
        fastest = max(configs, key=lambda c: c.int("um") * c.int("un") * c.int("uk"))
        return Space(fastest, tuple(configs))

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
        nest = NestBuilder("product")
        sizes = _Sizes(nest, p, (um, un, uk), config.int("pack"))
        make = _paired if self._pack(config, um, uk) == 2 else _plain
        sums = make(nest, (a, b, c), sizes)
        return kernel(self.name, [a, b, c, *sums], [nest.nest()])

    def _pack(self, config: Config, um: int, uk: int) -> int:
        pack = check_knob(self.name, "pack", config.int("pack"), 3)
        if pack == 2 and um % 2:
            raise KompiloError(f"FPGA template {self.name}, knob pack: expected an even um, found {um}.")
        if pack == 3 and uk % 3:
            raise KompiloError(f"FPGA template {self.name}, knob pack: expected a multiple of 3 as uk, found {uk}.")
        return pack

    def reference(self, problem: GemmProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"C": inputs["A"].astype(np.int32) @ inputs["B"].astype(np.int32)}


class _Sizes:
    """Loops of the nest: blocks of um rows and un columns, steps of uk terms."""

    def __init__(self, nest: NestBuilder, p: GemmProblem, lanes: tuple[int, int, int], pack: int):
        um, un, uk = lanes
        self.problem, self.um, self.un, self.uk, self.pack = p, um, un, uk, pack
        self.io, self.jo = nest.serial("io", -(-p.m // um)), nest.serial("jo", -(-p.n // un))
        self.ko, self.steps = nest.serial("ko", -(-p.k // uk)), -(-p.k // uk)
        self.j, self.k = self.jo * un + var("ji"), self.ko * uk + var("ki")
        self.columns, self.inner = within(self.j, p.n, un), within(self.k, p.k, uk)

    def row(self, lane: Affine) -> tuple[Affine, Expr | None]:
        """The row of A and C in a lane, and the guard it needs."""
        index = self.io * self.um + lane
        return index, within(index, self.problem.m, self.um)

    def term(self, array: Array, i: Affine, j: Affine, *conditions: Expr | None) -> Expr:
        """An operand, zero outside."""
        guard = both(*conditions) if any(c is not None for c in conditions) else None
        return load(array, i, j, guard=guard)


Operands = tuple[Array, Array, Array]


def _plain(nest: NestBuilder, operands: Operands, s: _Sizes) -> list[Array]:
    """A multiplier for each product, or for three products of a sum."""
    a, b, c = operands
    sums = array("sums", (s.um, s.un), "int32", "register")
    i, rows = s.row(var("ii"))
    factors: list[Expr] = []
    for k in [s.k] if s.pack == 1 else [s.ko * s.uk + 3 * var("ki") + d for d in range(3)]:
        inner = within(k, s.problem.k, s.uk)
        factors += [s.term(a, i, k, rows, inner), s.term(b, k, s.j, inner, s.columns)]
    product = op("mul" if s.pack == 1 else "dot3", *factors, dtype=scalar("int32"))
    terms = reduce("add", [Loop("ki", s.uk // s.pack)], product)
    lanes = [Loop("ii", s.um), Loop("ji", s.un)]
    total = nest.accumulate("total", sums, [var("ii"), var("ji")], terms, equals(s.ko, 0), lanes)
    last = both(equals(s.ko, s.steps - 1), rows, s.columns)
    nest.store(c, [i, s.j], total[var("ii"), var("ji")], lanes, guard=last)
    return [sums]


# Where the upper of two packed factors begins: products of int8 fit below it, and both factors into 27 bits.
_SHIFT = 18


def _paired(nest: NestBuilder, operands: Operands, s: _Sizes) -> list[Array]:
    """A multiplier for two products with the same b: (a1 * 2**18 + a0) * b = a1 b * 2**18 + a0 b (white paper WP486).

    The lower 18 bits are a0 b; if that is negative it has borrowed one from the bits above.
    """
    a, b, c = operands
    pairs, wide = Loop("ip", s.um // 2), scalar("int36")
    rows = [s.row(2 * var("ip") + half) for half in (0, 1)]
    low, high = (s.term(a, i, s.k, guard, s.inner) for i, guard in rows)
    shift = const(_SHIFT, scalar("uint5"))
    both_rows = op("add", op("shl", high, shift, dtype=scalar("int27")), low, dtype=scalar("int27"))
    product = op("mul", both_rows, s.term(b, s.k, s.j, s.inner, s.columns), dtype=wide)
    products = nest.let("products", product, [pairs, Loop("ji", s.un), Loop("ki", s.uk)])
    own = products[var("ip"), var("ji"), var("ki")]
    lower = op("cast", own, dtype=scalar(f"int{_SHIFT}"))
    borrowed = op("cast", op("lt", lower, const(0, scalar("int8"))), dtype=scalar("uint2"))
    upper = op("add", op("shr", own, shift, dtype=wide), borrowed, dtype=scalar("int32"))
    made = []
    for half, value in enumerate((op("cast", lower, dtype=scalar("int32")), upper)):
        sums = array(f"sums{half}", (s.um // 2, s.un), "int32", "register")
        terms = reduce("add", [Loop("ki", s.uk)], value)
        lanes = [pairs, Loop("ji", s.un)]
        at = (var("ip"), var("ji"))
        total = nest.accumulate(f"total{half}", sums, at, terms, equals(s.ko, 0), lanes)
        index, guard = rows[half]
        last = both(equals(s.ko, s.steps - 1), guard, s.columns)
        nest.store(c, [index, s.j], total[at], lanes, guard=last)
        made.append(sums)
    return made
