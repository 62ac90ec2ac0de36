"""Numbers of a dtype as numpy arrays; bfloat16, which numpy lacks, as its bits in uint16 (a carrier).

Standard library and numpy only: measuring bundles carry this file.
"""

from __future__ import annotations

import numpy as np

_CARRIERS = {"bfloat16": "uint16"}


def is_integer(dtype: str) -> bool:
    """Whether `dtype` is a type of whole numbers."""
    return dtype.startswith(("int", "uint"))


def carrier(dtype: str) -> np.dtype:
    """The type of arrays that hold numbers of `dtype`."""
    return np.dtype(_CARRIERS.get(dtype, dtype))


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` as `carrier(dtype)` holds them; bfloat16 is rounded to the nearest, to even between two."""
    if dtype not in _CARRIERS:
        return values.astype(dtype, copy=False)
    word = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (word + np.uint32(0x7FFF) + (word >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def widen(array: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers, as float64, of an array of `narrow`, or of one that holds numbers already."""
    if dtype in _CARRIERS and array.dtype == _CARRIERS[dtype]:
        array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.asarray(array, np.float64)
