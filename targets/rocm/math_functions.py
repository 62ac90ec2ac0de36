"""Functions of libm for AMD's GPUs, as TIR expressions: no device library is needed, which few machines have.

What the hardware does in float32 becomes an intrinsic that LLVM expands with full accuracy (exp, log, ...). tanh and
erf are the polynomials that CPUs use. Everything else is rare: it is computed in float64 with the few functions below,
and rounded. They serve float64 itself too, with errors of a few units in the 15th digit. `intrinsics.lower_math` puts
them into kernels.

Errors are measured by tests/targets/rocm/test_math_functions.py, which compiles the same expressions for the CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx

from ...compiler.schedule.vector_math import bind

Function = Callable[..., Any]

# ln(2) and pi/2 in parts that are exact when multiplied by a small integer.
_LN2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)
_HALF_PI = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21)
_MAGIC = 1.5 * 2.0**52  # a sum with it is rounded to an integer, which is then in the low bits
_EXP = [1 / math.factorial(n) for n in range(14)]  # |r| <= ln(2)/2: the next term is under 1e-17
_SIN = [(-1) ** n / math.factorial(2 * n + 1) for n in range(9)]  # |r| <= pi/4
_COS = [(-1) ** n / math.factorial(2 * n) for n in range(9)]
_SINH = [1 / math.factorial(2 * n + 1) for n in range(10)]  # |x| <= 1
_LOG = [2 / (2 * n + 1) for n in range(12)]  # log((1 + s) / (1 - s)) = s P(s^2), |s| <= 0.172
_ATAN = [(-1) ** n / (2 * n + 1) for n in range(15)]  # |t| <= tan(pi/12)
_ERF_END = 6  # erf rounds to 1 from 5.93 on


def _bits(value: float) -> int:
    return int(np.float64(value).view(np.int64))


def _f64(value: float) -> Any:
    return tirx.const(value, "float64")


def _i64(value: int) -> Any:
    return tirx.const(value, "int64")


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    value = _f64(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + _f64(c)
    return value


def _odd(coefficients: Sequence[float], x: Any) -> Any:
    """x P(x^2)."""
    return bind(x * x, lambda s: x * _polynomial(coefficients, s))


def _clamp(x: Any, low: float, high: float) -> Any:
    """NaN stays NaN because it is the second operand: LLVM gets `a > b ? a : b`."""
    return tirx.max(_f64(low), tirx.min(_f64(high), x))


def _float_of(bits: Any) -> Any:
    return tirx.reinterpret("float64", bits)


def _int_of(value: Any) -> Any:
    return tirx.reinterpret("int64", value)


def _rounded(x: Any, body: Callable[[Any, Any], Any]) -> Any:
    """`body(k, the same as int64)` with k the integer nearest to `x`, |x| < 2^51."""
    return bind(x + _f64(_MAGIC), lambda s: body(s - _f64(_MAGIC), _int_of(s) - _i64(_bits(_MAGIC))))


def _exp_parts(k: Any, ki: Any, r: Any) -> Any:
    """2^k e^r; the power is applied in two halves, because 2^1024 and powers under 2^-1022 are no normal numbers."""

    def scaled(half: Any) -> Any:
        first, second = (_float_of(tirx.shift_left(n + _i64(1023), _i64(52))) for n in (half, ki - half))
        return bind(r, lambda v: _polynomial(_EXP, v)) * first * second

    return bind(tirx.shift_right(ki, _i64(1)), scaled)


def exp(x: Any) -> Any:
    """e^x of float64."""

    def body(v: Any) -> Any:
        return _rounded(
            v * _f64(1 / math.log(2)),
            lambda k, ki: _exp_parts(k, ki, (v - k * _f64(_LN2[0])) - k * _f64(_LN2[1])),
        )

    return bind(_clamp(x, -746.0, 710.0), body)


def exp2(x: Any) -> Any:
    """2^x of float64."""
    return bind(
        _clamp(x, -1076.0, 1025.0),
        lambda v: _rounded(v, lambda k, ki: _exp_parts(k, ki, (v - k) * _f64(math.log(2)))),
    )


def log(x: Any) -> Any:
    """Natural logarithm of float64: k ln(2) + log(m) with sqrt(1/2) <= m < sqrt(2); subnormal x is scaled up."""
    root = _bits(math.sqrt(0.5))

    def finite(v: Any) -> Any:
        tiny = v < _f64(2.0**-1022)
        offset = _int_of(tirx.Select(tiny, v * _f64(2.0**54), v)) - _i64(root)

        def split(o: Any) -> Any:
            k = tirx.shift_right(o, _i64(52)).astype("float64") - tirx.Select(tiny, _f64(54.0), _f64(0.0))
            m = _float_of(tirx.bitwise_and(o, _i64((1 << 52) - 1)) + _i64(root))
            series = bind(m, lambda u: bind((u - _f64(1.0)) / (u + _f64(1.0)), lambda s: _odd(_LOG, s)))
            return bind(k, lambda n: n * _f64(_LN2[0]) + (n * _f64(_LN2[1]) + series))

        return bind(offset, split)

    def body(v: Any) -> Any:
        special = tirx.Select(v < _f64(0.0), _f64(math.nan), _f64(-math.inf))
        # NaN fails both comparisons and comes out as itself, like +inf.
        return tirx.Select(v <= _f64(0.0), special, tirx.Select(v < _f64(math.inf), finite(v), v))

    return bind(x, body)


def log1p(x: Any) -> Any:
    """log(1 + x) of float64; what rounding 1 + x drops is added behind."""

    def body(v: Any, u: Any) -> Any:
        inside = tirx.all(u > _f64(0.0), u < _f64(math.inf))
        return log(u) - tirx.Select(inside, ((u - _f64(1.0)) - v) / u, _f64(0.0))

    return bind(x, lambda v: bind(v + _f64(1.0), lambda u: body(v, u)))


def _wave(x: Any, choose: Callable[[Any, Any, Any], Any]) -> Any:
    """`choose(quarter, sin r, cos r)` with x = quarter * pi/2 + r, |r| <= pi/4; accurate for |x| up to 1e5."""

    def reduce(v: Any) -> Any:
        def part(k: Any, quarter: Any) -> Any:
            r = v
            for piece in _HALF_PI:
                r = r - k * _f64(piece)
            return bind(
                r,
                lambda u: bind(
                    quarter, lambda q: choose(q, _odd(_SIN, u), bind(u * u, lambda s: _polynomial(_COS, s)))
                ),
            )

        return _rounded(v * _f64(2 / math.pi), part)

    return bind(x, reduce)


def _is_odd(quarter: Any) -> Any:
    return tirx.bitwise_and(quarter, _i64(1)) == _i64(1)


def _turned(quarter: Any, even: Any, odd: Any) -> Any:
    value = tirx.Select(_is_odd(quarter), odd, even)
    return bind(value, lambda v: tirx.Select(tirx.bitwise_and(quarter, _i64(2)) == _i64(2), -v, v))


def sin(x: Any) -> Any:
    """Sine of float64."""
    return _wave(x, lambda q, s, c: _turned(q, s, c))


def cos(x: Any) -> Any:
    """Cosine of float64: that of a quarter turn further."""
    return _wave(x, lambda q, s, c: bind(q + _i64(1), lambda p: _turned(p, s, c)))


def tan(x: Any) -> Any:
    """Tangent of float64."""
    return _wave(x, lambda q, s, c: bind(s, lambda a: bind(c, lambda b: tirx.Select(_is_odd(q), -b / a, a / b))))


def sinh(x: Any) -> Any:
    """Hyperbolic sine of float64."""

    def body(v: Any) -> Any:
        far = bind(exp(v), lambda e: (e - _f64(1.0) / e) * _f64(0.5))
        return tirx.Select(tirx.abs(v) < _f64(1.0), _odd(_SINH, v), far)

    return bind(x, body)


def cosh(x: Any) -> Any:
    """Hyperbolic cosine of float64."""
    return bind(exp(x), lambda e: (e + _f64(1.0) / e) * _f64(0.5))


def tanh(x: Any) -> Any:
    """Hyperbolic tangent of float64; it rounds to 1 from 19.1 on."""
    return bind(_clamp(x, -20.0, 20.0), lambda v: sinh(v) / cosh(v))


def atan(x: Any) -> Any:
    """Arc tangent of float64: by the angles of 1/x beyond 1, and less 30 degrees beyond 15 degrees."""

    def body(v: Any) -> Any:
        steep = tirx.abs(v) > _f64(1.0)
        return bind(tirx.Select(steep, _f64(1.0) / tirx.abs(v), tirx.abs(v)), lambda t: angle(v, steep, t))

    def angle(v: Any, steep: Any, t: Any) -> Any:
        far = t > _f64(math.tan(math.pi / 12))
        root = math.sqrt(3.0)
        near = tirx.Select(far, (t * _f64(root) - _f64(1.0)) / (t + _f64(root)), t)
        value = bind(near, lambda n: _odd(_ATAN, n)) + tirx.Select(far, _f64(math.pi / 6), _f64(0.0))
        whole = bind(value, lambda a: tirx.Select(steep, _f64(math.pi / 2) - a, a))
        return bind(whole, lambda a: tirx.Select(v < _f64(0.0), -a, a))

    return bind(x, body)


def asin(x: Any) -> Any:
    """Arc sine of float64; NaN outside of [-1, 1]."""
    return bind(x, lambda v: atan(v / _sqrt((_f64(1.0) - v) * (_f64(1.0) + v))))


def acos(x: Any) -> Any:
    """Arc cosine of float64; NaN outside of [-1, 1]."""
    return bind(x, lambda v: _f64(2.0) * atan(_sqrt((_f64(1.0) - v) / (_f64(1.0) + v))))


def asinh(x: Any) -> Any:
    """Inverse hyperbolic sine of float64; for |x| up to 1e154, beyond that it is infinite."""

    def body(v: Any) -> Any:
        size = tirx.abs(v)
        value = log1p(size + v * v / (_f64(1.0) + _sqrt(_f64(1.0) + v * v)))
        finite = tirx.Select(size < _f64(1e154), value, size)
        return bind(finite, lambda a: tirx.Select(v < _f64(0.0), -a, a))

    return bind(x, body)


def acosh(x: Any) -> Any:
    """Inverse hyperbolic cosine of float64; NaN under 1."""
    return bind(x - _f64(1.0), lambda t: log1p(t + _sqrt(t * (t + _f64(2.0)))))


def atanh(x: Any) -> Any:
    """Inverse hyperbolic tangent of float64; NaN outside of [-1, 1]."""

    def body(v: Any) -> Any:
        size = tirx.abs(v)
        value = _f64(0.5) * log1p(_f64(2.0) * size / (_f64(1.0) - size))
        return bind(value, lambda a: tirx.Select(v < _f64(0.0), -a, a))

    return bind(x, body)


def erf(x: Any) -> Any:
    """Error function of float64: a polynomial for each unit of |x|, odd in x for the first."""
    first, *others = _erf_polynomials()

    def body(v: Any) -> Any:
        size = tirx.abs(v)
        value = _f64(1.0)
        for start in range(_ERF_END - 1, 0, -1):
            local = (size - _f64(start + 0.5)) * _f64(2.0)
            piece = bind(local, functools.partial(_polynomial, others[start - 1]))
            value = tirx.Select(size < _f64(start + 1.0), piece, value)
        signed = bind(value, lambda a: tirx.Select(v < _f64(0.0), -a, a))
        near = bind(v * v, lambda s: v * bind(s * _f64(2.0) - _f64(1.0), lambda t: _polynomial(first, t)))
        # NaN fails both comparisons.
        return tirx.Select(size < _f64(1.0), near, tirx.Select(size >= _f64(1.0), signed, v))

    return bind(x, body)


@functools.cache
def _erf_polynomials() -> list[list[float]]:
    """Coefficients in t = 2 x^2 - 1 of erf(x) / x on [0, 1], then in t = 2 x - 2 n - 1 of erf on [n, n + 1]."""

    def fit(function: Callable[[float], float], degree: int) -> list[float]:
        nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
        series = np.polynomial.chebyshev.chebfit(nodes, [function(t) for t in nodes], degree)
        return [float(c) for c in np.polynomial.chebyshev.cheb2poly(series)]

    def near(t: float) -> float:
        x = math.sqrt((t + 1) / 2)
        return math.erf(x) / x

    def beyond(n: int) -> Callable[[float], float]:
        return lambda t: math.erf(n + 0.5 + t / 2)

    return [fit(near, 15), *(fit(beyond(n), 19) for n in range(1, _ERF_END))]


def power(x: Any, y: Any) -> Any:
    """x^y of float64, as C's pow: negative x with whole y, and 1 wherever y is 0 or x is 1."""

    def body(a: Any, b: Any) -> Any:
        half = b * _f64(0.5)
        odd = tirx.all(tirx.floor(b) == b, tirx.floor(half) != half)
        size = exp(b * log(tirx.abs(a)))
        # A negative base (or -0, whose reciprocal tells it) takes the sign of an odd exponent.
        signed = bind(size, lambda s: tirx.Select(tirx.all(odd, _int_of(a) < _i64(0)), -s, s))
        fraction = tirx.all(a < _f64(0.0), a > _f64(-math.inf), tirx.floor(b) != b)
        value = tirx.Select(fraction, _f64(math.nan), signed)
        endless = tirx.all(tirx.abs(a) == _f64(1.0), tirx.abs(b) == _f64(math.inf))
        return tirx.Select(tirx.any(b == _f64(0.0), a == _f64(1.0), endless), _f64(1.0), value)

    return bind(x, lambda a: bind(y, lambda b: body(a, b)))


def remainder(x: Any, y: Any) -> Any:
    """C's fmod of float64: exact while the quotient is under 2^53."""

    def body(a: Any, b: Any) -> Any:
        rest = tirx.call_llvm_pure_intrin("float64", "llvm.fma.f64", -tirx.trunc(a / b), b, a)

        # The rounded quotient may be one too large or too small.
        def corrected(r: Any) -> Any:
            size = tirx.abs(b)
            too_far = tirx.any(tirx.all(r < _f64(0.0), a > _f64(0.0)), tirx.all(r > _f64(0.0), a < _f64(0.0)))
            toward = tirx.Select(a > _f64(0.0), size, -size)
            return tirx.Select(too_far, r + toward, tirx.Select(tirx.abs(r) >= size, r - toward, r))

        infinite = tirx.all(tirx.abs(b) == _f64(math.inf), tirx.abs(a) < _f64(math.inf))
        return tirx.Select(infinite, a, bind(rest, corrected))

    return bind(x, lambda a: bind(y, lambda b: body(a, b)))


def _sqrt(x: Any) -> Any:
    return tirx.call_llvm_pure_intrin("float64", "llvm.sqrt.f64", x)
