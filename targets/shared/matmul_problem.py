"""A matmul OpSpec brought to the plain form that the matmul templates generate loops for.

Logical operands are A (batch..., M, K) and B (batch..., K, N) with C (batch..., M, N). A and B are what is in memory
after permute_dims by `lhs_perm` and `rhs_perm`; memory gets C after permute_dims by `out_perm`. When nothing but the
last axis distinguishes the rows, leading axes are collapsed into M: a (1, 128, 384) activation has 128 rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from tvm import tirx

from ...compiler.schedule.op_spec import OpSpec, TensorType
from .tir_loops import size_variable, view

if TYPE_CHECKING:
    from tvm.ir import PrimExpr
    from tvm.tirx import Buffer, Stmt

    Index = PrimExpr | int
Dim = int | str


@dataclass(frozen=True)
class MatmulProblem:
    """Sizes of a matmul, batch axes apart; `op` is the OpSpec with leading axes collapsed if `collapsed`."""

    op: OpSpec
    batch: tuple[Dim, ...]
    m: Dim
    n: Dim
    k: Dim
    collapsed: bool


def read_problem(op: OpSpec) -> MatmulProblem | None:
    """The problem that `op` poses, or None if its operands are not float32 matrices."""
    if any(t.dtype != "float32" for t in (*op.inputs, op.anchor_type, op.output)):
        return None
    return read_matrices(op)


def read_matrices(op: OpSpec) -> MatmulProblem | None:
    """The problem that `op` poses whatever the types of its operands, or None if it is no matmul of matrices."""
    if op.kind != "matmul":
        return None
    lhs, rhs = _permuted(op, 0, "lhs_perm"), _permuted(op, 1, "rhs_perm")
    if len(lhs) < 2 or len(rhs) < 2 or lhs[-1] != rhs[-2]:
        return None
    collapsed = _collapse(op, lhs, rhs)
    if collapsed is not None:
        rows, columns = collapsed.anchor_type.shape
        return MatmulProblem(collapsed, (), rows, columns, lhs[-1], True)
    batch = op.anchor_type.shape[:-2]
    return MatmulProblem(op, batch, op.anchor_type.shape[-2], op.anchor_type.shape[-1], lhs[-1], False)


def _permuted(op: OpSpec, index: int, perm: str) -> tuple[Dim, ...]:
    return tuple(op.inputs[index].shape[a] for a in op.ints(perm))


def _collapse(op: OpSpec, lhs: Sequence[Dim], rhs: Sequence[Dim]) -> OpSpec | None:
    """`op` over two-dimensional A and C, if A is in row-major order, B is one matrix and the epilogue allows it."""
    rank = len(op.anchor_type.shape)
    identity = tuple(range(rank))
    lead = op.anchor_type.shape[:-1]
    if len(rhs) != 2 or len(lhs) != rank or op.ints("lhs_perm") != identity or op.ints("out_perm") != identity:
        return None
    if not all(isinstance(d, int) for d in lead) and rank > 2:
        return None
    rows: Dim = lead[0] if rank == 2 else prod(int(d) for d in lead)
    extras = []
    for operand in op.inputs[2:]:
        shape = _collapse_operand(operand.shape, op.anchor_type.shape, rows)
        if shape is None:
            return None
        extras.append(TensorType(shape, operand.dtype))
    return replace(
        op,
        inputs=(TensorType((rows, lhs[-1]), op.inputs[0].dtype), op.inputs[1], *extras),
        attrs=tuple(sorted({**dict(op.attrs), "lhs_perm": (0, 1), "out_perm": (0, 1)}.items())),
        anchor_type=TensorType((rows, rhs[-1]), op.anchor_type.dtype),
        output=TensorType((rows, rhs[-1]), op.output.dtype),
    )


def _collapse_operand(shape: tuple[Dim, ...], full: tuple[Dim, ...], rows: Dim) -> tuple[Dim, ...] | None:
    lead, last = shape[:-1], shape[-1:]
    if all(d == 1 for d in lead):
        return last
    return (rows, *last) if lead == full[:-1] else None


class Buffers:
    """The parameters of a matmul PrimFunc, and access to A, B and C by logical index."""

    def __init__(self, original: OpSpec, problem: MatmulProblem, packed: tuple[int, ...] | None):
        symbols: dict[str, tirx.Var] = {}

        def extent(dim: Dim) -> Index:
            return dim if isinstance(dim, int) else symbols.setdefault(dim, size_variable(dim))

        def declare(shape: Sequence[Dim], dtype: str, name: str) -> Buffer:
            return tirx.decl_buffer([extent(d) for d in shape], dtype, name)

        self.problem = problem
        shapes: list[Sequence[Dim]] = [t.shape for t in original.inputs]
        if packed is not None:
            shapes[1] = packed
        inputs = [declare(s, t.dtype, f"in{k}") for k, (s, t) in enumerate(zip(shapes, original.inputs, strict=True))]
        self.params = [*inputs, declare(original.output.shape, original.output.dtype, "out")]
        self.declarations: list[Stmt] = []
        self._flat = []
        for buffer in self.params:
            size: Index = 1
            for d in buffer.shape:
                size = size * d
            flat, declaration = view(buffer, (size,), f"{buffer.name}_flat")
            self._flat.append(flat)
            self.declarations.append(declaration)
        self.m, self.n, self.k = extent(problem.m), extent(problem.n), extent(problem.k)
        self.batch = [extent(d) for d in problem.batch]
        op = problem.op
        self._shapes = [[extent(d) for d in t.shape] for t in (*op.inputs, op.output)]

    def flat(self, index: int) -> Buffer:
        """Parameter `index` as a one-dimensional buffer (-1: the result)."""
        return self._flat[index]

    def offset(self, index: int, indices: Sequence[Index], perm: Sequence[int] | None = None) -> Index:
        """Row-major offset of the logical `indices` in parameter `index`; memory axis `perm[i]` is logical axis i."""
        shape = self._shapes[index]
        memory = list(indices)
        if perm is not None:
            for logical, axis in enumerate(perm):
                memory[axis] = indices[logical]
        result: Index = 0
        for position, dim in zip(memory, shape, strict=True):
            result = result * dim + position if not _is_zero(result) else position
        return result

    def batch_indices(self, index: int, batch: Sequence[Index]) -> list[Index]:
        """The batch part of an index into operand `index` (0: A, 1: B) under broadcasting of the batch axes."""
        perm = self.problem.op.ints("lhs_perm" if index == 0 else "rhs_perm")
        shape = self._shapes[index]
        lead = [shape[a] for a in perm[:-2]]
        tail = list(batch)[len(batch) - len(lead) :]
        return [0 if isinstance(d, int) and d == 1 else b for d, b in zip(lead, tail, strict=True)]

    def strides(self, index: int, perm: Sequence[int]) -> list[Index]:
        """Stride in elements of each logical axis of parameter `index`."""
        shape = self._shapes[index]
        memory: list[Index] = [1] * len(shape)
        for axis in range(len(shape) - 2, -1, -1):
            memory[axis] = memory[axis + 1] * shape[axis + 1]
        return [memory[a] for a in perm]

    def read(self, index: int, indices: Sequence[Index]) -> PrimExpr:
        """Element of the epilogue operand `index`."""
        return self.flat(index)[self.offset(index, indices)]


def _is_zero(value: Index) -> bool:
    return isinstance(value, int) and value == 0
