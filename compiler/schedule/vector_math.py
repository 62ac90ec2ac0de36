"""Transcendental functions of float32 as branch-free polynomials, so that the loop around them vectorises.

TVM's own `tirx.exp` and friends become scalar calls into libm: 16 calls for one AVX-512 vector. The functions here take
and return scalar TIR expressions made of adds, multiplies (LLVM contracts them into FMAs), one division at most and
integer shifts. Values used more than twice are bound with `Let`: expressions are trees, and every use of a value is a
copy of it, which multiplies with nesting. But no more than needed, because passes of TVM visit the body of a Let twice,
so that their time doubles with each nested Let. Other dtypes than float32 fall back to TVM's intrinsics (float16 and
bfloat16 are computed in float32).

NaN gives NaN and infinities give the limits. Errors are against the exact value, over all of float32, as measured with
FMA by tests/schedule/test_vector_math.py. The coefficients are minimax fits of the relative error (weighted
least squares with Lawson's iteration in float64), over the reduced range named beside each table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tvm import tirx

if TYPE_CHECKING:
    from tvm.ir import PrimExpr

# exp(r) on |r| <= ln(2)/2, constant term exactly 1.
_EXP = (
    1.0,
    0.9999997063094537,
    0.49999147832221447,
    0.16667638133524568,
    0.04189816082285399,
    0.008290272233277642,
)
# (log(1 + f) - f + f^2/2) / f^3 on sqrt(1/2) <= 1 + f <= sqrt(2).
_LOG = (
    0.3333391079612652,
    -0.2500133725075369,
    0.1996306117637073,
    -0.16577575764482272,
    0.14914789482149815,
    -0.14267573038245482,
    0.0870048418812726,
)
# tanh(x) = x P(x^2) / Q(x^2) on |x| <= 9.02, where tanh rounds to 1.
_TANH_LIMIT = 9.02
_TANH_P = (
    0.9999999790337132,
    0.13379711341536824,
    0.0034940266976856483,
    2.0583352721545083e-05,
    1.3318898567674143e-08,
)
_TANH_Q = (
    1.0,
    0.46713026587358025,
    0.025871043331409247,
    0.0003283079995240845,
    7.761947327260535e-07,
)
# erf(x) = x P(x^2) / Q(x^2) on |x| <= 3.925, where erf rounds to 1.
_ERF_LIMIT = 3.925
_ERF_P = (
    1.1283791457655203,
    0.19059392045519,
    0.052769308651794855,
    0.003772554422427723,
    0.0002848432022457142,
    2.046020467145941e-06,
)
_ERF_Q = (
    1.0,
    0.50224219460297,
    0.11418277968493164,
    0.014983206334321557,
    0.0011638580431184104,
    3.8047685672243474e-05,
)

# ln(2) in two parts: the high part has 15 trailing zero bits, so that k * _LN2_HIGH is exact for |k| <= 2^15.
_LN2_HIGH = 0.693359375
_LN2_LOW = math.log(2) - _LN2_HIGH

Function = Callable[["PrimExpr"], "PrimExpr"]


def bind(value: PrimExpr, body: Function, name: str = "v") -> PrimExpr:
    """`let v = value in body(v)`: computes `value` once, however often `body` uses it."""
    value = _expr(value)
    var = tirx.Var(name, value.ty.dtype)
    return tirx.Let(var, value, body(var))


def exp(x: PrimExpr) -> PrimExpr:
    """e^x; at most 2 ulp. Results under 1.7e-38 are flushed to 0 (x < -86.98), over 3.4e38 are infinite."""
    return _dispatch(x, _exp, tirx.exp)


def log(x: PrimExpr) -> PrimExpr:
    """Natural logarithm; at most 2 ulp. log(0) is -inf, log of a negative number is NaN."""
    return _dispatch(x, _log, tirx.log)


def tanh(x: PrimExpr) -> PrimExpr:
    """Hyperbolic tangent; at most 5 ulp."""
    return _dispatch(x, lambda v: _odd_rational(v, _TANH_LIMIT, _TANH_P, _TANH_Q), tirx.tanh)


def erf(x: PrimExpr) -> PrimExpr:
    """Error function; at most 4 ulp."""
    return _dispatch(x, lambda v: _odd_rational(v, _ERF_LIMIT, _ERF_P, _ERF_Q), tirx.erf)


def sigmoid(x: PrimExpr) -> PrimExpr:
    """1 / (1 + e^-x); at most 4 ulp."""
    return _dispatch(x, lambda v: _f32(1.0) / (_f32(1.0) + _exp(-v)), tirx.sigmoid)


def silu(x: PrimExpr) -> PrimExpr:
    """x * sigmoid(x). As in IEEE arithmetic, silu(-inf) is NaN."""
    return bind(x, lambda v: v * sigmoid(v))


def gelu(x: PrimExpr) -> PrimExpr:
    """x/2 * (1 + erf(x / sqrt(2))); the absolute error is at most 3e-7 * |x|."""

    def body(v: PrimExpr) -> PrimExpr:
        dtype = v.ty.dtype
        half, one, root = (tirx.const(c, dtype) for c in (0.5, 1.0, math.sqrt(0.5)))
        return v * half * (one + erf(v * root))

    return bind(x, body)


def gelu_tanh(x: PrimExpr) -> PrimExpr:
    """The tanh approximation of GELU: x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))."""

    def body(v: PrimExpr) -> PrimExpr:
        dtype = v.ty.dtype
        half, one, cubic, scale = (tirx.const(c, dtype) for c in (0.5, 1.0, 0.044715, math.sqrt(2 / math.pi)))
        return v * half * (one + tanh(scale * v * (one + cubic * v * v)))

    return bind(x, body)


def softplus(x: PrimExpr) -> PrimExpr:
    """log(1 + e^x), computed as max(x, 0) + log(1 + e^-|x|); the absolute error is at most 2e-7 * max(|x|, 1)."""

    def body(v: PrimExpr) -> PrimExpr:
        zero, one = tirx.const(0, v.ty.dtype), tirx.const(1, v.ty.dtype)
        # Not tirx.max: its result for NaN depends on the order of its arguments.
        return tirx.Select(v < zero, zero, v) + log(one + exp(-tirx.abs(v)))

    return bind(x, body)


def maximum(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """The larger of both, of any dtype; NaN where either is NaN (`tirx.max` drops that of its first argument)."""
    return _extreme(tirx.max, x, y)


def minimum(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """The smaller of both, of any dtype; NaN where either is NaN."""
    return _extreme(tirx.min, x, y)


def _extreme(pick: Callable[[PrimExpr, PrimExpr], PrimExpr], x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """`pick(x, y)` is `x > y ? x : y` in LLVM: NaN in y comes out. So a constant goes first, which costs nothing."""
    x, y = _expr(x), _expr(y)
    if not str(x.ty.dtype).startswith(("float", "bfloat")) or _is_constant(x):
        return pick(x, y)
    if _is_constant(y):
        return pick(y, x)
    return bind(x, lambda v: tirx.Select(tirx.isnan(v), v, pick(v, y)))


def _is_constant(x: PrimExpr) -> bool:
    return isinstance(x, tirx.FloatImm) or (isinstance(x, tirx.Cast) and _is_constant(x.value))


def _expr(x: PrimExpr) -> PrimExpr:
    """Reading a TE tensor gives a lazy slice, not yet an expression."""
    return x.asobject() if hasattr(x, "asobject") else x


def _dispatch(x: PrimExpr, fast: Function, intrinsic: Function) -> PrimExpr:
    x = _expr(x)
    dtype = str(x.ty.dtype)
    if dtype in ("float16", "bfloat16"):
        return fast(x.astype("float32")).astype(dtype)
    return fast(x) if dtype == "float32" else intrinsic(x)


def _f32(value: float) -> PrimExpr:
    return tirx.const(value, "float32")


def _i32(value: int) -> PrimExpr:
    return tirx.const(value, "int32")


def _horner(coefficients: Sequence[float], x: PrimExpr, scale: float = 1.0) -> PrimExpr:
    """scale * sum(c_k x^k); one FMA for each coefficient but the last."""
    value = _f32(scale * coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + _f32(scale * c)
    return value


def _clamp(x: PrimExpr, low: float, high: float) -> PrimExpr:
    """x limited to [low, high]; NaN stays NaN because it is the second operand: LLVM gets `a > b ? a : b`."""
    return tirx.max(_f32(low), tirx.min(_f32(high), x))


def _exp(x: PrimExpr) -> PrimExpr:
    """2^k * e^r with x = k ln(2) + r.

    Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum. The added 126 makes those bits,
    moved to the exponent's place, the float 2^(k-1): k = 128 is still finite there, k = -126 gives exact zero. The
    missing factor 2 is in the coefficients, so that overflow to infinity happens in the last multiplication.
    """
    magic = _f32(1.5 * 2**23 + 126)

    def scale(v: PrimExpr, shifted: PrimExpr) -> PrimExpr:
        k = shifted - magic
        r = (v + k * _f32(-_LN2_HIGH)) + k * _f32(-_LN2_LOW)
        power = tirx.reinterpret("float32", tirx.shift_left(tirx.reinterpret("int32", shifted), _i32(23)))
        return bind(r, lambda u: _horner(_EXP, u, scale=2.0)) * power

    return bind(
        _clamp(x, -87.4, 89.0), lambda v: bind(v * _f32(1 / math.log(2)) + magic, lambda shifted: scale(v, shifted))
    )


def _odd_rational(x: PrimExpr, limit: float, p: Sequence[float], q: Sequence[float]) -> PrimExpr:
    """x P(x^2) / Q(x^2) with x limited to +-limit and the result to +-1, which rounding may exceed by one ulp."""

    def ratio(v: PrimExpr) -> PrimExpr:
        return bind(v * v, lambda s: v * _horner(p, s) / _horner(q, s))

    return _clamp(bind(_clamp(x, -limit, limit), ratio), -1.0, 1.0)


def _log(x: PrimExpr) -> PrimExpr:
    """k ln(2) + log(1 + f) with x = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2); subnormal x is scaled up by 2^23."""
    return bind(x, _log_of_variable)


def _log_of_variable(x: PrimExpr) -> PrimExpr:
    tiny = x < _f32(2.0**-126)
    bits = tirx.reinterpret("int32", tirx.Select(tiny, x * _f32(2.0**23), x))
    # Subtracting sqrt(1/2)'s bits moves the exponent's step from powers of two to sqrt(1/2) times them.
    root_bits = _i32(0x3F3504F3)

    def split(offset: PrimExpr) -> PrimExpr:
        mantissa = tirx.bitwise_and(offset, _i32(0x007FFFFF)) + root_bits
        k = tirx.shift_right(offset, _i32(23)).astype("float32") + tirx.Select(tiny, _f32(-23.0), _f32(0.0))
        return bind(tirx.reinterpret("float32", mantissa) - _f32(1.0), lambda f: series(k, f))

    def series(k: PrimExpr, f: PrimExpr) -> PrimExpr:
        correction = f * f * (f * _horner(_LOG, f) - _f32(0.5)) + k * _f32(_LN2_LOW)
        return correction + f + k * _f32(_LN2_HIGH)

    # NaN fails `x < inf` and comes out as x, like +inf.
    positive = tirx.Select(x < _f32(math.inf), bind(bits - root_bits, split), x)
    at_most_zero = tirx.Select(x < _f32(0.0), _f32(math.nan), _f32(-math.inf))
    return tirx.Select(x <= _f32(0.0), at_most_zero, positive)
