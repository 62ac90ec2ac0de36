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
    wanted = list(shape)
    for axis, size in sizes.items():
        if node.symbols.equal(shape[axis], size) is False:
            raise node.error(f"input {index} needs {size} {what} on axis {axis}, found {shape[axis]}")
        wanted[axis] = size
    return node.cast_shape(node.inputs[index], wanted)
