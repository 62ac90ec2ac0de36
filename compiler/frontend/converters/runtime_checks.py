"""Sizes that an operator fixes although the model leaves them open: taken as fixed, and checked at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tvm import relax

from ..values import Dim

if TYPE_CHECKING:
    from ..node import Node


def with_sizes(node: Node, index: int, sizes: Mapping[int, Dim], what: str = "elements") -> relax.Expr:
    """Input `index` with the given size on each axis: unchanged where that is known, else behind a run-time check.

    Raises:
        ModelError: an axis has another fixed size; the message counts `what`.
    """
    shape = node.shape(index)
    wanted, known = list(shape), True
    for axis, size in sizes.items():
        same = node.symbols.equal(shape[axis], size)
        if same is False:
            raise node.error(f"input {index} needs {size} {what} on axis {axis}, found {shape[axis]}")
        if same is None:
            wanted[axis], known = size, False
    data = node.inputs[index]
    return data if known else node.cast_shape(data, wanted)
