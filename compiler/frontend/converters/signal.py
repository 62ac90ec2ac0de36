"""DFT, STFT and MelWeightMatrix: Fourier transforms as products with constant matrices, and banks of filters."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from tvm import ir, relax, te, tirx

from ..dtypes import dtype_name, numpy_dtype
from ..node import Node
from ..symbols import as_expr
from ..values import Dim, constant
from .registry import converter, run_converter
from .runtime_sizes import Sizes, choose, elements, exprs, int64, picked, sizes_of_run
from .shape_ops import required_dims

op = relax.op

# Elements of a constant matrix, 64 MiB of float32; transforms that need more compute their factors as they run.
_LARGEST_MATRIX = 2**24


@dataclass(frozen=True)
class _Transform:
    """A transform of `length` points: y[k] = sum of x[t] exp(-+ 2 pi i k t / length).

    Attributes:
        parts: 1 for real input, 2 for complex.
        one_sided: only the first half of the spectrum is given (forward) or was given (inverse, with a real result).
    """

    length: Dim
    parts: int
    inverse: bool
    one_sided: bool

    @property
    def half(self) -> Dim:
        return self.length // 2 + 1 if isinstance(self.length, int) else tirx.floordiv(self.length, 2) + 1

    @property
    def points(self) -> Dim:
        """Of the result."""
        return self.half if self.one_sided and not self.inverse else self.length

    @property
    def results(self) -> int:
        """1 for a real result, 2 for a complex one."""
        return 1 if self.one_sided and self.inverse else 2

    @property
    def most_read(self) -> Dim:
        """Points of the input that count."""
        return self.half if self.one_sided and self.inverse else self.length

    def matrix(self, read: int, dtype: str) -> np.ndarray:
        """(read * parts, points * results): what a row of the input is multiplied by."""
        t, k = np.arange(read)[:, None], np.arange(int(self.points))[None, :]
        angles = 2 * np.pi * ((t * k) % self.length) / self.length
        cos, sin = np.cos(angles), (1 if self.inverse else -1) * np.sin(angles)
        if self.inverse:
            weights = np.full((read, 1), 1 / self.length)
            if self.one_sided:  # the other half of the spectrum is its mirror image
                mirrored = (t > 0) & (2 * t != self.length)
                weights = weights * np.where(mirrored, 2, 1)
            cos, sin = cos * weights, sin * weights
        result = np.empty((read, self.parts, self.points, self.results))
        result[:, 0, :, 0] = cos
        if self.results == 2:
            result[:, 0, :, 1] = sin
        if self.parts == 2:
            result[:, 1, :, 0] = -sin
            if self.results == 2:
                result[:, 1, :, 1] = cos
        return result.reshape(read * self.parts, -1).astype(numpy_dtype(dtype))


@converter("DFT", since=17)
def dft_by_attribute(node: Node) -> relax.Expr:
    return _dft(node, node.attr("axis", 1))


@converter("DFT", since=20)
def dft(node: Node) -> relax.Expr:
    (axis,) = required_dims(node, 2, "the axis") if node.has(2) else (-2,)
    if not isinstance(axis, int):
        raise node.error("the axis must be a fixed number")
    return _dft(node, axis)


def _dft(node: Node, given: int) -> relax.Expr:
    shape = node.shape(0)
    axis = node.axis(given, len(shape))
    if len(shape) < 2 or axis == len(shape) - 1:
        raise node.error(f"axis {given} must be one of the signal's, before the last dimension")
    inverse, one_sided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    if node.has(1):
        (length,) = required_dims(node, 1, "the length")
    else:
        length = 2 * (shape[axis] - 1) if inverse and one_sided else shape[axis]
    node.require_at_least(length, 1, "the length")
    transform = _Transform(node.symbols.simplify(length), _parts(node, shape[-1]), inverse, one_sided)
    if one_sided and (transform.parts == 2) is not inverse:
        raise node.error("with onesided the forward transform takes real numbers, and the inverse complex ones")
    return _transformed(node, node.inputs[0], axis, transform)


@run_converter("DFT", (1, 2), since=17)
def dft_by_data(node: Node) -> relax.Expr:
    """The length or the axis is data: the signal as (outer, size, inner, parts), whose sizes a run tells."""
    shape = node.shape(0)
    rank, parts = len(shape), _parts(node, shape[-1])
    inverse, one_sided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    if one_sided and (parts == 2) is not inverse:
        raise node.error("with onesided the forward transform takes real numbers, and the inverse complex ones")
    given = [node.inputs[i] if node.has(i) else None for i in (1, 2)]
    default = -2 if node.opset >= 20 else node.attr("axis", 1)

    def sizes(dims: list[ir.Expr], *tensors: te.Tensor) -> Sizes:
        found = iter(tensors)
        lengths = elements(next(found)) if given[0] is not None else []
        axis = elements(next(found))[0] if given[1] is not None else int64(default)
        valid = tirx.any(tirx.all(axis >= 0, axis < rank - 1), tirx.all(axis >= -rank, axis < -1))
        axis = choose(axis < 0, axis + rank, axis)
        size = picked(dims[:-1], axis)
        length = lengths[0] if lengths else 2 * (size - 1) if inverse and one_sided else size
        points = tirx.floordiv(length, 2) + 1 if one_sided and not inverse else length
        outer, inner, out = int64(1), int64(1), []
        for i, dim in enumerate(dims[:-1]):
            outer, inner = outer * choose(axis > i, dim, 1), inner * choose(axis < i, dim, 1)
            out.append(choose(tirx.EQ(axis, int64(i)), points, dim))
        return Sizes([outer, size, inner, length, *out], tirx.all(valid, length >= 1, length < int64(2**31)))

    found = sizes_of_run(node, sizes, exprs(shape), *[g for g in given if g is not None], count=rank + 3)
    outer, size, inner, length, *out = (as_expr(d) for d in found)
    transform = _Transform(length, parts, inverse, one_sided)
    x = node.emit(op.reshape(node.inputs[0], relax.ShapeExpr([outer, size, inner, as_expr(parts)])))
    y = node.emit(_transformed(node, x, 1, transform))
    return op.reshape(y, relax.ShapeExpr([*out, as_expr(transform.results)]))


def _parts(node: Node, last: Dim) -> int:
    if last not in (1, 2):
        raise node.error(f"the last dimension must be 1 (real) or 2 (complex), found {last}")
    return int(last)


def _transformed(node: Node, x: relax.Expr, axis: int, transform: _Transform) -> relax.Expr:
    """`x` (..., size on `axis`, ..., parts) with its spectrum on `axis`, and the results' parts last."""
    dtype = str(x.ty.dtype)
    wide = "float64" if dtype == "float64" else "float32"
    x = x if dtype == wide else node.emit(op.astype(x, wide))
    rank = len(x.ty.shape.values)
    order = [i for i in range(rank - 1) if i != axis] + [axis, rank - 1]
    x = x if order == list(range(rank)) else node.emit(op.permute_dims(x, order))
    if _is_small(x, transform):
        y = _product(node, x, transform)
    else:
        y = node.te(lambda t, n: _sums(t, replace(transform, length=n)), x, as_expr(transform.length), name="dft")
    back = [order.index(i) for i in range(rank)]
    y = y if back == list(range(rank)) else node.emit(op.permute_dims(y, back))
    return y if dtype == wide else op.astype(y, dtype)


