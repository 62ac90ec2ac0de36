"""Poolings: Relax's operators where their arithmetic is ONNX's, own tensor expressions elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tvm import ir, relax, te, tirx

from ..dtypes import is_float
from ..symbols import as_expr
from ..values import Dim
from .broadcast import scalar
from .data_movement import index_at
from .padding import Window, read_window, spatial_list, tidy
from .reduction import reduce
from .registry import converter
from .runtime_checks import with_sizes
from .runtime_sizes import Sizes, elements, exprs, fits, sizes_of_run, vector_length

if TYPE_CHECKING:
    from ..node import Node

_MAX_POOL: dict[int, Callable] = {1: relax.op.nn.max_pool1d, 2: relax.op.nn.max_pool2d, 3: relax.op.nn.max_pool3d}
_AVG_POOL: dict[int, Callable] = {1: relax.op.nn.avg_pool1d, 2: relax.op.nn.avg_pool2d, 3: relax.op.nn.avg_pool3d}
_WHOLE_POWERS = range(1, 9)


def _read(node: Node) -> Window:
    shape = node.shape(0)
    if len(shape) < 3:
        raise node.error(f"the input needs a batch, a channel and spatial axes, found shape {shape}")
    return read_window(node, node.required("kernel_shape"), shape[2:], bool(node.attr("ceil_mode", 0)))


def _relax_pool(table: dict[int, Callable], node: Node, window: Window, **attrs: bool) -> relax.Expr:
    return table[window.rank](
        node.inputs[0], window.kernel, window.strides, tuple(window.padding), window.dilations, **attrs
    )


@converter("MaxPool")
def max_pool(node: Node) -> relax.Expr | tuple[relax.Expr, relax.Expr]:
    """nn.max_pool{1,2,3}d; ceil_mode becomes end padding, which the maximum ignores."""
    window = _read(node)
    if node.num_outputs > 1:
        return _max_pool_indices(node, window)
    end = window.end_reaching_last()
    if end is None or not window.fixed_padding or window.rank not in _MAX_POOL:
        return _window_reduce(node, window, "max_pool", te.max, lambda x: x, tirx.min_value(node.dtype(0)))
    return node.emit(_relax_pool(_MAX_POOL, node, window.with_end(end)))


@converter("AveragePool")
def average_pool(node: Node) -> relax.Expr:
    """nn.avg_pool{1,2,3}d; own code where its divisor is not ONNX's.

    ONNX divides by the window elements inside the input or, with count_include_pad, inside the input and its declared
    padding; what ceil_mode adds behind is never counted.
    """
    window = _read(node)
    include_pad = bool(node.attr("count_include_pad", 0)) and window.is_padded
    end = window.end_reaching_last()
    if end is not None and _relax_average_is_exact(window, window.with_end(end), include_pad):
        return node.emit(_relax_pool(_AVG_POOL, node, window.with_end(end), count_include_pad=include_pad))
    total = _window_reduce(node, window, "pool_sum", te.sum, lambda x: x, tirx.const(0, node.dtype(0)))
    return _divide_by_count(node, total, window, include_pad)


def _relax_average_is_exact(declared: Window, used: Window, include_pad: bool) -> bool:
    if used.rank not in _AVG_POOL or not used.fixed_padding or (include_pad and used.end != declared.end):
        return False
    # Relax clips a dilated window to the input before counting, which miscounts it.
    return not used.is_padded or all(d == 1 for d in used.dilations)


@converter("LpPool")
def lp_pool(node: Node) -> relax.Expr:
    """(sum |x|^p)^(1/p) over each window; padding counts as 0."""
    dtype, p = node.dtype(0), float(node.attr("p", 2))

    def power(x: ir.Expr) -> ir.Expr:
        if p == 2:
            return x * x
        size = tirx.abs(x)
        # TVM warns about a power of 3 and above.
        return math.prod([size] * int(p)) if p in _WHOLE_POWERS else tirx.pow(size, tirx.const(p, dtype))

    total = _window_reduce(node, _read(node), "lp_pool", te.sum, power, tirx.const(0, dtype))
    return _root(node, total, p, dtype)


def _root(node: Node, total: relax.Expr, p: float, dtype: str) -> relax.Expr:
    if p == 1:
        return total
    return node.emit(relax.op.sqrt(total) if p == 2 else relax.op.power(total, scalar(1 / p, dtype)))


def _spatial_axes(node: Node) -> list[int]:
    rank = node.rank(0)
    if rank < 3:
        raise node.error(f"the input needs a batch, a channel and spatial axes, found shape {node.shape(0)}")
    return list(range(2, rank))


@converter("GlobalAveragePool")
def global_average_pool(node: Node) -> relax.Expr:
    return reduce(node, "mean", node.inputs[0], _spatial_axes(node), keepdims=True)


@converter("GlobalMaxPool")
def global_max_pool(node: Node) -> relax.Expr:
    return reduce(node, "max", node.inputs[0], _spatial_axes(node), keepdims=True)


@converter("GlobalLpPool")
def global_lp_pool(node: Node) -> relax.Expr:
    dtype, p = node.dtype(0), float(node.attr("p", 2))
    size = powered = node.emit(relax.op.abs(node.inputs[0]))
    for _ in range(int(p) - 1 if p in _WHOLE_POWERS else 0):
        powered = node.emit(relax.op.multiply(powered, size))
    if p not in _WHOLE_POWERS:
        powered = node.emit(relax.op.power(size, scalar(p, dtype)))
    return _root(node, reduce(node, "sum", powered, _spatial_axes(node), keepdims=True), p, dtype)


@converter("MaxUnpool", since=9)
def max_unpool(node: Node) -> relax.Expr:
    """Scatter each value to its index in a tensor of zeros; a larger `output_shape` pads that tensor behind."""
    shape = node.shape(0)
    spatial, rank = shape[2:], len(shape) - 2
    kernel, strides = node.required("kernel_shape"), spatial_list(node, "strides", rank, 1)
    pads = node.attr("pads") or [0] * (2 * rank)
    if node.rank(1) != len(shape) or any(
        node.symbols.equal(a, b) is False for a, b in zip(node.shape(1), shape, strict=True)
    ):
        raise node.error(f"the indices need the input's shape {shape}, found {node.shape(1)}")
    indices = with_sizes(node, 1, dict(enumerate(shape)))
    if len(kernel) != rank or len(pads) != 2 * rank:
        raise node.error(f"{rank} spatial axes need as many kernel sizes and twice as many pads")
    natural = shape[:2] + [
        tidy((spatial[i] - 1) * strides[i] + kernel[i] - pads[i] - pads[rank + i]) for i in range(rank)
    ]
    count = tidy(math.prod(natural))
    zeros = node.emit(relax.op.zeros([count], node.dtype(0)))
    flat = [node.emit(relax.op.reshape(x, [-1])) for x in (node.inputs[0], indices)]
    places = node.te(_clamped, flat[1], as_expr(count), name="places")
    out = node.emit(relax.op.scatter_elements(zeros, places, flat[0], axis=0))
    out = node.emit(relax.op.reshape(out, natural))
    if not node.has(2):
        return out
    wanted = _unpooled_shape(node, natural)
    return out if node.symbols.same_shape(wanted, natural) else node.te(_padded, out, exprs(wanted), name="unpool")


def _unpooled_shape(node: Node, natural: list[Dim]) -> list[Dim]:
    """`output_shape`, at least the shape that the windows cover; it may be data."""
    wanted = node.dims(2)
    if wanted is None:
        if vector_length(node, 2, "output_shape") != len(natural):
            raise node.error(f"output_shape must have {len(natural)} sizes, found {node.shape(2)}")

        def sizes(given: te.Tensor, least: list[ir.Expr]) -> Sizes:
            found = elements(given)
            return Sizes(found, tirx.all(fits(found), *[w >= n for w, n in zip(found, least, strict=True)]))

        return sizes_of_run(node, sizes, node.inputs[2], exprs(natural), count=len(natural))
    if len(wanted) != len(natural):
        raise node.error(f"output_shape must be at least {natural}, found {wanted}")
    for axis, (size, least) in enumerate(zip(wanted, natural, strict=True)):
        node.require_at_least(size, least, f"output_shape[{axis}]")
    return wanted


def _padded(x: te.Tensor, shape: list[ir.Expr]) -> te.Tensor:
    """`x` in a larger tensor, zeros behind it."""

    def element(*at: tirx.Var) -> ir.Expr:
        inside = tirx.all(*[i < size for i, size in zip(at, x.shape, strict=True)])
        return tirx.if_then_else(inside, x(*at), tirx.const(0, x.dtype))

    return te.compute(shape, element, name="unpool")


def _clamped(places: te.Tensor, count: ir.Expr) -> te.Tensor:
    """Indices read from data made safe: a wrong one must not write outside of the tensor."""
    return te.compute(places.shape, lambda i: index_at(places(i), count), name="places")


# Own tensor expressions. Symbolic sizes enter them as arguments: TE replaces symbolic variables by fresh ones.


def _position(window: Window, begin: Sequence[Dim], at: Sequence[tirx.Var], k: Sequence) -> list[ir.Expr]:
    """Input coordinates of the window element `k` of output position `at`."""
    return [
        o * stride + e * dilation - b
        for o, e, stride, dilation, b in zip(at, k, window.strides, window.dilations, begin, strict=True)
    ]


def _inside(position: Sequence[ir.Expr], size: Sequence[Dim]) -> ir.Expr:
    return tirx.all(*[c for p, s in zip(position, size, strict=True) for c in (p >= 0, p < s)])


def _window_reduce(
    node: Node,
    window: Window,
    name: str,
    reducer: Callable,
    element: Callable[[ir.Expr], ir.Expr],
    outside: ir.Expr,
) -> relax.Expr:
    """Reduce `element(x)` over each window of input 0; elements outside the input are `outside`."""

    def compute(x: te.Tensor, begin: list[Dim], out: list[Dim]) -> te.Tensor:
        axes = [te.reduce_axis((0, k), name=f"k{i}") for i, k in enumerate(window.kernel)]

        def value(n: tirx.Var, c: tirx.Var, *at: tirx.Var) -> ir.Expr:
            position = _position(window, begin, at, axes)
            guarded = tirx.if_then_else(_inside(position, x.shape[2:]), element(x(n, c, *position)), outside)
            return reducer(guarded, axis=axes)

        return te.compute((x.shape[0], x.shape[1], *out), value, name=name)

    return node.te(compute, node.inputs[0], list(window.begin), list(window.out), name=name)


def _divide_by_count(node: Node, total: relax.Expr, window: Window, include_pad: bool) -> relax.Expr:
    """`total` divided by the number of elements that each window counts."""

    def count(at: tirx.Var, i: int, size: Dim, begin: Dim, end: Dim) -> ir.Expr:
        """Window elements in [-begin, size + end) with padding, in [0, size) without."""
        dilation, start = window.dilations[i], at * window.strides[i] - begin
        stop = tirx.floordiv((size + end if include_pad else size) - start + dilation - 1, dilation)
        last = tirx.min(stop, tirx.const(window.kernel[i], "int64"))
        if include_pad:
            return last
        return last - tirx.max(tirx.floordiv(dilation - 1 - start, dilation), tirx.const(0, "int64"))

    def compute(total: te.Tensor, size: list[Dim], begin: list[Dim], end: list[Dim]) -> te.Tensor:
        def value(n: tirx.Var, c: tirx.Var, *at: tirx.Var) -> ir.Expr:
            elements = math.prod(count(o, i, size[i], begin[i], end[i]) for i, o in enumerate(at))
            return total(n, c, *at) / elements.astype(total.dtype)

        return te.compute(total.shape, value, name="pool_average")

    return node.te(compute, total, list(window.size), list(window.begin), list(window.end), name="pool_average")


def _max_pool_indices(node: Node, window: Window) -> tuple[relax.Expr, relax.Expr]:
    """MaxPool with its second output: the place of each maximum in the flattened input (the first one where equal).

    `storage_order` 1 counts the spatial axes of a channel with the first one running fastest.
    """
    dtype = node.dtype(0)
    least = tirx.const(-math.inf, dtype) if is_float(dtype) else tirx.min_value(dtype)
    none = tirx.const(-1, "int64")
    column_major = bool(node.attr("storage_order", 0))

    def combine(a: tuple, b: tuple) -> tuple:
        # Each is (place in the window, value); a place of -1 is outside the input.
        earlier = tirx.all(b[1] == a[1], b[0] < a[0])
        take_b = tirx.all(b[0] >= 0, tirx.any(a[0] < 0, b[1] > a[1], earlier))
        return tirx.Select(take_b, b[0], a[0]), tirx.Select(take_b, b[1], a[1])

    first_max = te.comm_reducer(combine, lambda *_: (none, least), name="first_max")

    def compute(x: te.Tensor, begin: list[Dim], out: list[Dim]) -> list[te.Tensor]:
        axes = [te.reduce_axis((0, k), name=f"k{i}") for i, k in enumerate(window.kernel)]

        def candidate(n: tirx.Var, c: tirx.Var, *at: tirx.Var) -> ir.Expr:
            position = _position(window, begin, at, axes)
            inside = _inside(position, x.shape[2:])
            value = tirx.if_then_else(inside, x(n, c, *position), least)
            return first_max((tirx.if_then_else(inside, _flat(axes, window.kernel), none), value), axis=axes)

        def index(n: tirx.Var, c: tirx.Var, *at: tirx.Var) -> ir.Expr:
            element = _unflat(place(n, c, *at), window.kernel)
            position, size = _position(window, begin, at, element), list(x.shape[2:])
            channel = (n * x.shape[1] + c) * math.prod(size)
            return channel + (_flat(position[::-1], size[::-1]) if column_major else _flat(position, size))

        shape = (x.shape[0], x.shape[1], *out)
        place, value = te.compute(shape, candidate, name="max_pool")
        return [te.compute(shape, lambda *i: value(*i), name="value"), te.compute(shape, index, name="index")]

    both = node.te(compute, node.inputs[0], list(window.begin), list(window.out), name="max_pool_indices")
    return node.emit(relax.TupleGetItem(both, 0)), node.emit(relax.TupleGetItem(both, 1))


def _flat(position: Sequence, size: Sequence[Dim]) -> ir.Expr:
    """Row-major place of `position` in a tensor of extents `size`."""
    flat = tirx.const(0, "int64")
    for p, s in zip(position, size, strict=True):
        flat = flat * s + p
    return flat


def _unflat(flat: ir.Expr, size: Sequence[int]) -> list[ir.Expr]:
    position = []
    for s in reversed(size):
        position.append(tirx.floormod(flat, tirx.const(s, "int64")))
        flat = tirx.floordiv(flat, tirx.const(s, "int64"))
    return position[::-1]
