"""Memory for candidates, from which a wrong access cannot reach anything else.

An array ends (but for what alignment asks for) where a page begins that may not be touched: reading or writing behind
it kills the process instead of the next candidate's data. Operands and expected results are write-protected.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from functools import cache
from math import prod

import numpy as np

# What kernels may assume of the addresses of their buffers.
ALIGNMENT = 64
_CANARY = 0xA5


class Guarded:
    """An uninitialised C-contiguous array between pages that may not be touched, aligned to 64 bytes.

    Raises MemoryError if the system gives no more memory.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype):
        page = mmap.PAGESIZE
        size = -(-max(1, prod(shape) * dtype.itemsize) // ALIGNMENT) * ALIGNMENT
        pages = -(-size // page) * page
        try:
            self._map = mmap.mmap(-1, pages + 2 * page)
        except OSError as error:
            raise MemoryError(f"{size} bytes for an array: {error.strerror}") from None
        memory = np.frombuffer(self._map, np.uint8)
        self._first, self._size = memory.ctypes.data + page, pages
        _protect(memory.ctypes.data, page, 0)
        _protect(self._first + pages, page, 0)
        start = page + pages - size
        used = prod(shape) * dtype.itemsize
        self.array = memory[start : start + used].view(dtype).reshape(shape)
        # The edges between the array and the forbidden pages.
        self._edges = (memory[page:start], memory[start + used : page + pages])
        for edge in self._edges:
            edge[:] = _CANARY

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use, the forbidden pages not counted."""
        return self._size

    def lock(self) -> None:
        """From now on a write kills the process."""
        _protect(self._first, self._size, mmap.PROT_READ)

    def overrun(self) -> bool:
        """Whether something wrote closely in front of or behind the array."""
        return any((edge != _CANARY).any() for edge in self._edges)


def guarded(values: np.ndarray) -> Guarded:
    """A write-protected copy of `values`."""
    memory = Guarded(values.shape, values.dtype)
    memory.array[...] = values
    memory.lock()
    return memory


def _protect(address: int, size: int, protection: int) -> None:
    if _mprotect()(address, size, protection) != 0:
        raise MemoryError(f"the system refused to protect {size} bytes: error {ctypes.get_errno()}")


@cache
def _mprotect() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).mprotect
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    return function


class ColdMemory:
    """A ring of numbers larger than the caches, from which each call of a candidate gets weights of its own.

    After a round trip, and it takes many candidates to make one, a part has been pushed out of the caches by those
    read since. What the numbers are does not matter: they are normal, and results are no longer looked at.
    """

    def __init__(self, size: int):
        self._size = size
        self._rings: dict[np.dtype, np.ndarray] = {}
        self._position = 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return sum(ring.nbytes for ring in self._rings.values())

    def copies(self, nbytes: int) -> int:
        """How many copies of `nbytes` make a round trip; 1 if what is that large pushes itself out of the caches."""
        return max(1, self._size // max(nbytes, ALIGNMENT))

    def take(self, like: np.ndarray) -> np.ndarray:
        """The next part of the ring as an array such as `like`, or `like` itself if the ring is too small for two."""
        if 2 * like.nbytes > self._size:
            return like
        step = -(-like.nbytes // ALIGNMENT) * ALIGNMENT
        if self._position + step > self._size:
            self._position = 0
        start = self._position // like.itemsize
        self._position += step
        return self._ring(like.dtype)[start : start + like.size].reshape(like.shape)

    def _ring(self, dtype: np.dtype) -> np.ndarray:
        if dtype not in self._rings:
            memory = Guarded((self._size // dtype.itemsize,), dtype)
            block = np.random.Generator(np.random.SFC64(0)).random(1 << 18, np.float32) - np.float32(0.5)
            for start in range(0, memory.array.size, block.size):
                part = memory.array[start : start + block.size]
                part[...] = block[: part.size]
            self._rings[dtype] = memory.array
        return self._rings[dtype]
