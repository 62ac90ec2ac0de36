"""Sizes of tensors as planning counts them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import UsageError
from ..schedule.op_spec import TensorType
from ..segments import Segment

_TYPE = re.compile(r"([a-z]\w*)\[([^\]]*)\]")
_SIZE = re.compile(r"(?:T\.int64\()?(\d+)\)?")
# Kernels whose names say so read of a table only what they look up.
_LOOKUPS = ("take", "gather")


def types_in(spec: str, name: str) -> list[TensorType]:
    """Types of the operands and results that an operator's text names, in order.

    UsageError for sizes that only runs tell.
    """
    found = []
    for dtype, dims in _TYPE.findall(spec.partition(" | ")[0]):
        sizes = [_SIZE.fullmatch(d.strip()) for d in dims.split(",") if d.strip()]
        if None in sizes:
            raise unsized(name, f"{dtype}[{dims}]")
        found.append(TensorType(tuple(int(m.group(1)) for m in sizes if m is not None), dtype))
    return found


def unsized(name: str, found: str) -> UsageError:
    """The refusal of an operator whose work depends on sizes that are not known."""
    return UsageError(
        f"{name}: expected sizes that are known before a run, found {found}.",
        "compile, or plan, with --input NAME:1x3x224x224.",
    )


def check_no_host(segments: Sequence[Segment]) -> None:
    """UsageError if a part of a model is not compiled, for nothing here predicts its time."""
    for operator in (o for segment in segments for o in segment.not_compiled):
        raise UsageError(f"expected a model to plan that is compiled as a whole, found {operator}.")


def moved(name: str, operands: Sequence[float], weights: Sequence[float], results: Sequence[float]) -> float:
    """Bytes that a kernel moves at least: everything once, of tables that are looked up in no more than the result."""
    made = sum(results)
    if any(word in name for word in _LOOKUPS):
        weights = [min(w, made) for w in weights]
    return sum(operands) + sum(weights) + made
