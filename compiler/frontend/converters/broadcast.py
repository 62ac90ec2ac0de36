"""What elementwise converters share: scalar constants, operands whose shapes must broadcast, and loops over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import ir, relax, te, tirx

from ..dtypes import numpy_dtype
from ..node import Node
from ..values import Dim, Value, constant


def scalar(value: float | bool, dtype: str) -> relax.Expr:
    """A constant of shape ()."""
    return constant(np.array(value, numpy_dtype(dtype)))


def shape_of(expr: relax.Expr) -> list[Dim] | None:
    """The dimensions of a normalised expression; None when they depend on data."""
    return Value(expr=expr).shape


def broadcast_operands(node: Node, operands: Sequence[relax.Expr]) -> list[relax.Expr]:
    """`operands` in shapes that Relax can prove to broadcast.

    Two sizes that cannot be proved equal, such as `n` and `2 * ((n - 1) // 2 + 1)`, are equal in every run that is
    valid: the later operand gets the size of the first by a cast that is checked when the model runs.
    """
    shapes = [_known_shape(node, e) for e in operands]
    rank = max(len(s) for s in shapes)
    sizes: list[Dim] = [1] * rank
    result = []
    for operand, shape in zip(operands, shapes, strict=True):
        agreed = list(shape)
        for axis, size in enumerate(shape):
            position = rank - len(shape) + axis
            sizes[position], agreed[axis] = _agree(node, sizes[position], size)
        result.append(node.cast_shape(operand, agreed))
    # A fixed size that came later also holds for the operands before it.
    return [fit(node, e, sizes) for e in result]


def _known_shape(node: Node, expr: relax.Expr) -> list[Dim]:
    shape = shape_of(expr)
    if shape is None:
        raise node.error("an operand has a shape that depends on data, which is not supported")
    return shape


def _agree(node: Node, so_far: Dim, size: Dim) -> tuple[Dim, Dim]:
    """The broadcast of two sizes, and what the second one has to be."""
    if isinstance(size, int) and size == 1:
        return so_far, 1
    if isinstance(so_far, int) and so_far == 1:
        return size, size
    equal = node.symbols.equal(so_far, size)
    if equal is False and isinstance(so_far, int) and isinstance(size, int):
        raise node.error(f"sizes {so_far} and {size} of two operands do not broadcast")
    if isinstance(size, int):
        return size, size
    return so_far, so_far


def fit(node: Node, expr: relax.Expr, sizes: Sequence[Dim]) -> relax.Expr:
    """`expr` with `sizes` on its trailing axes, except where its own size is 1."""
    shape = _known_shape(node, expr)
    behind = sizes[len(sizes) - len(shape) :]
    wanted = [s if isinstance(s, int) and s == 1 else size for s, size in zip(shape, behind, strict=True)]
    return node.cast_shape(expr, wanted)


def same_sizes(node: Node, operands: Sequence[relax.Expr], skip_axis: int) -> list[relax.Expr]:
    """`operands` of one rank with the sizes of the first on every axis but `skip_axis` (cast as in broadcasting)."""
    shapes = [_known_shape(node, e) for e in operands]
    sizes = list(shapes[0])
    for shape in shapes[1:]:
        if len(shape) != len(sizes):
            raise node.error(f"operands have {len(sizes)} and {len(shape)} dimensions, expected the same number")
        for axis, size in enumerate(shape):
            if axis == skip_axis:
                continue
            if isinstance(size, int) and isinstance(sizes[axis], int) and size != sizes[axis]:
                raise node.error(f"operands have sizes {sizes[axis]} and {size} on axis {axis}, expected the same")
            if isinstance(size, int):
                sizes[axis] = size
    result = []
    for operand, shape in zip(operands, shapes, strict=True):
        wanted = [shape[a] if a == skip_axis else size for a, size in enumerate(sizes)]
        result.append(node.cast_shape(operand, wanted))
    return result


def pointwise(node: Node, function: Callable[..., ir.Expr], operands: list[relax.Expr], name: str) -> relax.Expr:
    """`function` of one element of each operand; the operands broadcast."""
    operands = broadcast_operands(node, operands)

    def compute(*tensors: te.Tensor) -> te.Tensor:
        rank = max(len(t.shape) for t in tensors)
        columns = zip(*([1] * (rank - len(t.shape)) + list(t.shape) for t in tensors), strict=True)
        shape = [next((size for size in sizes if not _is_one(size)), 1) for sizes in columns]

        def element(*at: tirx.Var) -> ir.Expr:
            return function(*(t(*_place(t, at[rank - len(t.shape) :])) for t in tensors))

        return te.compute(shape, element, name=name)

    return node.te(compute, *operands, name=name)


def _place(tensor: te.Tensor, at: tuple) -> list:
    return [tirx.const(0, "int64") if _is_one(size) else i for size, i in zip(tensor.shape, at, strict=True)]


def _is_one(size: Any) -> bool:
    return isinstance(size, (int, tirx.IntImm)) and int(size) == 1
