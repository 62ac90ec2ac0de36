"""Evaluates nodes during import: on constants, and on small integer tensors computed from tensor shapes.

Tensors are numpy arrays. A tensor computed from shapes is an object array of Python ints, symbolic sizes (`tirx`
expressions) and, for floating point, `Ratio`s; a bool stays a bool. An evaluator that meets something it cannot decide
raises `Undecided`, and the node is then converted to run-time operators like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import ir

from .dtypes import dtype_name, is_float, is_integer, numpy_dtype
from .node import Node
from .ratio import Ratio
from .slicing import python_slice
from .symbols import Symbols
from .values import Value

# Shape computations have a handful of elements; a larger tensor is data.
_MOST_ELEMENTS = 1024

# Operators that ask for an input's shape, whatever it holds.
_OF_SHAPES = frozenset(["Shape", "Size"])


class Undecided(Exception):
    """The result is not known at compile time."""


@dataclass(frozen=True)
class Operand:
    """A tensor under evaluation: `array` has dtype object when it holds symbolic sizes, else `dtype`."""

    array: np.ndarray
    dtype: str

    @property
    def symbolic(self) -> bool:
        return self.array.dtype == object


Evaluator = Callable[[Node, list[Operand | None]], np.ndarray | tuple[np.ndarray, ...] | Operand]
_TABLE: dict[str, Evaluator] = {}


def evaluates(*op_types: str) -> Callable[[Evaluator], Evaluator]:
    def register(function: Evaluator) -> Evaluator:
        _TABLE.update(dict.fromkeys(op_types, function))
        return function

    return register


def evaluate(node: Node) -> list[Value] | None:
    """The outputs of `node` if they follow from constants and shapes, else None."""
    evaluator = _TABLE.get(node.op_type) if not node.domain else None
    if evaluator is None:
        return None
    try:
        operands = [] if node.op_type in _OF_SHAPES else [None if v is None else _operand(v) for v in node.values]
        result = evaluator(node, operands)
    except (Undecided, ArithmeticError):
        return None
    results = result if isinstance(result, tuple) else (result,)
    dtype = next((o.dtype for o in operands if o is not None), "int64")
    return [_value(r, dtype, node.symbols) for r in results]


def _operand(value: Value) -> Operand:
    if value.array is not None:
        return Operand(value.array, value.dtype)
    if value.elements is not None:
        return Operand(value.elements, value.dtype)
    raise Undecided


def _value(result: np.ndarray | Operand, dtype: str, symbols: Symbols) -> Value:
    """A result as a Value: an object array whose elements are all known becomes a constant."""
    if isinstance(result, Operand):
        result, dtype = result.array, result.dtype
    result = np.asarray(result)
    if result.dtype != object:
        return Value(array=result)
    if result.size > _MOST_ELEMENTS:
        raise Undecided
    elements = np.empty(result.shape, object)
    elements.reshape(-1)[:] = [_simplified(e, symbols) for e in result.reshape(-1)]
    if all(not isinstance(e, (ir.Expr, Ratio)) for e in elements.reshape(-1)):
        return Value(array=elements.astype(numpy_dtype(dtype)))
    return Value(elements=elements, dtype=dtype)


def _simplified(element: Any, symbols: Symbols) -> Any:
    if isinstance(element, Ratio):
        num = symbols.simplify(element.num)
        return num / element.den if isinstance(num, int) else Ratio(num, element.den)
    return symbols.simplify(element) if isinstance(element, ir.Expr) else element


def _ints(operand: Operand) -> list[int]:
    """The elements of an operand that must be fixed: axes, indices, steps."""
    if operand.symbolic and any(isinstance(e, ir.Expr) for e in operand.array.reshape(-1)):
        raise Undecided
    return [int(e) for e in operand.array.reshape(-1)]


def _objects(operand: Operand) -> np.ndarray:
    """The operand as an object array, for mixing with symbolic ones."""
    if operand.symbolic:
        return operand.array
    if operand.array.size > _MOST_ELEMENTS:
        raise Undecided
    return operand.array.astype(object)


def _axes(node: Node, operands: Sequence[Operand | None], default: Any = None) -> Any:
    """`axes`, which later opsets made an input."""
    given = operands[1] if len(operands) > 1 else None
    return node.attr("axes", default) if given is None else _ints(given)


# --- where sizes come from ---


@evaluates("Shape")
def _shape(node: Node, _: list) -> np.ndarray:
    dims = node.shape(0)
    return _int64(dims[node.attr("start", 0) : node.attr("end", len(dims))])


@evaluates("Size")
def _size(node: Node, _: list) -> np.ndarray:
    return _int64(math.prod(node.shape(0), start=1))


def _int64(sizes: Any) -> np.ndarray:
    array = np.array(sizes, object)
    return array if any(isinstance(e, ir.Expr) for e in array.reshape(-1)) else array.astype(np.int64)


# --- moving elements: the same for numbers and symbols ---


@evaluates("Identity")
def _identity(_: Node, o: list[Operand]) -> Operand:
    return o[0]


@evaluates("Reshape")
def _reshape(node: Node, o: list[Operand]) -> np.ndarray:
    target = node.attr("shape") if node.opset < 5 else _ints(o[1])
    if not node.attr("allowzero", 0):
        target = [o[0].array.shape[i] if d == 0 else d for i, d in enumerate(target)]
    return o[0].array.reshape(target)


@evaluates("Flatten")
def _flatten(node: Node, o: list[Operand]) -> np.ndarray:
    shape = o[0].array.shape
    return o[0].array.reshape(math.prod(shape[: node.attr("axis", 1)] if shape else ()), -1)


@evaluates("Unsqueeze")
def _unsqueeze(node: Node, o: list[Operand]) -> np.ndarray:
    return np.expand_dims(o[0].array, tuple(_axes(node, o, ())))


@evaluates("Squeeze")
def _squeeze(node: Node, o: list[Operand]) -> np.ndarray:
    axes = _axes(node, o)
    return np.squeeze(o[0].array, None if axes is None else tuple(axes))


@evaluates("Transpose")
def _transpose(node: Node, o: list[Operand]) -> np.ndarray:
    return np.transpose(o[0].array, node.attr("perm"))


@evaluates("Concat")
def _concat(node: Node, o: list[Operand]) -> np.ndarray:
    arrays = [_objects(x) for x in o] if any(x.symbolic for x in o) else [x.array for x in o]
    return np.concatenate(arrays, node.attr("axis", 1))


@evaluates("Gather")
def _gather(node: Node, o: list[Operand]) -> np.ndarray:
    indices = np.array(_ints(o[1]), np.int64).reshape(o[1].array.shape)
    return np.asarray(np.take(o[0].array, indices, node.attr("axis", 0)))


@evaluates("Slice")
def _slice(node: Node, o: list[Operand]) -> np.ndarray:
    if node.opset < 10:
        starts, ends, axes, steps = (
            node.attr("starts"),
            node.attr("ends"),
            node.attr("axes"),
            None,
        )
    else:
        starts, ends, axes, steps = (_ints(o[i]) if i < len(o) and o[i] is not None else None for i in range(1, 5))
    array = o[0].array
    index: list[slice] = [slice(None)] * array.ndim
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        index[axis] = python_slice(starts[i], ends[i], 1 if steps is None else steps[i], array.shape[axis])
    return array[tuple(index)]


@evaluates("Split")
def _split(node: Node, o: list[Operand]) -> tuple[np.ndarray, ...]:
    axis, array = node.attr("axis", 0), o[0].array
    sizes = _ints(o[1]) if len(o) > 1 and o[1] is not None else node.attr("split")
    if sizes is None:
        count = node.attr("num_outputs", node.num_outputs)
        chunk = -(-array.shape[axis] // count)
        cuts = [min(chunk * i, array.shape[axis]) for i in range(1, count)]
    else:
        cuts = list(np.cumsum(sizes)[:-1])
    return tuple(np.split(array, cuts, axis))


@evaluates("Expand")
def _expand(node: Node, o: list[Operand]) -> np.ndarray:
    shape = np.broadcast_shapes(o[0].array.shape, tuple(_ints(o[1])))
    if math.prod(shape) > max(o[0].array.size, _MOST_ELEMENTS):
        raise Undecided
    return np.broadcast_to(o[0].array, shape)


@evaluates("Tile")
def _tile(node: Node, o: list[Operand]) -> np.ndarray:
    if node.opset < 6 or o[0].array.size * math.prod(_ints(o[1])) > _MOST_ELEMENTS:
        raise Undecided
    return np.tile(o[0].array, _ints(o[1]))


@evaluates("ConstantOfShape")
def _constant_of_shape(node: Node, o: list[Operand]) -> np.ndarray:
    value = node.attr("value", np.zeros(1, np.float32))
    return np.full(_ints(o[0]), value.reshape(-1)[0], value.dtype)


# --- arithmetic on symbols; constants alone are left to the reference evaluator ---


def _arithmetic(function: Callable[[Symbols, Any, Any], Any]) -> Evaluator:
    """Element by element with numpy's broadcasting, over all inputs from the left."""

    def run(node: Node, o: list[Operand | None]) -> np.ndarray:
        _need_symbols(node, o)
        result = _objects(o[0])
        for other in o[1:]:
            result = np.frompyfunc(lambda a, b: function(node.symbols, a, b), 2, 1)(result, _objects(other))
        return np.asarray(result, object)

    return run


