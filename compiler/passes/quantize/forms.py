"""Which float operators have an integer form: what each needs, and why others stay float.

A form makes either int32 sums (convolutions, products, averages, residual additions, ...), behind which biases and an
activation are taken in before the sums are requantized or dequantized, or int8 from int8 of the same scale (moves).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import relax
from tvm.ir import GenericConst, Tuple
from tvm.relax import Expr

from ...schedule.requantize import LARGEST
from .. import tensors
from ..graph import Graph, Node
from ..linear import LINEAR_OPS, linear
from ..rebuild import POOLS, TRANSPOSED
from ..rules_constant import clip_bounds

# Sums stay below this, so that a bias of the same size still fits int32.
MOST_SUM = 1 << 30
# Operators that hand int8 on as they are, or choose among them: operands and results have one scale.
MOVES = frozenset(
    ["reshape", "permute_dims", "expand_dims", "squeeze", "strided_slice", "concat", "flatten", "nn.batch_flatten"]
    + [op for op in POOLS if "max" in op]
)
AVERAGES = (*(op for op in POOLS if "avg" in op), "nn.adaptive_avg_pool2d", "mean", "sum")


@dataclass(frozen=True)
class Form:
    """The integer form of a node.

    Attributes:
        kind: a key of the table of `rewrite.SUMS`, or "move".
        operands: float32 tensors that it reads as int8.
        demands: whether these are quantized for its sake; other forms need operands that are integers already.
        absorbing: whether it is worth it though nothing else computes with its result in integers.
    """

    kind: str
    operands: tuple[relax.Var, ...]
    demands: bool = False
    absorbing: bool = False


def form_of(graph: Graph, node: Node) -> Form | str:
    """The integer form of a float32 node, or why it has none."""
    reader = _READERS.get(node.op)
    return "no integer form" if reader is None else reader(graph, node)


def bounds_of(node: Node) -> tuple[float, float] | None:
    """The limits of an activation that only limits its operand, else None."""
    if node.op == "clip":
        low, high = clip_bounds(node)
        return float(low), float(high)
    return {"nn.relu": (0.0, float("inf")), "nn.relu6": (0.0, 6.0)}.get(node.op)


def bias_of(node: Node) -> np.ndarray | None:
    """The constant that an addition adds without changing the shape or the type of its other operand, else None."""
    return _constant_factor(node) if node.op == "add" else None


def _constant_factor(node: Node) -> np.ndarray | None:
    value = tensors.array(node.args[1])
    if value is None or not isinstance(node.args[0], relax.Var) or value.dtype != np.float32:
        return None
    same = tensors.same_dims(tensors.shape(node.args[0]), tensors.shape(node.var))
    return value if same and np.all(np.isfinite(value)) else None


def _variable(expr: Expr) -> tuple[relax.Var, ...]:
    return (expr,) if isinstance(expr, relax.Var) and tensors.dtype(expr) == "float32" else ()


def _product(_: Graph, node: Node) -> Form | str:
    """Convolutions and matmuls with constant weights."""
    if tensors.array(node.args[1]) is None:
        return "both operands are computed"
    found, data = linear(node), _variable(node.args[0])
    if found is None or not data:
        return "operands of other types or layouts"
    if node.op == "matmul" and found.weight.ndim != 2:
        return "weights of more than two axes"
    depth = found.weight.size // found.out_channels
    if node.op == "matmul" and tensors.rank(data[0]) < 2:
        return "a vector rather than a matrix"
    if depth * LARGEST * LARGEST >= MOST_SUM:
        return f"sums of {depth} products, which int32 may not hold"
    if not np.all(np.isfinite(found.weight)):
        return "weights that are not finite"
    return Form("product", data, demands=True, absorbing=True)


def _transposed(_: Graph, node: Node) -> str:
    return "transposed convolution"


def _average(_: Graph, node: Node) -> Form | str:
    """Means of a fixed number of elements each."""
    count = elements_averaged(node)
    if count is None:
        return "averages of a number of elements that is not fixed"
    if count * LARGEST >= MOST_SUM:
        return f"sums of {count} elements, which int32 may not hold"
    return Form("average", _variable(node.args[0]), absorbing=True)


def elements_averaged(node: Node) -> int | None:
    """How many elements a mean, or an average pooling, takes for each of its results; None if that differs."""
    dims = tensors.shape(node.args[0])
    if dims is None:
        return None
    if node.op in ("mean", "sum"):
        over: Sequence[tensors.Dim] = [dims[a] for a in tensors.axes_of(node.attrs.axis, len(dims))]
    elif node.attrs.layout[1] != "C" or node.attrs.out_layout[1] != "C":
        return None
    elif node.op == "nn.adaptive_avg_pool2d":
        if tensors.ints(node.attrs.output_size) != (1, 1):
            return None
        over = dims[2:]
    else:
        a = node.attrs
        padded = any(tensors.ints(a.padding)) and not a.count_include_pad
        if padded or a.ceil_mode or any(d != 1 for d in tensors.ints(a.dilation)):
            return None
        over = tensors.ints(a.pool_size)
    return prod(int(d) for d in over) if all(isinstance(d, int) for d in over) else None


def _addition(_: Graph, node: Node) -> Form | str:
    """A residual addition, or one of constants that no product took in."""
    if _constant_factor(node) is not None:
        return Form("affine", _variable(node.args[0]))
    operands = tuple(v for arg in node.args for v in _variable(arg))
    same = all(tensors.same_dims(tensors.shape(v), tensors.shape(node.var)) for v in operands)
    return Form("residual", operands) if len(operands) == 2 and same else "operands that broadcast"


def _multiplication(_: Graph, node: Node) -> Form | str:
    return Form("affine", _variable(node.args[0])) if _constant_factor(node) is not None else "no integer form"


def _activation(_: Graph, node: Node) -> Form | str:
    return Form("limit", _variable(node.args[0]))


def _move(_: Graph, node: Node) -> Form | str:
    first = node.args[0]
    moved = tuple(first.fields) if isinstance(first, Tuple) else (first,)
    if any(isinstance(x, GenericConst) or not _variable(x) for x in moved):
        return "constants among its operands"
    return Form("move", tuple(moved))


_READERS: dict[str, Callable[[Graph, Node], Form | str]] = {
    **dict.fromkeys(LINEAR_OPS, _product),
    **dict.fromkeys(TRANSPOSED, _transposed),
    **dict.fromkeys(AVERAGES, _average),
    **dict.fromkeys(MOVES, _move),
    **dict.fromkeys(("nn.relu", "nn.relu6", "clip"), _activation),
    "add": _addition,
    "multiply": _multiplication,
}
