"""A packer of weights as a table: which element goes where, and what is filled with zeros.

Templates pack constant operands by moving elements and padding with zeros. A machine without the template can do the
same from a table, made by packing element numbers. Tables of regular layouts compress to next to nothing, so a bundle
carries them rather than weights.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

# Element numbers travel through a packer as digits that the dtype holds exactly.
_DIGIT_BITS = {
    "float32": 20, "float64": 24, "float16": 10, "int8": 6, "uint8": 6, "uint16": 15, "int32": 24,
    "int64": 24,
}  # fmt: skip


@dataclass(frozen=True)
class Gather:
    """The element of the flattened operand for each place of the packed one (-1: zero); int32 or int64."""

    index: np.ndarray
    dtype: str

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The packed form of `array`."""
        flat = np.ascontiguousarray(array).reshape(-1)
        packed = flat[np.maximum(self.index, 0)]
        packed[self.index < 0] = 0
        return packed.astype(self.dtype, copy=False)

    def to_bytes(self) -> bytes:
        """Compressed: steps from place to place repeat where a layout is regular."""
        flat = self.index.reshape(-1)
        steps = np.diff(flat, prepend=flat.dtype.type(0))
        head = json.dumps({"shape": self.index.shape, "index": self.index.dtype.str, "dtype": self.dtype}).encode()
        return head + b"\n" + zlib.compress(steps.tobytes(), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> Gather:
        """The inverse of `to_bytes`."""
        head, _, body = data.partition(b"\n")
        facts: dict[str, Any] = json.loads(head)
        dtype = np.dtype(facts["index"])
        steps = np.frombuffer(zlib.decompress(body), dtype)
        return cls(np.cumsum(steps, dtype=dtype).reshape(facts["shape"]), facts["dtype"])


def gather_of(pack: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], dtype: str) -> Gather | None:
    """What `pack` does to operands of this shape and dtype; None if it does more than to move elements."""
    bits = _DIGIT_BITS.get(dtype)
    if bits is None:
        return None
    size = prod(shape)
    numbers = np.arange(1, size + 1, dtype=np.int64).reshape(shape)  # 0 is what padding gives
    index: np.ndarray | None = None
    for shift in range(0, max(1, size.bit_length()), bits):
        digits = np.asarray(pack(((numbers >> shift) & ((1 << bits) - 1)).astype(dtype)))
        whole = digits.astype(np.float64)
        if not (np.isfinite(whole).all() and (whole == np.rint(whole)).all()):
            return None
        part = whole.astype(np.int64) << shift
        index = part if index is None else index + part
    assert index is not None, "there is one digit at least"
    if index.size and not 0 <= int(index.min()) <= int(index.max()) <= size:
        return None
    small = np.int32 if size < 2**31 else np.int64
    gather = Gather((index - 1).astype(small), str(digits.dtype))
    return gather if _agrees(gather, pack, shape, dtype) else None


def _agrees(gather: Gather, pack: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], dtype: str) -> bool:
    """Whether the table gives what the packer does for numbers of both signs."""
    values = np.random.Generator(np.random.SFC64(1)).random(shape, np.float32) * 8
    values = (values if dtype.startswith("uint") else values - 4).astype(dtype)
    wanted = np.asarray(pack(values))
    return wanted.dtype == np.dtype(gather.dtype) and np.array_equal(wanted, gather.apply(values))
