"""Unique: elements, or slices along an axis, that differ, by a merge sort of their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ..dtypes import is_float
from ..node import Node
from ..symbols import as_expr
from ..values import Dim
from .registry import converter
from .runtime_sizes import exprs, int64
from .scatter import size_of
from .selection import counted, taken

op = relax.op

# Merging doubles the length of sorted runs: no memory holds 2**40 slices.
_MOST_PASSES = 40
_OUTPUTS = ("first", "inverse", "counts", "number", "order", "merged", "renamed", "state")
# Places of the kernel's state: where merging stands in two runs, and how two slices compare.
_LEFT, _RIGHT, _COMPARED = range(3)


@converter("Unique", since=11)
def unique(node: Node) -> tuple[relax.Expr | None, ...]:
    """What differs, sorted or as it comes first; where; which of these each is; and how often. NaN equals itself."""
    x, shape, given = node.inputs[0], node.shape(0), node.attr("axis")
    if given is None:
        size = node.symbols.simplify(size_of(exprs(shape)))
        x, shape, axis = node.emit(op.reshape(x, relax.ShapeExpr([as_expr(size)]))), [size], 0
    else:
        axis = node.axis(given, len(shape))
    keys = _rows(node, x, shape, axis)
    in_order = bool(node.attr("sorted", 1))
    found = node.te(lambda t: _kernel(t, in_order), keys, name="unique")
    first, inverse, counts, number = (node.emit(relax.TupleGetItem(found, i)) for i in range(4))
    size = counted(node, number)

    def leading(t: te.Tensor, size: ir.Expr) -> te.Tensor:
        return te.compute((size,), lambda i: t(i), name="leading")

    parts = [node.te(leading, t, as_expr(size), name="leading") for t in (first, counts)]
    return taken(node, x, first, size, axis), parts[0], inverse, parts[1]


def _rows(node: Node, x: relax.Expr, shape: list[Dim], axis: int) -> relax.Expr:
    """(slices, elements of each), of numbers that compare."""
    dtype = node.dtype(0)
    wide = {"bool": "uint8", "bfloat16": "float32", "float16": "float32"}.get(dtype, dtype)
    x = x if wide == dtype else node.emit(op.astype(x, wide))
    rest = [i for i in range(len(shape)) if i != axis]
    x = node.emit(op.permute_dims(x, [axis, *rest])) if axis else x
    inner = node.symbols.simplify(size_of([as_expr(shape[i]) for i in rest]))
    return node.emit(op.reshape(x, relax.ShapeExpr([as_expr(shape[axis]), as_expr(inner)])))


def _kernel(keys: te.Tensor, in_order: bool) -> list[te.Tensor]:
    rows = keys.shape[0]
    shapes = [[rows]] * 3 + [[1]] + [[rows]] * 3 + [[3]]
    outs = [tirx.decl_buffer(s, "int64", n, layout=None) for s, n in zip(shapes, _OUTPUTS, strict=True)]
    return te.extern(
        shapes,
        [keys],
        lambda i, o: _statements(i, o, keys, in_order),
        dtype=["int64"] * len(outs),
        out_buffers=outs,
        name="unique",
    )


def _statements(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer], keys: te.Tensor, in_order: bool) -> tirx.Stmt:
    rows, inner = keys.shape
    data = T.buffer_proxy(ins[0])
    b = {name: T.buffer_proxy(out) for name, out in zip(_OUTPUTS, outs, strict=True)}
    with IRBuilder() as builder:
        with T.seq_scope():
            with T.serial(0, rows) as i:
                b["order"][i] = i
                b["counts"][i] = int64(0)
                b["renamed"][i] = int64(-1)
            _sort(data, b, rows, inner)
            b["number"][0] = int64(-1)
            with T.serial(0, rows) as i:
                _compare(data, b["state"], b["order"][tirx.max(i - 1, int64(0))], b["order"][i], inner)
                with T.If(tirx.any(i < 1, tirx.NE(b["state"][_COMPARED], int64(0)))), T.Then():
                    b["number"][0] = b["number"][0] + int64(1)
                b["inverse"][b["order"][i]] = b["number"][0]
            b["number"][0] = b["number"][0] + int64(1)
            if not in_order:
                _rename(b, rows)
            with T.serial(0, rows) as i:
                with T.If(tirx.EQ(b["counts"][b["inverse"][i]], int64(0))), T.Then():
                    b["first"][b["inverse"][i]] = i
                b["counts"][b["inverse"][i]] = b["counts"][b["inverse"][i]] + int64(1)
        return builder.get()


def _rename(b: dict[str, Any], rows: ir.Expr) -> None:
    """Number what differs as it comes first."""
    b["state"][0] = int64(0)
    with T.serial(0, rows) as i:
        with T.If(b["renamed"][b["inverse"][i]] < 0), T.Then():
            b["renamed"][b["inverse"][i]] = b["state"][0]
            b["state"][0] = b["state"][0] + int64(1)
        b["inverse"][i] = b["renamed"][b["inverse"][i]]


def _compare(data: Any, state: Any, left: ir.Expr, right: ir.Expr, inner: ir.Expr) -> None:
    """Into the state: -1, 0 or 1 for slice `left` before, equal to, or behind slice `right`; NaN comes last."""
    state[_COMPARED] = int64(0)
    with T.serial(0, inner) as c, T.If(tirx.EQ(state[_COMPARED], int64(0))), T.Then():
        x, y = data[left * inner + c], data[right * inner + c]
        kind = str(x.ty.dtype)
        before, behind = x < y, x > y
        if is_float(kind):
            before, behind = tirx.any(before, _later(y, x)), tirx.any(behind, _later(x, y))
        state[_COMPARED] = behind.astype("int64") - before.astype("int64")


def _later(x: ir.Expr, y: ir.Expr) -> ir.Expr:
    """Whether x alone is NaN."""
    return tirx.all(tirx.isnan(x), tirx.Not(tirx.isnan(y)))


def _sort(data: Any, b: dict[str, Any], rows: ir.Expr, inner: ir.Expr) -> None:
    """Positions in the order of their slices, equal ones in their own, by merging runs of 1, 2, 4, ... of them."""
    order, merged, state = b["order"], b["merged"], b["state"]
    with T.serial(0, _MOST_PASSES) as step:
        run = tirx.shift_left(int64(1), step.astype("int64"))
        with T.If(run < rows), T.Then(), T.serial(0, tirx.floordiv(rows + 2 * run - 1, 2 * run)) as pair:
            low = pair * 2 * run
            middle, high = tirx.min(low + run, rows), tirx.min(low + 2 * run, rows)
            state[_LEFT] = low
            state[_RIGHT] = middle
            with T.serial(0, high - low) as k:
                left = tirx.max(tirx.min(state[_LEFT], middle - 1), int64(0))
                right = tirx.min(state[_RIGHT], rows - 1)
                _compare(data, state, order[left], order[right], inner)
                takes_right = tirx.all(state[_RIGHT] < high, state[_COMPARED] > 0)
                with T.If(tirx.any(state[_LEFT] >= middle, takes_right)):
                    with T.Then():
                        merged[low + k] = order[tirx.min(state[_RIGHT], rows - 1)]
                        state[_RIGHT] = state[_RIGHT] + int64(1)
                    with T.Else():
                        merged[low + k] = order[state[_LEFT]]
                        state[_LEFT] = state[_LEFT] + int64(1)
            with T.serial(0, high - low) as k:
                order[low + k] = merged[low + k]
