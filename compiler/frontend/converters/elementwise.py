"""Elementwise operators: arithmetic, comparison, logic, rounding and casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np
from tvm import relax, te, tirx

from ..dtypes import is_float, is_integer, is_unsigned
from ..node import Node
from .broadcast import broadcast_operands, scalar
from .registry import converter

op = relax.op

Binary = Callable[[relax.Expr, relax.Expr], relax.Expr]


def _legacy_operand(node: Node, index: int = 1) -> relax.Expr:
    """Input `index` of a binary operator of opset < 7, whose `axis` says where its first dimension goes."""
    operand, axis = node.inputs[index], node.attr("axis")
    if not node.attr("broadcast", 0) or axis is None:
        return operand
    shape, rank = node.shape(index), node.rank(0)
    trailing = rank - node.axis(axis, rank) - len(shape)
    return op.reshape(operand, [*shape, *[1] * trailing]) if trailing > 0 and shape else operand


def _operands(node: Node) -> list[relax.Expr]:
    second = _legacy_operand(node) if node.opset < 7 else node.inputs[1]
    return broadcast_operands(node, [node.inputs[0], node.bb.normalize(second)])


def _register_binary(op_type: str, function: Binary) -> None:
    @converter(op_type)
    def convert(node: Node) -> relax.Expr:
        node.value(1)
        return function(*_operands(node))


_BINARY: dict[str, Binary] = {
    "Add": op.add,
    "Sub": op.subtract,
    "Mul": op.multiply,
    "Greater": op.greater,
    "GreaterOrEqual": op.greater_equal,
    "Less": op.less,
    "LessOrEqual": op.less_equal,
    "And": op.logical_and,
    "Or": op.logical_or,
    "Xor": op.logical_xor,
    "BitwiseAnd": op.bitwise_and,
    "BitwiseOr": op.bitwise_or,
    "BitwiseXor": op.bitwise_xor,
}
for _name, _function in _BINARY.items():
    _register_binary(_name, _function)


@converter("Div")
def div(node: Node) -> relax.Expr:
    """Integer division rounds toward zero."""
    return (
        _integer_safe(node, op.divide, overflow=op.negative)
        if is_integer(node.dtype(0))
        else op.divide(*_operands(node))
    )


@converter("Equal")
def equal(node: Node) -> relax.Expr:
    """Booleans by exclusive or: TVM compares them as floats, which its code generator refuses."""
    a, b = _operands(node)
    return op.logical_not(op.logical_xor(a, b)) if node.dtype(0) == "bool" else op.equal(a, b)


def _integer_safe(node: Node, divide: Binary, overflow: Callable[[relax.Expr], relax.Expr]) -> relax.Expr:
    """Integer division that cannot trap: by 0 gives what division by 1 gives, and the least integer by -1 wraps."""
    a, b = (node.emit(e) if not isinstance(e, relax.Var) else e for e in _operands(node))
    known = node.const(1)
    if known is not None and not np.isin(known, (0, -1) if known.dtype.kind == "i" else (0,)).any():
        return divide(a, b)
    one, dtype = scalar(1, node.dtype(1)), node.dtype(1)
    traps = op.equal(b, scalar(0, dtype))
    if is_unsigned(dtype):
        return divide(a, op.where(traps, one, b))
    minus = node.emit(op.equal(b, scalar(-1, dtype)))
    safe = op.where(op.logical_or(traps, minus), one, b)
    return op.where(minus, overflow(a), divide(a, safe))


@converter("Mod", since=10)
def mod(node: Node) -> relax.Expr:
    """The sign of the divisor, or of the dividend with `fmod`."""
    dividend_sign, dtype = bool(node.attr("fmod", 0)), node.dtype(0)
    if is_integer(dtype):
        function = op.mod if dividend_sign else op.floor_mod
        return _integer_safe(node, function, overflow=lambda a: op.multiply(a, scalar(0, dtype)))
    a, b = _operands(node)
    # relax.floor_mod divides, and so gives NaN for an infinite divisor.
    remainder = node.emit(op.mod(a, b))
    if dividend_sign:
        return remainder
    zero = scalar(0, dtype)
    other_sign = op.logical_xor(op.less(remainder, zero), op.less(b, zero))
    wrong = op.logical_and(op.not_equal(remainder, zero), other_sign)
    return op.where(wrong, op.add(remainder, b), remainder)


@converter("Pow")
def power(node: Node) -> relax.Expr:
    """Has the dtype of the base, whatever the exponent's."""
    base, exponent = _operands(node)
    dtype, known = node.dtype(0), node.const(1)
    if known is not None and known.size and (known == 2).all() and _keeps_shape(node):
        return op.multiply(base, base)
    if is_integer(dtype):
        result = op.power(op.astype(base, "float64"), op.astype(exponent, "float64"))
        return op.astype(result, dtype)
    return op.power(base, exponent if node.dtype(1) == dtype else op.astype(exponent, dtype))


