"""Products of int8 rows with a constant int8 matrix, sums in int32: a convolution of one row of pixels."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from ....compiler.schedule.epilogue import apply_epilogue
from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec, TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ....compiler.tensor_spec import Dim
from ...shared.conv_shape import ConvShape
from ...shared.matmul_problem import Buffers, MatmulProblem, read_matrices
from ...shared.tir_loops import Index, i64, seq, store
from .conv_traits import direct_traits
from .int8_nest import Int8Nest, Int8Weights, dot_of, grouped, int8_configs


class Int8Matmul(Template):
    """Matrices with constant right-hand sides; knobs are those of `DirectConv2D`."""

    name = "matmul_int8"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """Configs as of direct convolutions; None unless both sides are int8, sums int32 and the right one constant."""
        problem = _problem(op)
        if problem is None or not isinstance(target, CpuSpec):
            return None
        configs = int8_configs(_as_convolution(problem), target)
        return Space(configs[0], tuple(configs))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, with the matrix packed as `Int8Weights` says."""
        problem = _problem(op)
        assert problem is not None, "match accepts only such products"
        assert isinstance(target, CpuSpec)
        conv = _as_convolution(problem)
        weights = Int8Weights(conv, target, config)
        rows = _Rows(op, problem, weights.size)
        nest = Int8Nest(rows, conv, weights, config)
        order = op.ints("rhs_perm")
        return Candidate(
            rows.function(nest.body()), {1: lambda w: weights.pack(w.transpose(order).T[:, :, None, None])}
        )

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`, of groups of columns as if they were float32."""
        problem = _problem(op)
        assert problem is not None, "match accepts only such products"
        assert isinstance(target, CpuSpec)
        return direct_traits(grouped(_as_convolution(problem), dot_of(target)), target, configs)


# Axes of an image: what leads a matrix has to fit the first two.
_PIXEL_AXES = 3


def _problem(op: OpSpec) -> MatmulProblem | None:
    """The problem of `op` if this template takes it: one matrix on the right, all axes in the order of memory."""
    problem = read_matrices(op)
    if problem is None or not op.constant[1] or len(op.inputs[1].shape) != 2:
        return None
    axes = tuple(range(len(op.anchor_type.shape)))
    if op.ints("lhs_perm") != axes or op.ints("out_perm") != axes or len(problem.batch) >= _PIXEL_AXES:
        return None
    dtypes = (op.inputs[0].dtype, op.inputs[1].dtype, op.anchor_type.dtype)
    known = all(isinstance(d, int) for d in (problem.k, problem.n)) and 0 not in (problem.k, *op.anchor_type.shape)
    return problem if dtypes == ("int8", "int8", "int32") and known else None


def _as_convolution(problem: MatmulProblem) -> ConvShape:
    """Rows as the pixels of an image, one pixel high if there are fewer than two axes in front of them."""
    batch, height = (*problem.batch, 1, 1)[:2]
    size: tuple[Dim, Dim] = (height, problem.m)
    return ConvShape(
        batch=batch,
        size=size,
        channels=int(problem.k),
        out_size=size,
        out_channels=int(problem.n),
        kernel=(1, 1),
        stride=(1, 1),
        pad=(0, 0),
        padded=(False, False),
        dilation=(1, 1),
        groups=1,
    )


class _Rows:
    """Buffers of the product by the names that the loops of convolutions know."""

    def __init__(self, op: OpSpec, problem: MatmulProblem, packed: int):
        self.buffers = Buffers(op, problem, (packed,))
        self.op = problem.op
        self.data, self.weights = self.buffers.flat(0), self.buffers.flat(1)
        rows = [*zip(problem.batch, self.buffers.batch, strict=True), (problem.m, self.buffers.m)]
        self._sizes = {dim: size for dim, size in rows if isinstance(dim, str)}
        self._lead = len(problem.batch)

    def size(self, dim: Dim) -> Index:
        """The int or symbolic variable of a dimension."""
        return dim if isinstance(dim, int) else self._sizes[dim]

    def write(self, value: tirx.Expr, batch: Index, row: Index, col: Index, channel: Index) -> Stmt:
        """Apply the epilogue to the sum of a row and column `channel`, and store the result."""
        lead = {0: [], 1: [batch], 2: [batch, row]}[self._lead]
        indices = [i64(i) for i in (*lead, col, channel)]
        result = apply_epilogue(self.op, value, indices, self.buffers.read)
        return store(self.buffers.flat(-1), [self.buffers.offset(-1, indices)], result)

    def function(self, body: Stmt) -> PrimFunc:
        """The kernel with `body`; its parameters do not alias."""
        function = PrimFunc(self.buffers.params, seq(*self.buffers.declarations, body))
        return function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)
