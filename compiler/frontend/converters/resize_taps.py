"""Where Resize samples its input: for each output element of one axis, the input elements it reads and their weights.

The formulas are ONNX's, evaluated in float32 in the order of ONNX Runtime. They are written once over an `Arithmetic`,
which is numpy when all sizes are fixed (the result is a table of constants) and TIR when one is symbolic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from ..values import Dim

Number = Any  # a float32 numpy array, or a float32 TIR expression


class NumpyArithmetic:
    """Coordinates as numpy arrays over all output elements."""

    @staticmethod
    def real(value: Any) -> Number:
        return np.asarray(value, np.float32)

    @staticmethod
    def double(value: Any) -> Number:
        return np.asarray(value, np.float64)

    @staticmethod
    def integer(value: Number) -> Any:
        return np.asarray(value).astype(np.int64)

    @staticmethod
    def divided(a: Number, b: Number) -> Number:
        return a / b

    floor = staticmethod(np.floor)
    ceil = staticmethod(np.ceil)
    minimum = staticmethod(np.minimum)
    maximum = staticmethod(np.maximum)
    select = staticmethod(np.where)


class TirArithmetic:
    """Coordinates as TIR expressions of one output index."""

    @staticmethod
    def real(value: Any) -> Number:
        return tirx.const(value, "float32") if isinstance(value, (int, float)) else value.astype("float32")

    @staticmethod
    def double(value: Any) -> Number:
        return tirx.const(value, "float64") if isinstance(value, float) else value.astype("float64")

    @staticmethod
    def integer(value: Number) -> Any:
        return value.astype("int64")

    @staticmethod
    def divided(a: Number, b: Number) -> Number:
        """By way of float64: loops multiply by the reciprocal of what stays the same, which in float32 shows."""
        return (a.astype("float64") / b.astype("float64")).astype("float32")

    floor = staticmethod(tirx.floor)
    ceil = staticmethod(tirx.ceil)
    minimum = staticmethod(tirx.min)
    maximum = staticmethod(tirx.max)
    select = staticmethod(tirx.Select)


Arithmetic = type[NumpyArithmetic] | type[TirArithmetic]


@dataclass(frozen=True)
class AxisGeometry:
    """One resized axis: extents before and after, the scale (a float, or a pair to divide), and the crop's bounds."""

    size: Dim
    out: Dim
    scale: float | tuple[Dim, Dim]
    roi: tuple[Number, Number] = (0.0, 1.0)


@dataclass(frozen=True)
class Sampling:
    """How to sample: ONNX's attributes of Resize."""

    mode: str
    coordinates: str
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0

    @property
    def crops(self) -> bool:
        return self.coordinates == "tf_crop_and_resize"


@dataclass(frozen=True)
class Taps:
    """For one axis: `index[t]` and `weight[t]` of each tap (no weight: 1); `inside`: whether the coordinate is."""

    index: list[Any]
    weight: list[Number] | None
    inside: Any | None


def _half_pixel(m: Arithmetic, x: Number, scale: Number, size: Number, out: Number, roi: tuple) -> Number:
    return m.divided(x + m.real(0.5), scale) - m.real(0.5)


def _half_pixel_symmetric(m: Arithmetic, x: Number, scale: Number, size: Number, out: Number, roi: tuple) -> Number:
    adjustment = out / (scale * size)
    offset = size / m.real(2.0) * (m.real(1.0) - adjustment)
    # ONNX Runtime adds in double here, and a coordinate next to a whole number shows it.
    exact = m.double(offset) + (m.double(x) + m.double(0.5)) / m.double(scale) - m.double(0.5)
    return m.real(exact)


def _pytorch_half_pixel(m: Arithmetic, x: Number, scale: Number, size: Number, out: Number, roi: tuple) -> Number:
    return m.select(out > m.real(1.0), _half_pixel(m, x, scale, size, out, roi), m.real(0.0) * x)


def _align_corners(m: Arithmetic, x: Number, scale: Number, size: Number, out: Number, roi: tuple) -> Number:
    # `out` is a whole number, as in ONNX Runtime and in the text of ONNX; ONNX's reference does not round size * scale.
    return m.divided(x * (size - m.real(1.0)), m.maximum(out - m.real(1.0), m.real(1.0)))


def _asymmetric(m: Arithmetic, x: Number, scale: Number, size: Number, out: Number, roi: tuple) -> Number:
    return m.divided(x, scale)


def _tf_half_pixel_for_nn(m: Arithmetic, x: Number, scale: Number, size: Number, out: Number, roi: tuple) -> Number:
    return m.divided(x + m.real(0.5), scale)


def _tf_crop_and_resize(m: Arithmetic, x: Number, scale: Number, size: Number, out: Number, roi: tuple) -> Number:
    start, end = (m.real(r) for r in roi)
    last = size - m.real(1.0)
    many = start * last + m.divided(x * (end - start) * last, m.maximum(out - m.real(1.0), m.real(1.0)))
    return m.select(out > m.real(1.0), many, m.real(0.5) * (start + end) * last + m.real(0.0) * x)


COORDINATES: dict[str, Callable[..., Number]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_half_pixel_for_nn": _tf_half_pixel_for_nn,
    "tf_crop_and_resize": _tf_crop_and_resize,
}


# What ONNX Runtime takes for a half: 1 / (2 / 7) is 3.4999998 in float32.
_ABOUT_HALF = 1e-6


