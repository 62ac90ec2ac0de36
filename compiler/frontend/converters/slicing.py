"""Operators that cut or join along an axis: Slice, Split, Concat."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, te

from ..node import Node
from ..slicing import slice_bounds
from ..symbols import as_expr, dim_text
from ..values import Dim
from .broadcast import same_sizes
from .registry import converter
from .shape_ops import axes_of, required_dims

op = relax.op

# (first index, step, number of elements) of an axis
Cut = tuple[Dim, int, Dim]


def _cut(node: Node, start: Dim, end: Dim, step: int, size: Dim) -> Cut:
    """What a slice keeps of an axis of `size`."""
    if step == 0:
        raise node.error("a step is 0")
    if all(isinstance(v, int) for v in (start, end, size)):
        return slice_bounds(start, end, step, size)
    s = node.symbols
    low, high = (0, size) if step > 0 else (-1, size - 1)
    first = _clamped(node, start, 0, high, size)
    last = _clamped(node, end, low, high, size)
    span = s.simplify(as_expr(last) - as_expr(first) if step > 0 else as_expr(first) - as_expr(last))
    count = s.maximum(0, s.floordiv(span + (abs(step) - 1), abs(step)))
    return first, step, count


def _clamped(node: Node, bound: Dim, low: Dim, high: Dim, size: Dim) -> Dim:
    negative = node.symbols.less(bound, 0)
    if negative is None:
        raise node.error(f"bound {dim_text(bound)} may or may not be negative, which is not supported")
    bound = node.symbols.simplify(as_expr(bound) + size) if negative else bound
    return node.symbols.minimum(node.symbols.maximum(bound, low), high)


def cut(node: Node, x: relax.Expr, shape: Sequence[Dim], cuts: dict[int, Cut], name: str = "slice") -> relax.Expr:
    """`x` reduced on some axes; nothing where all elements stay in order."""
    s = node.symbols
    cuts = {a: c for a, c in cuts.items() if not (c[0] == 0 and c[1] == 1 and s.equal(c[2], shape[a]) is True)}
    if not cuts:
        return x
    if all(isinstance(v, int) for a, c in cuts.items() for v in (*c, shape[a])) and all(
        c[2] > 0 for c in cuts.values()
    ):
        axes = sorted(cuts)
        begins = [cuts[a][0] for a in axes]
        ends = [_end(cuts[a], shape[a]) for a in axes]
        return op.strided_slice(x, axes, begins, ends, [cuts[a][1] for a in axes])
    out = [as_expr(cuts[a][2] if a in cuts else d) for a, d in enumerate(shape)]
    firsts = [as_expr(cuts[a][0] if a in cuts else 0) for a in range(len(shape))]
    steps = [cuts[a][1] if a in cuts else 1 for a in range(len(shape))]

    def compute(data: te.Tensor, sizes: list, first: list) -> te.Tensor:
        return te.compute(sizes, lambda *i: data(*(f + v * k for f, v, k in zip(first, i, steps, strict=True))))

    return node.te(compute, x, out, firsts, name=name)


def _end(cut_: Cut, size: int) -> int:
    """Where a fixed slice ends; an end before the first element is written as a negative number beyond the axis."""
    first, step, count = cut_
    end = first + (count - 1) * step + (1 if step > 0 else -1)
    return end if end >= 0 else -size - 1


@converter("Slice", since=1)
def slice_attributes(node: Node) -> relax.Expr:
    starts, ends = node.required("starts"), node.required("ends")
    return _slice(node, starts, ends, axes_of(node, 99), [1] * len(starts))


@converter("Slice", since=10)
def slice_inputs(node: Node) -> relax.Expr:
    starts, ends = required_dims(node, 1, "starts"), required_dims(node, 2, "ends")
    steps = required_dims(node, 4, "steps") if node.has(4) else [1] * len(starts)
    if not all(isinstance(s, int) for s in steps):
        raise node.error("steps must be fixed numbers")
    return _slice(node, starts, ends, axes_of(node, 3), steps)


def _slice(node: Node, starts: list[Dim], ends: list[Dim], axes: list[int] | None, steps: list[int]) -> relax.Expr:
    axes = list(range(len(starts))) if axes is None else axes
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise node.error("starts, ends, axes and steps must have the same number of elements")
    shape = node.shape(0)
    cuts = {
        axis: _cut(node, start, end, step, shape[axis])
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True)
    }
    return cut(node, node.inputs[0], shape, cuts)


@converter("Split")
def split(node: Node) -> tuple[relax.Expr, ...]:
    """Sizes are given as an input or an attribute; without them the parts are equal, and the last may be smaller."""
    shape = node.shape(0)
    axis = node.axis(node.attr("axis", 0), len(shape))
    sizes = required_dims(node, 1, "split") if node.has(1) else node.attr("split")
    if sizes is None:
        sizes = _even_sizes(node, shape[axis], node.attr("num_outputs", node.num_outputs), axis)
    if len(sizes) != node.num_outputs:
        raise node.error(f"{len(sizes)} sizes are given for {node.num_outputs} outputs")
    total = node.symbols.simplify(sum(sizes, start=0))
    if node.symbols.equal(total, shape[axis]) is False:
        raise node.error(f"split sizes add up to {total}, expected {shape[axis]}, the size of axis {axis}")
    node.require_equal(shape[axis], total, f"axis {axis} of input 0")
    for i, size in enumerate(sizes):
        node.require_at_least(size, 0, f"the size of part {i}")
    parts, begin = [], 0
    for size in sizes:
        parts.append(cut(node, node.inputs[0], shape, {axis: (begin, 1, size)}, name="split"))
        begin = node.symbols.simplify(begin + size)
    return tuple(parts)


def _even_sizes(node: Node, size: Dim, parts: int, axis: int) -> list[Dim]:
    """Equal parts; since opset 18 the last one may be smaller."""
    s, what = node.symbols, f"axis {axis} of input 0"
    if parts < 1:
        raise node.error(f"attribute 'num_outputs' must be at least 1, found {parts}")
    if node.opset < 18:
        node.require_multiple(size, parts, what)
    else:
        node.require_at_least(size, parts, what)
    chunk = s.floordiv(size + (parts - 1), parts)
    return [chunk] * (parts - 1) + [s.simplify(size - chunk * (parts - 1))]


@converter("Concat")
def concat(node: Node) -> relax.Expr:
    """Empty operands vanish."""
    node.value(0)
    axis = node.axis(node.attr("axis", 1), node.rank(0))
    kept = [i for i in range(len(node.values)) if not _empty(node.shape(i), axis)]
    if not kept:
        return node.inputs[0]
    operands = same_sizes(node, [node.inputs[i] for i in kept], axis)
    return operands[0] if len(operands) == 1 else op.concat(operands, axis)


def _empty(shape: Sequence[Dim], axis: int) -> bool:
    size = shape[axis] if axis < len(shape) else None
    return isinstance(size, int) and size == 0
