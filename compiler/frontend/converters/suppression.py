"""NonMaxSuppression: of overlapping boxes, those with the best scores; how many is known in a run only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...loop_marks import INDEPENDENT
from ..node import Node
from ..symbols import as_expr
from ..values import Dim, constant
from .registry import converter
from .runtime_checks import with_sizes
from .runtime_sizes import Sizes, elements, int64, sizes_of_run
from .selection import counted

op = relax.op


@converter("NonMaxSuppression", since=10)
def non_max_suppression(node: Node) -> relax.Expr:
    """(selected, 3) of batch, class and box: for each class those of the best scores first."""
    batch, _, count = node.shape(1)
    boxes = with_sizes(node, 0, {0: batch, 1: count, 2: 4}, "boxes")
    if not node.has(2):
        return op.zeros([0, 3], "int64")
    limit = _most(node, count)
    thresholds = [_threshold(node, 3, 0.0), _threshold(node, 4, -np.inf)]
    centered = bool(node.attr("center_point_box", 0))

    def compute(boxes: te.Tensor, scores: te.Tensor, overlap: te.Tensor, least: te.Tensor, most: ir.Expr) -> list:
        batch, classes, count = scores.shape
        shapes = [[batch, classes, most], [batch, classes], [batch, classes, count]]
        dtypes, names = ["int64", "int64", "int8"], ("selected", "counts", "gone")
        outs = [tirx.decl_buffer(s, d, n, layout=None) for s, d, n in zip(shapes, dtypes, names, strict=True)]
        tensors = [boxes, scores, overlap, least]

        def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
            return _select(ins, outs, list(scores.shape), most, centered)

        return te.extern(shapes, tensors, body, dtype=dtypes, out_buffers=outs, name="suppress")

    found = node.te(compute, boxes, node.inputs[1], *thresholds, as_expr(limit), name="suppress")
    selected, counts = (node.emit(relax.TupleGetItem(found, i)) for i in range(2))
    return _rows(node, selected, counts)


def _most(node: Node, count: Dim) -> Dim:
    """Boxes that may be selected of a class, at least 1: there is room for so many."""

    def sizes(most: te.Tensor, count: ir.Expr) -> Sizes:
        return Sizes([tirx.max(tirx.min(elements(most)[0], count), int64(0))], tirx.const(True, "bool"))

    scalar = node.emit(op.reshape(node.inputs[2], relax.ShapeExpr([])))
    return sizes_of_run(node, sizes, scalar, as_expr(count), count=1)[0]


def _threshold(node: Node, index: int, default: float) -> relax.Expr:
    if not node.has(index):
        return constant(np.array([default], np.float32))
    single = with_sizes(node, index, dict.fromkeys(range(node.rank(index)), 1))
    return node.emit(op.reshape(single, [1]))


def _corners(boxes: Any, start: ir.Expr, axis: int, centered: bool) -> tuple[ir.Expr, ir.Expr]:
    """The lower and the upper bound of a box along `axis`, 0 for y."""
    if centered:
        middle, half = boxes[start + 1 - axis], boxes[start + 3 - axis] / tirx.const(2, "float32")
        return middle - half, middle + half
    one, other = boxes[start + axis], boxes[start + 2 + axis]
    return tirx.min(one, other), tirx.max(one, other)


def _overlap(boxes: Any, a: ir.Expr, b: ir.Expr, centered: bool) -> ir.Expr:
    """The area that two boxes share, over that which they cover together; 0 where they share none."""
    shared = first = second = tirx.const(1, "float32")
    zero, apart = tirx.const(0, "float32"), []
    for axis in (0, 1):
        (low_a, high_a), (low_b, high_b) = (_corners(boxes, s, axis, centered) for s in (a, b))
        side = tirx.min(high_a, high_b) - tirx.max(low_a, low_b)
        apart.append(side <= zero)
        shared, first, second = shared * side, first * (high_a - low_a), second * (high_b - low_b)
    together = first + second - shared
    nothing = tirx.any(*apart, first <= zero, second <= zero, together <= zero)
    return tirx.Select(nothing, zero, shared / tirx.Select(nothing, tirx.const(1, "float32"), together))


def _select(
    ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer], shape: list[ir.Expr], most: ir.Expr, centered: bool
) -> tirx.Stmt:
    """Class by class: take the best box that is left, and leave out what overlaps it too much."""
    boxes, scores, overlap, least, selected, counts, gone = (T.buffer_proxy(b) for b in (*ins, *outs))
    batch, classes, count = shape
    with IRBuilder() as builder:
        with T.serial(0, batch * classes, annotations=INDEPENDENT) as row:
            begin, corners = row * count, tirx.floordiv(row, classes) * count * 4
            counts[row] = int64(0)
            with T.serial(0, count) as i:
                # A score of NaN is above no threshold; without one, -infinity is a score like others.
                kept = tirx.any(scores[begin + i] > least[0], tirx.EQ(least[0], tirx.const(-np.inf, "float32")))
                gone[begin + i] = tirx.Select(kept, tirx.const(0, "int8"), tirx.const(1, "int8"))
            # While boxes are left, turn and count agree.
            with T.serial(0, most) as turn, T.If(tirx.EQ(counts[row], turn)), T.Then():
                best = row * most + turn
                selected[best] = int64(-1)
                with T.serial(0, count) as i, T.If(gone[begin + i] < 1), T.Then():
                    known = tirx.max(selected[best], int64(0))
                    better = scores[begin + i] > scores[begin + known]
                    with T.If(tirx.any(selected[best] < 0, better)), T.Then():
                        selected[best] = i
                with T.If(selected[best] >= 0), T.Then():
                    counts[row] = turn + 1
                    gone[begin + selected[best]] = tirx.const(1, "int8")
                    with T.serial(0, count) as i:
                        shares = _overlap(boxes, corners + selected[best] * 4, corners + i * 4, centered)
                        with T.If(tirx.all(gone[begin + i] < 1, shares > overlap[0])), T.Then():
                            gone[begin + i] = tirx.const(1, "int8")
        return builder.get()


def _rows(node: Node, selected: relax.Expr, counts: relax.Expr) -> relax.Expr:
    """What is selected of all classes (batch, classes, most), one behind the other."""

    def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer], shape: list[ir.Expr]) -> tirx.Stmt:
        given, sizes, rows, total = (T.buffer_proxy(b) for b in (*ins, *outs))
        batch, classes, most = shape
        with IRBuilder() as builder:
            with T.seq_scope():
                total[0] = int64(0)
                with T.serial(0, batch * classes) as row, T.serial(0, sizes[row]) as k:
                    at = total[0] * 3
                    rows[at] = tirx.floordiv(row, classes)
                    rows[at + 1] = tirx.floormod(row, classes)
                    rows[at + 2] = given[row * most + k]
                    total[0] = total[0] + int64(1)
            return builder.get()

    def compute(selected: te.Tensor, counts: te.Tensor) -> list[te.Tensor]:
        shape = list(selected.shape)
        shapes = [[shape[0] * shape[1] * shape[2], 3], [1]]
        outs = [tirx.decl_buffer(s, "int64", n, layout=None) for s, n in zip(shapes, ("rows", "total"), strict=True)]
        return te.extern(
            shapes,
            [selected, counts],
            lambda i, o: body(i, o, shape),
            dtype=["int64"] * 2,
            out_buffers=outs,
            name="rows",
        )

    pair = node.te(compute, selected, counts, name="rows")
    rows, total = (node.emit(relax.TupleGetItem(pair, i)) for i in range(2))
    size = counted(node, total)
    return node.te(
        lambda t, n: te.compute((n, 3), lambda i, j: t(i, j), name="leading"), rows, as_expr(size), name="leading"
    )
