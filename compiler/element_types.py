"""Element types that numpy knows through ml_dtypes only, and what compiled code sees of them.

Compiled code computes with bfloat16 itself. The types of 8 bits and fewer are bytes to it, an element in each, as
ml_dtypes has them too: their bits are the byte's lowest, and converters take them apart.
"""

from __future__ import annotations

import numpy as np

from .errors import KompiloError

# Name of ml_dtypes -> bits of an element. A byte in memory holds one.
CARRIED: dict[str, int] = {
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8,
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
    "float4_e2m1fn": 4,
    "int4": 4,
    "uint4": 4,
    "int2": 2,
    "uint2": 2,
}
CARRIER = "uint8"
EXTENDED = frozenset([*CARRIED, "bfloat16"])


def carrier(name: str) -> str:
    """The type that compiled code has for the type `name`."""
    return CARRIER if name in CARRIED else name


def array_dtype(name: str) -> np.dtype:
    """The dtype of arrays of the type `name`.

    Raises:
        KompiloError: only ml_dtypes has it, and that is not installed, or too old.
    """
    if name not in EXTENDED:
        return np.dtype(name)
    try:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    except (ImportError, AttributeError):
        raise KompiloError(f"numpy has {name} only with the package ml_dtypes.", "pip install -U ml_dtypes") from None
