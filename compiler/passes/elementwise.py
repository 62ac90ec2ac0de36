"""Relax operators whose output elements depend on the operands' elements at the same (broadcast) place only."""

from __future__ import annotations

from tvm.ir import Call
from tvm.relax import Expr

from . import tensors
from .graph import Node

UNARY = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atanh",
        "bitwise_not",
        "ceil",
        "cos",
        "cosh",
        "erf",
        "exp",
        "floor",
        "isfinite",
        "isinf",
        "isnan",
        "log",
        "logical_not",
        "negative",
        "round",
        "rsqrt",
        "sigmoid",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "tan",
        "tanh",
        "trunc",
        "astype",
        "clip",
        "nn.relu",
        "nn.relu6",
        "nn.leakyrelu",
        "nn.gelu",
        "nn.gelu_tanh",
        "nn.selu",
        "nn.silu",
        "nn.softplus",
    ]
)
BROADCASTING = frozenset(
    [
        "add",
        "subtract",
        "multiply",
        "divide",
        "power",
        "maximum",
        "minimum",
        "equal",
        "not_equal",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "mod",
        "floor_mod",
        "floor_divide",
        "logical_and",
        "logical_or",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "left_shift",
        "right_shift",
        "atan2",
        "log_add_exp",
        "where",
    ]
)
ELEMENTWISE = UNARY | BROADCASTING


def tensor_operands(node: Node) -> list[Expr]:
    """The tensor arguments of an elementwise call (clip's limits are not tensors)."""
    return [a for a in node.args if tensors.rank(a) >= 0]


def on_operands(node: Node, operands: list[Expr]) -> Expr:
    """The elementwise call on other tensor operands, not typed yet."""
    fresh = iter(operands)
    args = [next(fresh) if tensors.rank(a) >= 0 else a for a in node.args]
    call = node.value
    return Call(call.op, args, call.attrs, call.ty_args)