def _keeps_shape(node: Node) -> bool:
    return all(size == 1 for size in node.shape(1)) and node.rank(1) <= node.rank(0)


@converter("BitShift", since=11)
def bit_shift(node: Node) -> relax.Expr:
    """Shifting by a negative number, or by all bits and more, leaves 0; to the right, only copies of the sign."""
    direction = node.required("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise node.error(f"direction must be LEFT or RIGHT, found {direction!r}")
    x, by = (node.emit(e) if not isinstance(e, relax.Var) else e for e in _operands(node))
    dtype = node.dtype(0)
    width, zero = np.iinfo(dtype).bits, scalar(0, dtype)
    inside = node.emit(op.logical_and(op.greater_equal(by, zero), op.less(by, scalar(width, dtype))))
    if direction == "RIGHT" and not is_unsigned(dtype):
        return op.right_shift(x, op.where(inside, by, scalar(width - 1, dtype)))
    shift = op.left_shift if direction == "LEFT" else op.right_shift
    return op.where(inside, shift(x, op.where(inside, by, zero)), zero)


def _register_variadic(op_type: str, function: Binary, *, mean: bool = False) -> None:
    @converter(op_type)
    def convert(node: Node) -> relax.Expr:
        for index in range(max(len(node.inputs), 1)):
            node.value(index)
        operands = broadcast_operands(node, list(node.inputs)) if len(node.inputs) > 1 else list(node.inputs)
        total = reduce(function, operands)
        return op.multiply(total, scalar(1 / len(operands), node.dtype(0))) if mean else total


_register_variadic("Sum", op.add)
_register_variadic("Mean", op.add, mean=True)
_register_variadic("Max", op.maximum)
_register_variadic("Min", op.minimum)


@converter("Where", since=9)
def where(node: Node) -> relax.Expr:
    node.value(2)
    return op.where(*broadcast_operands(node, list(node.inputs)))


def _register_unary(op_type: str, function: Callable[[relax.Expr], relax.Expr]) -> None:
    @converter(op_type)
    def convert(node: Node) -> relax.Expr:
        node.value(0)
        return function(node.inputs[0])


_UNARY: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "Acos": op.acos,
    "Acosh": op.acosh,
    "Asin": op.asin,
    "Asinh": op.asinh,
    "Atan": op.atan,
    "Atanh": op.atanh,
    "BitwiseNot": op.bitwise_not,
    "Ceil": op.ceil,
    "Cos": op.cos,
    "Erf": op.erf,
    "Exp": op.exp,
    "Floor": op.floor,
    "Identity": lambda x: x,
    "IsNaN": op.isnan,
    "Log": op.log,
    "Neg": op.negative,
    "Sin": op.sin,
    "Sqrt": op.sqrt,
    "Tan": op.tan,
}
for _name, _unary in _UNARY.items():
    _register_unary(_name, _unary)


@converter("Not")
def logical_not(node: Node) -> relax.Expr:
    """By a choice: TVM makes the opposite comparison out of one that is negated, and neither holds for NaN."""
    return op.where(node.inputs[0], scalar(False, "bool"), scalar(True, "bool"))


@converter("Abs")
def absolute(node: Node) -> relax.Expr:
    return node.inputs[0] if is_unsigned(node.dtype(0)) else op.abs(node.inputs[0])


