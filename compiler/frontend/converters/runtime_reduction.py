"""Reductions whose axes are data: CumSum and CumProd, and Reduce* with the axes of a run.

How many axes are reduced is known, and so is the rank of the result. An axis that goes has stride 0 in it: one loop
over all elements of the input adds each to its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ..dtypes import is_float, numpy_dtype
from ..node import Node
from .broadcast import scalar
from .reduction import empty_value
from .registry import run_converter
from .runtime_shapes import marked_axes
from .runtime_sizes import Sizes, choose, elements, exprs, int64, product_of, sizes_of_run, vector, vector_length

op = relax.op

_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda total, new: total + new,
    "prod": lambda total, new: total * new,
    "max": tirx.max,
    "min": tirx.min,
}


class _Axes:
    """The axes of one node in a run, and the shape of what is left."""

    def __init__(self, node: Node):
        self.node, self.shape = node, node.shape(0)
        self.keepdims = bool(node.attr("keepdims", 1))
        rank = len(self.shape)
        reduced = vector_length(node, 1, "axes")
        self.vector = node.inputs[1]
        self.out = sizes_of_run(
            node, self._sizes, self.vector, exprs(self.shape), count=rank if self.keepdims else rank - reduced
        )
        self.strides = node.te(self._strides, self.vector, exprs(self.shape), name="strides") if rank else None

    def _sizes(self, axes: te.Tensor, old: list[ir.Expr]) -> Sizes:
        marks, valid = marked_axes(axes, len(old))
        if self.keepdims:
            return Sizes([choose(m > 0, 1, d) for m, d in zip(marks, old, strict=True)], valid)
        sizes = []
        for j in range(len(old) - int(axes.shape[0]) if axes.shape else len(old) - 1):
            size, place = int64(0), int64(0)
            for mark, dim in zip(marks, old, strict=True):
                size = choose(tirx.all(mark < 1, tirx.EQ(place, int64(j))), dim, size)
                place = place + 1 - mark
            sizes.append(size)
        return Sizes(sizes, valid)

    def _strides(self, axes: te.Tensor, old: list[ir.Expr]) -> te.Tensor:
        """How far the result's element moves with each axis of the input."""
        marks, _ = marked_axes(axes, len(old))
        strides, stride = [], int64(1)
        for mark, dim in zip(reversed(marks), reversed(old), strict=True):
            strides.append(choose(mark > 0, 0, stride))
            stride = choose(mark > 0, stride, stride * dim)
        return vector(strides[::-1], "strides")

    def reduce(self, kind: str, x: relax.Expr) -> relax.Expr:
        """The reduction "sum", "prod", "max" or "min" of `x`; booleans are compared as integers."""
        dtype = str(x.ty.dtype)
        if dtype != "bool":
            return self._reduce(kind, x, dtype, empty_value(kind, dtype))
        numbers = self.node.emit(op.astype(x, "int8"))
        return self.node.emit(op.astype(self._reduce(kind, numbers, "int8", int(kind == "min")), "bool"))

    def _reduce(self, kind: str, x: relax.Expr, dtype: str, nothing: float) -> relax.Expr:
        start = tirx.const(numpy_dtype(dtype).type(nothing).item(), dtype)

        def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer], shape: Sequence[Any]) -> tirx.Stmt:
            data, strides, result = (T.buffer_proxy(b) for b in (*ins, *outs))
            with IRBuilder() as builder:
                with T.seq_scope():
                    with T.serial(0, product_of(outs[0].shape)) as i:
                        result[i] = start
                    if not any(_is_empty(dim) for dim in shape):
                        with T.serial(0, product_of(shape)) as flat:
                            at = _place(strides, flat, shape)
                            result[at] = _COMBINE[kind](result[at], data[flat])
                return builder.get()

        def compute(x: te.Tensor, strides: te.Tensor, out: list[ir.Expr]) -> te.Tensor:
            buffer = tirx.decl_buffer(out, dtype, "reduced", layout=None)
            return te.extern(
                [out],
                [x, strides],
                lambda ins, outs: body(ins, outs, x.shape),
                dtype=dtype,
                out_buffers=[buffer],
                name="reduce",
            )

        return self.node.te(compute, x, self.strides, exprs(self.out), name=f"reduce_{kind}")

    def spread(self, reduced: relax.Expr) -> relax.Expr:
        """A result of `reduce`, repeated over the axes that went, in the input's shape."""

        def compute(reduced: te.Tensor, strides: te.Tensor, old: list[ir.Expr]) -> te.Tensor:
            def element(*at: tirx.Var) -> ir.Expr:
                flat = sum((i * strides(a) for a, i in enumerate(at)), int64(0))
                places = []
                for dim in reversed(reduced.shape):
                    places.append(tirx.floormod(flat, dim))
                    flat = tirx.floordiv(flat, dim)
                return reduced(*places[::-1])

            return te.compute(old, element, name="spread")

        return self.node.te(compute, reduced, self.strides, exprs(self.shape), name="spread")

    def count(self, dtype: str) -> relax.Expr:
        """How many elements each result is made of."""
        ones = self.node.emit(op.full(relax.ShapeExpr(exprs(self.shape)), scalar(1, dtype), dtype))
        return self.reduce("sum", ones)


