"""Tensors handed from one library to another under another name of their element type.

numpy has no bfloat16 of its own and refuses it in DLPack, where the same bits as uint16 pass both ways.
"""

from __future__ import annotations

import ctypes
from typing import Any

# DLPack's codes of kinds of numbers.
UNSIGNED, BRAIN_FLOAT = 1, 4

# A capsule's name -> bytes before its DLTensor: the newer form begins with a version, an owner, a deleter and flags.
_OFFSETS = {b"dltensor": 0, b"dltensor_versioned": 32}


class _Tensor(ctypes.Structure):
    """DLPack's DLTensor, up to the element type."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


class Relabelled:
    """`tensor`, an object with `__dlpack__`, as another library shall see it: elements of the kind `code`."""

    def __init__(self, tensor: Any, code: int) -> None:
        self._tensor, self._code = tensor, code

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._tensor.__dlpack__(**options)
        name = next((n for n in _OFFSETS if _is_valid(capsule, n)), None)
        if name is None:
            raise BufferError("expected a new DLPack capsule")
        # Each capsule has a description of its own, so the owner's tensor keeps its type.
        _Tensor.from_address(_pointer(capsule, name) + _OFFSETS[name]).code = self._code
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._tensor.__dlpack_device__()