@converter("Sign", since=9)
def sign(node: Node) -> relax.Expr:
    x, dtype = node.inputs[0], node.dtype(0)
    zero = scalar(0, dtype)
    positive = op.astype(op.greater(x, zero), dtype)
    if is_unsigned(dtype):
        return positive
    signed = op.subtract(positive, op.astype(op.less(x, zero), dtype))
    return op.where(op.isnan(x), x, signed) if is_float(dtype) else signed


def _half_exponentials(x: relax.Expr, dtype: str) -> tuple[relax.Expr, relax.Expr]:
    """exp(x) / 2 and exp(-x) / 2, halved in the exponent: they overflow no sooner than their sum."""
    ln2 = scalar(math.log(2), dtype)
    return op.exp(op.subtract(x, ln2)), op.exp(op.subtract(op.negative(x), ln2))


@converter("Cosh", since=9)
def cosh(node: Node) -> relax.Expr:
    """By exponentials: TVM's own has no code behind vectorised loops."""
    return op.add(*_half_exponentials(node.inputs[0], node.dtype(0)))


@converter("Sinh", since=9)
def sinh(node: Node) -> relax.Expr:
    """By exponentials; near zero, where these cancel, by x + x^3/6 + x^5/120 + x^7/5040."""
    x, dtype = node.inputs[0], node.dtype(0)
    square = op.multiply(x, x)
    series = scalar(1 / 5040, dtype)
    for coefficient in (1 / 120, 1 / 6, 1):
        series = op.add(op.multiply(series, square), scalar(coefficient, dtype))
    small = op.less(op.abs(x), scalar(0.5, dtype))
    return op.where(small, op.multiply(series, x), op.subtract(*_half_exponentials(x, dtype)))


@converter("Reciprocal")
def reciprocal(node: Node) -> relax.Expr:
    return op.divide(scalar(1, node.dtype(0)), node.inputs[0])


@converter("Round", since=11)
def round_half_to_even(node: Node) -> relax.Expr:
    """relax.round rounds halves away from zero; nearbyint rounds them to even, as ONNX asks."""
    return node.te(lambda x: te.compute(x.shape, lambda *i: tirx.nearbyint(x(*i))), node.inputs[0], name="round")


@converter("IsInf", since=10)
def is_inf(node: Node) -> relax.Expr:
    x, dtype = node.inputs[0], node.dtype(0)
    negative, positive = node.attr("detect_negative", 1), node.attr("detect_positive", 1)
    if negative and positive:
        return op.isinf(x)
    if not negative and not positive:
        return op.full(node.shape(0), scalar(False, "bool"), "bool")
    return op.equal(x, scalar(np.inf if positive else -np.inf, dtype))


@converter("Clip", since=1)
def clip_attributes(node: Node) -> relax.Expr:
    """Up to opset 10 the bounds are attributes."""
    return clamp(node.inputs[0], node.attr("min"), node.attr("max"), node.dtype(0))


@converter("Clip", since=11)
def clip(node: Node) -> relax.Expr:
    """Bounds known at compile time become a `clip`; others a minimum and a maximum."""
    low, high = (node.const(i) for i in (1, 2))
    if all(node.const(i) is not None or not node.has(i) for i in (1, 2)):
        least, most = (None if b is None else b.reshape(-1)[0].item() for b in (low, high))
        return clamp(node.inputs[0], least, most, node.dtype(0))
    result = node.inputs[0]
    for index, bound in ((1, op.maximum), (2, op.minimum)):
        if node.has(index):
            limit = node.inputs[index]
            result = bound(result, op.reshape(limit, []) if node.rank(index) else limit)
    return result


def clamp(x: relax.Expr, low: float | None, high: float | None, dtype: str) -> relax.Expr:
    """min(max(x, low), high) for bounds that may be absent."""
    low = None if low == -math.inf else low
    high = None if high == math.inf else high
    if low is not None and high is not None:
        # relax.clip has no order of its own for crossed bounds; ONNX's answer is `high`.
        return op.clip(x, tirx.const(min(low, high), dtype), tirx.const(high, dtype))
    if low is not None:
        return op.maximum(x, scalar(low, dtype))
    return x if high is None else op.minimum(x, scalar(high, dtype))
