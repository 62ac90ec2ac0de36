"""Evaluates nodes during import: on constants, and on small integer tensors computed from tensor shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import ir

from .dtypes import numpy_dtype
from .evaluate_arithmetic import ARITHMETIC
from .evaluate_movement import MOVEMENT
from .node import Node
from .operands import MOST_ELEMENTS, Operand, Operands, Undecided
from .ratio import Ratio
from .symbols import Symbols
from .values import Value

_EVALUATORS = MOVEMENT | ARITHMETIC

# Operators that ask for an input's shape, whatever it holds.
_OF_SHAPES = frozenset(["Shape", "Size"])


def evaluated_operators() -> frozenset[str]:
    """Operators of ONNX's own domain that need no converter where their results follow from shapes and constants."""
    return frozenset(_EVALUATORS)


def evaluate(node: Node) -> list[Value] | None:
    """The outputs of `node` if they follow from constants and shapes, else None.

    None also for a node that is wrong (an axis out of range, ...): its converter knows how to say so.
    """
    evaluator = None if node.domain else _EVALUATORS.get(node.op_type)
    if evaluator is None:
        return None
    try:
        operands = Operands([] if node.op_type in _OF_SHAPES else node.values)
        result = evaluator(node, operands)
        dtype = next((o.dtype for o in operands), "int64")
        return [_value(r, dtype, node.symbols) for r in (result if isinstance(result, tuple) else (result,))]
    except (Undecided, ArithmeticError, ValueError, IndexError):
        return None


def _value(result: np.ndarray | Operand, dtype: str, symbols: Symbols) -> Value:
    """A result as a Value: an object array whose elements are all known becomes a constant."""
    array, dtype = (result.array, result.dtype) if isinstance(result, Operand) else (np.asarray(result), dtype)
    if array.dtype != object:
        return Value(array=array)
    if array.size > MOST_ELEMENTS:
        raise Undecided
    elements = np.empty(array.shape, object)
    elements.reshape(-1)[:] = [_simplified(e, symbols) for e in array.reshape(-1)]
    if all(not isinstance(e, (ir.Expr, Ratio)) for e in elements.reshape(-1)):
        return Value(array=elements.astype(numpy_dtype(dtype)))
    return Value(elements=elements, dtype=dtype)


def _simplified(element: Any, symbols: Symbols) -> Any:
    if isinstance(element, Ratio):
        num = symbols.simplify(element.num)
        return num / element.den if isinstance(num, int) else Ratio(num, element.den)
    return symbols.simplify(element) if isinstance(element, ir.Expr) else element
