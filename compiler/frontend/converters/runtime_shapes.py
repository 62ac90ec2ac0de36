"""Operators that make shapes, where the shape is data: Reshape, Expand, Tile, Range, Squeeze, OneHot and others."""

from __future__ import annotations

import numpy as np
from tvm import ir, relax, te, tirx

from ..dtypes import is_integer
from ..node import Node
from ..symbols import as_expr
from ..values import Dim
from .data_movement import one_hot_of
from .registry import run_converter
from .runtime_sizes import Sizes, choose, elements, exprs, fits, int64, picked, product_of, sizes_of_run, vector_length
from .scatter import top_k_of
from .shape_ops import filled

op = relax.op


def _reshaped(node: Node, sizes: list[Dim]) -> relax.Expr:
    """Input 0 in a shape that was checked to have as many elements."""
    return op.reshape(node.inputs[0], relax.ShapeExpr(exprs(sizes)))


@run_converter("Reshape", (1,), since=5)
def reshape(node: Node) -> relax.Expr:
    count, copies = vector_length(node, 1, "the shape"), not node.attr("allowzero", 0)

    def compute(target: te.Tensor, old: list[ir.Expr]) -> Sizes:
        given = elements(target)
        if copies:
            given = [choose(g < 1, choose(g < 0, g, old[i]), g) if i < len(old) else g for i, g in enumerate(given)]
        open_ones = sum(((g < 0).astype("int64") for g in given), int64(0))
        known = product_of([choose(g < 0, 1, g) for g in given])
        total = product_of(old)
        rest = tirx.floordiv(total, tirx.max(known, int64(1)))
        sizes = [choose(tirx.EQ(g, int64(-1)), rest, g) for g in given]
        return Sizes(sizes, tirx.all(open_ones <= 1, fits(sizes), tirx.EQ(product_of(sizes), total)))

    return _reshaped(node, sizes_of_run(node, compute, node.inputs[1], exprs(node.shape(0)), count=count))


@run_converter("Expand", (1,), since=8)
def expand(node: Node) -> relax.Expr:
    """Axes that the model fixes at 1 broadcast; others keep their size, and the shape has 1 or that size there."""
    length, shape = vector_length(node, 1, "the shape"), node.shape(0)
    rank = max(length, len(shape))
    old: list[Dim] = [1] * (rank - len(shape)) + shape
    ones = [isinstance(d, int) and d == 1 for d in old]

    def sizes(target: te.Tensor, old: list[ir.Expr]) -> Sizes:
        given = [int64(1)] * (rank - length) + elements(target)
        found = [g if one else d for g, d, one in zip(given, old, ones, strict=True)]
        same = [tirx.any(tirx.EQ(g, int64(1)), tirx.EQ(g, s)) for g, s in zip(given, found, strict=True)]
        return Sizes(found, tirx.all(fits(found), *same))

    def compute(x: te.Tensor, out: list[ir.Expr]) -> te.Tensor:
        def element(*at: tirx.Var) -> ir.Expr:
            own = list(zip(at, ones, strict=True))[rank - len(x.shape) :]
            return x(*[0 if one else i for i, one in own])

        return te.compute(out, element, name="expand")

    out = sizes_of_run(node, sizes, node.inputs[1], exprs(old), count=rank)
    return node.te(compute, node.inputs[0], exprs(out), name="expand")


@run_converter("Tile", (1,), since=6)
def tile(node: Node) -> relax.Expr:
    rank = node.rank(0)
    if vector_length(node, 1, "repeats") != rank:
        raise node.error(f"expected {rank} repeats, found {node.shape(1)}")

    def sizes(repeats: te.Tensor, old: list[ir.Expr]) -> Sizes:
        found = [r * d for r, d in zip(elements(repeats), old, strict=True)]
        small = [tirx.all(r >= 0, r < 2**31) for r in elements(repeats)]
        return Sizes(found, tirx.all(fits(found), *small))

    def compute(x: te.Tensor, out: list[ir.Expr]) -> te.Tensor:
        return te.compute(out, lambda *at: x(*[tirx.floormod(i, d) for i, d in zip(at, x.shape, strict=True)]))

    out = sizes_of_run(node, sizes, node.inputs[1], exprs(node.shape(0)), count=rank)
    return node.te(compute, node.inputs[0], exprs(out), name="tile")


@run_converter("ConstantOfShape", (0,), since=9)
def constant_of_shape(node: Node) -> relax.Expr:
    def sizes(shape: te.Tensor) -> Sizes:
        found = elements(shape)
        return Sizes(found, fits(found))

    value = node.attr("value", np.zeros(1, np.float32)).reshape(-1)
    out = sizes_of_run(node, sizes, node.inputs[0], count=vector_length(node, 0, "the shape"))
    return filled(node, exprs(out), value[0])


