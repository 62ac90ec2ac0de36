"""Buffers of a convolution kernel: parameters in the OpSpec's order, flat views of them, and the epilogue's reads."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx
from tvm.tirx import DeclBuffer, PrimFunc, Stmt

from ...compiler.schedule.epilogue import apply_epilogue
from ...compiler.schedule.op_spec import OpSpec, TensorType
from ...compiler.tensor_spec import Dim
from .conv_shape import ignores_pixels, is_column
from .tir_loops import Index, i64, seq, size_variable, store


class Operands:
    """Parameters of the kernel of `op`: its inputs (those in `packed` as flat arrays of that many elements), output.

    `flatten` says that the kernel numbers all output pixels with one index instead of (batch, row, column).
    """

    def __init__(self, op: OpSpec, packed: Mapping[int, int], flatten: bool = False):
        self.op = op
        self.flatten = flatten
        self._column = op.kind == "conv2d" and is_column(op)
        self._symbols: dict[str, tirx.Expr] = {}
        self._views: dict[int, tirx.Buffer] = {}
        self._declarations: list[Stmt] = []
        self.params = [
            tirx.decl_buffer((i64(packed[k]),), t.dtype, f"in{k}") if k in packed else self._declare(t, f"in{k}")
            for k, t in enumerate(op.inputs)
        ]
        self.params.append(self._declare(TensorType(op.anchor_type.shape, op.output.dtype), "out"))
        self.data, self.weights = self.flat(0), self.params[1]

    def _declare(self, tensor: TensorType, name: str) -> tirx.Buffer:
        return tirx.decl_buffer([i64(self.size(d)) for d in tensor.shape], tensor.dtype, name)

    def size(self, dim: Dim) -> Index:
        """The int or symbolic variable of a dimension; "*" is the number of all output pixels."""
        if isinstance(dim, int):
            return dim
        if dim == "*":
            batch, height, width, _ = (self.size(d) for d in self.op.anchor_type.shape)
            return i64(batch) * height * width
        return self._symbols.setdefault(dim, size_variable(dim))

    def define(self, name: str, value: Index) -> Dim:
        """A dimension of size `value`: an int, or `name` as the name of a symbolic one."""
        if isinstance(value, int):
            return value
        self._symbols[name] = value
        return name

    def flat(self, k: int) -> tirx.Buffer:
        """Parameter k as a one-dimensional array."""
        k = k % len(self.params)
        if k not in self._views:
            buffer = self.params[k]
            size = i64(1)
            for d in buffer.shape:
                size = size * d
            self._views[k] = tirx.decl_buffer((size,), str(buffer.dtype), f"flat{k}")
            self._declarations.append(DeclBuffer(self._views[k], data=tirx.buffer_data(buffer)))
        return self._views[k]

    def result(self, value: tirx.Expr, batch: Index, row: Index, col: Index, channel: Index) -> tirx.Expr:
        """The anchor's `value` at one output element after the epilogue."""
        row, col = (col, row) if self._column and not self.flatten else (row, col)
        indices = [i64(batch), i64(row), i64(col), i64(channel)]
        return apply_epilogue(self.op, value, indices, lambda k, at: self._read(k, at, i64(col)))

    def write(self, value: tirx.Expr, batch: Index, row: Index, col: Index, channel: Index) -> Stmt:
        """Apply the epilogue to the anchor's `value` at one output element and store the result."""
        result = self.result(value, batch, row, col, channel)
        if self.flatten:
            return store(self.flat(-1), [col * int(self.op.anchor_type.shape[3]) + channel], result)
        row, col = (col, row) if self._column else (row, col)
        return store(self.params[-1], [i64(batch), i64(row), i64(col), i64(channel)], result)

    def _read(self, k: int, indices: list[tirx.Expr], pixel: tirx.Expr) -> tirx.Expr:
        if not self.flatten:
            return tirx.BufferLoad(self.params[k], indices)
        shape = self.op.inputs[k].shape
        channel = indices[-1] if indices else i64(0)
        if ignores_pixels(self.op.inputs[k]):
            return tirx.BufferLoad(self.flat(k), [channel])
        return tirx.BufferLoad(self.flat(k), [pixel * int(shape[3]) + channel])

    def function(self, body: Stmt) -> PrimFunc:
        """The kernel with `body`; its parameters do not alias."""
        function = PrimFunc(self.params, seq(*self._declarations, body))
        return function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)
