"""The three Relax operators that only quantized graphs have; LowerQuantized turns them into plain ones.

    kompilo.quantize(x, inverse)                               float32 -> int8
    kompilo.requantize(acc, multiplier, shift; low, high)      int32 -> int8, see schedule/requantize.py
    kompilo.dequantize(x, scale)                               int8 or int32 -> float32

docs/quantization.md is their contract.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, Op

from .. import tensors

QUANTIZE, REQUANTIZE, DEQUANTIZE = "kompilo.quantize", "kompilo.requantize", "kompilo.dequantize"
_MEANINGS = {
    QUANTIZE: "clip(nearbyint(x * inverse), -127, 127)",
    REQUANTIZE: "clip((acc * multiplier + (1 << (shift - 1))) >> shift, low, high)",
    DEQUANTIZE: "x * scale",
}


def quantize(x: relax.Expr, scale: float) -> Call:
    """int8 of the float32 tensor `x`, in steps of `scale`."""
    return _call(QUANTIZE, [x, tensors.constant(np.asarray(1.0 / scale), "float32")], "int8")


def requantize(acc: relax.Expr, multiplier: np.ndarray, shift: np.ndarray, low: int, high: int) -> Call:
    """int8 of the int32 tensor `acc`; multiplier and shift are int32 and broadcast against it."""
    operands = [acc, tensors.constant(multiplier, "int32"), tensors.constant(shift, "int32")]
    return _call(REQUANTIZE, operands, "int8", low=low, high=high)


def dequantize(x: relax.Expr, scale: np.ndarray) -> Call:
    """float32 of the integers `x`; the scale broadcasts against them."""
    return _call(DEQUANTIZE, [x, tensors.constant(scale, "float32")], "float32")


def limits(call: Call) -> tuple[int, int]:
    """low and high of a requantize."""
    return int(call.attrs["low"]), int(call.attrs["high"])


def _call(name: str, operands: list[relax.Expr], dtype: str, **attrs: int) -> Call:
    result = relax.TensorType(operands[0].ty.shape, dtype)
    kept = tvm.ir.make_node("ir.DictAttrs", **attrs)
    return Call(_operator(name), operands, kept, [result], ret_ty=result)


def _operator(name: str) -> Op:
    """The operator, registered at the first use."""
    full = f"relax.{name}"
    if full not in Op.list_op_names():
        tvm.ir.op._ffi_api.RegisterOp(full, _MEANINGS[name])
        tvm.ir.register_op_attr(full, "FPurity", True)
        tvm.ir.register_op_attr(full, "FInferType", _infer)
    return Op.get(full)


def _infer(call: Call, _: Any) -> Any:
    return call.ty_args[0]
