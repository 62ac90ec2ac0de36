"""Operators that pick, place or pad elements. An index out of range is clamped: a wrong model must not crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import ir, relax, te, tirx

from ..dtypes import dtype_name, is_integer, numpy_dtype
from ..node import Node
from ..symbols import as_expr
from ..values import Dim, constant
from .broadcast import scalar
from .registry import converter
from .runtime_checks import with_sizes
from .shape_ops import required_dims
from .slicing import cut

# No axis is longer: an index beyond it is refused as one at its end is.
_LARGEST_SIZE = 2**63 - 1

op = relax.op


def index_at(position: Any, size: Any) -> ir.Expr:
    """An index read from data as one that is safe: negative ones count from the end, then clamped to [0, size)."""
    position = tirx.Cast("int64", position) if str(position.ty.dtype) != "int64" else position
    size = as_expr(size)
    wrapped = tirx.Select(position < 0, position + size, position)
    return tirx.max(tirx.min(wrapped, size - 1), tirx.IntImm("int64", 0))


@converter("Gather")
def gather(node: Node) -> relax.Expr:
    shape = node.shape(0)
    axis = node.axis(node.attr("axis", 0), len(shape))
    size, known = shape[axis], node.const(1)
    if known is not None and isinstance(size, int):
        if known.size and not (-size <= known.min() and known.max() < size):
            raise node.error(f"an index is out of range for axis {axis} of size {size}")
        indices = np.where(known < 0, known + size, known).astype(known.dtype)
        return op.take(node.inputs[0], constant(indices), axis, mode="clip")
    require_inside(node, known, size, f"axis {axis} of input 0")
    indices, dtype = node.inputs[1], node.dtype(1)
    if isinstance(size, int):
        wrapped = op.where(op.less(indices, scalar(0, dtype)), op.add(indices, scalar(size, dtype)), indices)
        return op.take(node.inputs[0], wrapped, axis, mode="clip")
    rank = node.rank(1)

    def compute(data: te.Tensor, where: te.Tensor) -> te.Tensor:
        shape = [*data.shape[:axis], *where.shape, *data.shape[axis + 1 :]]
        return te.compute(
            shape,
            lambda *i: data(*i[:axis], index_at(where(*i[axis : axis + rank]), data.shape[axis]), *i[axis + rank :]),
        )

    return node.te(compute, node.inputs[0], indices, name="gather")


def require_inside(node: Node, indices: np.ndarray | None, size: Dim, what: str) -> None:
    """Check indices that are known at compile time against the size of their axis (`what`), then or in each run.

    Indices that only a run gives are clamped to the axis; there must be something on it to clamp them to.
    """
    if indices is None:
        if 0 not in node.shape(1):
            node.require_at_least(size, 1, what)
    elif indices.size:
        least = max(int(indices.max()) + 1, -int(indices.min()))
        node.require_at_least(size, min(least, _LARGEST_SIZE), what)


def check_beside(node: Node, axis: int) -> None:
    """ModelError when the indices (input 1) of an operator on elements reach beyond the data on another axis."""
    data, indices = node.shape(0), node.shape(1)
    if len(data) != len(indices):
        raise node.error(f"the indices need {len(data)} dimensions like the data, found {len(indices)}")
    for other in range(len(data)):
        if other != axis and node.symbols.less(data[other], indices[other]):
            raise node.error(
                f"the indices have {indices[other]} elements on axis {other}, expected at most {data[other]}"
            )
        if other != axis:
            node.require_at_least(data[other], indices[other], f"axis {other} of input 0")
    require_inside(node, node.const(1), data[axis], f"axis {axis} of input 0")


def inside(position: Sequence[Any], shape: Sequence[Any]) -> list[Any]:
    """`position` clamped to a tensor of `shape` where a symbolic size leaves open whether it lies inside."""
    return [
        at if isinstance(size, tirx.IntImm) else tirx.min(at, size - 1)
        for at, size in zip(position, shape, strict=True)
    ]


@converter("GatherElements", since=11)
def gather_elements(node: Node) -> relax.Expr:
    axis = node.axis(node.attr("axis", 0), node.rank(0))
    check_beside(node, axis)

    def compute(data: te.Tensor, where: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> ir.Expr:
            at = inside(i, data.shape)
            return data(*at[:axis], index_at(where(*i), data.shape[axis]), *at[axis + 1 :])

        return te.compute(where.shape, element)

    return node.te(compute, node.inputs[0], node.inputs[1], name="gather_elements")


@converter("GatherND", since=11)
def gather_nd(node: Node) -> relax.Expr:
    """The last axis of the indices holds a position in the data behind `batch_dims` shared axes."""
    batch, depth = node.attr("batch_dims", 0), node.shape(1)[-1]
    if not isinstance(depth, int) or batch + depth > node.rank(0):
        raise node.error(f"indices hold {depth} coordinates behind {batch} batch axes, found {node.rank(0)} dimensions")

    for k in range(depth):
        known = node.const(1)
        require_inside(
            node, None if known is None else known[..., k], node.shape(0)[batch + k], f"axis {batch + k} of input 0"
        )

    def compute(data: te.Tensor, where: te.Tensor) -> te.Tensor:
        outer = len(where.shape) - 1

        def element(*i: Any) -> ir.Expr:
            at = [index_at(where(*i[:outer], k), data.shape[batch + k]) for k in range(depth)]
            return data(*i[:batch], *at, *i[outer:])

        return te.compute([*where.shape[:-1], *data.shape[batch + depth :]], element)

    indices = with_sizes(node, 1, dict(enumerate(node.shape(0)[:batch])))
    return node.te(compute, node.inputs[0], indices, name="gather_nd")


@converter("OneHot", since=9)
def one_hot(node: Node) -> relax.Expr:
    (depth,) = required_dims(node, 1, "depth")
    return one_hot_of(node, depth)


def one_hot_of(node: Node, depth: Dim) -> relax.Expr:
    """OneHot with `depth` classes."""
    rank = node.rank(0)
    axis = node.axis(node.attr("axis", -1), rank + 1)

    def compute(indices: te.Tensor, size: Any, values: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> ir.Expr:
            index = tirx.Cast("int64", indices(*i[:axis], *i[axis + 1 :]))
            hit = tirx.any(tirx.EQ(index, i[axis]), tirx.EQ(index + size, i[axis]))
            return tirx.if_then_else(hit, values[1], values[0])

        return te.compute([*indices.shape[:axis], size, *indices.shape[axis:]], element)

    return node.te(compute, node.inputs[0], as_expr(depth), node.inputs[2], name="one_hot")


@converter("Trilu", since=14)
def trilu(node: Node) -> relax.Expr:
    """Keeps the upper or lower triangle of the last two axes; `k` moves the diagonal up."""
    upper = bool(node.attr("upper", 1))
    (k,) = required_dims(node, 1, "k") if node.has(1) else (0,)
    if not isinstance(k, int):
        raise node.error("k must be a fixed number")
    zero = tirx.const(0, node.dtype(0))

    def compute(x: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> ir.Expr:
            row, column = i[-2], i[-1]
            keep = column - row >= k if upper else column - row <= k
            return tirx.Select(keep, x(*i), zero)

        return te.compute(x.shape, element)

    return node.te(compute, node.inputs[0], name="trilu")


@converter("EyeLike", since=9)
def eye_like(node: Node) -> relax.Expr | np.ndarray:
    code = node.attr("dtype")
    dtype = node.dtype(0) if code is None else dtype_name(code)
    k, shape = node.attr("k", 0), node.shape(0)
    if dtype is None or len(shape) != 2:
        raise node.error("expected a matrix and a supported dtype")
    if all(isinstance(d, int) for d in shape):
        return np.eye(int(shape[0]), int(shape[1]), k, dtype=numpy_dtype(dtype))
    one, zero = tirx.const(1, dtype), tirx.const(0, dtype)
    return node.te(
        lambda sizes: te.compute(sizes, lambda i, j: tirx.Select(tirx.EQ(j - i, as_expr(k)), one, zero)),
        [as_expr(d) for d in shape],
        name="eye",
    )


@converter("Range", since=11)
def arange(node: Node) -> relax.Expr:
    """Bounds that are all known are folded before; here they follow from shapes."""
    (start,), (limit,), (step,) = (required_dims(node, i, "the range") for i in range(3))
    if not is_integer(node.dtype(0)) or not isinstance(step, int) or step == 0:
        raise node.error("a range over symbolic sizes must have integer bounds and a fixed step that is not 0")
    s, dtype = node.symbols, node.dtype(0)
    span = s.simplify(as_expr(limit) - as_expr(start) if step > 0 else as_expr(start) - as_expr(limit))
    count = s.maximum(0, s.floordiv(span + (abs(step) - 1), abs(step)))

    def compute(size: Any, first: Any) -> te.Tensor:
        return te.compute([size], lambda i: tirx.Cast(dtype, first + i * step))

    return node.te(compute, as_expr(count), as_expr(start), name="range")


@converter("ReverseSequence", since=10)
def reverse_sequence(node: Node) -> relax.Expr:
    batch, time = node.attr("batch_axis", 1), node.attr("time_axis", 0)
    if {batch, time} != {0, 1}:
        raise node.error(f"batch_axis and time_axis must be 0 and 1, found {batch} and {time}")

    def compute(x: te.Tensor, lengths: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> ir.Expr:
            length = tirx.min(tirx.Cast("int64", lengths(i[batch])), as_expr(x.shape[time]))
            source = tirx.Select(i[time] < length, length - 1 - i[time], i[time])
            return x(*((source, i[1]) if time == 0 else (i[0], source)), *i[2:])

        return te.compute(x.shape, element)

    lengths = with_sizes(node, 1, {0: node.shape(0)[batch]}, "lengths")
    return node.te(compute, node.inputs[0], lengths, name="reverse_sequence")


# --- Pad: where an output position outside the input takes its element from, for an axis of size n ---


def _reflect(i: Any, n: Any) -> ir.Expr:
    period = tirx.max(2 * n - 2, tirx.IntImm("int64", 1))
    offset = tirx.floormod(i, period)
    return tirx.min(offset, period - offset)


_PAD_SOURCE: dict[str, Callable[[Any, Any], ir.Expr]] = {
    "reflect": _reflect,
    "edge": lambda i, n: tirx.max(tirx.min(i, n - 1), tirx.IntImm("int64", 0)),
    "wrap": lambda i, n: tirx.floormod(i, n),
}


@converter("Pad", since=1)
def pad_attributes(node: Node) -> relax.Expr:
    # Opset 1 called the attribute `paddings`.
    pads = node.attr("pads", node.attr("paddings"))
    if pads is None:
        raise node.error("attribute 'pads' is required and was not found")
    return _pad(node, list(pads), np.array(node.attr("value", 0.0)))


@converter("Pad", since=11)
def pad(node: Node) -> relax.Expr:
    pads, rank = required_dims(node, 1, "pads"), node.rank(0)
    if node.has(3):
        axes = [node.axis(a, rank) for a in required_dims(node, 3, "axes")]
        if len(pads) != 2 * len(axes):
            raise node.error(f"{len(pads)} pads are given for {len(axes)} axes, expected two for each")
        placed: list[Dim] = [0] * (2 * rank)
        for i, axis in enumerate(axes):
            placed[axis], placed[rank + axis] = pads[i], pads[len(axes) + i]
        pads = placed
    value = node.const(2) if node.has(2) else np.array(0.0)
    return _pad(node, pads, value)


def _pad(node: Node, pads: list[Dim], value: np.ndarray | None) -> relax.Expr:
    """Negative pads cut first; the rest is `nn.pad` for fixed constant padding, else one gather."""
    shape, mode, rank = node.shape(0), node.attr("mode", "constant"), node.rank(0)
    if len(pads) != 2 * rank:
        raise node.error(f"{len(pads)} pads are given for {rank} dimensions, expected {2 * rank}")
    if mode != "constant" and mode not in _PAD_SOURCE:
        raise node.error(f"mode {mode!r} is not one of constant, {', '.join(_PAD_SOURCE)}")
    x, shape, pads = _crop(node, shape, pads)
    if all(isinstance(p, int) and p == 0 for p in pads):
        return x
    before, after = pads[:rank], pads[rank:]
    if mode == "constant" and value is not None and all(isinstance(p, int) for p in pads):
        widths = [w for axis in range(rank) for w in (before[axis], after[axis])]
        fill = float(value.reshape(-1)[0]) if value.size else 0.0
        if node.dtype(0) != "bool" and (not is_integer(node.dtype(0)) or abs(fill) < 2**53):
            return op.nn.pad(x, widths, "constant", fill)
    x = node.emit(x)
    sizes = [as_expr(node.symbols.simplify(b + d + a)) for b, d, a in zip(before, shape, after, strict=True)]
    begins = [as_expr(b) for b in before]
    if mode == "constant":
        filler = node.emit(op.reshape(node.inputs[2], [])) if node.has(2) else scalar(0, node.dtype(0))
        return node.te(_pad_with, x, filler, sizes, begins, name="pad")
    source = _PAD_SOURCE[mode]
    padded = {axis % rank for axis, p in enumerate(pads) if not (isinstance(p, int) and p == 0)}
    for axis in sorted(padded):
        node.require_at_least(shape[axis], 1, f"axis {axis} of input 0")
        if mode == "reflect":
            for width in (before[axis], after[axis]):
                least = node.symbols.simplify(as_expr(width) + 1)
                node.require_at_least(shape[axis], least, f"axis {axis} of input 0, of which {width} are reflected")

    def compute(data: te.Tensor, shape: list, first: list) -> te.Tensor:
        def position(axis: int, i: Any) -> Any:
            return source(i - first[axis], as_expr(data.shape[axis])) if axis in padded else i

        return te.compute(shape, lambda *i: data(*(position(axis, v) for axis, v in enumerate(i))))

    return node.te(compute, x, sizes, begins, name=f"pad_{mode}")


def _pad_with(data: te.Tensor, value: te.Tensor, shape: list, first: list) -> te.Tensor:
    """Constant padding with a value known only when the model runs."""

    def element(*i: Any) -> ir.Expr:
        at = [v - b for v, b in zip(i, first, strict=True)]
        inside = tirx.all(*(tirx.all(p >= 0, p < n) for p, n in zip(at, data.shape, strict=True)))
        return tirx.if_then_else(inside, data(*at), value())

    return te.compute(shape, element)


def _crop(node: Node, shape: list[Dim], pads: list[Dim]) -> tuple[relax.Expr, list[Dim], list[Dim]]:
    """Carry out the negative pads; returns the input, its new shape, and the pads without them."""
    rank = len(shape)
    shape, cuts = list(shape), {}
    for axis in range(rank):
        before, after = (-p if isinstance(p, int) and p < 0 else 0 for p in (pads[axis], pads[rank + axis]))
        if before or after:
            size = node.symbols.simplify(shape[axis] - (before + after))
            if node.symbols.less(size, 0):
                raise node.error(f"negative pads take more than the {shape[axis]} elements of axis {axis}")
            cuts[axis] = (before, 1, size)
    x = cut(node, node.inputs[0], shape, cuts, name="crop")
    for axis, (_, _, size) in cuts.items():
        shape[axis] = size
    return x, shape, [0 if isinstance(p, int) and p < 0 else p for p in pads]
