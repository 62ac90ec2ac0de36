"""Element types of 8 bits and fewer, bit by bit: numbers from their codes, and codes from numbers.

Compiled code keeps such an element in a byte (see `element_types`). The functions here make expressions for one
element. Floats are those of OCP's 8-bit and microscaling formats and, with "uz" in their names, of
https://arxiv.org/abs/2206.02915; what is rounded and saturated follows the text of ONNX's Cast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
from tvm import ir, tirx

# Codes of the floats that are powers of two alone, biased by 127; the last one is NaN.
POWERS = "float8_e8m0fnu"
_NAN_POWER, _LARGEST_POWER = 255, 254


@dataclass(frozen=True)
class Format:
    """A float: a sign, then `exponent` bits biased by `bias`, then `mantissa` bits.

    Attributes:
        largest: code of the largest finite number.
        beyond: code of what lies beyond it where a cast does not saturate.
        nan: code of NaN; with the sign of the number unless `unsigned_nan`. None where there is none.
        unsigned_nan: NaN takes the place of -0.
    """

    exponent: int
    mantissa: int
    bias: int
    largest: int
    beyond: int
    nan: int | None
    unsigned_nan: bool = False

    @property
    def sign(self) -> int:
        """The sign's bit."""
        return 1 << (self.exponent + self.mantissa)


FLOATS = {
    "float8_e4m3fn": Format(4, 3, 7, 0x7E, 0x7F, 0x7F),
    "float8_e4m3fnuz": Format(4, 3, 8, 0x7F, 0x80, 0x80, unsigned_nan=True),
    "float8_e5m2": Format(5, 2, 15, 0x7B, 0x7C, 0x7E),
    "float8_e5m2fnuz": Format(5, 2, 16, 0x7F, 0x80, 0x80, unsigned_nan=True),
    "float6_e2m3fn": Format(2, 3, 1, 0x1F, 0x1F, None),
    "float6_e3m2fn": Format(3, 2, 3, 0x1F, 0x1F, None),
    "float4_e2m1fn": Format(2, 1, 1, 0x7, 0x7, None),
}
# Name -> bits.
INTEGERS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}


def limits(dtype: str) -> tuple[int, int]:
    """The least and the largest number of an integer type of any width."""
    info = ml_dtypes.iinfo(dtype)
    return int(info.min), int(info.max)


def _u32(value: int) -> ir.Expr:
    return tirx.const(value, "uint32")


def _bits(value: ir.Expr) -> ir.Expr:
    return tirx.reinterpret("uint32", value)


def _float(bits: ir.Expr) -> ir.Expr:
    return tirx.reinterpret("float32", bits)


def wide_type(dtype: str) -> str:
    """The type that `decoded` gives for elements of `dtype`."""
    return ("uint8" if dtype.startswith("uint") else "int8") if dtype in INTEGERS else "float32"


def decoded(code: ir.Expr, dtype: str) -> ir.Expr:
    """The number that the byte `code` stands for, of `wide_type(dtype)`."""
    if dtype in INTEGERS:
        bits = INTEGERS[dtype]
        low = code & tirx.const((1 << bits) - 1, "uint8")
        if dtype.startswith("uint"):
            return low
        sign = tirx.const(1 << (bits - 1), "int8")
        return (low.astype("int8") ^ sign) - sign
    wide = code.astype("uint32")
    if dtype == POWERS:
        shifted = tirx.Select(tirx.EQ(wide, _u32(0)), _u32(1 << 22), wide << _u32(23))
        return _float(tirx.Select(tirx.EQ(wide, _u32(_NAN_POWER)), _u32(0x7FC00000), shifted))
    return _decoded_float(wide, FLOATS[dtype])


def _decoded_float(code: ir.Expr, f: Format) -> ir.Expr:
    low = code & _u32(f.sign - 1)
    normal = (low << _u32(23 - f.mantissa)) + _u32((127 - f.bias) << 23)
    subnormal = _bits(low.astype("float32") * tirx.const(2.0 ** (1 - f.bias - f.mantissa), "float32"))
    bits = tirx.Select(low < _u32(1 << f.mantissa), subnormal, normal)
    if f.beyond != f.largest and not f.unsigned_nan:
        if f.beyond != f.nan:
            bits = tirx.Select(tirx.EQ(low, _u32(f.beyond)), _u32(0x7F800000), bits)
        least_nan = f.nan if f.beyond == f.nan else f.beyond + 1
        bits = tirx.Select(low >= _u32(least_nan or 0), _u32(0x7FC00000), bits)
    sign = tirx.Select((code & _u32(f.sign)) > _u32(0), _u32(0x80000000), _u32(0))
    if f.unsigned_nan:
        is_nan = tirx.EQ(code & _u32(0xFF), _u32(f.sign))
        return _float(tirx.Select(is_nan, _u32(0x7FC00000), bits | sign))
    return _float(bits | sign)


