"""Evaluators of arithmetic on symbolic sizes. Constants alone are left to ONNX's reference implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tvm import ir

from ..element_types import CARRIED
from .dtypes import dtype_name, is_float, is_integer
from .node import Node
from .operands import Evaluator, Operand, Operands, Undecided, axes
from .ratio import Ratio
from .symbols import Symbols

_DIVISIONS = ("Div", "Mod")
# A larger one would make a formula of many factors, which no size of a model is.
_HIGHEST_POWER = 4

Scalar = Callable[[Symbols, Any, Any], Any]


def _elementwise(function: Scalar, dtype: type = object) -> Evaluator:
    """Element by element with numpy's broadcasting, over all inputs from the left."""

    def run(node: Node, o: Operands) -> np.ndarray:
        _need_symbols(node, o)
        apply = np.frompyfunc(lambda a, b: function(node.symbols, a, b), 2, 1)
        result, *others = (operand.objects() for operand in o)
        if node.op_type in _DIVISIONS:
            others = [_divisors(node, other) for other in others]
        for other in others:
            result = apply(result, other)
        return np.asarray(result, dtype)

    return run


def _divisors(node: Node, array: np.ndarray) -> np.ndarray:
    safe = np.frompyfunc(lambda e: node.divisor(e, "what it divides by") if isinstance(e, ir.Expr) else e, 1, 1)
    return np.asarray(safe(array), object)


def _need_symbols(node: Node, o: Operands) -> None:
    if not any(x.symbolic for x in o) or (node.opset < 7 and node.attr("broadcast")):
        raise Undecided


def _divide(symbols: Symbols, a: Any, b: Any) -> Any:
    if isinstance(a, (Ratio, float)) or isinstance(b, (Ratio, float)):
        return Ratio.of(a) / b
    return symbols.truncdiv(a, b)


def _sized(function: Scalar) -> Scalar:
    """For functions of integers only."""

    def run(symbols: Symbols, a: Any, b: Any) -> Any:
        if isinstance(a, (Ratio, float)) or isinstance(b, (Ratio, float)):
            raise Undecided
        return function(symbols, a, b)

    return run


def _modulo(node: Node, o: Operands) -> np.ndarray:
    """Of the divisor's sign, or of the dividend's with `fmod`."""
    truncated = bool(node.attr("fmod", 0))

    def remainder(symbols: Symbols, a: Any, b: Any) -> Any:
        if not truncated or (symbols.less(a, 0) is False and symbols.less(0, b) is True):
            return symbols.floormod(a, b)
        return a - symbols.truncdiv(a, b) * b

    return np.asarray(_elementwise(_sized(remainder))(node, o), object)


def _power(symbols: Symbols, a: Any, b: Any) -> Any:
    if not isinstance(b, int) or not 0 <= b <= _HIGHEST_POWER:
        raise Undecided
    return math.prod([a] * b)


def _clip(node: Node, o: Operands) -> np.ndarray:
    """The bounds are inputs since opset 11; before, only floats were clipped."""
    _need_symbols(node, o)
    result = o[0].array
    for index, function in ((1, Symbols.maximum), (2, Symbols.minimum)):
        bound = o.get(index)
        if bound is not None:
            limit = partial(_sized(function), node.symbols)
            result = np.frompyfunc(limit, 2, 1)(result, bound.objects().reshape(()))
    return np.asarray(result, object)


def _absolute(node: Node, o: Operands) -> np.ndarray:
    _need_symbols(node, o)
    largest = _sized(Symbols.maximum)
    return np.asarray(np.frompyfunc(lambda e: largest(node.symbols, e, e * -1), 1, 1)(o[0].array), object)


_BINARY: dict[str, Scalar] = {
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Div": _divide,
    "Pow": _sized(_power),
    "Min": _sized(Symbols.minimum),
    "Max": _sized(Symbols.maximum),
    "Sum": lambda _, a, b: a + b,
}


def _decided(answer: bool | None) -> bool:
    if answer is None:
        raise Undecided
    return answer


_COMPARISONS: dict[str, Scalar] = {
    "Equal": lambda s, a, b: _decided(s.equal(a, b)),
    "Less": lambda s, a, b: _decided(s.less(a, b)),
    "Greater": lambda s, a, b: _decided(s.less(b, a)),
    "LessOrEqual": lambda s, a, b: not _decided(s.less(b, a)),
    "GreaterOrEqual": lambda s, a, b: not _decided(s.less(a, b)),
}


def _where(node: Node, o: Operands) -> Operand:
    _need_symbols(node, o)
    if o[0].symbolic:
        raise Undecided
    return Operand(np.where(o[0].array, o[1].objects(), o[2].objects()), o[1].dtype)


def _cast(node: Node, o: Operands) -> Operand:
    _need_symbols(node, o)
    target = dtype_name(node.required("to"))
    if target is None or target in CARRIED or not (is_integer(target) or is_float(target)):
        raise Undecided
    convert = Ratio.of if is_float(target) else lambda e: _truncated(e, node.symbols)
    array = np.frompyfunc(convert, 1, 1)(o[0].array)
    return Operand(np.asarray(array, object), target)


def _truncated(element: Any, symbols: Symbols) -> Any:
    if isinstance(element, Ratio):
        return element.trunc(symbols)
    return element if isinstance(element, ir.Expr) else int(element)


def _rounding(method: Callable[[Ratio, Symbols], Ratio]) -> Evaluator:
    def run(node: Node, o: Operands) -> np.ndarray:
        _need_symbols(node, o)
        return np.asarray(
            np.frompyfunc(lambda e: method(Ratio.of(e), node.symbols), 1, 1)(o[0].array),
            object,
        )

    return run


def _negate(node: Node, o: Operands) -> np.ndarray:
    _need_symbols(node, o)
    return np.asarray(np.frompyfunc(lambda e: e * -1, 1, 1)(o[0].array), object)


_REDUCTIONS: dict[str, Scalar] = {
    "ReduceProd": lambda _, a, b: a * b,
    "ReduceSum": lambda _, a, b: a + b,
    "ReduceMax": _sized(Symbols.maximum),
    "ReduceMin": _sized(Symbols.minimum),
}


def _reduction(function: Scalar) -> Evaluator:
    def run(node: Node, o: Operands) -> np.ndarray:
        _need_symbols(node, o)
        array = o[0].array
        if array.ndim != 1 or array.size == 0 or axes(node, o) == []:
            raise Undecided
        result = array[0]
        for element in array[1:]:
            result = function(node.symbols, result, element)
        return np.array([result] if node.attr("keepdims", 1) else result, object)

    return run


ARITHMETIC: dict[str, Evaluator] = {
    **{op: _elementwise(function) for op, function in _BINARY.items()},
    **{op: _elementwise(_sized(function), bool) for op, function in _COMPARISONS.items()},
    **{op: _reduction(function) for op, function in _REDUCTIONS.items()},
    "Where": _where,
    "Cast": _cast,
    "Mod": _modulo,
    "Abs": _absolute,
    "Clip": _clip,
    "Neg": _negate,
    "Floor": _rounding(Ratio.floor),
    "Ceil": _rounding(Ratio.ceil),
}
