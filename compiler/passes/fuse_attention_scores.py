"""What happens to scores between the product of queries and keys and the softmax: scale, masks, casts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tvm.relax import Expr

from ..schedule.masks import ADDED, DROPS, KEEPS
from . import tensors
from .fuse_attention_causal import computed_causal
from .fuse_attention_operands import factor_of
from .graph import Graph, Node
from .lower_precision import LARGEST

_FLOATS = ("float32", "float16", "bfloat16")
# A number that is added to a score, or stands for it, from which on the exponential is certainly zero.
_NEVER = -1e9
# Masks that a kernel applies.
_MOST_MASKS = 2


@dataclass
class Scores:
    """The product of queries and keys, then `scale`, then masks with what they do in the order in which they apply.

    `shape` is that of the scores; `fill`, `causal` and `offset` are as in AttentionAttrs.
    """

    shape: tuple[tensors.Dim, ...]
    product: Node | None = None
    scale: float = 1.0
    masks: list[tuple[Expr, int]] = field(default_factory=list)
    fill: float = -np.inf
    causal: int = 0
    offset: int = 0
    # Whether the causal mask gives -inf, rather than a very small number; and the mask, where the model computes it.
    never: bool = True
    computed: Expr | None = None
    # Whether limits of float16 may be those that LowerPrecision sets.
    lowered: bool = False


def read_scores(graph: Graph, softmax: Node, lowered: bool = False) -> Scores | None:
    """How the operand of `softmax` comes about; None where it is none of attention, or somebody else uses a part.

    `lowered`: the model was made to compute in float16, with limits where masks leave its range.
    """
    dims = tensors.shape(softmax.var)
    axis = int(softmax.attrs.axis)
    if dims is None or axis not in (-1, len(dims) - 1) or tensors.dtype(softmax.var) not in _FLOATS:
        return None
    found, expr = Scores(dims, lowered=lowered), softmax.args[0]
    while True:
        node = graph.sole_producer(expr)
        if node is None:
            return None
        if node.op == "matmul":
            found.product = node
            return found if _settled(found) else None
        step = _STEPS[node.op](graph, node, found) if node.op in _STEPS else None
        if step is None:
            return None
        expr = step


def _settled(found: Scores) -> bool:
    """Whether masks are such as kernels apply; a causal mask goes together with others only if all hide by -inf.

    Rows that other masks hide wholly would otherwise see keys that the causal mask hides as much; and a number that
    stands for scores stands for those that the causal mask has hidden too.
    """
    replaced = any(meaning != ADDED for _, meaning in found.masks) and not np.isneginf(found.fill)
    if found.causal and found.masks and (not found.never or replaced):
        return False
    return len(found.masks) <= _MOST_MASKS


def _cast(_: Graph, node: Node, __: Scores) -> Expr | None:
    return node.args[0] if {tensors.dtype(node.args[0]), tensors.dtype(node.var)} <= set(_FLOATS) else None


def _limited(_: Graph, node: Node, found: Scores) -> Expr | None:
    """The limits of float16 that LowerPrecision sets for masks. A model's own limits are none to pass over."""
    limits = [float(a.value) for a in node.args[1:]]
    return node.args[0] if found.lowered and limits == [-LARGEST, LARGEST] else None


def _scaled(_: Graph, node: Node, found: Scores) -> Expr | None:
    """What is scaled as well as the product of queries and keys cannot be a mask."""
    parts = factor_of(node)
    if parts is None:
        return None
    found.scale *= parts[1]
    return parts[0]


def _added(graph: Graph, node: Node, found: Scores) -> Expr | None:
    if found.scale != 1.0:
        return None
    for data, mask in (node.args, node.args[::-1]):
        if tensors.same_dims(tensors.shape(data), found.shape) and _leads_to_scores(graph, data):
            known = tensors.array(mask)
            if known is not None and _is_causal(found, known != 0, known[known != 0]):
                return data
            if known is None and _is_computed_causal(graph, found, mask):
                return data
            return data if _take(graph, found, mask, ADDED) else None
    return None


