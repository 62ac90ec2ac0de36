"""Attention as one Relax operator, `kompilo.attention`, which exists between FuseAttention and SelectTemplates only.

    attention(q, k, v, masks...) = softmax(scale * q k^T, masked) v

Operands are as memory holds them: `q_perm`, `k_perm`, `v_perm` permute their axes to (batch..., rows, depth),
(batch..., keys, depth) and (batch..., keys, columns). A batch axis of k and v may be a divisor of q's: each of its
entries then serves as many neighbours of q's (grouped queries). Masks broadcast to (batch..., rows, keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax
from tvm.ir import Call, Op

from ..schedule.op_spec import AttrValue

NAME = "kompilo.attention"


@dataclass(frozen=True)
class AttentionAttrs:
    """What attention is besides its operands.

    Attributes:
        q_perm, k_perm, v_perm: see the module.
        scale: of the products of q and k.
        masks: what each does (`schedule.masks`), in the order in which they apply.
        fill: what a score becomes where a mask drops it; "-inf" or a number as text.
        causal: 1 if row i sees keys up to i + `offset` only.
        offset: see `causal`.
        zero_rows: 1 if the result of a row that sees no key is zero; it is NaN otherwise.
    """

    q_perm: tuple[int, ...]
    k_perm: tuple[int, ...]
    v_perm: tuple[int, ...]
    scale: float
    masks: tuple[int, ...] = ()
    fill: str = "-inf"
    causal: int = 0
    offset: int = 0
    zero_rows: int = 0


_TUPLES = ("q_perm", "k_perm", "v_perm", "masks")
_NUMBERS: dict[str, type] = {"scale": float, "fill": str, "causal": int, "offset": int, "zero_rows": int}


def attention(attrs: AttentionAttrs, operands: Sequence[relax.Expr], result: relax.TensorType) -> Call:
    """The call on q, k, v and masks, with its type."""
    fields = {name: getattr(attrs, name) for name in (*_TUPLES, *_NUMBERS)}
    kept = tvm.ir.make_node("ir.DictAttrs", **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()})
    return Call(_operator(), list(operands), kept, [result], ret_ty=result)


def attention_attrs(call: Call) -> dict[str, AttrValue]:
    """The attributes of a call of `attention`, with the order in which its result is stored."""
    found: dict[str, AttrValue] = {name: tuple(int(v) for v in call.attrs[name]) for name in _TUPLES}
    found |= {name: kind(call.attrs[name]) for name, kind in _NUMBERS.items()}
    return found | {"out_perm": tuple(range(len(call.ty.shape)))}


def _operator() -> Op:
    """The operator, registered at the first use."""
    name = f"relax.{NAME}"
    if name not in Op.list_op_names():
        tvm.ir.op._ffi_api.RegisterOp(name, "softmax(scale * q k^T, masked) v")
        tvm.ir.register_op_attr(name, "FPurity", True)
        tvm.ir.register_op_attr(name, "FInferType", _infer)
    return Op.get(name)


def _infer(call: Call, _: Any) -> Any:
    return call.ty_args[0]
