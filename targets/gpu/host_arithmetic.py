"""What operators and calls in a kernel's host function mean in numbers, and which extent of a launch a thread is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "FloorDiv": lambda a, b: a // b,
    "FloorMod": lambda a, b: a % b,
    "Div": lambda a, b: int(a / b) if isinstance(a, int) else a / b,
    "Mod": lambda a, b: a - int(a / b) * b,
    "Min": min,
    "Max": max,
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "And": lambda a, b: a and b,
    "Or": lambda a, b: a or b,
}
CALLS: dict[str, Callable[..., Any]] = {
    "tirx.shift_left": lambda a, b: a << b,
    "tirx.shift_right": lambda a, b: a >> b,
    "tirx.bitwise_and": lambda a, b: a & b,
    "tirx.bitwise_or": lambda a, b: a | b,
    "tirx.if_then_else": lambda c, a, b: a if c else b,
    "tirx.likely": lambda a: a,
    "tirx.buffer_data": lambda a: a,
}
EXTENTS = {
    **{f"{kind}Idx.{axis}": (kind, i) for kind in ("block", "thread") for i, axis in enumerate("xyz")},
    **{f"clusterCtaIdx.{axis}": ("cluster", i) for i, axis in enumerate("xyz")},
}
