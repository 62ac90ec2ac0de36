"""Operators that move elements by data: Slice, Pad, Split and Trilu."""

from __future__ import annotations

from tvm import ir, relax, te, tirx

from ..node import Node
from ..symbols import as_expr
from ..values import Dim
from .broadcast import scalar
from .registry import run_converter
from .runtime_sizes import Sizes, choose, elements, exprs, int64, picked, sizes_of_run, vector, vector_length

op = relax.op

# No axis is as long: a step beyond takes one element, as this one does.
_LONGEST = 2**40


@run_converter("Slice", (1, 2, 3, 4), since=10)
def slice_(node: Node) -> relax.Expr:
    """Bounds that lie outside an axis are moved to its ends, as for constant ones."""
    shape = node.shape(0)
    rank, count = len(shape), vector_length(node, 1, "starts")
    names = ("starts", "ends", "axes", "steps")
    given = {n: node.inputs[i] for i, n in enumerate(names, 1) if node.has(i)}
    if any(vector_length(node, i, n) != count for i, n in enumerate(names, 1) if node.has(i)):
        raise node.error("starts, ends, axes and steps must have one length")

    def bounds(tensors: list[te.Tensor], old: list[ir.Expr]) -> tuple[list[ir.Expr], list[ir.Expr], Sizes]:
        """First index and step of each axis, and the sizes."""
        own = {n: elements(t) for n, t in zip(given, tensors, strict=True)}
        axes = [choose(a < 0, a + rank, a) for a in own.get("axes", [int64(i) for i in range(count)])]
        steps = own.get("steps", [int64(1)] * count)
        firsts, strides, sizes = [int64(0)] * rank, [int64(1)] * rank, list(old)
        valid = [tirx.all(a >= 0, a < rank) for a in axes] + [step != int64(0) for step in steps]
        for start, end, axis, step in zip(own["starts"], own["ends"], axes, steps, strict=True):
            first, stride, size = _bounds(start, end, step, picked(old, axis))
            for i in range(rank):
                hit = tirx.EQ(axis, int64(i))
                firsts[i], strides[i] = choose(hit, first, firsts[i]), choose(hit, stride, strides[i])
                sizes[i] = choose(hit, size, sizes[i])
        return firsts, strides, Sizes(sizes, tirx.all(*valid))

    def table(tensors: list[te.Tensor], old: list[ir.Expr]) -> te.Tensor:
        firsts, strides, _ = bounds(tensors, old)
        return vector([*firsts, *strides], "bounds")

    def compute(x: te.Tensor, places: te.Tensor, out: list[ir.Expr]) -> te.Tensor:
        def element(*at: tirx.Var) -> ir.Expr:
            return x(*[places(a) + i * places(rank + a) for a, i in enumerate(at)])

        return te.compute(out, element, name="slice")

    args = (list(given.values()), exprs(shape))
    out = sizes_of_run(node, lambda t, old: bounds(t, old)[2], *args, count=rank)
    return node.te(compute, node.inputs[0], node.te(table, *args, name="bounds"), exprs(out), name="slice")


def _bounds(start: ir.Expr, end: ir.Expr, step: ir.Expr, size: ir.Expr) -> tuple[ir.Expr, ir.Expr, ir.Expr]:
    """First index, step and number of elements on an axis of `size`; `slicing.slice_bounds` is the same for numbers."""
    step = tirx.max(tirx.min(step, int64(_LONGEST)), int64(-_LONGEST))
    up = step > 0
    start, end = (choose(bound < 0, bound + size, bound) for bound in (start, end))
    last = choose(up, size, size - 1)
    start = tirx.min(tirx.max(start, int64(0)), last)
    end = tirx.min(tirx.max(end, choose(up, 0, -1)), last)
    span, stride = choose(up, end - start, start - end), tirx.max(tirx.abs(step), int64(1))
    count = tirx.max(tirx.floordiv(span + stride - 1, stride), int64(0))
    return start, step, count