def _is_small(x: relax.Expr, transform: _Transform) -> bool:
    size = x.ty.shape.values[-2]
    if not isinstance(size, tirx.IntImm) or not isinstance(transform.length, int):
        return False
    return min(int(size), transform.length) * transform.length * 4 <= _LARGEST_MATRIX


def _product(node: Node, x: relax.Expr, transform: _Transform) -> relax.Expr:
    """Fixed sizes: rows of the points that count, times the matrix."""
    outer, size = list(x.ty.shape.values[:-2]), int(x.ty.shape.values[-2])
    read = min(size, int(transform.most_read))
    if read < size:
        x = node.emit(op.strided_slice(x, [len(outer)], [0], [read]))
    rows = node.emit(op.reshape(x, relax.ShapeExpr([*outer, as_expr(read * transform.parts)])))
    y = node.emit(op.matmul(rows, constant(transform.matrix(read, str(x.ty.dtype)))))
    return node.emit(op.reshape(y, relax.ShapeExpr([*outer, as_expr(transform.points), as_expr(transform.results)])))


def _sums(x: te.Tensor, transform: _Transform) -> te.Tensor:
    """Any sizes: the factors come from tables of one turn, made in float64."""
    dtype, length = str(x.dtype), as_expr(transform.length)
    size, outer = x.shape[-2], len(x.shape) - 2

    def table(function: te.Tensor, name: str) -> te.Tensor:
        def element(i: tirx.Var) -> ir.Expr:
            return function(i.astype("float64") * tirx.const(2 * math.pi, "float64") / length.astype("float64"))

        return te.compute((length,), lambda i: element(i).astype(dtype), name=name)

    cosines, sines = table(tirx.cos, "cosines"), table(tirx.sin, "sines")

    def point(*at: tirx.Var) -> ir.Expr:
        k, part = at[outer], at[outer + 1]
        t = te.reduce_axis((0, as_expr(transform.most_read)), name="t")
        turn = tirx.floormod(k * t, length)
        cos = cosines(turn)
        sin = sines(turn) if transform.inverse else -sines(turn)

        def read(index: int) -> ir.Expr:
            inside = tirx.min(t, size - 1)
            value = x(*at[:outer], inside, tirx.const(index, "int64"))
            return tirx.Select(t < size, value, tirx.const(0, dtype))

        real, imaginary = read(0) * cos, read(0) * sin
        if transform.parts == 2:
            real, imaginary = real - read(1) * sin, imaginary + read(1) * cos
        term = real if transform.results == 1 else tirx.Select(part < 1, real, imaginary)
        if transform.results == 1:
            mirrored = tirx.all(t > 0, tirx.NE(2 * t, length))
            term = tirx.Select(mirrored, term * tirx.const(2, dtype), term)
        return te.sum(term, axis=t)

    shape = [*x.shape[:-2], as_expr(transform.points), as_expr(transform.results)]
    y = te.compute(shape, point, name="spectrum")
    if not transform.inverse:
        return y
    return te.compute(shape, lambda *at: y(*at) / length.astype(dtype), name="scaled")


