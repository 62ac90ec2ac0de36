"""The matrices of a matmul as kernels by tiles read and write them: permuted, broadcast, packed, of open sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import sym, tirx
from tvm.tirx import PrimFunc, Stmt

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.template import Packer
from ...shared.matmul_problem import Buffers, Dim, MatmulProblem
from ...shared.tir_loops import Index, i64, seq
from .gemm_costs import Problem
from .gemm_epilogue import epilogue
from .gemm_index import Bound, Indices
from .tensor_core_maps import Tiled
from .vectors import VECTOR_BYTES, dtype_bytes, store_vector

# Rows below which a matrix times vector product by reductions reads B just as fast, without tiles.
_FEWEST_ROWS = 3


def is_thin(problem: MatmulProblem) -> bool:
    """Whether tiles do not pay, or there is nothing to compute."""
    few = any(isinstance(d, int) and d < _FEWEST_ROWS for d in (problem.m, problem.n))
    return few or 0 in problem.batch or problem.k == 0


def sizes_of(problem: MatmulProblem) -> Problem:
    """What the estimates of costs ask for."""
    batch = 1
    for d in problem.batch:
        batch *= d if isinstance(d, int) else 1
    return Problem(batch, problem.m, problem.n, problem.k, all(isinstance(d, int) for d in problem.batch))


@dataclass(frozen=True)
class Packing:
    """A constant matrix (K, N) in memory, with zeros beyond.

    As it is, its rows rounded up to `unit` elements; or `turned`: a column after the other, each rounded up.
    """

    k: int
    n: int
    unit: int
    turned: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Of the packed matrix."""
        lines, length = (self.n, self.k) if self.turned else (self.k, self.n)
        return lines, -(-length // self.unit) * self.unit

    def packer(self, permutation: Sequence[int]) -> Packer:
        """Packs a matrix that is (K, N) after `permutation`."""

        def pack(weight: np.ndarray) -> np.ndarray:
            plain = np.transpose(weight, permutation)
            plain = plain.T if self.turned else plain
            return np.pad(plain, ((0, 0), (0, self.shape[1] - plain.shape[1])))

        return pack


def packing_of(problem: MatmulProblem, unit: int, turned: bool) -> Packing | None:
    """How the right operand is packed, if it is one constant matrix."""
    op = problem.op
    if not op.constant[1] or len(op.inputs[1].shape) != 2 or not op.inputs[1].is_static:
        return None
    return Packing(int(problem.k), int(problem.n), unit, turned)


class Matrix:
    """An operand in memory: `origin` + position * `stride` + k * `depth_stride`.

    `limit` is the number of positions, `whole` the extent of the axis along which elements follow each other.
    """

    def __init__(
        self, buffer: tirx.Buffer, origin: Index, stride: Index, depth_stride: Index, limit: Index, whole: Dim
    ) -> None:
        self.buffer, self.origin, self.limit = buffer, origin, limit
        self.stride, self.depth_stride = stride, depth_stride
        self.along_k = _is_one(depth_stride) and not _is_one(stride)
        self.lanes = 1
        if _is_one(depth_stride) or _is_one(stride):
            far = stride if self.along_k else depth_stride
            # Vectors start at multiples of their length if lines do, and end within a line.
            starts = [i64(far), i64(origin)]
            self.lanes = VECTOR_BYTES // dtype_bytes(str(buffer.dtype))
            while not all(multiple(v, self.lanes) for v in (*starts, whole)):
                self.lanes //= 2

    def prepare(self, slot: int, position: Index) -> list[Stmt]:
        """Nothing: addresses are linear."""
        return []

    def enter(self, number: int, k: Index) -> list[Stmt]:
        """Nothing."""
        return []

    def fetch(
        self, slot: int, position: Index, k: Index, entered: int | None = None
    ) -> tuple[tirx.Expr | bool, tirx.Buffer, Index]:
        """Whether `position` is inside, and where the element is."""
        return position < self.limit, self.buffer, self.origin + position * self.stride + k * self.depth_stride


def _is_one(value: Index) -> bool:
    return isinstance(value, int) and value == 1


def multiple(value: Index, of: int) -> bool:
    """Whether `value` is certainly a multiple of `of`; the name of a symbolic size is one of 1 only."""
    if isinstance(value, int):
        return value % of == 0
    if isinstance(value, str):
        return of == 1
    rest = sym.Analyzer().modular_set(value)
    return rest.coeff % of == 0 and rest.base % of == 0


class MatmulMemory:
    """The parameters of a matmul kernel, and the matrices of each batch in them."""

    def __init__(
        self, op: OpSpec, problem: MatmulProblem, packing: Packing | None, indices: Indices | None = None
    ) -> None:
        self.problem, self.packing, self.indices = problem, packing, indices or Bound()
        self.buffers = Buffers(op, problem, packing.shape if packing is not None else None)
        self.batches: Index = 1
        for extent in self.buffers.batch:
            self.batches = self.batches * extent

    def function(self, body: Stmt) -> PrimFunc:
        """The kernel with `body`."""
        function = PrimFunc(self.buffers.params, seq(*self.buffers.declarations, body))
        return function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)

    def operands(self, batch: Index) -> tuple[Matrix, Matrix, object]:
        """A, B, and what writes results, of one batch."""
        at = self.indices.split(batch, list(self.buffers.batch)) if self.buffers.batch else []
        return self._left(at), self._right(at), lambda row, cols, values: self._write(at, row, cols, values)

    def axes(self, batch: Index) -> tuple[list[Index], list[Index]]:
        """Coordinates of one batch in the axes of A and of B beyond rows and columns, innermost first."""
        at = self.indices.split(batch, list(self.buffers.batch)) if self.buffers.batch else []
        left, right = ([at[axis] for axis in self._batch_axes(k)] for k in range(2))
        return left, right

    def _batch_axes(self, index: int) -> list[int]:
        """The batch axes that operand `index` follows, innermost first; a packed one follows none."""
        if index == 1 and self.packing is not None:
            return []
        marks = self.buffers.batch_indices(index, [f"{k}" for k in range(len(self.buffers.batch))])
        return [int(mark) for mark in reversed(marks) if mark != 0]

    def tiled(self) -> tuple[Tiled, Tiled] | None:
        """A and B for copies by descriptors; None where their lines do not begin at multiples of 16 bytes."""
        found = []
        for index, matrix in enumerate(self.operands(0)[:2]):
            if matrix.lanes * dtype_bytes(str(matrix.buffer.dtype)) != VECTOR_BYTES:
                return None
            found.append(self._tiled(index, matrix))
        return found[0], found[1]

    def _tiled(self, index: int, matrix: Matrix) -> Tiled:
        stride = matrix.stride if matrix.along_k else matrix.depth_stride
        axes = self._batch_axes(index)
        batch = []
        if axes:
            perm = self.problem.op.ints("lhs_perm" if index == 0 else "rhs_perm")
            strides = self.buffers.strides(index, perm)
            missing = len(self.buffers.batch) - (len(perm) - 2)
            batch = [(self.buffers.batch[axis], strides[axis - missing]) for axis in axes]
        depth = self.buffers.k
        return Tiled(self.buffers.params[index], matrix.along_k, matrix.limit, depth, stride, tuple(batch))

    def _left(self, at: list[Index]) -> Matrix:
        op, buffers = self.problem.op, self.buffers
        perm = op.ints("lhs_perm")
        strides = buffers.strides(0, perm)
        origin = self._origin(0, at, strides)
        whole = self.problem.k if _is_one(strides[-1]) and not _is_one(strides[-2]) else self.problem.m
        return Matrix(buffers.flat(0), origin, strides[-2], strides[-1], buffers.m, whole)

    def _right(self, at: list[Index]) -> Matrix:
        op, buffers, packing = self.problem.op, self.buffers, self.packing
        if packing is not None:
            lines, length = packing.shape
            if packing.turned:
                return Matrix(buffers.flat(1), 0, length, 1, lines, length)
            return Matrix(buffers.flat(1), 0, 1, length, length, length)
        strides = buffers.strides(1, op.ints("rhs_perm"))
        origin = self._origin(1, at, strides)
        whole = self.problem.k if _is_one(strides[-2]) and not _is_one(strides[-1]) else self.problem.n
        return Matrix(buffers.flat(1), origin, strides[-1], strides[-2], buffers.n, whole)

    def _origin(self, index: int, at: list[Index], strides: Sequence[Index]) -> Index:
        origin: Index = 0
        for position, step in zip(self.buffers.batch_indices(index, at), strides, strict=False):
            origin = origin + position * step
        return origin

    def _write(self, at: list[Index], row: Index, columns: Sequence[Index], values: Sequence[tirx.Expr]) -> Stmt:
        """Results through the epilogue, as one vector where memory has them side by side."""
        op, buffers = self.problem.op, self.buffers
        perm = op.ints("out_perm")
        stored = [perm.index(axis) for axis in range(len(perm))]  # axis `stored[i]` of memory is logical axis i

        def place(column: Index) -> Index:
            return buffers.offset(-1, [*at, row, column], stored)

        first, results = epilogue(op, values, [*at, row], columns, buffers.flat, buffers.offset)
        out = buffers.flat(-1)
        if len(values) == 1 or perm[-1] != len(perm) - 1:
            return seq(
                *first, *(tirx.BufferStore(out, r, [i64(place(c))]) for c, r in zip(columns, results, strict=True))
            )
        return seq(*first, store_vector(out, place(columns[0]), results))
