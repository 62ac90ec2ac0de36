"""Elementwise operators that may follow an anchor inside one kernel, and how they are computed on scalars.

A template generates its loops over the anchor's result and calls `apply_epilogue` once per output index: the expression
is scalar, so that the loop around it decides about vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tvm import tirx

from . import vector_math
from .op_spec import OpSpec, Step, TensorType

if TYPE_CHECKING:
    from tvm.ir import PrimExpr

    Read = Callable[[int, list[PrimExpr]], PrimExpr]


def _relu(x: PrimExpr) -> PrimExpr:
    return vector_math.maximum(x, tirx.const(0, x.ty.dtype))


def _clip(x: PrimExpr, low: PrimExpr, high: PrimExpr) -> PrimExpr:
    return vector_math.minimum(vector_math.maximum(x, low), high)


def _leaky_relu(x: PrimExpr, alpha: PrimExpr) -> PrimExpr:
    return tirx.Select(x >= tirx.const(0, x.ty.dtype), x, x * alpha)


# The step that changes the type, to its own; only anchors that sum in a wider type than their operands' have it.
CAST = "astype"

# Relax's operator name without "relax." -> the scalar expression. Literal arguments arrive as constants of x's dtype.
STEP_OPS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "maximum": vector_math.maximum,
    "minimum": vector_math.minimum,
    "right_shift": lambda x, y: x >> y,
    "negative": lambda x: -x,
    "abs": tirx.abs,
    "sqrt": tirx.sqrt,
    "square": lambda x: x * x,
    "clip": _clip,
    "nn.relu": _relu,
    "nn.leakyrelu": _leaky_relu,
    "nn.silu": vector_math.silu,
    "nn.gelu": vector_math.gelu,
    "sigmoid": vector_math.sigmoid,
    "exp": vector_math.exp,
    "tanh": vector_math.tanh,
    "erf": vector_math.erf,
}


def broadcast_indices(operand: TensorType, indices: Sequence[PrimExpr]) -> list[PrimExpr]:
    """Indices into `operand` for output index `indices` under numpy broadcasting (axes of size 1 read element 0)."""
    tail = list(indices)[len(indices) - len(operand.shape) :]
    return [tirx.const(0, i.ty.dtype) if d == 1 else i for d, i in zip(operand.shape, tail, strict=True)]


def apply_epilogue(op: OpSpec, anchor: PrimExpr, indices: Sequence[PrimExpr], read: Read) -> PrimExpr:
    """The value of the output element at `indices`, given the anchor's value there.

    Args:
        anchor: scalar expression of `op.anchor_type.dtype`.
        indices: one expression per output axis.
        read: `read(k, idx)` loads operand k of `op` at `idx`, which is already reduced for broadcasting.
    """
    values: list[PrimExpr] = []
    bound: list[tuple[tirx.Var, PrimExpr]] = []
    for k, step in enumerate(op.epilogue):
        args = [_argument(op, step, a, anchor, values, indices, read) for a in step.args]
        dtype = next(a.ty.dtype for a in args if not isinstance(a, float))
        args = [tirx.const(a, dtype) if isinstance(a, float) else a for a in args]
        value = tirx.Cast(step.dtype, args[0]) if step.op == CAST else STEP_OPS[step.op](*args)
        if _used_again(op, k):
            # Expressions are trees: a value that several later steps read would be computed once for each.
            name = tirx.Var(f"s{k}", value.ty.dtype)
            bound.append((name, value))
            value = name
        values.append(value)
    result = values[-1] if values else anchor
    for name, value in reversed(bound):
        result = tirx.Let(name, value, result)
    return result


def _used_again(op: OpSpec, step: int) -> bool:
    return sum(a == f"s{step}" for later in op.epilogue for a in later.args) > 1


def _argument(
    op: OpSpec,
    step: Step,
    ref: str | float,
    anchor: PrimExpr,
    values: list[PrimExpr],
    indices: Sequence[PrimExpr],
    read: Read,
) -> PrimExpr | float:
    if not isinstance(ref, str):
        return float(ref)
    if ref == "anchor":
        return anchor
    number = int(ref[1:])
    if ref[0] == "s":
        return values[number]
    value = read(number, broadcast_indices(op.inputs[number], indices))
    return value if op.inputs[number].dtype == step.dtype else tirx.Cast(step.dtype, value)
