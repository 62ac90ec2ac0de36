"""Tensors that a node holds itself."""

from __future__ import annotations

import numpy as np

from ..node import Node
from .registry import converter

_SCALARS_AND_LISTS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


@converter("Constant")
def constant(node: Node) -> np.ndarray:
    """The tensor given by one of the attributes `value`, `value_float`, `value_ints`, ..."""
    value = node.attr("value")
    if value is not None:
        return value
    for name, dtype in _SCALARS_AND_LISTS.items():
        value = node.attr(name)
        if value is not None:
            return np.array(value, dtype)
    raise node.error("expected a dense numeric value, found strings, a sparse tensor or nothing")