def _need_symbols(node: Node, o: list[Operand | None]) -> None:
    if not any(x is not None and x.symbolic for x in o) or (node.opset < 7 and node.attr("broadcast")):
        raise Undecided


def _divide(symbols: Symbols, a: Any, b: Any) -> Any:
    if isinstance(a, (Ratio, float)) or isinstance(b, (Ratio, float)):
        return Ratio.of(a) / b
    if (b is not None and not isinstance(b, int)) or b != 0:
        return symbols.truncdiv(a, b)
    raise Undecided


def _sized(
    function: Callable[[Symbols, Any, Any], Any],
) -> Callable[[Symbols, Any, Any], Any]:
    """For functions of integers only."""

    def run(symbols: Symbols, a: Any, b: Any) -> Any:
        if isinstance(a, (Ratio, float)) or isinstance(b, (Ratio, float)):
            raise Undecided
        return function(symbols, a, b)

    return run


def _modulo(symbols: Symbols, a: Any, b: Any) -> Any:
    if symbols.less(a, 0) is not False or symbols.less(0, b) is not True:
        raise Undecided
    return a - symbols.floordiv(a, b) * b


_ARITHMETIC: dict[str, Callable[[Symbols, Any, Any], Any]] = {
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Div": _divide,
    "Mod": _sized(_modulo),
    "Min": _sized(Symbols.minimum),
    "Max": _sized(Symbols.maximum),
    "Sum": lambda _, a, b: a + b,
}
_TABLE.update({op: _arithmetic(function) for op, function in _ARITHMETIC.items()})


