"""Convolutions by their columns: Col2Im adds them up into an image, DeformConv samples them where offsets say."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm import ir, relax, te, tirx

from ..dtypes import is_float
from ..symbols import as_expr
from ..values import Dim
from .registry import converter
from .runtime_checks import with_sizes
from .runtime_sizes import Sizes, elements, exprs, int64, product_of, sizes_of_run, vector_length
from .sampling import Tap, axis_taps
from .shape_ops import required_dims

if TYPE_CHECKING:
    from ..node import Node

op = relax.op


def _ints(node: Node, name: str, rank: int, default: int) -> list[int]:
    """An attribute with one number for each spatial axis (or twice as many: begins, then ends)."""
    values = node.attr(name, [default] * rank)
    if len(values) != rank or (default and min(values) < 1):
        raise node.error(f"attribute {name!r} needs {rank} values of at least {default}, found {values}")
    return values


@dataclass(frozen=True)
class _Blocks:
    """How blocks lie on an image; one entry for each axis. Sizes that data decide are variables."""

    image: list[Dim]
    block: list[Dim]
    dilations: list[int]
    strides: list[int]
    pads: list[int]

    def counts(self) -> list[ir.Expr]:
        """Blocks along each axis."""
        rank, counts = len(self.image), []
        for i in range(rank):
            room = as_expr(self.image[i]) + (self.pads[i] + self.pads[rank + i] - 1)
            room = room - self.dilations[i] * (as_expr(self.block[i]) - 1)
            counts.append(tirx.floordiv(room, as_expr(self.strides[i])) + 1)
        return counts


@converter("Col2Im", since=18)
def col2im(node: Node) -> relax.Expr:
    """(N, C * positions of a block, blocks) -> (N, C, image): what blocks overlap in is added up."""
    rank = vector_length(node, 2, "the block's shape")
    if node.rank(0) != 3 or vector_length(node, 1, "the image's shape") != rank:
        raise node.error("expected 3 dimensions, and an image and a block of as many sizes")
    dilations, strides = (_ints(node, name, rank, 1) for name in ("dilations", "strides"))
    pads = _ints(node, "pads", 2 * rank, 0)
    if node.is_data(1) or node.is_data(2):
        return _blocks_of_run(node, dilations, strides, pads)
    image, block = (required_dims(node, i, what) for i, what in ((1, "the image's shape"), (2, "the block's shape")))
    if not all(isinstance(b, int) and b > 0 for b in block):
        raise node.error(f"the block needs fixed positive sizes, found {[str(b) for b in block]}")
    blocks, positions = _Blocks(image, block, dilations, strides, pads), math.prod(block)
    counts = [node.symbols.simplify(c) for c in blocks.counts()]
    node.require_equal(node.shape(0)[2], math.prod(counts[1:], start=counts[0]), "the number of blocks")
    node.require_multiple(node.shape(0)[1], positions, "the number of columns")
    return _image(node, blocks, node.symbols.floordiv(node.shape(0)[1], positions))


def _blocks_of_run(node: Node, dilations: list[int], strides: list[int], pads: list[int]) -> relax.Expr:
    """Col2Im whose image's or block's shape is data."""
    rank = len(dilations)

    def sizes(image: te.Tensor, block: te.Tensor, columns: ir.Expr, found: ir.Expr) -> Sizes:
        extents, inner = elements(image), elements(block)
        counts = _Blocks(extents, inner, dilations, strides, pads).counts()
        small = tirx.all(*[tirx.all(b >= 1, b < int64(2**20)) for b in inner], *[e < int64(2**31) for e in extents])
        positions = tirx.max(product_of(inner), int64(1))
        same = tirx.all(*[c >= 1 for c in counts], tirx.EQ(product_of(counts), found))
        fit = tirx.EQ(tirx.floormod(columns, positions), int64(0))
        return Sizes([*extents, *inner, tirx.floordiv(columns, positions)], tirx.all(small, same, fit))

    _, columns, found = (as_expr(d) for d in node.shape(0))
    values = sizes_of_run(node, sizes, node.inputs[1], node.inputs[2], columns, found, count=2 * rank + 1)
    return _image(node, _Blocks(values[:rank], values[rank : 2 * rank], dilations, strides, pads), values[-1])


def _image(node: Node, blocks: _Blocks, channels: Dim) -> relax.Expr:
    pads, strides, dilations = blocks.pads, blocks.strides, blocks.dilations
    rank = len(dilations)

    def compute(x: te.Tensor, channels: ir.Expr, image: list[ir.Expr], block: list[ir.Expr]) -> te.Tensor:
        counts = replace(blocks, image=image, block=block).counts()

        def element(n: tirx.Var, c: tirx.Var, *at: tirx.Var) -> ir.Expr:
            inner = [te.reduce_axis((0, b), name=f"k{i}") for i, b in enumerate(block)]
            column, number, inside = c, tirx.const(0, "int64"), []
            for i in range(rank):
                place = at[i] + pads[i] - inner[i] * dilations[i]
                index = tirx.floordiv(place, strides[i])
                inside += [tirx.EQ(tirx.floormod(place, strides[i]), int64(0)), index >= 0, index < counts[i]]
                number = number * counts[i] + tirx.max(tirx.min(index, counts[i] - 1), tirx.const(0, "int64"))
                column = column * block[i] + inner[i]
            value = tirx.Select(tirx.all(*inside), x(n, column, number), tirx.const(0, x.dtype))
            return te.sum(value, axis=inner)

        return te.compute((x.shape[0], channels, *image), element, name="image")

    return node.te(compute, node.inputs[0], as_expr(channels), exprs(blocks.image), exprs(blocks.block), name="col2im")


@converter("DeformConv", since=19)
def deform_conv(node: Node) -> relax.Expr:
    """X (N, C, image), W (M, C / group, kernel), offsets (N, offset groups * kernel * axes, out), bias, mask."""
    x, w = node.shape(0), node.shape(1)
    rank, group, offset_group = len(x) - 2, node.attr("group", 1), node.attr("offset_group", 1)
    kernel = w[2:]
    beside = [len(w), *(node.rank(index) for index in (2, 4) if node.has(index))]
    if rank < 1 or set(beside) != {rank + 2} or not is_float(node.dtype(0)):
        raise node.error("expected floating-point inputs of as many dimensions, at least 3")
    if not all(isinstance(d, int) for d in w) or w[0] % group or w[1] * group % offset_group:
        raise node.error(f"weights {[str(d) for d in w]}, {group} groups and {offset_group} of offsets do not fit")
    channels = w[1] * group
    data = with_sizes(node, 0, {1: channels}, "channels")
    dilations, strides = (_ints(node, name, rank, 1) for name in ("dilations", "strides"))
    pads, points = _ints(node, "pads", 2 * rank, 0), math.prod(kernel)
    out: list[Dim] = []
    for axis in range(rank):
        extent = dilations[axis] * (kernel[axis] - 1) + 1
        room = node.symbols.simplify(as_expr(x[2 + axis]) + (pads[axis] + pads[rank + axis] - extent))
        out.append(node.symbols.simplify(node.symbols.floordiv(room, strides[axis]) + 1))
    spatial = {2 + i: size for i, size in enumerate(out)}
    offsets = with_sizes(node, 2, {0: x[0], 1: offset_group * points * rank, **spatial}, "offsets")
    masks = [with_sizes(node, 4, {0: x[0], 1: offset_group * points, **spatial}, "masks")] if node.has(4) else []
    shared = channels // offset_group

    def columns(x: te.Tensor, offset: te.Tensor, *mask: te.Tensor) -> te.Tensor:
        dtype = str(x.dtype)
        sizes = list(x.shape[2:])
        bounds = [(tirx.const(0, dtype), s.astype(dtype) - tirx.const(1, dtype)) for s in sizes]

        def element(n: tirx.Var, c: tirx.Var, k: tirx.Var, *at: tirx.Var) -> ir.Expr:
            first = tirx.floordiv(c, shared) * points + k
            axes: list[list[Tap]] = []
            rest: ir.Expr = k
            for i in reversed(range(rank)):
                regular = at[i] * strides[i] - pads[i] + tirx.floormod(rest, kernel[i]) * dilations[i]
                rest = tirx.floordiv(rest, kernel[i])
                place = regular.astype(dtype) + offset(n, first * rank + i, *at)
                axes.insert(0, axis_taps("linear", place, sizes[i], bounds[i], "zeros"))
            total = tirx.const(0, dtype)
            for choice in itertools.product(*axes):
                inside = tirx.all(*[tap[2] for tap in choice])
                value = tirx.if_then_else(inside, x(n, c, *[tap[0] for tap in choice]), tirx.const(0, dtype))
                total = total + math.prod([tap[1] for tap in choice[1:]], start=choice[0][1]) * value
            return total * mask[0](n, first, *at) if mask else total

        return te.compute((x.shape[0], x.shape[1], points, *offset.shape[2:]), element, name="columns")

    sampled = node.te(columns, data, offsets, *masks, name="deformed")
    return _products(node, sampled, group, out)


def _products(node: Node, sampled: relax.Expr, group: int, out: list[Dim]) -> relax.Expr:
    """Weights (M, C / group, kernel) times columns (N, C, points, out), plus the bias."""
    batch, w = as_expr(node.shape(0)[0]), node.shape(1)
    inner = w[1] * math.prod(w[2:])
    pixels = as_expr(node.symbols.simplify(math.prod([as_expr(d) for d in out[1:]], start=as_expr(out[0]))))
    shape = relax.ShapeExpr([batch, *map(as_expr, (group, inner)), pixels])
    columns = node.emit(op.reshape(sampled, shape))
    rows = node.emit(op.reshape(node.inputs[1], [1, group, w[0] // group, inner]))
    y = node.emit(op.matmul(rows, columns))
    y = node.emit(op.reshape(y, relax.ShapeExpr([batch, as_expr(w[0]), *[as_expr(d) for d in out]])))
    if not node.has(3):
        return y
    return op.add(y, node.emit(op.reshape(node.inputs[3], [1, w[0], *[1] * len(out)])))
