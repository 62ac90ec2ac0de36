"""The tensors that evaluators of nodes work on during import.

A tensor computed from shapes is an object array of Python ints, symbolic sizes (`tirx` expressions) and, for floating
point, `Ratio`s; a bool stays a bool. An evaluator that meets something it cannot decide raises `Undecided`, and the
node is then converted to run-time operators like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import ir

from .node import Node
from .values import Value

# Shape computations have a handful of elements; a larger tensor is data.
MOST_ELEMENTS = 1024


class Undecided(Exception):
    """The result is not known at compile time."""


@dataclass(frozen=True)
class Operand:
    """A tensor under evaluation: `array` has dtype object when it holds symbolic sizes, else `dtype`."""

    array: np.ndarray
    dtype: str

    @property
    def symbolic(self) -> bool:
        return self.array.dtype == object

    def ints(self) -> list[int]:
        """The elements of an operand that must be fixed: axes, indices, steps."""
        if self.symbolic and any(isinstance(e, ir.Expr) for e in self.array.reshape(-1)):
            raise Undecided
        return [int(e) for e in self.array.reshape(-1)]

    def objects(self) -> np.ndarray:
        """The content as an object array, for mixing with symbolic ones."""
        if self.symbolic:
            return self.array
        if self.array.size > MOST_ELEMENTS:
            raise Undecided
        return self.array.astype(object)


class Operands:
    """The inputs of a node. Indexing one that is omitted gives up; iteration passes over it."""

    def __init__(self, values: Sequence[Value | None]):
        self._operands = [None if v is None else _operand(v) for v in values]

    def get(self, index: int) -> Operand | None:
        return self._operands[index] if index < len(self._operands) else None

    def __getitem__(self, index: int) -> Operand:
        operand = self.get(index)
        if operand is None:
            raise Undecided
        return operand

    def __iter__(self) -> Iterator[Operand]:
        return (operand for operand in self._operands if operand is not None)


def _operand(value: Value) -> Operand:
    if value.array is not None:
        return Operand(value.array, value.dtype)
    if value.elements is not None:
        return Operand(value.elements, value.dtype)
    raise Undecided


Evaluator = Callable[[Node, Operands], np.ndarray | tuple[np.ndarray, ...] | Operand]


def axes(node: Node, operands: Operands) -> list[int] | None:
    """`axes`, which later opsets made an input."""
    given = operands.get(1)
    return node.attr("axes") if given is None else given.ints()