def _decided(answer: bool | None) -> bool:
    if answer is None:
        raise Undecided
    return answer


_COMPARISONS: dict[str, Callable[[Symbols, Any, Any], bool]] = {
    "Equal": lambda s, a, b: _decided(s.equal(a, b)),
    "Less": lambda s, a, b: _decided(s.less(a, b)),
    "Greater": lambda s, a, b: _decided(s.less(b, a)),
    "LessOrEqual": lambda s, a, b: not _decided(s.less(b, a)),
    "GreaterOrEqual": lambda s, a, b: not _decided(s.less(a, b)),
}


def _comparison(function: Callable[[Symbols, Any, Any], bool]) -> Evaluator:
    compare = _arithmetic(_sized(function))
    return lambda node, o: compare(node, o).astype(bool)


_TABLE.update({op: _comparison(function) for op, function in _COMPARISONS.items()})


@evaluates("Where")
def _where(node: Node, o: list[Operand]) -> Operand:
    _need_symbols(node, o)
    if o[0].symbolic:
        raise Undecided
    return Operand(np.where(o[0].array, _objects(o[1]), _objects(o[2])), o[1].dtype)


@evaluates("Cast")
def _cast(node: Node, o: list[Operand]) -> Operand:
    _need_symbols(node, o)
    target = dtype_name(node.required("to"))
    if target is None or not (is_integer(target) or is_float(target)):
        raise Undecided
    convert = Ratio.of if is_float(target) else lambda e: e.trunc(node.symbols) if isinstance(e, Ratio) else int_of(e)
    array = np.frompyfunc(convert, 1, 1)(o[0].array)
    return Operand(np.asarray(array, object), target)


def int_of(element: Any) -> Any:
    """A known number truncated to int; a symbolic size as it is."""
    return element if isinstance(element, ir.Expr) else int(element)


def _rounding(method: Callable[[Ratio, Symbols], Ratio]) -> Evaluator:
    def run(node: Node, o: list[Operand]) -> np.ndarray:
        _need_symbols(node, o)
        return np.asarray(
            np.frompyfunc(lambda e: method(Ratio.of(e), node.symbols), 1, 1)(o[0].array),
            object,
        )

    return run


_TABLE.update(Floor=_rounding(Ratio.floor), Ceil=_rounding(Ratio.ceil))


@evaluates("Neg")
def _negate(node: Node, o: list[Operand]) -> np.ndarray:
    _need_symbols(node, o)
    return np.asarray(np.frompyfunc(lambda e: e * -1, 1, 1)(o[0].array), object)


_REDUCTIONS: dict[str, Callable[[Symbols, Any, Any], Any]] = {
    "ReduceProd": lambda _, a, b: a * b,
    "ReduceSum": lambda _, a, b: a + b,
    "ReduceMax": _sized(Symbols.maximum),
    "ReduceMin": _sized(Symbols.minimum),
}


def _reduction(function: Callable[[Symbols, Any, Any], Any]) -> Evaluator:
    def run(node: Node, o: list[Operand | None]) -> np.ndarray:
        _need_symbols(node, o)
        axes, array = _axes(node, o), o[0].array
        if array.ndim != 1 or array.size == 0 or (axes is not None and len(axes) == 0):
            raise Undecided
        result = array[0]
        for element in array[1:]:
            result = function(node.symbols, result, element)
        return np.array([result] if node.attr("keepdims", 1) else result, object)

    return run


_TABLE.update({op: _reduction(function) for op, function in _REDUCTIONS.items()})
