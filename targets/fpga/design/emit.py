"""An operator, as far unfolded as a `Fold` says, as a nest of the loop-kernel IR.

Tensors lie flat in cyclic banks. Where a loop walks through the banks of a tensor that others unfolded further, a
multiplexer picks what is read, and a guard the bank that is written. A weight is stored in the order in which its
operator's loops read it, a bank for each lane.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ....compiler.errors import KompiloError
from ..kernel.affine import Affine, flat, var
from ..kernel.builder import Named, NestBuilder, array, below, both, equals, op, reduce
from ..kernel.ir import Array, Expr, Load, Loop, Nest, Op, Position, Ref
from ..templates.float_math import FUNCTIONS, Pipeline
from .body import TOTAL, Body, Fold, Function, Tensor, Value, substitute_index

# A multiplexer of more inputs than this is not built.
_MAX_INPUTS = 256
# Weights that their operator reads more often than this are kept as they are.
_MAX_COPIES = 2


class Unfoldable(KompiloError):
    """A fold or a number of banks that an operator cannot have."""


@dataclass(frozen=True, eq=False)
class Emitted:
    """A nest, its accumulators, and the weights it reads, packed."""

    nest: Nest
    sums: tuple[Array, ...]
    weights: tuple[tuple[Array, np.ndarray], ...]


Place = Callable[[str, Sequence[int], str, Sequence[int], str], Array]


@dataclass(frozen=True)
class Loops:
    """The serial loops of a folded operator, its lanes, those of the terms of each, and what its own variables are in
    terms of all these."""

    serial: tuple[Loop, ...]
    lanes: tuple[Loop, ...]
    terms: tuple[Loop, ...]
    values: Mapping[str, Affine]

    @property
    def extents(self) -> dict[str, int]:
        """Of the serial loops."""
        return {loop.var: loop.extent for loop in self.serial}


def loops_of(body: Body, fold: Fold) -> Loops:
    """Axes, then what is reduced over, then sums that are interleaved; lanes of the last axis. Unfoldable if sizes are
    no multiples."""
    outer: list[Loop] = []
    inner: list[Loop] = []
    lanes: list[Loop] = []
    values: dict[str, Affine] = {}
    hold = dict(fold.hold)
    for k, axis in enumerate(body.axes):
        width = fold.lanes if k == len(body.axes) - 1 else 1
        held = hold.get(k, 1)
        if axis.extent % (width * held):
            raise Unfoldable(f"operator {body.source}: expected folds that divide {axis.extent}, found {fold}.")
        index = Affine()
        for suffix, extent, step, group in (
            ("", axis.extent // (width * held), width * held, outer), ("h", held, width, inner), ("l", width, 1, lanes),
        ):  # fmt: skip
            if extent > 1:
                group.append(Loop(axis.var + suffix, extent))
                index = index + var(axis.var + suffix) * step
        values[axis.var] = index
    over, terms = [], []
    for k, loop in enumerate(body.reduce):
        width = fold.terms if k == len(body.reduce) - 1 else 1
        if loop.extent % width:
            raise Unfoldable(f"operator {body.source}: expected terms that divide {loop.extent}, found {fold}.")
        values[loop.var] = Affine()
        if loop.extent > width:
            over.append(Loop(loop.var, loop.extent // width))
            values[loop.var] = var(loop.var) * width
        if width > 1:
            terms.append(Loop(f"{loop.var}l", width))
            values[loop.var] = values[loop.var] + var(f"{loop.var}l")
    return Loops((*outer, *over, *inner), tuple(lanes), tuple(terms), values)


Digits = tuple[tuple[str, int], ...]


def walked(index: Affine, banks: int, serial: Mapping[str, int]) -> Digits:
    """The serial loops along which an access walks through the banks, the fastest first, each with how many of its
    iterations lie within one turn; empty if each lane has a bank of its own.

    Unfoldable if the loops do not walk one inside of the other, or a loop has no such part.
    """
    moving = sorted(((v, c) for v, c in index.terms if v in serial and c % banks), key=lambda term: abs(term[1]))
    if not moving:
        return ()
    step, found = abs(moving[0][1]), []
    left = banks // step if banks % step == 0 else 0
    for k, (name, factor) in enumerate(moving):
        extent, last = serial[name], k == len(moving) - 1
        part = min(extent, left) if last else extent
        if abs(factor) != step or not left or extent % max(part, 1) or (left % part and not (last and part == extent)):
            raise Unfoldable(f"expected loops that walk through {banks} banks one inside of the other, found {index}.")
        found.append((name, part))
        step, left = step * part, left // part
    if math.prod(part for _, part in found) > _MAX_INPUTS:
        raise Unfoldable(f"expected at most {_MAX_INPUTS} banks to choose from, found {banks}.")
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def accesses(body: Body) -> tuple[tuple[Array, Affine], ...]:
    """Every access of `body`, weights included, once each; the store comes first."""
    return tuple(dict.fromkeys([(body.target, body.index), *((load.array, load.indices[0]) for load in body.loads())]))


def emit(body: Body, fold: Fold, arrays: Mapping[str, Array], tensors: Mapping[str, Tensor], place: Place) -> Emitted:
    """The nest of `body`. `arrays` are the tensors that are no weights, by name; `place` makes arrays of weights (name,
    shape, dtype, factors, role). Unfoldable if the banks of `arrays` do not suit."""
    return _Emission(body, fold, arrays, tensors, place).run()


def _chosen(digits: Digits, value: Callable[[dict[str, int]], Expr], at: dict[str, int]) -> Expr:
    """`value` of the digits that the loops are at: trees of multiplexers, the slowest loop's outside."""
    if not digits:
        return value(at)
    name, count = digits[-1]

    def tree(low: int, high: int) -> Expr:
        if high - low == 1:
            return _chosen(digits[:-1], value, {**at, name: low})
        middle = (low + high) // 2
        halves = tree(low, middle), tree(middle, high)
        return op("select", below(var(name), middle), *halves, dtype=halves[0].dtype)

    return tree(0, count)


