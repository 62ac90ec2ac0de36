"""Cast and CastLike."""

from __future__ import annotations

import math

from tvm import ir, relax, te, tirx

from ...element_types import CARRIED
from ..carried import widened
from ..dtypes import dtype_name, is_float, onnx_type_text
from ..narrow_types import POWERS, encoded, wide_type
from ..node import Node
from .broadcast import scalar
from .registry import Carried, converter

op = relax.op

_ROUND_MODES = ("up", "down", "nearest")


def cast_to(node: Node, x: relax.Expr, source: str, target: str) -> relax.Expr:
    """Toward zero from float to int; to bool, whether not zero. Neither type is one that compiled code has as bytes."""
    if source == target:
        return x
    if target == "bool":
        # The comparison is false for NaN, which is not zero.
        nonzero = op.not_equal(x, scalar(0, source))
        return op.logical_or(nonzero, op.isnan(x)) if is_float(source) else nonzero
    if is_float(source) and target == "uint64":
        # Beyond the range of int64 through the difference from 2**63, which is exact: floats there are whole numbers.
        half = scalar(2.0**63, source)
        high = op.greater_equal(x, half)
        low = op.astype(op.astype(op.where(high, op.subtract(x, half), x), "int64"), target)
        return op.where(high, op.add(low, scalar(2**63, target)), low)
    if is_float(source) and target in _THROUGH:
        # A float outside a narrow type's range: through a wider integer it wraps, as the hardware's conversion does.
        return op.astype(op.astype(x, _THROUGH[target]), target)
    if target == "bfloat16" and source != "bool":
        single = x if source == "float32" else node.emit(op.astype(x, "float32"))
        x = node.te(_rounded_to_bfloat16, single, name="round_to_bfloat16")
    return op.astype(x, target)


def _rounded_to_bfloat16(x: te.Tensor) -> te.Tensor:
    """float32 numbers that bfloat16 has too, halves to even: TVM computes in float32 what it fuses behind a cast."""

    def element(*i: tirx.Var) -> ir.Expr:
        value = x(*i)
        bits = tirx.reinterpret("uint32", value)
        half = ((bits >> tirx.const(16, "uint32")) & tirx.const(1, "uint32")) + tirx.const(0x7FFF, "uint32")
        number = tirx.reinterpret("float32", (bits + half) & tirx.const(0xFFFF0000, "uint32"))
        # By its bits: TVM takes a comparison of a value with itself for known.
        is_nan = (bits & tirx.const(0x7FFFFFFF, "uint32")) > tirx.const(0x7F800000, "uint32")
        return tirx.Select(is_nan, tirx.const(math.nan, "float32"), number)

    return te.compute(x.shape, element, name="rounded")


_THROUGH = {"int8": "int32", "uint8": "int32", "int16": "int32", "uint16": "int32", "uint32": "int64"}


@converter("Cast")
def cast(node: Node) -> relax.Expr | Carried:
    # In opset 1 the type was written as a string.
    code = node.required("to")
    target = code.lower().replace("double", "float64") if isinstance(code, str) else dtype_name(code)
    target = "float32" if target == "float" else target
    if target is None:
        raise node.error(f"element type {onnx_type_text(code)} is not supported")
    return _cast(node, target)


@converter("CastLike", since=15)
def cast_like(node: Node) -> relax.Expr | Carried:
    return _cast(node, node.dtype(1))


def _cast(node: Node, target: str) -> relax.Expr | Carried:
    """Input 0 as elements of `target`, any type."""
    source = node.dtype(0)
    if source == target:
        return Carried(node.inputs[0], source) if source in CARRIED else node.inputs[0]
    x = widened(node, 0)
    if target not in CARRIED:
        return cast_to(node, x, wide_type(source) if source in CARRIED else source, target)
    return narrowed(node, x, target)


def narrowed(node: Node, x: relax.Expr, target: str) -> Carried:
    """`x` as codes of `target`; the attributes `saturate` and `round_mode` of the node say how."""
    saturate, mode = bool(node.attr("saturate", 1)), node.attr("round_mode", "up")
    if target == POWERS and mode not in _ROUND_MODES:
        raise node.error(f"round_mode must be one of {', '.join(_ROUND_MODES)}, found {mode!r}")

    def compute(t: te.Tensor) -> te.Tensor:
        return te.compute(t.shape, lambda *i: encoded(t(*i), target, saturate, mode), name="codes")

    return Carried(node.te(compute, x, name="encode"), target)
