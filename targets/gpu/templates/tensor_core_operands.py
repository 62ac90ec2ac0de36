"""Which multiplication of the tensor cores an operator's types ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ..spec import GpuSpec
from .tensor_core_ptx import Multiply
from .vectors import VECTOR_BYTES, dtype_bytes

# An operator's attribute, with which a compile allows float32 operands to be rounded to tfloat32.
PRECISION, TFLOAT32 = "precision", "tf32"
# How a GPU multiplies operands of two types; None where it does not.
MultiplyOf = Callable[[GpuSpec, str, str], Multiply | None]
_FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Operands:
    """Types of A and B in memory, how they are multiplied, the type that names the rate, and columns of a store."""

    dtypes: tuple[str, str]
    how: Multiply
    rate: str
    store_lanes: int


def read_operands(op: OpSpec, target: TargetSpec, multiply_of: MultiplyOf) -> Operands | None:
    """What tensor cores do for `op`, a product of two operands; None where `multiply_of` has nothing for its types.

    float32 operands are rounded to tfloat32 only where the operator's attribute `precision` is "tf32".
    """
    if not isinstance(target, GpuSpec) or op.kind not in ("matmul", "conv2d"):
        return None
    dtypes = (op.inputs[0].dtype, op.inputs[1].dtype)
    kinds = ("tfloat32", "tfloat32") if dtypes == ("float32", "float32") else dtypes
    if kinds[0] == "tfloat32" and dict(op.attrs).get(PRECISION) != TFLOAT32:
        return None
    how = multiply_of(target, *kinds)
    results = {"float32": _FLOATS, "int32": ("int32",)}
    if how is None or op.anchor_type.dtype not in results[how.accumulator]:
        return None
    rate = "int8" if how.size == 1 else kinds[0]
    return Operands(dtypes, how, rate, VECTOR_BYTES // dtype_bytes(op.output.dtype))
