"""exp, 1/x, 1/sqrt(x) and what is made of them, in float32 operations that an FPGA starts every cycle.

Each function is written once and runs on two machines: `Pipeline` names its steps in a nest, `Numpy` computes them on
arrays, rounded and flushed as the hardware does it; both give the same bits. Functions are for numbers that are not
NaN; how far they are from the exact ones is in `ERRORS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..kernel.affine import var
from ..kernel.builder import NestBuilder, const, lookup, op
from ..kernel.ir import Const, Expr, Loop
from ..kernel.ops import OPS, SHIFTS
from ..kernel.types import FLOAT32, INT32, float_bits, scalar, smallest_normal

Number = Any  # an Expr of a Pipeline, an array of Numpy; floats in arguments are constants


class Machine(ABC):
    """The operations that functions are written in; comparisons give bools, `bits` and `number` reinterpret."""

    @abstractmethod
    def make(self, name: str, *args: Number) -> Number:
        """The operation `name` of the IR on float32 (int32 for those on bits)."""

    @abstractmethod
    def table(self, entries: Sequence[int], bits: Number, low: int, count: int) -> Number:
        """The int32 entry that `count` of `bits`, from bit `low` on, choose."""

    def add(self, a: Number, b: Number) -> Number:
        """a + b."""
        return self.make("add", a, b)

    def sub(self, a: Number, b: Number) -> Number:
        """a - b."""
        return self.make("sub", a, b)

    def mul(self, a: Number, b: Number) -> Number:
        """a * b."""
        return self.make("mul", a, b)

    def polynomial(self, x: Number, coefficients: Sequence[float]) -> Number:
        """Lowest coefficient first, by Horner's rule."""
        result: Number = coefficients[-1]
        for c in reversed(coefficients[:-1]):
            result = self.add(self.mul(result, x), c)
        return result


def _constant(value: float) -> Const:
    return const(value, INT32) if isinstance(value, int) else const(float(np.float32(value)), FLOAT32)


class Pipeline(Machine):
    """Steps as named values of `nest`, each over `lanes`."""

    def __init__(self, nest: NestBuilder, lanes: Sequence[Loop] = (), prefix: str = "f"):
        self.nest, self.lanes, self.prefix, self.count = nest, tuple(lanes), prefix, 0

    def name(self, value: Expr) -> Expr:
        """`value` computed once, whatever it is used for."""
        self.count += 1
        named = self.nest.let(f"{self.prefix}{self.count}", value, self.lanes)
        return named[tuple(var(lane.var) for lane in self.lanes)]

    def make(self, name: str, *args: Number) -> Number:
        operands = [_constant(a) if isinstance(a, (int, float)) else a for a in args]
        info = OPS[name]
        dtype = info.types[1] if info.types else None if info.compares else operands[-1].dtype
        if name in SHIFTS:
            operands[1], dtype = const(args[1], scalar("uint5")), INT32
        return self.name(op(name, *operands, dtype=dtype))

    def table(self, entries: Sequence[int], bits: Number, low: int, count: int) -> Number:
        above = op("shr", bits, const(low, scalar("uint5")), dtype=INT32)
        return self.name(lookup(entries, op("cast", above, dtype=scalar(f"uint{count}")), INT32))


_TINY = smallest_normal(32)


def _flush(x: np.ndarray, below: float = _TINY) -> np.ndarray:
    return np.where(np.abs(x) < below, np.copysign(0.0, x), x)


def _rounded(exact: np.ndarray) -> np.ndarray:
    """float64 results as float32, flushed if they are subnormal after rounding."""
    return _flush(exact, _TINY * (1 - 2.0**-25)).astype(np.float32)


_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply,
    "max": lambda a, b: np.where(a > b, a, b), "min": lambda a, b: np.where(a < b, a, b),
    "lt": np.less, "select": np.where, "shr": np.right_shift, "shl": np.left_shift,
    "float_bits": lambda a: a.view(np.int32), "bits_float": lambda a: a.view(np.float32),
}  # fmt: skip