def _round(m: Arithmetic, x: Number, up: bool) -> Number:
    """Round half up or down, and with it what float32 makes of a half."""
    low = m.floor(x)
    rest = x - low
    bound = m.real(0.5 - _ABOUT_HALF if up else 0.5 + _ABOUT_HALF)
    return m.select(rest > bound, low + m.real(1.0), low)


NEAREST: dict[str, Callable[[Arithmetic, Number, Number], Number]] = {
    "round_prefer_floor": lambda m, x, scale: _round(m, x, up=False),
    "round_prefer_ceil": lambda m, x, scale: _round(m, x, up=True),
    "floor": lambda m, x, scale: m.floor(x),
    "ceil": lambda m, x, scale: m.ceil(x),
    # Before opset 11: up when the tensor shrinks, down when it grows.
    "simple": lambda m, x, scale: m.select(scale < m.real(1.0), m.ceil(x), m.floor(x)),
}


def _scale(m: Arithmetic, axis: AxisGeometry) -> Number:
    if isinstance(axis.scale, float):
        return m.real(axis.scale)
    return m.divided(m.real(axis.scale[0]), m.real(axis.scale[1]))


def coordinate(m: Arithmetic, sampling: Sampling, axis: AxisGeometry, at: Any) -> Number:
    """Where the output elements `at` lie in the input."""
    size, out = m.real(axis.size), m.real(axis.out)
    return COORDINATES[sampling.coordinates](m, m.real(at), _scale(m, axis), size, out, axis.roi)


def axis_taps(m: Arithmetic, sampling: Sampling, axis: AxisGeometry, at: Any) -> Taps:
    """Taps of the output elements `at` (a numpy arange, or one TIR index) along `axis`."""
    size, scale = m.real(axis.size), _scale(m, axis)
    x = coordinate(m, sampling, axis, at)
    last = size - m.real(1.0)
    inside = ((x >= m.real(0.0)) & (x <= last)) if sampling.crops else None

    def clamped(position: Number) -> Any:
        return m.integer(m.minimum(m.maximum(position, m.real(0.0)), last))

    if sampling.mode == "nearest":
        return Taps([clamped(NEAREST[sampling.nearest](m, x, scale))], None, inside)
    if sampling.mode == "linear" and not sampling.antialias:
        x = m.minimum(m.maximum(x, m.real(0.0)), last)
    low = m.floor(x)
    rest = x - low
    if sampling.antialias:
        first, weights = _antialias_weights(rest, float(scale), sampling)
    elif sampling.mode == "linear":
        first, weights = 0, [m.real(1.0) - rest, rest]
    else:
        first, weights = -1, _cubic_weights(m, rest, sampling.cubic_a)
    positions = [low + m.real(float(first + t)) for t in range(len(weights))]
    if sampling.exclude_outside:
        weights = _without_outside(m, positions, weights, last)
    return Taps([clamped(p) for p in positions], weights, inside)


def _without_outside(m: Arithmetic, positions: list[Number], weights: list[Number], last: Number) -> list[Number]:
    """Zero the weights of positions outside the input and make the others sum to 1."""
    zero = m.real(0.0)
    weights = [m.select((p >= zero) & (p <= last), w, zero) for p, w in zip(positions, weights, strict=True)]
    total = sum(weights[1:], weights[0])
    return [w / total for w in weights]


def _cubic_weights(m: Arithmetic, s: Number, a: float) -> list[Number]:
    """Keys' kernel with coefficient `a` at the distances 1 + s, s, 1 - s and 2 - s."""
    k, one, two = m.real(a), m.real(1.0), m.real(2.0)

    def near(d: Number) -> Number:
        return ((k + two) * d - (k + m.real(3.0))) * d * d + one

    def far(d: Number) -> Number:
        return ((k * d - m.real(5.0) * k) * d + m.real(8.0) * k) * d - m.real(4.0) * k

    return [far(s + one), near(s), near(one - s), far(two - s)]


def _antialias_weights(rest: np.ndarray, scale: float, sampling: Sampling) -> tuple[int, list[np.ndarray]]:
    """First position relative to the floor, and weights: the kernel stretched by 1 / scale when shrinking."""
    scale, reach = min(scale, 1.0), 1 if sampling.mode == "linear" else 2
    first = int(np.floor(-reach / scale)) + 1
    distance = np.abs((np.arange(first, 2 - first)[:, None] - rest[None, :].astype(np.float64)) * scale)
    weights = kernel_weight(NumpyArithmetic, sampling, distance)
    return first, list((weights / weights.sum(axis=0)).astype(np.float32))


def kernel_weight(m: Arithmetic, sampling: Sampling, distance: Number) -> Number:
    """The weight at a `distance`, of float64 and not negative, from the kernel's middle."""

    def number(value: float) -> Number:
        return m.double(value)

    if sampling.mode == "linear":
        return m.maximum(number(1.0) - distance, number(0.0))
    a, d = sampling.cubic_a, distance
    near = (number(a + 2) * d - number(a + 3)) * d * d + number(1.0)
    far = ((number(a) * d - number(5 * a)) * d + number(8 * a)) * d - number(4 * a)
    select: Callable[..., Number] = m.select
    return select(d <= number(1.0), near, select(d < number(2.0), far, number(0.0)))
