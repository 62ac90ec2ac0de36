"""Operators on element types that compiled code has as bytes: which take them, and how.

What only moves elements runs on the bytes as they are. Some converters know these types themselves; all others, and
operators of other domains, refuse them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te

from ..element_types import CARRIED
from .converters.registry import Carried, Converter
from .dtypes import numpy_dtype
from .narrow_types import POWERS, decoded
from .node import Node
from .values import Value

# Their first result has elements of the first input's type, and so have further inputs of that type.
_MOVES = frozenset(
    ["Dropout", "Flatten", "Identity", "Pad", "Reshape", "Squeeze", "TensorScatter", "Transpose", "Unsqueeze"]
)
# They ask something of each number.
_ASKING = frozenset(["IsInf", "IsNaN"])
# Their converters read and write the types themselves.
_KNOWING = frozenset(
    ["BitCast", "Cast", "CastLike", "Constant", "ConstantOfShape", "DequantizeLinear", "QuantizeLinear"]
)

# Operators of other domains -> one of ONNX's that takes these types in the same way.
_ELSEWHERE = {("com.microsoft", name): "DequantizeLinear" for name in ("DequantizeLinear", "GatherBlockQuantized")} | {
    ("com.microsoft", "QuantizeLinear"): "QuantizeLinear"
}


def carrying(converter: Converter, domain: str) -> Callable[[Node], Any]:
    """`converter`, for a node that may have inputs of carried types.

    The result raises ModelError where the operator does not take them.
    """

    def convert(node: Node) -> Any:
        if not any(value is not None and value.is_carried for value in node.values):
            return converter(node)
        op_type = _ELSEWHERE.get((domain, node.op_type), "") if domain else node.op_type
        if op_type in _KNOWING:
            return converter(node)
        if op_type in _ASKING:
            return converter(node.with_values([Value(expr=widened(node, 0))]))
        if op_type in _MOVES:
            return _moved(converter, node)
        dtype = next(v.dtype for v in node.values if v is not None and v.is_carried)
        raise node.error(f"inputs of {dtype} are not supported")

    return convert


def widened(node: Node, index: int) -> relax.Expr:
    """The numbers of input `index`, of `wide_type`; the input itself where its type is no carried one."""
    dtype, x = node.dtype(index), node.inputs[index]
    if dtype not in CARRIED:
        return x
    return node.te(lambda t: te.compute(t.shape, lambda *i: decoded(t(*i), dtype), name="numbers"), x, name="decode")


def _moved(converter: Converter, node: Node) -> Any:
    """Run on bytes; the first result is named as what it holds."""
    dtype = node.dtype(0)
    if dtype == POWERS and node.op_type == "Pad" and not node.has(2):
        raise node.error(f"{dtype} has no zero to pad with")
    results = converter(node.with_values([v and (v.carried(node.bb) if v.is_carried else v) for v in node.values]))
    first, *rest = results if isinstance(results, (tuple, list)) else (results,)
    return renamed(first, dtype), *rest


def renamed(codes: Any, dtype: str) -> np.ndarray | Carried:
    """What holds `codes`, bytes, as elements of `dtype`."""
    return codes.view(numpy_dtype(dtype)) if isinstance(codes, np.ndarray) else Carried(codes, dtype)
