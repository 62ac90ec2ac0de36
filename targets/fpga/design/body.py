"""An operator of a model as loops over flat arrays, before it is decided how far it is unfolded.

Expressions are those of the loop-kernel IR; arrays in them are flat, in one bank, and only stand for the model's
tensors. `Function` is the one addition: what becomes a pipeline of several operations later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from ..kernel.affine import Affine
from ..kernel.ir import Array, Expr, Load, Loop, Op, Position, children
from ..kernel.types import Scalar

ROLES = ("in", "out", "local", "weight")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the model: `size` elements in row-major order. `role` "weight" has its values in `data`."""

    name: str
    shape: tuple[int, ...]
    dtype: Scalar
    role: str
    data: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Function:
    """A function of float32 ("reciprocal", ...: the names of float_math.FUNCTIONS) of `args`."""

    name: str
    args: tuple[Expr, ...]
    dtype: Scalar


def function(name: str, arg: Expr) -> Expr:
    """The function `name` of a float32."""
    return cast(Expr, Function(name, (arg,), arg.dtype))


@dataclass(frozen=True)
class Value:
    """What a statement computes: `lets` name parts of it (referred to by `Ref` without indices), in order."""

    expr: Expr
    lets: tuple[tuple[str, Expr], ...] = ()

    def exprs(self) -> Iterator[Expr]:
        """All expressions."""
        yield from (e for _, e in self.lets)
        yield self.expr

    def map(self, change: Callable[[Expr], Expr]) -> Value:
        """With every expression changed."""
        return Value(change(self.expr), tuple((n, change(e)) for n, e in self.lets))


@dataclass(frozen=True)
class Body:
    """One operator: `target[index] = value` over `axes`, or a reduction of `value` over `reduce` as well.

    `combine` is the operation of a reduction (None for a map), `init` its first operand. `finish` is what is stored of
    the result; there `Ref(TOTAL)` is the result. `name` is unique, `source` what the model calls it.
    """

    name: str
    source: str
    axes: tuple[Loop, ...]
    reduce: tuple[Loop, ...]
    target: Array
    index: Affine
    value: Value
    combine: str | None = None
    init: Expr | None = None
    finish: Value | None = None

    @property
    def points(self) -> int:
        """Elements computed."""
        return math.prod(a.extent for a in self.axes)

    @property
    def trip(self) -> int:
        """Iterations without lanes."""
        return self.points * math.prod(r.extent for r in self.reduce)

    @property
    def waits(self) -> bool:
        """Whether sums are floats, so that an adder is waited for unless several of them are interleaved."""
        over = math.prod(r.extent for r in self.reduce)
        return self.combine == "add" and self.init is not None and self.init.dtype.is_float and over > 1

    def exprs(self) -> Iterator[Expr]:
        """All expressions, each with everything in it."""
        for value in (self.value, self.finish):
            if value is not None:
                for expr in value.exprs():
                    yield from deep(expr)

    def loads(self) -> list[Load]:
        """All loads, once each."""
        return list(dict.fromkeys(e for e in self.exprs() if isinstance(e, Load)))


TOTAL = "total"


@dataclass(frozen=True)
class Model:
    """A model: tensors by name, operators in order, and the inputs and outputs in the model's order."""

    tensors: Mapping[str, Tensor]
    bodies: tuple[Body, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Fold:
    """How far an operator is unfolded.

    `lanes` elements of the last axis are computed at once, each from `terms` of the last loop that is reduced over, in
    a tree. `hold` sums of `axis` (numbers of axes with how many of each) are interleaved inside of the reduction, so
    that an adder is not waited for.
    """

    lanes: int = 1
    terms: int = 1
    hold: tuple[tuple[int, int], ...] = field(default=())

    @property
    def width(self) -> int:
        """Values at once."""
        return self.lanes * self.terms

    @property
    def held(self) -> int:
        """Sums that are interleaved."""
        return math.prod(n for _, n in self.hold)


def deep(expr: Expr) -> Iterator[Expr]:
    """`expr` and everything in it, functions too."""
    yield expr
    for child in parts(expr):
        yield from deep(child)


def parts(expr: Expr) -> tuple[Expr, ...]:
    """Direct operands."""
    return expr.args if isinstance(expr, Function) else children(expr)


def rewrite(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """`expr` with every part for which `change` gives something replaced by it, outermost first."""
    made = change(expr)
    if made is not None:
        return made
    if isinstance(expr, Op | Function):
        return cast(Expr, replace(expr, args=tuple(rewrite(a, change) for a in expr.args)))
    if isinstance(expr, Load) and expr.guard is not None:
        return replace(expr, guard=rewrite(expr.guard, change))
    return expr


def substituted(expr: Expr, values: Mapping[str, Affine]) -> Expr:
    """`expr` with loop variables replaced by affine functions of others."""

    def change(e: Expr) -> Expr | None:
        if isinstance(e, Position):
            return Position(substitute_index(e.index, values), e.dtype)
        if isinstance(e, Load):
            guard = None if e.guard is None else substituted(e.guard, values)
            return Load(e.array, tuple(substitute_index(i, values) for i in e.indices), guard)
        return None

    return rewrite(expr, change)


def substitute_index(index: Affine, values: Mapping[str, Affine]) -> Affine:
    """`index` with variables replaced."""
    total = Affine(index.const)
    for name, factor in index.terms:
        total = total + values[name] * factor if name in values else total + Affine(0, ((name, factor),))
    return total


def with_arrays(body: Body, change: Callable[[Array], Array]) -> Body:
    """`body` with its arrays replaced by what `change` makes of them."""
    made: dict[Array, Array] = {}

    def own(array: Array) -> Array:
        if array not in made:
            made[array] = change(array)
        return made[array]

    def load(e: Expr) -> Expr | None:
        if not isinstance(e, Load):
            return None
        guard = None if e.guard is None else rewrite(e.guard, load)
        return Load(own(e.array), e.indices, guard)

    value = body.value.map(lambda e: rewrite(e, load))
    finish = None if body.finish is None else body.finish.map(lambda e: rewrite(e, load))
    return replace(body, target=own(body.target), value=value, finish=finish)
