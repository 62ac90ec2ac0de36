"""Memory for candidates, from which a wrong access cannot reach anything else.

An array ends (but for what alignment asks for) where a page begins that may not be touched: reading or writing behind
it kills the process instead of the next candidate's data. Operands and expected results are write-protected.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import IO

import numpy as np

from ...schedule.target_spec import TargetSpec

# What kernels may assume of the addresses of their buffers.
ALIGNMENT = 64
_CANARY = 0xA5
_RING_PER_CACHE, _LARGEST_RING = 1.25, 128 << 20


class Guarded:
    """An uninitialised C-contiguous array between pages that may not be touched, aligned to 64 bytes.

    Its memory is that of `file`, of `guarded_bytes` bytes, if there is one. Raises MemoryError if the system gives no
    more memory.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype, file: int = -1):
        page = mmap.PAGESIZE
        used = prod(shape) * dtype.itemsize
        size = -(-max(1, used) // ALIGNMENT) * ALIGNMENT
        pages = guarded_bytes(used) - 2 * page
        try:
            self._map = mmap.mmap(file, pages + 2 * page)
        except OSError as error:
            raise MemoryError(f"{size} bytes for an array: {error.strerror}") from None
        memory = np.frombuffer(self._map, np.uint8)
        self._first, self._size = memory.ctypes.data + page, pages
        _protect(memory.ctypes.data, page, 0)
        _protect(self._first + pages, page, 0)
        start = page + pages - size
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


def guarded_bytes(size: int) -> int:
    """Bytes of memory that an array of `size` bytes takes, pages around it included."""
    page = mmap.PAGESIZE
    return -(-max(1, size) // page) * page + 2 * page


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

    After a round trip a part has been pushed out of the caches by those read since. What the numbers are does not
    matter: they are normal, and results are no longer looked at.

    Where the system has put memory makes it up to 1.4 times slower: only candidates that read the same ring compare.
    Float32 numbers are in `file`, as `cold_file` makes it, which several processes may share.
    """

    def __init__(self, size: int, file: int = -1):
        self._size, self._file = size, file
        self._rings: dict[np.dtype, np.ndarray] = {}
        self._position = 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return sum(ring.nbytes for ring in self._rings.values())

    def copies(self, nbytes: int) -> int:
        """How many copies of `nbytes` make a round trip; 1 if what is that large pushes itself out of the caches."""
        return max(1, self._size // max(nbytes, ALIGNMENT))

    def rewind(self) -> None:
        """Begin at the first part again."""
        self._position = 0

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
            file = self._file if dtype == np.float32 else -1
            memory = Guarded((self._size // dtype.itemsize,), dtype, file)
            block = np.random.Generator(np.random.SFC64(0)).random(1 << 18, np.float32) - np.float32(0.5)
            for start in range(0, memory.array.size, block.size):
                part = memory.array[start : start + block.size]
                part[...] = block[: part.size]
            self._rings[dtype] = memory.array
        return self._rings[dtype]


def cold_bytes(spec: TargetSpec) -> int:
    """Bytes of a ring for a target: what is read again after that many bytes has left its last cache."""
    last_cache = getattr(spec, "l3_bytes", 0) or getattr(spec, "l2_bytes", 0) or 32 << 20
    return min(int(last_cache * _RING_PER_CACHE), _LARGEST_RING) // ALIGNMENT * ALIGNMENT


def cold_file(spec: TargetSpec) -> IO[bytes] | None:
    """Memory for the rings of several processes, as a file without a name; None where files must not be that large."""
    file = os.fdopen(os.memfd_create("kompilo-weights"), "wb")
    try:
        os.ftruncate(file.fileno(), guarded_bytes(cold_bytes(spec)))
    except OSError:  # ulimit -f
        file.close()
        return None
    return file
