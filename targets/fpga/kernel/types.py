"""Scalar types of the loop-kernel IR and their exact arithmetic.

Integers have any width from 1 to 64 bits; an operation is computed exactly and then wrapped to its result's type, as
ap_int does. Floats are IEEE binary16 and binary32 rounded to nearest even, with subnormal operands and results
flushed to zero, as the floating-point cores of FPGAs do it (a result is flushed if it is below the smallest normal
number after rounding).
"""

from __future__ import annotations

import functools
import math
import re
import struct
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError

Value = int | float


@dataclass(frozen=True)
class Scalar:
    """`kind` is "int", "uint" or "float"; `bits` its width."""

    kind: str
    bits: int

    def __str__(self) -> str:
        return f"{self.kind}{self.bits}"

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point type."""
        return self.kind == "float"

    @property
    def low(self) -> int:
        """Smallest integer."""
        return -(1 << (self.bits - 1)) if self.kind == "int" else 0

    @property
    def high(self) -> int:
        """Largest integer."""
        return (1 << (self.bits - (self.kind == "int"))) - 1

    def wrap(self, value: int) -> int:
        """`value` modulo 2**bits, in this type's range."""
        return (int(value) - self.low) % (1 << self.bits) + self.low

    def numpy(self) -> np.dtype:
        """The numpy dtype that holds values of this type."""
        if self.is_float:
            return np.dtype(f"float{self.bits}")
        width = next(w for w in (8, 16, 32, 64) if w >= self.bits)
        return np.dtype(f"{self.kind}{width}")


BOOL = Scalar("uint", 1)
INT32, FLOAT32 = Scalar("int", 32), Scalar("float", 32)
# Format of a float: bits of the exponent, and of the fraction.
FLOAT_FORMATS = {16: (5, 10), 32: (8, 23)}


@functools.cache
def scalar(text: str) -> Scalar:
    """The type called `text` ("int8", "uint4", "float16", "bool"); KompiloError if there is none."""
    if text == "bool":
        return BOOL
    found = re.fullmatch(r"(int|uint|float)(\d+)", text)
    kind, bits = (found[1], int(found[2])) if found else ("", 0)
    known = bits in FLOAT_FORMATS if kind == "float" else 1 <= bits <= 64
    if not found or not known:
        raise KompiloError(f"FPGA kernel: expected int1 to int64, uint1 to uint64, float16 or float32, found {text!r}.")
    return Scalar(kind, bits)


def round_float(value: float, bits: int) -> float:
    """`value`, the exact result of an operation or its binary64 rounding, as a float of `bits`.

    Rounding a binary64 sum or product of such floats once more gives the correctly rounded result: 53 >= 2 * 24 + 2.
    """
    if value == 0 or not math.isfinite(value):
        return value
    exponent_bits, fraction = FLOAT_FORMATS[bits]
    smallest = 2.0 ** (2 - (1 << (exponent_bits - 1)))
    if abs(value) < smallest * (1 - 2.0 ** -(fraction + 2)):
        return math.copysign(0.0, value)
    with np.errstate(over="ignore"):
        return float(np.dtype(f"float{bits}").type(value))


def smallest_normal(bits: int) -> float:
    """The smallest positive float of `bits` that is not flushed to zero."""
    return 2.0 ** (2 - (1 << (FLOAT_FORMATS[bits][0] - 1)))


def flush(value: float, bits: int) -> float:
    """`value` with subnormals replaced by zero of the same sign."""
    return math.copysign(0.0, value) if abs(value) < smallest_normal(bits) else value


def float_bits(value: float) -> int:
    """The bits of a binary32 as a signed integer."""
    return int.from_bytes(struct.pack("<f", value), "little", signed=True)


def bits_float(bits: int) -> float:
    """The binary32 whose bits a signed integer holds."""
    return float(struct.unpack("<f", int(bits).to_bytes(4, "little", signed=True))[0])
