"""NonZero and Compress: results as long as data decide. What is chosen is counted and noted, then copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ..node import Node
from ..symbols import as_expr
from ..values import Dim
from .registry import converter
from .runtime_sizes import Sizes, elements, exprs, int64, sizes_of_run
from .scatter import size_of, unravel

op = relax.op


def counted(node: Node, count: relax.Expr) -> Dim:
    """The number in the vector `count` of one element, as the size of an axis."""
    (size,) = sizes_of_run(node, lambda t: Sizes([elements(t)[0]], tirx.const(True, "bool")), count, count=1)
    return size


def chosen(node: Node, flags: relax.Expr, limit: Dim) -> tuple[relax.Expr, Dim]:
    """The positions of what is not 0 among the first `limit` elements of `flags`, in order, and how many they are.

    The tensor of positions has room for all.
    """

    def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer], size: Any) -> tirx.Stmt:
        given, places, count = (T.buffer_proxy(b) for b in (*ins, *outs))
        with IRBuilder() as builder:
            with T.seq_scope():
                count[0] = int64(0)
                with T.serial(0, size) as i, T.If(_is_set(given[i])), T.Then():
                    places[count[0]] = i
                    count[0] = count[0] + int64(1)
            return builder.get()

    def compute(t: te.Tensor, size: ir.Expr) -> list[te.Tensor]:
        shapes = [[tirx.max(size_of(t.shape), int64(1))], [1]]
        outs = [tirx.decl_buffer(s, "int64", n, layout=None) for s, n in zip(shapes, ("places", "count"), strict=True)]
        return te.extern(
            shapes, [t], lambda i, o: body(i, o, size), dtype=["int64"] * 2, out_buffers=outs, name="chosen"
        )

    pair = node.te(compute, flags, as_expr(limit), name="choose")
    places, count = (node.emit(relax.TupleGetItem(pair, i)) for i in range(2))
    return places, counted(node, count)


def _is_set(value: ir.Expr) -> ir.Expr:
    kind = str(value.ty.dtype)
    return value if kind == "bool" else tirx.NE(value, tirx.const(0, kind))


@converter("NonZero", since=9)
def non_zero(node: Node) -> relax.Expr:
    """(rank, count) of int64; a scalar has one position, of no coordinates."""
    shape = node.shape(0)
    x = node.inputs[0]
    x = node.emit(op.astype(x, "float32")) if node.dtype(0) in ("bfloat16", "float16") else x
    places, count = chosen(node, x, node.symbols.simplify(size_of(exprs(shape))))

    def compute(places: te.Tensor, count: ir.Expr, sizes: list[ir.Expr]) -> te.Tensor:
        def element(axis: tirx.Var, i: tirx.Var) -> ir.Expr:
            coordinates = unravel(places(i), sizes)
            result = coordinates[-1]
            for k in reversed(range(len(sizes) - 1)):
                result = tirx.Select(axis <= k, coordinates[k], result)
            return result

        return te.compute((len(sizes), count), element, name="coordinates")

    if not shape:
        return op.zeros(relax.ShapeExpr([int64(0), as_expr(count)]), "int64")
    return node.te(compute, places, as_expr(count), exprs(shape), name="non_zero")


@converter("Compress", since=9)
def compress(node: Node) -> relax.Expr:
    """The slices along `axis` (the elements, without one) whose flag is set; missing flags are not."""
    x, shape = node.inputs[0], node.shape(0)
    if node.rank(1) != 1:
        raise node.error(f"the condition must be a vector, found {node.rank(1)} dimensions")
    given = node.attr("axis")
    if given is None:
        size = node.symbols.simplify(size_of(exprs(shape)))
        x = node.emit(op.reshape(x, relax.ShapeExpr([as_expr(size)])))
        shape, axis = [size], 0
    else:
        axis = node.axis(given, len(shape))
    limit = node.symbols.simplify(tirx.min(as_expr(node.shape(1)[0]), as_expr(shape[axis])))
    places, count = chosen(node, node.inputs[1], limit)
    return taken(node, x, places, count, axis)


def taken(node: Node, x: relax.Expr, places: relax.Expr, count: Dim, axis: int) -> relax.Expr:
    """The first `count` of `places` along `axis` of `x`."""

    def compute(x: te.Tensor, places: te.Tensor, count: ir.Expr) -> te.Tensor:
        shape = [*x.shape[:axis], count, *x.shape[axis + 1 :]]
        read: Callable[..., ir.Expr] = lambda *i: x(*i[:axis], places(i[axis]), *i[axis + 1 :])  # noqa: E731
        return te.compute(shape, read, name="taken")

    return node.te(compute, x, places, as_expr(count), name="take")
