"""One memory for several tensors of which no two are needed at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..kernel.ir import Array
from ..kernel.types import Scalar
from .body import Body, Model, Tensor, with_arrays

# Smaller ones keep a memory of their own, with banks of their own.
_LEAST_BITS = 1 << 18
_MOST_ROWS = 64


@dataclass
class _Slot:
    """A memory: the size of its largest tensor, and the operator after which it is free.

    `rows` is the largest power of two that divides the rows of its tensors: tensors of unlike rows would be in each
    other's way when they are dealt out to banks.
    """

    name: str
    dtype: Scalar
    rows: int
    size: int
    busy_until: int


def share_memories(model: Model) -> Model:
    """`model` with large tensors between operators in as few memories as their lives allow.

    A tensor lives from the operator that writes it to the last one that reads it; it takes the free memory whose size
    fits best.
    """
    first, last = _lives(model)
    slots: list[_Slot] = []
    chosen: dict[str, _Slot] = {}
    for name in sorted(first, key=lambda n: (first[n], n)):
        tensor = model.tensors[name]
        if tensor.role != "local" or tensor.size * tensor.dtype.bits < _LEAST_BITS:
            continue
        rows = _rows(model.bodies[first[name]])
        like = [s for s in slots if s.dtype == tensor.dtype and s.rows == rows]
        free = [s for s in like if s.busy_until < first[name]]
        slot = min(free, key=lambda s: (max(s.size, tensor.size) - s.size, s.size), default=None)
        if slot is None:
            slot = _Slot(f"m{len(slots)}", tensor.dtype, rows, 0, -1)
            slots.append(slot)
        slot.size, slot.busy_until = max(slot.size, tensor.size), last[name]
        chosen[name] = slot

    def own(array: Array) -> Array:
        slot = chosen.get(array.name)
        return array if slot is None else replace(array, name=slot.name, shape=(slot.size,), role="local")

    tensors = {name: t for name, t in model.tensors.items() if name not in chosen}
    tensors |= {s.name: Tensor(s.name, (s.size,), s.dtype, "local") for s in slots}
    return replace(model, tensors=tensors, bodies=tuple(with_arrays(b, own) for b in model.bodies))


def _rows(body: Body) -> int:
    extent = body.axes[-1].extent if body.axes else 1
    return min(extent & -extent, _MOST_ROWS)


def _lives(model: Model) -> tuple[dict[str, int], dict[str, int]]:
    """For every tensor the number of the operator that first writes it, and of the last that touches it."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for k, body in enumerate(model.bodies):
        first.setdefault(body.target.name, k)
        for name in (body.target.name, *(x.array.name for x in body.loads())):
            last[name] = k
    return first, last
