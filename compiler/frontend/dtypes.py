"""Names of element types: ONNX enum <-> the numpy/TVM name."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.BOOL: "bool",
    TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    TensorProto.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    TensorProto.FLOAT8E5M2: "float8_e5m2",
    TensorProto.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "uint4",
    **{
        getattr(TensorProto, code): name
        for code, name in (
            # Newer than the oldest onnx that is supported.
            ("FLOAT4E2M1", "float4_e2m1fn"),
            ("FLOAT6E2M3", "float6_e2m3fn"),
            ("FLOAT6E3M2", "float6_e3m2fn"),
            ("FLOAT8E8M0", "float8_e8m0fnu"),
            ("INT2", "int2"),
            ("UINT2", "uint2"),
        )
        if hasattr(TensorProto, code)
    },
}
_CODES = {name: code for code, name in _NAMES.items()}


def dtype_name(code: int) -> str | None:
    """The name ("float32", ...) of an ONNX `TensorProto.DataType`, or None where kompilo has no such type."""
    return _NAMES.get(code)


def dtype_code(name: str) -> int:
    """The ONNX `TensorProto.DataType` of a dtype name; KeyError for a name that ONNX lacks."""
    return _CODES[name]


def onnx_type_text(code: int) -> str:
    """The element type as ONNX spells it, for messages."""
    return TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else f"number {code}"


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of a dtype name (bfloat16 comes from ml_dtypes)."""
    code = _CODES.get(name)
    return np.dtype(name) if code is None else onnx.helper.tensor_dtype_to_np_dtype(code)


def is_float(name: str) -> bool:
    return name.startswith(("float", "bfloat"))


def is_integer(name: str) -> bool:
    return name.startswith(("int", "uint"))


def is_unsigned(name: str) -> bool:
    return name.startswith("uint")