def encoded(value: ir.Expr, dtype: str, saturate: bool = True, round_mode: str = "up") -> ir.Expr:
    """The code of a number of any of numpy's types, as a byte.

    Floats are rounded to nearest, halves to even, or, for `POWERS`, as `round_mode` says: "up", "down" or "nearest".
    What lies beyond the largest number becomes it if `saturate`, else infinity or NaN. Integers lose their high bits.
    """
    if dtype in INTEGERS:
        mask = tirx.const((1 << INTEGERS[dtype]) - 1, "uint8")
        return value.astype("int32").astype("uint8") & mask
    if dtype == POWERS:
        return _encoded_power(_bits(value.astype("float32")), saturate, round_mode)
    return _encoded_float(_bits(_single(value)), FLOATS[dtype], saturate)


def _single(value: ir.Expr) -> ir.Expr:
    """A float32 that rounds to the same number of any narrow format as `value` does."""
    single = value.astype("float32")
    if str(value.ty.dtype) != "float64":
        return single
    # Rounded to odd: what was not exact ends in a one, and so never looks like half of the way between two codes.
    bits, back = _bits(single), single.astype("float64")
    inexact = tirx.all(tirx.NE(back, value), tirx.EQ(bits & _u32(1), _u32(0)))
    beyond = tirx.abs(back) > tirx.abs(value)
    return _float(tirx.Select(inexact, tirx.Select(beyond, bits - _u32(1), bits + _u32(1)), bits))


def _encoded_float(bits: ir.Expr, f: Format, saturate: bool) -> ir.Expr:
    magnitude, shift = bits & _u32(0x7FFFFFFF), 23 - f.mantissa
    sign = tirx.Select(bits > _u32(0x7FFFFFFF), _u32(f.sign), _u32(0))
    to_even = (magnitude >> _u32(shift)) & _u32(1)
    rounded = (magnitude + (to_even + _u32((1 << (shift - 1)) - 1))) >> _u32(shift)
    normal = rounded - _u32((127 - f.bias) << f.mantissa)
    # Adding a number whose last place is the step of the subnormal numbers rounds to such a step.
    anchor = tirx.const(math.ldexp(1.0, 24 - f.bias - f.mantissa), "float32")
    subnormal = _bits(_float(magnitude) + anchor) - _bits(anchor)
    code = tirx.Select(magnitude < _u32((128 - f.bias) << 23), subnormal, normal)
    beyond = _u32(f.largest if saturate else f.beyond)
    code = tirx.Select(code > _u32(f.largest), beyond, code)
    is_nan = magnitude > _u32(0x7F800000)
    if f.unsigned_nan:
        signed = tirx.Select(tirx.any(tirx.EQ(code, _u32(0)), tirx.EQ(code, _u32(f.sign))), code, code | sign)
        return tirx.Select(is_nan, _u32(f.nan or 0), signed).astype("uint8")
    # Without a code for it, NaN becomes zero of the other sign, as in ml_dtypes.
    nan = (_u32(f.sign) ^ sign) if f.nan is None else (_u32(f.nan) | sign)
    return tirx.Select(is_nan, nan, code | sign).astype("uint8")


def _encoded_power(bits: ir.Expr, saturate: bool, round_mode: str) -> ir.Expr:
    """The sign is left out, for ONNX has no rule for numbers below zero."""
    exponent, fraction = (bits >> _u32(23)) & _u32(0xFF), bits & _u32(0x7FFFFF)
    half = _u32(1 << 22)
    # Half of the way to the next power; below the smallest normal number the least power is itself at half.
    up = {"up": fraction > _u32(0), "nearest": fraction >= half, "down": tirx.const(False, "bool")}[round_mode]
    small = {"up": fraction > half, "nearest": fraction >= _u32(3 << 21), "down": tirx.const(False, "bool")}[round_mode]
    code = exponent + tirx.Select(tirx.Select(tirx.EQ(exponent, _u32(0)), small, up), _u32(1), _u32(0))
    code = tirx.Select(code > _u32(_LARGEST_POWER), _u32(_LARGEST_POWER if saturate else _NAN_POWER), code)
    if not saturate:
        below = tirx.all(tirx.EQ(exponent, _u32(0)), fraction < half)
        code = tirx.Select(below, _u32(_NAN_POWER), code)
    is_nan = (bits & _u32(0x7FFFFFFF)) > _u32(0x7F800000)
    return tirx.Select(is_nan, _u32(_NAN_POWER), code).astype("uint8")
