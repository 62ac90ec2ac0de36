"""MessagePack, as far as the metadata of AMD code objects uses it: everything but extension types.

The format is that of https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from ...compiler.errors import KompiloError

_DEEPEST = 32  # levels of nesting; metadata has five

# First byte -> struct format of a number that follows.
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class _Reader:
    def __init__(self, data: bytes):
        self.data = data
        self.position = 0
        # First byte -> what follows the length, and the format of the length.
        self.sized: dict[int, tuple[Callable[[int, int], Any], str]] = {
            0xC4: (self._bytes, ">B"),
            0xC5: (self._bytes, ">H"),
            0xC6: (self._bytes, ">I"),
            0xD9: (self._string, ">B"),
            0xDA: (self._string, ">H"),
            0xDB: (self._string, ">I"),
            0xDC: (self._array, ">H"),
            0xDD: (self._array, ">I"),
            0xDE: (self._map, ">H"),
            0xDF: (self._map, ">I"),
        }

    def value(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise KompiloError(f"MessagePack: expected at most {_DEEPEST} levels of nesting, found more.")
        first = self._take(1)[0]
        if first <= 0x7F:
            return first
        if first >= 0xE0:
            return first - 256
        if first <= 0x8F:
            return self._map(first & 15, depth)
        if first <= 0x9F:
            return self._array(first & 15, depth)
        if first <= 0xBF:
            return self._string(first & 31, depth)
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            return self._number(_NUMBERS[first])
        if first in self.sized:
            read, length = self.sized[first]
            return read(self._number(length), depth)
        raise KompiloError(f"MessagePack: a value of type 0x{first:02x} is not supported.")

    def _take(self, size: int) -> bytes:
        taken = self.data[self.position : self.position + size]
        if len(taken) < size:
            raise KompiloError(f"MessagePack: expected {size} more bytes, found {len(taken)}.")
        self.position += size
        return taken

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _bytes(self, size: int, _depth: int) -> bytes:
        return self._take(size)

    def _string(self, size: int, _depth: int) -> str:
        return self._take(size).decode("utf-8", "replace")

    def _array(self, count: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[Any, Any]:
        items = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if isinstance(key, list | dict):
                raise KompiloError("MessagePack: expected a plain value as a key, found an array or a map.")
            items[key] = self.value(depth + 1)
        return items


def unpack(data: bytes) -> Any:
    """The value at the start of `data`; what follows it is ignored, as notes are padded.

    Raises KompiloError where the bytes end early, nest too deeply or hold an extension type.
    """
    return _Reader(data).value(0)
