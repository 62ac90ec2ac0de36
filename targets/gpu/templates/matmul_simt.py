"""float32 matmul without matrix units: tiles through double-buffered shared memory, the epilogue in registers.

Any shape, broadcast batches and permuted operands; sizes may be symbolic. A constant right operand is packed as (K, N)
with N rounded up to whole vectors, so that every fetch is one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import sym, tirx
from tvm.tirx import PrimFunc, Stmt

from ....compiler.schedule.epilogue import apply_epilogue
from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Packer, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.index_math import split_index
from ...shared.matmul_problem import Buffers, Dim, MatmulProblem, read_problem
from ...shared.tir_loops import Index, i64, seq
from ..spec import GpuSpec
from .gemm_costs import Problem, gemm_space, gemm_traits, tile_of
from .gemm_tile import QUAD, GemmNest
from .vectors import store_vector

# Rows below which a matrix times vector product by reductions reads B just as fast, without tiles.
_FEWEST_ROWS = 3


class MatmulSimt(Template):
    """Matmul on the vector units."""

    name = "matmul_simt"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """float32 matrices; thin ones are left to the generic reductions."""
        problem = read_problem(op) if isinstance(target, GpuSpec) else None
        if problem is None or not isinstance(target, GpuSpec):
            return None
        if any(isinstance(d, int) and d < _FEWEST_ROWS for d in (problem.m, problem.n)) or 0 in problem.batch:
            return None
        if problem.k == 0:
            return None
        return gemm_space(_sizes(problem), target)

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel; a constant right operand is packed."""
        problem = read_problem(op)
        assert problem is not None
        packed = _packed_shape(problem)
        packers: dict[int, Packer] = {1: lambda weight: _pack(problem, weight)} if packed is not None else {}
        return Candidate(_Kernel(op, problem, packed, config).function(), packers)

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        problem = read_problem(op)
        assert problem is not None
        assert isinstance(target, GpuSpec)
        return gemm_traits(_sizes(problem), target, configs)


def _sizes(problem: MatmulProblem) -> Problem:
    batch = 1
    for d in problem.batch:
        batch *= d if isinstance(d, int) else 1
    return Problem(batch, problem.m, problem.n, problem.k)


def _packed_shape(problem: MatmulProblem) -> tuple[int, int] | None:
    """(K, N rounded up), if the right operand is one constant matrix."""
    op = problem.op
    if not op.constant[1] or len(op.inputs[1].shape) != 2 or not op.inputs[1].is_static:
        return None
    return int(problem.k), -(-int(problem.n) // QUAD) * QUAD


def _pack(problem: MatmulProblem, weight: np.ndarray) -> np.ndarray:
    """(K, N), zeros in the columns beyond."""
    shape = _packed_shape(problem)
    assert shape is not None
    plain = np.transpose(weight, problem.op.ints("rhs_perm"))
    return np.pad(plain, ((0, 0), (0, shape[1] - plain.shape[1])))


class _Matrix:
    """An operand in memory: `origin` + position * `stride` + k * `depth_stride`.

    `whole` is the extent of the axis along which elements follow each other.
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
            self.lanes = next(n for n in (4, 2, 1) if all(multiple(v, n) for v in (*starts, whole)))

    def prepare(self, slot: int, position: Index) -> list[Stmt]:
        """Nothing: addresses are linear."""
        return []

    def fetch(self, slot: int, position: Index, k: Index) -> tuple[tirx.Expr | bool, tirx.Buffer, Index]:
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


class _Kernel:
    """Generates one matmul kernel."""

    def __init__(self, op: OpSpec, problem: MatmulProblem, packed: tuple[int, int] | None, config: Config) -> None:
        self.problem, self.packed = problem, packed
        self.buffers = Buffers(op, problem, packed)
        self.tile = tile_of(config)

    def function(self) -> PrimFunc:
        """The whole kernel."""
        buffers = self.buffers
        nest = GemmNest(self.tile, buffers.m, buffers.n, buffers.k)
        batches: Index = 1
        for extent in buffers.batch:
            batches = batches * extent

        def operands(batch: Index) -> tuple[_Matrix, _Matrix, object]:
            at = split_index(batch, list(buffers.batch)) if buffers.batch else []
            return self._left(at), self._right(at), lambda row, cols, values: self._write(at, row, cols, values)

        body = nest.kernel(batches, operands)
        function = PrimFunc(buffers.params, seq(*buffers.declarations, body))
        return function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)

    def _left(self, at: list[Index]) -> _Matrix:
        op, buffers = self.problem.op, self.buffers
        perm = op.ints("lhs_perm")
        strides = buffers.strides(0, perm)
        origin = self._origin(0, at, strides)
        whole = self.problem.k if _is_one(strides[-1]) and not _is_one(strides[-2]) else self.problem.m
        return _Matrix(buffers.flat(0), origin, strides[-2], strides[-1], buffers.m, whole)

    def _right(self, at: list[Index]) -> _Matrix:
        op, buffers = self.problem.op, self.buffers
        if self.packed is not None:
            return _Matrix(buffers.flat(1), 0, 1, self.packed[1], self.packed[1], self.packed[1])
        strides = buffers.strides(1, op.ints("rhs_perm"))
        origin = self._origin(1, at, strides)
        whole = self.problem.k if _is_one(strides[-2]) and not _is_one(strides[-1]) else self.problem.n
        return _Matrix(buffers.flat(1), origin, strides[-1], strides[-2], buffers.n, whole)

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

        def result(column: Index, value: tirx.Expr) -> tirx.Expr:
            return apply_epilogue(op, value, [i64(i) for i in (*at, row, column)], buffers.read)

        def place(column: Index) -> Index:
            return buffers.offset(-1, [*at, row, column], stored)

        out = buffers.flat(-1)
        if len(values) == 1 or perm[-1] != len(perm) - 1:
            each = [tirx.BufferStore(out, result(c, v), [i64(place(c))]) for c, v in zip(columns, values, strict=True)]
            return seq(*each)
        return store_vector(out, place(columns[0]), [result(c, v) for c, v in zip(columns, values, strict=True)])
