"""Look-up tables of a nest, roughly: what its operations take by kind and width. An estimate; nothing checks it."""

from __future__ import annotations

from ..kernel.graph import Node
from ..kernel.schedule import Schedule

# Of a float's operations, by its bits: about what the vendor's floating-point cores take with their multiplier in DSPs.
_FLOATS = {"add": {32: 360, 16: 180}, "sub": {32: 360, 16: 180}, "mul": {32: 110, 16: 60}}
_COMPARE_FLOAT = 40
# Operations of integers that take a look-up table for each bit.
_PER_BIT = ("add", "sub", "max", "min", "eq", "lt", "le", "select", "shrv")


def luts_of(schedule: Schedule) -> int:
    """Look-up tables of one nest."""
    return sum(_luts(n, schedule) for n in schedule.graph.nodes)


def _luts(node: Node, schedule: Schedule) -> int:
    kind = node.op if node.kind == "acc" else node.kind
    if node.dtype.is_float:
        if kind in _FLOATS:
            return _FLOATS[kind][node.dtype.bits]
        return _COMPARE_FLOAT + node.dtype.bits // 2 if kind in ("max", "min", "select") else 0
    if kind in _PER_BIT:
        compared = any(schedule.graph.nodes[a].dtype.is_float for a in node.args)
        return _COMPARE_FLOAT if compared and kind != "select" else node.width
    return 0
