"""What the converters of ONNX Runtime's operators share: inputs of given shapes, and attributes that are passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from ...dtypes import dtype_code, numpy_dtype
from ...values import Dim, Value
from ..runtime_checks import with_sizes

if TYPE_CHECKING:
    from ...node import Node

FLOATS = "float16 float32 float64 bfloat16"
INDICES = "int32"


def sized(node: Node, index: int, *sizes: Dim | None) -> Value:
    """Input `index` with one dimension for each of `sizes`, of that size where it is not None.

    Raises:
        ModelError: it has another number of dimensions, or another fixed size; a run checks sizes that are open.
    """
    shape = node.shape(index)
    if len(shape) != len(sizes):
        raise node.error(f"input {index} needs {len(sizes)} dimensions, found shape {shape}")
    wanted = {axis: size for axis, size in enumerate(sizes) if size is not None}
    expr = with_sizes(node, index, wanted)
    value = node.value(index)
    return value if value.is_expr(expr) else Value(expr=expr)


def one_element(node: Node, index: int) -> Value:
    """Input `index`; ModelError unless it has one element."""
    shape = node.shape(index)
    if any(node.symbols.equal(size, 1) is False for size in shape):
        raise node.error(f"input {index} needs one element, found shape {shape}")
    return node.value(index)


def given(node: Node, index: int) -> Value | None:
    """Input `index`; None where it is left out."""
    return node.value(index) if node.has(index) else None


def passed_on(node: Node, *names: str) -> dict[str, Any]:
    """Those of the attributes that the node has, and that are not empty lists."""
    return {name: value for name in names if (value := node.attr(name)) not in (None, [])}


def one_of(node: Node, name: str, choices: tuple[Any, ...], default: Any) -> Any:
    """Attribute `name`; ModelError where it is none of `choices`."""
    value = node.attr(name, default)
    if value not in choices:
        raise node.error(f"attribute {name!r} must be one of {', '.join(map(str, choices))}, found {value!r}")
    return value


def number(value: float, dtype: str) -> np.ndarray:
    """A constant of shape ()."""
    return np.array(value, numpy_dtype(dtype))


def cast(node: Node, x: Value, dtype: str) -> Value:
    return x if x.dtype == dtype else node.call("Cast", x, to=dtype_code(dtype))


def shape_value(node: Node, *sizes: Dim) -> Value:
    """A vector of sizes, as operators that ask for a shape take it."""
    sizes = tuple(node.symbols.simplify(size) for size in sizes)
    if all(isinstance(size, int) for size in sizes):
        return Value(array=np.array(sizes, np.int64))
    elements = np.empty(len(sizes), object)
    elements[:] = sizes
    return Value(elements=elements)


def reshaped(node: Node, x: Value, *sizes: Dim) -> Value:
    return node.call("Reshape", x, shape_value(node, *sizes))


def permuted(node: Node, x: Value, *order: int) -> Value:
    return x if list(order) == sorted(order) else node.call("Transpose", x, perm=list(order))


def emitted(node: Node, expr: relax.Expr) -> Value:
    """A Relax expression as a value that further operators take."""
    return Value(expr=node.emit(expr))
