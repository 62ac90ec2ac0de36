"""Make a call again with some attributes changed (TVM's attribute objects are immutable)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import relax
from tvm.relax import Expr

from .graph import Node

nn = relax.op.nn

_CONV = ("strides", "padding", "dilation", "groups", "data_layout", "kernel_layout", "out_layout", "out_dtype")
_POOL = ("pool_size", "strides", "padding", "dilation", "ceil_mode", "count_include_pad", "layout", "out_layout")
_RESIZE = [
    "roi",
    "layout",
    "method",
    "coordinate_transformation_mode",
    "rounding_method",
    "cubic_alpha",
    "cubic_exclude",
    "extrapolation_value",
    "out_dtype",
]

CONVOLUTIONS = ("nn.conv1d", "nn.conv2d", "nn.conv3d")
TRANSPOSED = ("nn.conv1d_transpose", "nn.conv2d_transpose", "nn.conv3d_transpose")
POOLS = tuple(f"nn.{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3))

# operator -> (function that makes the call, names of its attributes)
_MAKERS: dict[str, tuple[Callable[..., Expr], Sequence[str]]] = {
    **{op: (getattr(nn, op.removeprefix("nn.")), _CONV) for op in CONVOLUTIONS},
    **{op: (getattr(nn, op.removeprefix("nn.")), (*_CONV, "output_padding")) for op in TRANSPOSED},
    **{op: (getattr(nn, op.removeprefix("nn.")), _POOL) for op in POOLS},
    "nn.adaptive_avg_pool2d": (nn.adaptive_avg_pool2d, ("output_size", "layout", "out_layout")),
    "image.resize2d": (relax.op.image.resize2d, _RESIZE),
}


def attributes(node: Node) -> dict[str, Any]:
    """The attributes of a convolution, pooling or resize as Python values, by the names its function takes."""
    return {name: _plain(getattr(node.attrs, name)) for name in _MAKERS[node.op][1]}


def rebuild(node: Node, args: Sequence[Expr], **changes: Any) -> Expr:
    """The node's call on `args` with `changes` to its attributes; its type is not inferred yet."""
    return make_call(node.op, args, {**attributes(node), **changes})


def make_call(op: str, args: Sequence[Expr], values: Mapping[str, Any]) -> Expr:
    """A call of the convolution, pooling or resize `op`, which picks its attributes from `values`."""
    make, names = _MAKERS[op]
    return make(*args, **{name: values[name] for name in names if name in values})


def _plain(value: object) -> object:
    if isinstance(value, str | int | float | None):
        return value
    return list(value) if hasattr(value, "__len__") else value  # type: ignore[call-overload]