@converter("STFT", since=17)
def stft(node: Node) -> relax.Expr:
    """(batch, frames, points, 2) of a signal (batch, length, 1 or 2)."""
    shape = node.shape(0)
    if len(shape) != 3:
        raise node.error(f"the signal needs 3 dimensions, found {len(shape)}")
    step, length, frames = _framing_of_run(node) if node.is_data(1) or node.is_data(3) else _framing(node)
    parts, one_sided = _parts(node, shape[2]), bool(node.attr("onesided", 1))
    if one_sided and parts == 2:
        raise node.error("onesided needs a real signal")

    def windows(x: te.Tensor, count: ir.Expr, step: ir.Expr, length: ir.Expr, *window: te.Tensor) -> te.Tensor:
        def element(n: tirx.Var, frame: tirx.Var, i: tirx.Var, part: tirx.Var) -> ir.Expr:
            value = x(n, tirx.min(frame * step + i, x.shape[1] - 1), part)
            return value * window[0](i) if window else value

        return te.compute((x.shape[0], count, length, x.shape[2]), element, name="frames")

    sizes = [as_expr(d) for d in (frames, step, length)]
    given = [node.inputs[2]] if node.has(2) else []
    framed = node.te(windows, node.inputs[0], *sizes, *given, name="frames")
    return _transformed(node, framed, 2, _Transform(length, parts, False, one_sided))


