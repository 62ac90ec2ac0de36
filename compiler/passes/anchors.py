"""Which Relax operators are anchors of fused kernels, and how each is described in an OpSpec.

An anchor reader takes the call and the graph around it and returns an `Anchor`, or None if this call cannot be one
(a layout that templates do not serve, say): it then takes the generic path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tvm
from tvm import relax, tirx

from ..schedule.op_spec import AttrValue, TensorType
from .attention import NAME as ATTENTION
from .attention import attention_attrs


@dataclass(frozen=True)
class Anchor:
    """An anchor's kind, its tensor operands in OpSpec order, and its attributes."""

    kind: str
    operands: tuple[relax.Expr, ...]
    attrs: Mapping[str, AttrValue]


Producers = Mapping[relax.Var, relax.Expr]


def tensor_type(expr: relax.Expr) -> TensorType:
    """Shape and dtype of a tensor expression; symbolic dimensions become the text of their expression."""
    ty = expr.ty
    return TensorType(tuple(_dim(d) for d in ty.shape), str(ty.dtype))


def _dim(value: tirx.Expr) -> int | str:
    return int(value) if isinstance(value, tirx.IntImm) else str(value)


def _ints(values: object) -> tuple[int, ...]:
    return tuple(int(v) for v in values)  # type: ignore[attr-defined]


def _conv2d(call: tvm.ir.Call, _: Producers) -> Anchor | None:
    a = call.attrs
    if a.data_layout != "NHWC" or a.kernel_layout != "OIHW" or a.out_layout != "NHWC":
        return None
    attrs: dict[str, AttrValue] = {
        "strides": _ints(a.strides),
        "padding": _ints(a.padding),
        "dilation": _ints(a.dilation),
        "groups": int(a.groups),
        "data_layout": "NHWC",
    }
    return Anchor("conv2d", (call.args[0], call.args[1]), attrs)


def _conv2d_transpose(call: tvm.ir.Call, _: Producers) -> Anchor | None:
    a = call.attrs
    if a.data_layout != "NHWC" or a.kernel_layout != "IOHW" or a.out_layout != "NHWC":
        return None
    attrs: dict[str, AttrValue] = {
        "strides": _ints(a.strides),
        "padding": _ints(a.padding),
        "output_padding": _ints(a.output_padding),
        "dilation": _ints(a.dilation),
        "groups": int(a.groups),
        "data_layout": "NHWC",
    }
    return Anchor("conv2d_transpose", (call.args[0], call.args[1]), attrs)


def as_stored(expr: relax.Expr, producers: Producers) -> relax.Expr:
    """`expr`, or the 16-bit tensor that it is the cast to float32 of: kernels can cast what they read."""
    made = producers.get(expr) if isinstance(expr, relax.Var) else None
    return made.args[0] if made is not None and is_widening(made) else expr


def is_widening(call: relax.Expr) -> bool:
    """Whether `call` casts 16-bit floats to float32."""
    if op_name(call) != "astype" or str(call.ty.dtype) != "float32":
        return False
    return str(call.args[0].ty.dtype) in ("float16", "bfloat16")


def _pool2d(mode: str) -> Callable[[tvm.ir.Call, Producers], Anchor | None]:
    def read(call: tvm.ir.Call, producers: Producers) -> Anchor | None:
        a = call.attrs
        if a.layout != "NHWC" or a.out_layout != "NHWC":
            return None
        attrs: dict[str, AttrValue] = {
            "mode": mode,
            "pool_size": _ints(a.pool_size),
            "strides": _ints(a.strides),
            "padding": _ints(a.padding),
            "dilation": _ints(a.dilation),
            "ceil_mode": int(a.ceil_mode),
            "count_include_pad": int(a.count_include_pad),
        }
        return Anchor("pool2d", (as_stored(call.args[0], producers),), attrs)

    return read


def _matmul(call: tvm.ir.Call, producers: Producers) -> Anchor | None:
    if any(len(x.ty.shape) < 2 for x in call.args[:2]):
        return None
    lhs, lhs_perm = _look_through_permute(call.args[0], producers)
    rhs, rhs_perm = _look_through_permute(call.args[1], producers)
    out_perm = tuple(range(max(len(lhs_perm), len(rhs_perm))))
    return Anchor("matmul", (lhs, rhs), {"lhs_perm": lhs_perm, "rhs_perm": rhs_perm, "out_perm": out_perm})


def _look_through_permute(expr: relax.Expr, producers: Producers) -> tuple[relax.Expr, tuple[int, ...]]:
    """The operand behind a permute_dims and the axes it applies: matmul kernels read operands through any strides."""
    axes = tuple(range(len(expr.ty.shape)))
    producer = producers.get(expr) if isinstance(expr, relax.Var) else None
    if isinstance(producer, tvm.ir.Call) and op_name(producer) == "permute_dims":
        given = producer.attrs.axes
        return producer.args[0], axes[::-1] if given is None else tuple(int(a) % len(axes) for a in given)
    return expr, axes


def _attention(call: tvm.ir.Call, _: Producers) -> Anchor | None:
    return Anchor("attention", tuple(call.args), attention_attrs(call))


ANCHORS: dict[str, Callable[[tvm.ir.Call, Producers], Anchor | None]] = {
    "nn.conv2d": _conv2d,
    "nn.conv2d_transpose": _conv2d_transpose,
    "nn.max_pool2d": _pool2d("max"),
    "nn.avg_pool2d": _pool2d("avg"),
    "matmul": _matmul,
    ATTENTION: _attention,
}


def op_name(expr: relax.Expr) -> str:
    """Name of the Relax operator that `expr` calls, without "relax."; "" if it is not such a call."""
    if isinstance(expr, tvm.ir.Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name).removeprefix("relax.")
    return ""