@run_converter("Range", (0, 1, 2), since=11)
def arange(node: Node) -> relax.Expr:
    """start + i * delta for each i below ceil((limit - start) / delta); 16-bit floats are counted in float32."""
    dtype = node.dtype(0)
    work = {"float16": "float32", "bfloat16": "float32"}.get(dtype, "int64" if is_integer(dtype) else dtype)
    bounds = [node.inputs[i] for i in range(3)]
    bounds = [node.emit(op.reshape(b, relax.ShapeExpr([]))) if node.rank(i) else b for i, b in enumerate(bounds)]

    def sizes(start: te.Tensor, limit: te.Tensor, delta: te.Tensor) -> Sizes:
        first, last, step = (t().astype(work) for t in (start, limit, delta))
        zero = tirx.const(0, work)
        moves = step != zero
        if is_integer(work):
            sign = tirx.Select(step < zero, tirx.const(-1, work), tirx.const(1, work))
            size = tirx.max(sign * step, tirx.const(1, work))
            count = tirx.floordiv(sign * (last - first) + size - 1, size)
        else:
            safe = tirx.Select(moves, step, tirx.const(1, work))
            steps = tirx.ceil((last - first) / safe)
            moves = tirx.all(moves, steps < tirx.const(2.0**62, work))
            count = tirx.Select(moves, steps, zero).astype("int64")
        return Sizes([tirx.max(count, int64(0))], moves)

    def compute(start: te.Tensor, delta: te.Tensor, size: ir.Expr) -> te.Tensor:
        def element(i: tirx.Var) -> ir.Expr:
            return (start().astype(work) + i.astype(work) * delta().astype(work)).astype(dtype)

        return te.compute((size,), element, name="range")

    (size,) = sizes_of_run(node, sizes, *bounds, count=1)
    return node.te(compute, bounds[0], bounds[2], as_expr(size), name="range")


def marked_axes(axes: te.Tensor, rank: int) -> tuple[list[ir.Expr], ir.Expr]:
    """For each of `rank` axes whether `axes` names it, as 0 or 1; and whether all are in range and different."""
    given = [choose(a < 0, a + rank, a) for a in elements(axes)]
    marks = [sum((tirx.EQ(g, int64(axis)).astype("int64") for g in given), int64(0)) for axis in range(rank)]
    once = [m <= 1 for m in marks]
    return marks, tirx.all(*once, tirx.EQ(sum(marks, int64(0)), int64(len(given))))


@run_converter("Squeeze", (1,), since=13)
def squeeze(node: Node) -> relax.Expr:
    """Which axes go is data; how many is not."""
    shape = node.shape(0)
    count = len(shape) - vector_length(node, 1, "axes")

    def compute(axes: te.Tensor, old: list[ir.Expr]) -> Sizes:
        marks, valid = marked_axes(axes, len(old))
        ones = [tirx.any(m < 1, tirx.EQ(d, int64(1))) for m, d in zip(marks, old, strict=True)]
        sizes = []
        for j in range(count):
            size, place = int64(0), int64(0)
            for mark, dim in zip(marks, old, strict=True):
                size = choose(tirx.all(mark < 1, tirx.EQ(place, int64(j))), dim, size)
                place = place + 1 - mark
            sizes.append(size)
        return Sizes(sizes, tirx.all(valid, *ones))

    return _reshaped(node, sizes_of_run(node, compute, node.inputs[1], exprs(shape), count=count))


@run_converter("Unsqueeze", (1,), since=13)
def unsqueeze(node: Node) -> relax.Expr:
    shape = node.shape(0)
    rank = len(shape) + vector_length(node, 1, "axes")

    def compute(axes: te.Tensor, old: list[ir.Expr]) -> Sizes:
        marks, valid = marked_axes(axes, rank)
        sizes, place = [], int64(0)
        for mark in marks:
            sizes.append(choose(mark > 0, 1, picked(old, place)) if old else int64(1))
            place = place + 1 - mark
        return Sizes(sizes, valid)

    return _reshaped(node, sizes_of_run(node, compute, node.inputs[1], exprs(shape), count=rank))


@run_converter("OneHot", (1,), since=9)
def one_hot(node: Node) -> relax.Expr:
    def sizes(depth: te.Tensor) -> Sizes:
        (size,) = elements(depth)
        return Sizes([size], size < int64(2**31))

    vector_length(node, 1, "depth")
    (size,) = sizes_of_run(node, sizes, node.inputs[1], count=1)
    return one_hot_of(node, size)


@run_converter("TopK", (1,), since=10)
def top_k(node: Node) -> tuple[relax.Expr, ...]:
    axis = node.axis(node.attr("axis", -1), node.rank(0))

    def sizes(k: te.Tensor, extent: ir.Expr) -> Sizes:
        (count,) = elements(k)
        return Sizes([count], tirx.all(count >= 1, count <= extent))

    (k,) = sizes_of_run(node, sizes, node.inputs[1], as_expr(node.shape(0)[axis]), count=1)
    return top_k_of(node, k)
