"""The operations of the loop-kernel IR: one table of meaning, range, latency and spelling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .types import FLOAT32, INT32, Scalar, Value, bits_float, float_bits, flush, round_float

Range = tuple[int, int]


@dataclass(frozen=True)
class OpInfo:
    """An operation.

    Attributes:
        arity: how many operands.
        compute: its exact result, before it is wrapped or rounded.
        bounds: range of the exact result of integers, from those of its operands.
        latency: cycles for integers, then for floats.
        cpp, verilog: its text with {0}, {1}, {2} for operands and {t} for the result's type; Verilog for integers only.
        compares: whether the result is a bool whatever the operands.
        floats: whether it takes floats.
        types: of operand and result, where it takes no others.
    """

    arity: int
    compute: Callable[..., Value]
    bounds: Callable[..., Range]
    latency: tuple[int, int]
    cpp: str
    verilog: str
    compares: bool = False
    floats: bool = True
    types: tuple[Scalar, Scalar] | None = None


def _corners(combine: Callable[[int, int], int]) -> Callable[[Range, Range], Range]:
    def bounds(a: Range, b: Range) -> Range:
        values = [combine(x, y) for x in a for y in b]
        return min(values), max(values)

    return bounds


def _flag(*_: Range) -> Range:
    return 0, 1


def _comparison(symbol: str, compute: Callable[[Value, Value], Value]) -> OpInfo:
    text = f"({{0}} {symbol} {{1}})"
    return OpInfo(2, compute, _flag, (1, 1), text, text, compares=True)


def _dot_bounds(*factors: Range) -> Range:
    products = [_corners(lambda a, b: a * b)(*factors[k : k + 2]) for k in range(0, len(factors), 2)]
    return sum(low for low, _ in products), sum(high for _, high in products)


def _larger(a: Value, b: Value) -> Value:
    return a if a > b else b


def _smaller(a: Value, b: Value) -> Value:
    return a if a < b else b


# A multiplier takes three registers (operands, product, sum of a DSP block), the floating-point units float_units.py
# says.
FLOAT_ADD, FLOAT_MUL = 5, 3
OPS = {
    "add": OpInfo(2, lambda a, b: a + b, _corners(lambda a, b: a + b), (1, FLOAT_ADD), "({0} + {1})", "{0} + {1}"),
    "sub": OpInfo(2, lambda a, b: a - b, _corners(lambda a, b: a - b), (1, FLOAT_ADD), "({0} - {1})", "{0} - {1}"),
    "mul": OpInfo(2, lambda a, b: a * b, _corners(lambda a, b: a * b), (3, FLOAT_MUL), "({0} * {1})", "{0} * {1}"),
    "max": OpInfo(2, _larger, _corners(max), (1, 1), "kp_max<{t}>({0}, {1})", "({0} > {1}) ? {0} : {1}"),
    "min": OpInfo(2, _smaller, _corners(min), (1, 1), "kp_min<{t}>({0}, {1})", "({0} < {1}) ? {0} : {1}"),
    "eq": _comparison("==", lambda a, b: int(a == b)),
    "lt": _comparison("<", lambda a, b: int(a < b)),
    "le": _comparison("<=", lambda a, b: int(a <= b)),
    "and": OpInfo(2, lambda a, b: a & b, _flag, (0, 0), "({0} & {1})", "{0} & {1}", True, False),
    "or": OpInfo(2, lambda a, b: a | b, _flag, (0, 0), "({0} | {1})", "{0} | {1}", True, False),
    "not": OpInfo(1, lambda a: 1 - a, _flag, (0, 0), "(!{0})", "!{0}", True, False),
    "select": OpInfo(3, lambda c, a, b: a if c else b, lambda c, a, b: (min(a[0], b[0]), max(a[1], b[1])), (1, 1),
                     "({0} ? {t}({1}) : {t}({2}))", "{0} ? {1} : {2}"),
    "cast": OpInfo(1, lambda a: a, lambda a: a, (0, 0), "{0}", "{0}", floats=False),
    "shr": OpInfo(2, lambda a, b: a >> b, _corners(lambda a, b: a >> b), (0, 0), "({0} >> {1})", "{0} >>> {1}",
                  floats=False),
    "shl": OpInfo(2, lambda a, b: a << b, _corners(lambda a, b: a << b), (0, 0), "({t}({0}) << {1})", "{0} <<< {1}",
                  floats=False),
    # By a value: a barrel shifter.
    "shrv": OpInfo(2, lambda a, b: a >> b, _corners(lambda a, b: a >> b), (1, 1), "({0} >> {1})", "{0} >>> {1}",
                   floats=False),
    # Three products and their sum: one DSP58 in its mode INT8 (AM004), three multipliers elsewhere.
    "dot3": OpInfo(6, lambda a, b, c, d, e, f: a * b + c * d + e * f, _dot_bounds, (3, 3),
                   "({0} * {1} + {2} * {3} + {4} * {5})", "{0} * {1} + {2} * {3} + {4} * {5}", floats=False),
    # The same bits as a number of the other kind.
    "float_bits": OpInfo(1, float_bits, lambda a: (INT32.low, INT32.high), (0, 0), "kp_float_bits({0})", "{0}",
                         types=(FLOAT32, INT32)),
    "bits_float": OpInfo(1, bits_float, lambda a: (0, 0), (0, 0), "kp_bits_float({0})", "{0}",
                         types=(INT32, FLOAT32)),
}  # fmt: skip
# Operations that accumulators and trees may use.
COMBINERS = ("add", "max", "min")


def evaluate(name: str, args: list[Value], dtype: Scalar) -> Value:
    """The value of an operation, wrapped or rounded to `dtype`."""
    info = OPS[name]
    if not dtype.is_float:
        return dtype.wrap(int(info.compute(*args)))
    if name not in ("add", "sub", "mul"):
        return info.compute(*args)
    return round_float(float(info.compute(*(flush(float(a), dtype.bits) for a in args))), dtype.bits)


def neutral(name: str, dtype: Scalar) -> Value:
    """What accumulating with the operation starts from."""
    if name == "add":
        return 0.0 if dtype.is_float else 0
    if dtype.is_float:
        return float("-inf" if name == "max" else "inf")
    return dtype.low if name == "max" else dtype.high


# Operations whose second operand has to be a constant: they are wires.
SHIFTS = ("shr", "shl")