def _framing(node: Node) -> tuple[Dim, Dim, Dim]:
    """The step, the length and the number of frames."""
    shape = node.shape(0)
    (step,) = required_dims(node, 1, "the step")
    if node.has(3):
        (length,) = required_dims(node, 3, "the frame's length")
    else:
        length = node.shape(2)[0] if node.has(2) else shape[1]
    length = node.symbols.simplify(length)
    step = node.divisor(step, "the step")
    node.require_at_least(length, 1, "the frame's length")
    node.require_at_least(shape[1], length, "the signal's length")
    if node.has(2):
        node.require_equal(node.shape(2)[0], length, "the window's length")
    room = node.symbols.simplify(as_expr(shape[1]) - as_expr(length))
    return step, length, node.symbols.simplify(node.symbols.floordiv(room, step) + 1)


def _framing_of_run(node: Node) -> list[Dim]:
    """The same where the step or the length is data."""
    window = [as_expr(node.shape(2)[0])] if node.has(2) else []

    def sizes(size: ir.Expr, window: list[ir.Expr], step: te.Tensor, *given: te.Tensor) -> Sizes:
        (hop,) = elements(step)
        length = elements(given[0])[0] if given else window[0] if window else size
        same = [tirx.EQ(length, w) for w in window]
        frames = tirx.floordiv(size - length, tirx.max(hop, int64(1))) + 1
        return Sizes([hop, length, frames], tirx.all(hop >= 1, length >= 1, length <= size, *same))

    given = [node.inputs[3]] if node.has(3) else []
    return sizes_of_run(node, sizes, as_expr(node.shape(0)[1]), window, node.inputs[1], *given, count=3)


@converter("MelWeightMatrix", since=17)
def mel_weight_matrix(node: Node) -> relax.Expr:
    """(length // 2 + 1, filters): triangles whose corners are evenly spaced in mel; all inputs may be data."""
    dtype = dtype_name(node.attr("output_datatype", 1))
    if dtype is None:
        raise node.error("output_datatype is not supported")

    def sizes(filters: te.Tensor, length: te.Tensor, rate: te.Tensor) -> Sizes:
        (count,), (points,), (hertz,) = (elements(t) for t in (filters, length, rate))
        fits = tirx.all(points < tirx.const(2**31, "int64"), count < tirx.const(2**31, "int64"))
        return Sizes([tirx.floordiv(points, 2) + 1, count], tirx.all(fits, points >= 0, hertz > 0))

    scalars = [node.emit(op.reshape(node.inputs[i], relax.ShapeExpr([]))) for i in range(5)]
    rows, columns = sizes_of_run(node, sizes, *scalars[:3], count=2)
    return node.te(_mel_filters, *scalars, as_expr(rows), as_expr(columns), dtype, name="mel_weights")


def _mel_filters(*args: te.Tensor) -> te.Tensor:
    filters, length, rate, low, high, rows, columns, dtype = args

    def real(value: ir.Expr | float) -> ir.Expr:
        return tirx.const(value, "float64") if isinstance(value, float) else value.astype("float64")

    def mel(hertz: ir.Expr) -> ir.Expr:
        return real(2595 / math.log(10)) * tirx.log(real(1.0) + real(hertz) / real(700.0))

    def corner(i: tirx.Var) -> ir.Expr:
        step = (mel(high()) - mel(low())) / (real(filters()) + real(2.0))
        hertz = real(700.0) * (tirx.exp((mel(low()) + real(i) * step) * real(math.log(10) / 2595)) - real(1.0))
        return tirx.floor((real(length()) + real(1.0)) * hertz / real(rate())).astype("int64")

    corners = te.compute((columns + 2,), corner, name="corners")

    def weight(j: tirx.Var, i: tirx.Var) -> ir.Expr:
        left, top, right = (corners(i + k) for k in range(3))
        rising, falling = top - left, right - top
        zero, one = real(0.0), tirx.const(1, "int64")
        up = tirx.Select(tirx.all(j >= left, j <= top), real(j - left) / real(tirx.max(rising, one)), zero)
        up = tirx.Select(rising < 1, tirx.Select(tirx.EQ(j, top), real(1.0), zero), up)
        down = real(right - j) / real(tirx.max(falling, one))
        return tirx.Select(tirx.all(falling > 0, j >= top, j < right), down, up).astype(dtype)

    return te.compute((rows, columns), weight, name="weights")
