"""How kernels name the values that addresses are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol

from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.op_spec import OpSpec
from ...shared.index_math import split_index
from ...shared.tir_loops import Index, i64
from ..launch import registers


class Indices(Protocol):
    """Names values, and takes flat indices >= 0 apart."""

    def const(self, value: Index) -> tirx.Expr:
        """`value` as an expression of the type that addresses have."""

    def name(self, name: str, value: Index, unit: int = 1) -> tuple[list[Stmt], Index]:
        """Statements that compute `value`, a multiple of `unit`, and what stands for it after them."""

    def quotient(self, a: Index, b: Index) -> Index:
        """a / b for a >= 0."""

    def remainder(self, a: Index, b: Index) -> Index:
        """The remainder of `quotient`."""

    def split(self, item: Index, extents: list[Index]) -> list[Index]:
        """The coordinates of a row-major flat index, the last axis fastest."""


class Bound:
    """int64 variables. TVM puts their values where they are used, simplifies all that, and narrows it to 32 bits."""

    def const(self, value: Index) -> tirx.Expr:
        """See Indices."""
        value = i64(value)
        return value if str(value.ty.dtype) == "int64" else value.astype("int64")

    def name(self, name: str, value: Index, unit: int = 1) -> tuple[list[Stmt], Index]:
        """See Indices."""
        var = tirx.Var(name, "int64")
        return [tirx.Bind(var, i64(value))], var

    def quotient(self, a: Index, b: Index) -> Index:
        """See Indices."""
        return _quotient(self, a, b)

    def remainder(self, a: Index, b: Index) -> Index:
        """See Indices."""
        return _remainder(self, a, b)

    def split(self, item: Index, extents: list[Index]) -> list[Index]:
        """See Indices."""
        return split_index(item, extents)


class Held:
    """Registers of one type, into which TVM does not look: a value is written down once, however often it is used.

    Kernels with many copies take TVM and NVIDIA's compiler a tenth of the time that they take with `Bound`.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    @classmethod
    def of(cls, op: OpSpec) -> Held:
        """With 32 bits where all operands of `op` are known to be small enough."""
        types = (*op.inputs, op.anchor_type)
        small = op.is_static and all(prod(int(d) for d in t.shape) < 1 << 30 for t in types)
        return cls("int32" if small else "int64")

    def const(self, value: Index) -> tirx.Expr:
        """`value` as an expression of the type."""
        if isinstance(value, int):
            return tirx.const(value, self.dtype)
        return value if str(value.ty.dtype) == self.dtype else value.astype(self.dtype)

    def name(self, name: str, value: Index, unit: int = 1) -> tuple[list[Stmt], Index]:
        """See Indices. Units are counted, so that TVM sees that vectors begin at multiples of their length."""
        if isinstance(value, (int, tirx.IntImm)):
            return [], self.const(int(value))
        buffer = registers(1, self.dtype, name)
        zero = tirx.const(0, "int32")
        count = self.const(value) if unit == 1 else tirx.truncdiv(self.const(value), self.const(unit))
        statements = [tirx.AllocBuffer(buffer), tirx.BufferStore(buffer, count, [zero])]
        return statements, tirx.BufferLoad(buffer, [zero]) * unit if unit != 1 else tirx.BufferLoad(buffer, [zero])

    def quotient(self, a: Index, b: Index) -> Index:
        """See Indices."""
        return _quotient(self, a, b)

    def remainder(self, a: Index, b: Index) -> Index:
        """See Indices."""
        return _remainder(self, a, b)

    def split(self, item: Index, extents: Sequence[Index]) -> list[Index]:
        """See Indices."""
        coordinates: list[Index] = [0] * len(extents)
        long = [axis for axis, extent in enumerate(extents) if not (isinstance(extent, int) and extent == 1)]
        for axis in reversed(long[1:]):
            coordinates[axis], item = self.remainder(item, extents[axis]), self.quotient(item, extents[axis])
        if long:
            coordinates[long[0]] = item
        return coordinates


def _quotient(indices: Indices, a: Index, b: Index) -> Index:
    if isinstance(b, int) and b == 1:
        return a
    whole = isinstance(a, int) and isinstance(b, int)
    return a // b if whole else tirx.truncdiv(indices.const(a), indices.const(b))


def _remainder(indices: Indices, a: Index, b: Index) -> Index:
    if isinstance(b, int) and b == 1:
        return 0
    whole = isinstance(a, int) and isinstance(b, int)
    return a % b if whole else tirx.truncmod(indices.const(a), indices.const(b))


def i32(value: Index) -> tirx.Expr:
    """`value` as an int32 expression."""
    if isinstance(value, int):
        return tirx.const(value, "int32")
    return value if str(value.ty.dtype) == "int32" else value.astype("int32")