def _chosen(graph: Graph, node: Node, found: Scores) -> Expr | None:
    """where(c, scores, number) or where(c, number, scores)"""
    if found.scale != 1.0:
        return None
    for data, number, meaning in ((node.args[1], node.args[2], KEEPS), (node.args[2], node.args[1], DROPS)):
        fill = tensors.scalar(number)
        if fill is None or not tensors.same_dims(tensors.shape(data), found.shape):
            continue
        known = tensors.array(node.args[0])
        if known is not None and _is_causal(found, known != (meaning == KEEPS), np.array([fill])):
            return data
        if any(m != ADDED for _, m in found.masks) and fill != found.fill:
            return None
        found.fill = float(fill)
        return data if _take(graph, found, node.args[0], meaning) else None
    return None


def _take(graph: Graph, found: Scores, mask: Expr, meaning: int) -> bool:
    """Add a mask in front of those that apply after it."""
    made = graph.producer(mask, "broadcast_to")
    mask = made.args[0] if made is not None else mask
    dims = tensors.shape(mask)
    element = tensors.dtype(mask)
    if dims is None or len(dims) > len(found.shape) or element not in (_FLOATS if meaning == ADDED else ("bool",)):
        return False
    for d, whole in zip(reversed(dims), reversed(found.shape), strict=False):
        if not (tensors.is_one(d) or tensors.same_dim(d, whole)):
            return False
    found.masks.insert(0, (mask, meaning))
    return True


def _is_causal(found: Scores, hidden: np.ndarray, values: np.ndarray) -> bool:
    """Whether `hidden` are the keys behind a row's own, and `values` there hide them; `found` then knows."""
    if found.causal or hidden.ndim < 2:
        return False
    rows, keys = hidden.shape[-2:]
    wanted = found.shape[-2:]
    if (rows, keys) != tuple(wanted) or hidden.size != rows * keys:
        return False
    flat = hidden.reshape(rows, keys)
    offset = keys - 1 - int(flat[0].sum())
    if not np.array_equal(flat, ~np.tri(rows, keys, offset, dtype=bool)):
        return False
    if not _hides(offset, values):
        return False
    found.causal, found.offset, found.never = 1, offset, bool(np.isneginf(values).all())
    return True


def _is_computed_causal(graph: Graph, found: Scores, mask: Expr) -> bool:
    """The same for a mask that the model computes."""
    made = graph.producer(mask, "broadcast_to")
    mask = made.args[0] if made is not None else mask
    if found.causal or not tensors.same_dims(tensors.shape(mask), found.shape[-2:]):
        return False
    causal = computed_causal(graph, mask)
    if causal is None or not _hides(causal.offset, np.array([causal.fill])):
        return False
    found.causal, found.offset, found.computed = 1, causal.offset, mask
    found.never = bool(np.isneginf(causal.fill))
    return True


def _hides(offset: int, values: np.ndarray) -> bool:
    """Whether numbers that are added to the scores of keys behind a row's own, or stand for them, hide these."""
    if not values.size or not (values.astype(np.float64) <= _NEVER).all():
        return False
    # A row that sees nothing takes the mean of all, unless all are -infinity.
    return offset >= 0 or bool(np.isneginf(values).all())


def _leads_to_scores(graph: Graph, expr: Expr) -> bool:
    """Whether the product of queries and keys is behind `expr`, rather than a mask as large as the scores."""
    node = graph.producer(expr)
    while node is not None and node.op in (*_STEPS, "where"):
        if node.op == "add":
            return any(_leads_to_scores(graph, a) for a in node.args)
        if node.op == "where":
            return any(_leads_to_scores(graph, a) for a in node.args[1:])
        parts = factor_of(node) if node.op not in ("astype", "clip") else (node.args[0], 1.0)
        node = graph.producer(parts[0]) if parts is not None else None
    return node is not None and node.op == "matmul"


_STEPS = {
    "astype": _cast,
    "clip": _limited,
    "multiply": _scaled,
    "divide": _scaled,
    "add": _added,
    "where": _chosen,
}