@run_converter("Pad", (1, 3), since=11)
def pad(node: Node) -> relax.Expr:
    """Negative pads cut off."""
    mode, shape = node.attr("mode", "constant"), node.shape(0)
    if mode not in _SOURCES:
        raise node.error(f"mode must be one of {', '.join(_SOURCES)}, found {mode!r}")
    rank, count = len(shape), vector_length(node, 1, "pads")
    axes = [node.inputs[3]] if node.has(3) else []
    if count != 2 * (vector_length(node, 3, "axes") if axes else rank):
        raise node.error(f"expected two pads for each axis, found {count}")
    fill = node.inputs[2] if node.has(2) else scalar(0, node.dtype(0))
    fill = node.emit(op.reshape(fill, relax.ShapeExpr([])))

    def pads(given: te.Tensor, axes: list[te.Tensor]) -> tuple[list[ir.Expr], list[ir.Expr], ir.Expr]:
        values = elements(given)
        own = elements(axes[0]) if axes else [int64(i) for i in range(rank)]
        own = [choose(a < 0, a + rank, a) for a in own]
        before, after = [int64(0)] * rank, [int64(0)] * rank
        for j, axis in enumerate(own):
            for i in range(rank):
                hit = tirx.EQ(axis, int64(i))
                before[i] = choose(hit, values[j], before[i])
                after[i] = choose(hit, values[len(own) + j], after[i])
        small = [tirx.all(tirx.abs(p) < _LONGEST) for p in values]
        return before, after, tirx.all(*small, *[tirx.all(a >= 0, a < rank) for a in own])

    def sizes(given: te.Tensor, axes: list[te.Tensor], old: list[ir.Expr]) -> Sizes:
        before, after, valid = pads(given, axes)
        return Sizes([d + b + a for d, b, a in zip(old, before, after, strict=True)], valid)

    def compute(
        x: te.Tensor, given: te.Tensor, axes: list[te.Tensor], fill: te.Tensor, out: list[ir.Expr]
    ) -> te.Tensor:
        before, after, _ = pads(given, axes)
        begin = te.compute((rank,), lambda i: vector(before, "before")(i), name="begin")

        def source(place: ir.Expr, a: int) -> ir.Expr:
            """Negative pads cut first, which only what goes round the rest notices."""
            if mode != "wrap":
                return _SOURCES[mode](place, x.shape[a])
            cut = tirx.max(-begin(a), int64(0))
            return cut + tirx.floormod(place - cut, x.shape[a] - cut + tirx.min(after[a], int64(0)))

        def element(*at: tirx.Var) -> ir.Expr:
            places = [i - begin(a) for a, i in enumerate(at)]
            sources = [source(p, a) for a, p in enumerate(places)]
            if mode != "constant":
                return x(*sources)
            inside = [tirx.all(p >= 0, p < d) for p, d in zip(places, x.shape, strict=True)]
            return tirx.if_then_else(tirx.all(*inside), x(*sources), fill())

        return te.compute(out, element, name="pad")

    out = sizes_of_run(node, sizes, node.inputs[1], axes, exprs(shape), count=rank)
    return node.te(compute, node.inputs[0], node.inputs[1], axes, fill, exprs(out), name="pad")


def _clamped(place: ir.Expr, size: ir.Expr) -> ir.Expr:
    return tirx.max(tirx.min(place, size - 1), int64(0))


def _reflected(place: ir.Expr, size: ir.Expr) -> ir.Expr:
    turn = tirx.max(2 * (size - 1), int64(1))
    rest = tirx.floormod(place, turn)
    return tirx.min(rest, tirx.max(turn - rest, int64(0)))


# Where an element beyond the ends of an axis comes from; in the mode `constant` it is not read.
_SOURCES = {
    "constant": _clamped,
    "edge": _clamped,
    "reflect": lambda place, size: _clamped(_reflected(place, size), size),
    "wrap": lambda place, size: tirx.floormod(place, size),
}


@run_converter("Split", (1,), since=13)
def split(node: Node) -> tuple[relax.Expr, ...]:
    shape = node.shape(0)
    axis = node.axis(node.attr("axis", 0), len(shape))
    count = vector_length(node, 1, "split")
    if count != node.num_outputs:
        raise node.error(f"expected {node.num_outputs} sizes, found {count}")

    def sizes(given: te.Tensor, extent: ir.Expr) -> Sizes:
        own = elements(given)
        small = [tirx.all(s >= 0, s <= extent) for s in own]
        return Sizes(own, tirx.all(*small, tirx.EQ(sum(own, int64(0)), extent)))

    def part(x: te.Tensor, size: ir.Expr, offset: ir.Expr) -> te.Tensor:
        out = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
        return te.compute(out, lambda *at: x(*[i + offset if a == axis else i for a, i in enumerate(at)]), name="part")

    found = sizes_of_run(node, sizes, node.inputs[1], as_expr(shape[axis]), count=count)
    offset: Dim = 0
    parts = []
    for size in found:
        parts.append(node.te(part, node.inputs[0], as_expr(size), as_expr(offset), name="split"))
        offset = size if isinstance(offset, int) else offset + size
    return tuple(parts)


@run_converter("Trilu", (1,), since=14)
def trilu(node: Node) -> relax.Expr:
    upper, zero = bool(node.attr("upper", 1)), tirx.const(0, node.dtype(0))
    vector_length(node, 1, "k")

    def compute(x: te.Tensor, k: te.Tensor) -> te.Tensor:
        def element(*at: tirx.Var) -> ir.Expr:
            (diagonal,) = elements(k)
            distance = at[-1] - at[-2]
            keep = distance >= diagonal if upper else distance <= diagonal
            return tirx.Select(keep, x(*at), zero)

        return te.compute(x.shape, element, name="trilu")

    return node.te(compute, *node.inputs[:2], name="trilu")