class Numpy(Machine):
    """The same on float32 arrays."""

    def make(self, name: str, *args: Number) -> Number:
        integers = any(np.asarray(a).dtype.kind == "i" for a in args)
        operands = [np.float32(a) if isinstance(a, float) else np.asarray(a) for a in args]
        with np.errstate(all="ignore"):
            if name in ("add", "sub", "mul") and not integers:
                return _rounded(_NUMPY[name](*(_flush(np.asarray(o, np.float64)) for o in operands)))
            result = _NUMPY[name](*operands)
        return result.astype(np.int32) if integers and name != "bits_float" else result

    def table(self, entries: Sequence[int], bits: Number, low: int, count: int) -> Number:
        return np.asarray(entries, np.int32)[(bits >> low) & ((1 << count) - 1)]


def rows_sum(x: np.ndarray) -> np.ndarray:
    """float32 sums along the last axis in the balanced tree of neighbours that `Reduce` is."""
    machine, terms = Numpy(), list(np.moveaxis(x, -1, 0))
    while len(terms) > 1:
        pairs = [machine.add(a, b) for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[len(terms) // 2 * 2 :]
    return terms[0]


# Functions ------------------------------------------------------------------------------------------------------------

# exp(r) = 1 + r + r^2 P(r) for |r| <= ln(2) / 2: relative error 3.1e-9 (Lawson's algorithm, weights exp(-r)).
_EXP = (0.49999994, 0.16666521, 0.041668389, 0.0083687166, 0.0013814599)
# ln(2) in two parts, so that n times the first is exact for |n| < 2^9.
_LN2_HIGH, _LN2_LOW = 355 / 512, math.log(2) - 355 / 512
# Added to a float of magnitude below 2^22 it leaves the nearest integer in the lowest bits.
_ROUND = 1.5 * 2.0**23
# exp is 0 below, infinite above.
_EXP_LOW, _EXP_HIGH = -87.33, 88.72
# exp(-z^2) times t Q(t), t = 1 / (1 + z / _ERFC_SCALE) is 1 - erf(z) for z >= 0, but for 1.4e-7 (form: Abramowitz and
# Stegun 7.1.26; fitted anew).
_ERFC_P = 0.3275911
_ERFC = (0.25482625, -0.28448105, 1.42138636, -1.45313096, 1.06139946)


def exp(m: Machine, x: Number) -> Number:
    """exp(x): 2^n exp(r), n the integer nearest to x / ln(2)."""
    shifted = m.add(m.mul(x, 1 / math.log(2)), _ROUND)
    n = m.sub(shifted, _ROUND)
    r = m.sub(m.sub(x, m.mul(n, _LN2_HIGH)), m.mul(n, _LN2_LOW))
    power = m.add(m.add(m.mul(m.mul(r, r), m.polynomial(r, _EXP)), r), 1.0)
    exponent = m.make("shl", m.make("float_bits", shifted), 23)  # all but the integer is shifted out
    scaled = m.make("bits_float", m.make("add", m.make("float_bits", power), exponent))
    above = m.make("select", m.make("lt", _EXP_HIGH, x), math.inf, scaled)
    return m.make("select", m.make("lt", x, _EXP_LOW), 0.0, above)


def _seeds(function: Callable[[float], float], exponents: Sequence[int], steps: int) -> list[int]:
    """Bits of the function in the middle of each of `steps` parts of [2^e, 2^(e+1))."""
    middles = [2.0**e * (1 + (k + 0.5) / steps) for e in exponents for k in range(steps)]
    return [float_bits(function(x)) for x in middles]


# 2^127 / x as far as the fraction goes; the exponent of x is subtracted from it.
_RECIPROCAL = [bits + (127 << 23) for bits in _seeds(lambda x: 1 / x, (0,), 128)]
# By the lowest bit of the (biased) exponent and six of the fraction.
_RSQRT = [bits + (64 << 23) for bits in _seeds(lambda x: 1 / math.sqrt(x), (1, 0), 64)]


def reciprocal(m: Machine, x: Number) -> Number:
    """1 / x for normal x from 2^-125 on: a table of 128 seeds (error 2^-8), two steps of Newton's method.

    Above 2^100 their corrections are flushed to zero bit by bit; at 2^116 the error is 6e-4.
    """
    bits = m.make("float_bits", x)
    exponent = m.make("shl", m.make("shr", bits, 23), 23)
    y = m.make("bits_float", m.make("sub", m.table(_RECIPROCAL, bits, 16, 7), exponent))
    for _ in range(2):
        y = m.add(y, m.mul(y, m.sub(1.0, m.mul(x, y))))
    return y


def rsqrt(m: Machine, x: Number) -> Number:
    """1 / sqrt(x) for normal x > 0: a table of 128 seeds (error 2^-8), two steps of Newton's method."""
    bits = m.make("float_bits", x)
    # Half of the exponent, biased by 127, rounded down: (e + 1) >> 1, less 64.
    half = m.make("shl", m.make("shr", m.make("add", bits, 1 << 23), 24), 23)
    y = m.make("bits_float", m.make("sub", m.table(_RSQRT, bits, 17, 7), half))
    for _ in range(2):
        error = m.sub(0.5, m.mul(m.mul(m.mul(x, 0.5), y), y))
        y = m.add(y, m.mul(y, error))
    return y


def sigmoid(m: Machine, x: Number) -> Number:
    """1 / (1 + exp(-x)); below -80 the value at -80."""
    bounded = m.make("max", x, -80.0)
    return reciprocal(m, m.add(exp(m, m.sub(0.0, bounded)), 1.0))


def tanh(m: Machine, x: Number) -> Number:
    """2 sigmoid(2x) - 1."""
    return m.sub(m.mul(sigmoid(m, m.mul(x, 2.0)), 2.0), 1.0)


def silu(m: Machine, x: Number) -> Number:
    """x sigmoid(x)."""
    return m.mul(x, sigmoid(m, x))


def gelu_tanh(m: Machine, x: Number) -> Number:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which is x sigmoid(2 sqrt(2 / pi) (...))."""
    bounded = m.make("max", x, -10.0)
    scale = 2 * math.sqrt(2 / math.pi)
    inner = m.mul(bounded, m.polynomial(m.mul(bounded, bounded), (scale, scale * 0.044715)))
    return m.mul(bounded, sigmoid(m, inner))


def gelu(m: Machine, x: Number) -> Number:
    """x / 2 (1 + erf(x / sqrt(2)))."""
    bounded = m.make("max", x, -13.0)
    z = m.mul(m.make("max", bounded, m.sub(0.0, bounded)), math.sqrt(0.5))
    z = m.make("min", z, 9.0)
    t = reciprocal(m, m.add(m.mul(z, _ERFC_P), 1.0))
    tail = m.mul(m.mul(t, m.polynomial(t, _ERFC)), exp(m, m.sub(0.0, m.mul(z, z))))
    half = m.mul(tail, 0.5)
    return m.mul(bounded, m.make("select", m.make("lt", bounded, 0.0), half, m.sub(1.0, half)))


def relu(m: Machine, x: Number) -> Number:
    """max(x, 0)."""
    return m.make("max", x, 0.0)


# Largest error: relative for the first three (reciprocal up to 2^100), times max(1, |result|) for the others.
ERRORS = {
    "exp": 8e-8, "reciprocal": 1.2e-7, "rsqrt": 1.1e-7, "sigmoid": 1.2e-7, "tanh": 2.5e-7, "silu": 1.8e-7,
    "gelu": 2.5e-7, "gelu_tanh": 1.8e-7, "relu": 0.0,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[[Machine, Number], Number]] = {
    "exp": exp, "sigmoid": sigmoid, "tanh": tanh, "silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh, "relu": relu,
    "reciprocal": reciprocal, "rsqrt": rsqrt,
}  # fmt: skip
