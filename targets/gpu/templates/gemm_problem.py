"""Operators that are products of matrices, as kernels by tiles take them: matmuls and convolutions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm.tirx import PrimFunc, Stmt

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.template import Packer
from ...shared.conv_shape import ConvShape, conv_sizes
from ...shared.matmul_problem import MatmulProblem, read_matrices
from ...shared.tir_loops import Index
from .gemm_conv import ConvMemory, WeightPacking, is_depthwise
from .gemm_conv import sizes_of as conv_problem_sizes
from .gemm_costs import Problem
from .gemm_grid import Grid, Operands
from .gemm_index import Held, Indices
from .gemm_matmul import MatmulMemory, is_thin, packing_of
from .gemm_matmul import sizes_of as matmul_problem_sizes
from .tensor_core_maps import Tiled
from .vectors import VECTOR_BYTES, dtype_bytes


@dataclass(frozen=True)
class Access:
    """The matrices of a product in memory, for tiles of one size.

    Attributes:
        m, n, k: sizes of each of `batches` products.
        operands: A, B, and what stores results, of product number b.
        function: the PrimFunc with a body.
        packers: of constant operands.
        lanes: elements of A and of B that are read at once.
        indices: how values are named.
        tiled: A and B for copies by descriptors, and their coordinates in batch axes, where rows begin at multiples of
            16 bytes.
    """

    m: Index
    n: Index
    k: Index
    batches: Index
    operands: Operands
    function: Callable[[Stmt], PrimFunc]
    packers: Mapping[int, Packer]
    indices: Indices
    tiled: tuple[Tiled, Tiled] | None = None
    axes: Callable[[Index], tuple[list[Index], list[Index]]] = field(default=lambda batch: ([], []))

    @property
    def lanes(self) -> tuple[int, int]:
        """Elements of A and of B that are read at once."""
        left, right, _ = self.operands(0)
        return left.lanes, right.lanes

    def grid(self, tile: Any, bk: int, accumulator: str, result: str, lanes: int) -> Grid:
        """The products by tiles; see Grid for the rest."""
        return Grid(
            m=self.m,
            n=self.n,
            k=self.k,
            bm=tile.bm,
            bn=tile.bn,
            bk=bk,
            batches=self.batches,
            accumulator=accumulator,
            result=result,
            lanes=lanes,
            indices=self.indices,
            split=tile.split,
        )


class GemmProblem(ABC):
    """An operator that is a product. `window`: each element of A is read at a place of an image of its own."""

    op: OpSpec
    sizes: Problem
    worthwhile: bool
    window = False

    @abstractmethod
    def access(self, held: bool, turned: bool = True, bm: int = 1, bn: int = 1) -> Access:
        """The matrices for tiles of bm x bn.

        With `held`, addresses are kept in registers (`Held`); `turned`: a constant B is packed as (N, K), else (K, N).
        """


class MatmulProducts(GemmProblem):
    """A matmul of any shape, with broadcast batches and permuted operands; thin ones are not worth while."""

    def __init__(self, problem: MatmulProblem, op: OpSpec) -> None:
        self.op, self.problem = op, problem
        self.sizes, self.worthwhile = matmul_problem_sizes(problem), not is_thin(problem)

    def access(self, held: bool, turned: bool = True, bm: int = 1, bn: int = 1) -> Access:
        """See GemmProblem."""
        unit = VECTOR_BYTES // dtype_bytes(self.op.inputs[1].dtype)
        packing = packing_of(self.problem, unit, turned)
        indices = Held.of(self.op) if held else None
        memory = MatmulMemory(self.op, self.problem, packing, indices)
        packers = {1: packing.packer(self.problem.op.ints("rhs_perm"))} if packing is not None else {}
        buffers = memory.buffers
        return Access(
            m=buffers.m,
            n=buffers.n,
            k=buffers.k,
            batches=memory.batches,
            operands=memory.operands,
            function=memory.function,
            packers=packers,
            indices=memory.indices,
            tiled=memory.tiled(),
            axes=memory.axes,
        )


class ConvProducts(GemmProblem):
    """A 2-D convolution with constant weights, grouped or not; depthwise ones have a template of their own."""

    def __init__(self, conv: ConvShape, op: OpSpec) -> None:
        self.op, self.conv = op, conv
        self.sizes, self.worthwhile = conv_problem_sizes(conv), not is_depthwise(conv)
        self.window = not conv.is_pointwise

    def access(self, held: bool, turned: bool = True, bm: int = 1, bn: int = 1) -> Access:
        """See GemmProblem."""
        conv, unit = self.conv, VECTOR_BYTES // dtype_bytes(self.op.inputs[1].dtype)
        packing = WeightPacking(conv, unit, turned)
        memory = ConvMemory(self.op, packing, bm, bn, Held.of(self.op) if held else None)
        return Access(
            m=memory.count,
            n=conv.group_out,
            k=conv.depth,
            batches=conv.groups,
            operands=memory.matrices,
            function=memory.function,
            packers={1: packing.pack},
            indices=memory.indices,
            tiled=memory.tiled(),
        )


def matmul_products(op: OpSpec) -> GemmProblem | None:
    """`op` as a product, if it is a matmul of matrices."""
    problem = read_matrices(op)
    return MatmulProducts(problem, op) if problem is not None else None


def conv_products(op: OpSpec) -> GemmProblem | None:
    """`op` as a product, if it is a 2-D convolution in NHWC with constant weights."""
    conv = conv_sizes(op)
    return ConvProducts(conv, op) if conv is not None else None