class _Emission:
    def __init__(
        self, body: Body, fold: Fold, arrays: Mapping[str, Array], tensors: Mapping[str, Tensor], place: Place
    ):
        self.body, self.arrays, self.tensors, self.place = body, arrays, tensors, place
        self.loops = self._with_digits(loops_of(body, fold))
        self.nest = NestBuilder(body.name)
        self.lanes = self.loops.lanes
        self.lane = tuple(var(lane.var) for lane in self.lanes)
        self.names: dict[str, Named] = {}
        self.weights: dict[str, tuple[Array, np.ndarray]] = {}
        self.known: dict[tuple[str, Affine], Array] = {}
        self.pipelines = 0

    def run(self) -> Emitted:
        for loop in self.loops.serial:
            self.nest.serial(loop.var, loop.extent)
        value = self._value(self.body.value)
        sums: tuple[Array, ...] = ()
        guard = None
        if self.body.combine is not None:
            total, made, guard = self._reduction(value)
            sums, self.names[TOTAL] = (made,), total
            value = self._value(self.body.finish) if self.body.finish else total[self.lane]
        self._store(value, guard)
        return Emitted(self.nest.nest(), sums, tuple(self.weights.values()))

    def _with_digits(self, loops: Loops) -> Loops:
        """Loops that walk through banks split, so that their inner parts tell the bank."""
        steps: dict[str, set[int]] = {}
        for target, index in accesses(self.body):
            if target.name in self.arrays:
                for name, part in walked(self._index(index, loops), self.arrays[target.name].banks, loops.extents):
                    steps.setdefault(name, set()).add(part)
        serial: list[Loop] = []
        values = dict(loops.values)
        for loop in loops.serial:
            cuts = [1, *sorted(steps.get(loop.var, set()) - {1, loop.extent}), loop.extent]
            pieces = [Loop(f"{loop.var}b{k}" if k else loop.var, b // a) for k, (a, b) in enumerate(pairwise(cuts))]
            if any(b % a for a, b in pairwise(cuts)):
                raise Unfoldable(f"operator {self.body.source}: expected banks that divide each other, found {cuts}.")
            serial += reversed(pieces)
            if len(pieces) > 1:
                whole = sum((var(piece.var) * cut for piece, cut in zip(pieces, cuts, strict=False)), Affine())
                values = {name: substitute_index(index, {loop.var: whole}) for name, index in values.items()}
        return Loops(tuple(serial), loops.lanes, loops.terms, values)

    def _digits(self, index: Affine, banks: int) -> Digits:
        """The loops that tell the bank, all of whose iterations count."""
        found = walked(index, banks, self.loops.extents)
        if any(part != self.loops.extents[name] for name, part in found):
            raise Unfoldable(f"operator {self.body.source}: expected loops split by {banks} banks, found {index}.")
        return found

    def _index(self, index: Affine, loops: Loops | None = None) -> Affine:
        return substitute_index(index, (loops or self.loops).values)

    # Values -----------------------------------------------------------------------------------------------------------

    def _value(self, value: Value) -> Expr:
        for name, expr in value.lets:
            self.names[name] = self.nest.let(name, self._expr(expr), self.lanes)
        return self._expr(value.expr)

    def _expr(self, e: Expr) -> Expr:
        if isinstance(e, Load):
            return self._load(e)
        if isinstance(e, Position):
            return Position(self._index(e.index), e.dtype)
        if isinstance(e, Ref):
            return self.names[e.name][self.lane]
        if isinstance(e, Function):
            self.pipelines += 1
            made = Pipeline(self.nest, self.lanes, f"p{self.pipelines}_")
            result: Expr = FUNCTIONS[e.name](made, *(made.name(self._expr(a)) for a in e.args))
            return result
        return replace(e, args=tuple(self._expr(a) for a in e.args)) if isinstance(e, Op) else e

    def _load(self, e: Load) -> Expr:
        guard = None if e.guard is None else self._expr(e.guard)
        index = self._index(e.indices[0])
        if e.array.name not in self.arrays:
            return self._weight(e, index, guard)
        source = self.arrays[e.array.name]
        digits = self._digits(index, source.banks)
        return _chosen(digits, lambda at: Load(source, (index.fix(at),), guard), {})

    def _weight(self, e: Load, index: Affine, guard: Expr | None) -> Expr:
        """What `e` reads of a weight, from an array in the order of the loops."""
        source = self.tensors[e.array.name]
        assert source.data is not None, "weights have values"
        steps = [loop for loop in self.loops.serial if index.coefficient(loop.var)]
        over = [lane for lane in (*self.lanes, *self.loops.terms) if index.coefficient(lane.var)]
        sizes, wide = [loop.extent for loop in steps], [lane.extent for lane in over]
        if math.prod((*sizes, *wide)) > _MAX_COPIES * source.size:
            return Load(self._whole(source), (index,), guard)
        shape = [math.prod(sizes), *wide]
        if (source.name, index) not in self.known:
            grid = np.indices((*sizes, *wide)).reshape(len(sizes) + len(wide), math.prod(shape))
            factors = [index.coefficient(loop.var) for loop in (*steps, *over)]
            places = index.const + np.asarray(factors, np.int64) @ grid
            data = source.data.reshape(-1)[np.clip(places, 0, source.size - 1)].reshape(shape)
            name = f"{source.name}_{self.body.name}_{len(self.known)}"
            self._add(name, self.place(name, shape, str(source.dtype), [1, *wide], "in"), data)
            self.known[source.name, index] = self.weights[name][0]
        at = (flat([var(loop.var) for loop in steps], sizes), *(var(lane.var) for lane in over))
        return Load(self.known[source.name, index], at, guard)

    def _whole(self, source: Tensor) -> Array:
        name = f"{source.name}_{self.body.name}_all"
        if name not in self.weights:
            assert source.data is not None, "weights have values"
            self._add(name, self.place(name, [source.size], str(source.dtype), [1], "in"), source.data.reshape(-1))
        return self.weights[name][0]

    def _add(self, name: str, made: Array, data: np.ndarray) -> None:
        self.weights[name] = (made, np.ascontiguousarray(data.astype(made.dtype.numpy())))

    # Effects ----------------------------------------------------------------------------------------------------------

    def _reduction(self, value: Expr) -> tuple[Named, Array, Expr]:
        body = self.body
        over = {v for loop in body.reduce for v, _ in self.loops.values[loop.var].terms}
        if self.loops.terms:
            value = reduce(body.combine or "add", self.loops.terms, value)
        reduced = [k for k, loop in enumerate(self.loops.serial) if loop.var in over]
        inside = self.loops.serial[reduced[-1] + 1 :] if reduced else ()
        shape = [loop.extent for loop in (*inside, *self.lanes)] or [1]
        where = [var(loop.var) for loop in (*inside, *self.lanes)] or [Affine()]
        assert body.combine is not None, "a reduction"
        assert body.init is not None, "a reduction starts from something"
        sums = array(f"sums_{body.name}", shape, str(body.init.dtype), "register")
        ends = [
            both(
                *(
                    equals(var(loop.var), at * (loop.extent - 1))
                    for k, loop in enumerate(self.loops.serial)
                    if k in reduced
                )
            )
            for at in (0, 1)
        ]
        init = self._expr(body.init)
        total = self.nest.accumulate(TOTAL, sums, where, value, ends[0], self.lanes, body.combine, init)
        return total, sums, ends[1]

    def _store(self, value: Expr, guard: Expr | None) -> None:
        target, index = self.arrays[self.body.target.name], self._index(self.body.index)
        digits = self._digits(index, target.banks)
        if not digits:
            self.nest.store(target, [index], value, self.lanes, guard)
            return
        named = self.nest.let("stored", value, self.lanes)
        for point in itertools.product(*(range(count) for _, count in digits)):
            at = dict(zip((name for name, _ in digits), point, strict=True))
            here = both(guard, *(equals(var(name), k) for name, k in at.items()))
            self.nest.store(target, [index.fix(at)], named[self.lane], self.lanes, here)