def _place(strides: Any, flat: ir.Expr, shape: Sequence[ir.Expr]) -> ir.Expr:
    at = int64(0)
    for axis in reversed(range(len(shape))):
        at = at + tirx.floormod(flat, shape[axis]) * strides[axis]
        flat = tirx.floordiv(flat, shape[axis])
    return at


def _is_empty(dim: ir.Expr) -> bool:
    return isinstance(dim, tirx.IntImm) and dim.value == 0


Reduction = Callable[[_Axes, relax.Expr], relax.Expr]


def _plain(kind: str) -> Reduction:
    return lambda axes, x: axes.reduce(kind, x)


def _mean(axes: _Axes, x: relax.Expr) -> relax.Expr:
    return axes.node.emit(op.divide(axes.reduce("sum", x), axes.count(str(x.ty.dtype))))


def _squares(axes: _Axes, x: relax.Expr) -> relax.Expr:
    return axes.reduce("sum", axes.node.emit(op.multiply(x, x)))


def _log_sum_exp(axes: _Axes, x: relax.Expr) -> relax.Expr:
    """max + log(sum(exp(x - max))); a maximum that is not finite is replaced by 0 to avoid inf - inf."""
    node, dtype = axes.node, str(x.ty.dtype)
    largest = axes.reduce("max", x)
    shift = node.emit(op.where(op.isfinite(largest), largest, scalar(0, dtype)))
    powers = node.emit(op.exp(node.emit(op.subtract(x, axes.spread(shift)))))
    return node.emit(op.add(op.log(axes.reduce("sum", powers)), shift))


# operator -> the reduction, and whether integers are reduced in float64.
_REDUCTIONS: dict[str, tuple[Reduction, bool]] = {
    "ReduceSum": (_plain("sum"), False),
    "ReduceProd": (_plain("prod"), False),
    "ReduceMax": (_plain("max"), False),
    "ReduceMin": (_plain("min"), False),
    "ReduceMean": (_mean, True),
    "ReduceL1": (lambda axes, x: axes.reduce("sum", axes.node.emit(op.abs(x))), False),
    "ReduceL2": (lambda axes, x: axes.node.emit(op.sqrt(_squares(axes, x))), True),
    "ReduceSumSquare": (_squares, False),
    "ReduceLogSum": (lambda axes, x: axes.node.emit(op.log(axes.reduce("sum", x))), True),
    "ReduceLogSumExp": (_log_sum_exp, True),
}


def _register(op_type: str, reduction: Reduction, in_float: bool) -> None:
    @run_converter(op_type, (1,), since=13 if op_type == "ReduceSum" else 18)
    def convert(node: Node) -> relax.Expr:
        x, dtype = node.inputs[0], node.dtype(0)
        wide = (
            "float32" if dtype in ("float16", "bfloat16") else "float64" if in_float and not is_float(dtype) else dtype
        )
        if wide == dtype:
            return reduction(_Axes(node), x)
        return op.astype(reduction(_Axes(node), node.emit(op.astype(x, wide))), dtype)


for _op_type, (_reduction, _in_float) in _REDUCTIONS.items():
    _register(_op_type, _reduction, _in_float)


@run_converter("CumSum", (1,), since=11)
def cumsum(node: Node) -> relax.Expr:
    return _accumulated(node, "sum", 0)


@run_converter("CumProd", (1,), since=26)
def cumprod(node: Node) -> relax.Expr:
    return _accumulated(node, "prod", 1)


def _accumulated(node: Node, kind: str, start: int) -> relax.Expr:
    """Plane by plane along the axis: each continues the one before it."""
    reverse, exclusive = bool(node.attr("reverse", 0)), bool(node.attr("exclusive", 0))
    first, rank = tirx.const(start, node.dtype(0)), node.rank(0)
    vector_length(node, 1, "the axis")

    def steps(axis: te.Tensor, old: list[ir.Expr]) -> te.Tensor:
        """How many elements there are before the axis, on it and behind it."""
        (given,) = elements(axis)
        given = tirx.max(tirx.min(choose(given < 0, given + rank, given), int64(rank - 1)), int64(0))
        outer, size, inner = int64(1), int64(1), int64(1)
        for i, dim in enumerate(old):
            outer = choose(given > i, outer * dim, outer)
            size = choose(tirx.EQ(given, int64(i)), dim, size)
            inner = choose(given < i, inner * dim, inner)
        return vector([outer, size, inner], "steps")

    def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
        data, axis, total = (T.buffer_proxy(b) for b in (*ins, *outs))
        with IRBuilder() as builder:
            with T.serial(0, axis[0]) as o, T.serial(0, axis[1]) as i, T.serial(0, axis[2]) as n:
                along, step = (axis[1] - 1 - i, -axis[2]) if reverse else (i, axis[2])
                at = (o * axis[1] + along) * axis[2] + n
                with T.If(i < 1), T.Then():
                    total[at] = first if exclusive else data[at]
                with T.If(i > 0), T.Then():
                    total[at] = _COMBINE[kind](total[at - step], data[at - step if exclusive else at])
            return builder.get()

    def compute(x: te.Tensor, axis: te.Tensor) -> te.Tensor:
        out = tirx.decl_buffer(x.shape, x.dtype, "totals", layout=None)
        return te.extern([x.shape], [x, axis], body, dtype=x.dtype, out_buffers=[out], name="scan")

    axis = node.te(steps, node.inputs[1], exprs(node.shape(0)), name="steps")
    return node.te(compute, node.inputs[0], axis, name=node.op_type.lower())
