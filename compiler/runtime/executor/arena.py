"""The memory that workers share: a slot for each request in flight, in which every tensor has its place.

All sizes are known, so nothing is allocated while requests run: a device writes a tensor to its place, the next reads
it there. The memory has no name in the file system and goes with the last process that has it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...element_types import array_dtype
from ...errors import KompiloError
from ...segments import Segment
from ..tensors import ALIGNMENT

_PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a slot: `offset` in bytes, a multiple of 64."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * array_dtype(self.dtype).itemsize


def places_of(pieces: Sequence[Segment]) -> dict[str, Place]:
    """A place for each tensor that goes into a piece or comes out of one, by its name."""
    places: dict[str, Place] = {}
    offset = 0
    for spec in (s for piece in pieces for s in (*piece.inputs, *piece.outputs)):
        if spec.name not in places:
            place = Place(offset, tuple(int(d) for d in spec.shape), spec.dtype)
            places[spec.name] = place
            offset += -(-max(place.nbytes, 1) // ALIGNMENT) * ALIGNMENT
    return places


class Arena:
    """`slots` slots for `places`, in memory of the file `descriptor` (None: new memory), which `close` closes.

    Raises:
        KompiloError: the system has no room for them; the descriptor is closed.
    """

    def __init__(self, places: Mapping[str, Place], slots: int, descriptor: int | None = None) -> None:
        self.places = places
        end = max((p.offset + max(p.nbytes, 1) for p in places.values()), default=1)
        self.slot_bytes = -(-end // _PAGE) * _PAGE
        size = self.slot_bytes * slots
        try:
            self.descriptor = _new_file(size) if descriptor is None else descriptor
            try:
                self._memory: Any = np.frombuffer(mmap.mmap(self.descriptor, size), np.uint8)
            except BaseException:
                self.close()
                raise
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise KompiloError(f"there is no memory for {slots} requests in flight ({size} bytes): {reason}.") from None
        self._views: dict[tuple[int, str], np.ndarray] = {}

    def view(self, slot: int, name: str) -> np.ndarray:
        """The tensor `name` of a slot, for reading and writing."""
        found = self._views.get((slot, name))
        if found is None:
            place = self.places[name]
            start = slot * self.slot_bytes + place.offset
            raw = self._memory[start : start + place.nbytes]
            found = self._views[slot, name] = raw.view(array_dtype(place.dtype)).reshape(place.shape)
        return found

    def close(self) -> None:
        """Gives the descriptor back; the memory goes when its last view does."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _new_file(size: int) -> int:
    descriptor = os.memfd_create("kompilo-arena", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def as_json(places: Mapping[str, Place]) -> list[list[Any]]:
    """The places as lists that JSON knows."""
    return [[name, place.offset, list(place.shape), place.dtype] for name, place in places.items()]


def from_json(rows: Iterable[Sequence[Any]]) -> dict[str, Place]:
    """What `as_json` was given."""
    return {name: Place(offset, tuple(shape), dtype) for name, offset, shape, dtype in rows}
