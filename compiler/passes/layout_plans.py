"""What each operator needs of its operands' storage, and how it is written over channels-last ones.

A tensor (N, C, ...) of rank three or more is stored either as it is ("first") or with axis 1 moved behind ("last").
A plan says which of the two an operator reads and makes; operators without a plan read and make "first" only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from tvm import relax
from tvm.ir import Tuple
from tvm.relax import Expr

from . import tensors
from .elementwise import BROADCASTING, UNARY, on_operands, tensor_operands
from .graph import Graph, Node
from .rebuild import rebuild


class Side(Enum):
    """Which storage an operator reads or makes: one of the two, the one chosen for the node, or whatever is there."""

    FIRST = 0
    LAST = 1
    CHOSEN = 2
    ANY = 3


@dataclass(frozen=True)
class Plan:
    """How a node takes part in the choice of layouts.

    `operands` are the tensors whose storage matters; `last` makes the call from them stored "last" (constants permuted
    too), for the node's result stored "last" (or, if `makes` is FIRST, the node's own result). `first_cost` is what
    running "first" costs, in moved elements. `align` makes operands of lower rank and constants broadcast against the
    result; without it operands keep their rank. `absorbs` are values ahead of it that the plan stands for: nothing
    else uses them, and they are dead once the node is made "last". Other tensor arguments are read "first".
    """

    operands: Sequence[Expr]
    last: Callable[[Graph, Sequence[Expr]], Expr] | None = None
    reads: Side = Side.CHOSEN
    makes: Side = Side.CHOSEN
    first_cost: int = 0
    align: bool = False
    absorbs: tuple[relax.Var, ...] = ()


def to_last(ndim: int) -> tuple[int, ...]:
    """Axes of permute_dims from "first" to "last": (0, 2, ..., ndim - 1, 1)."""
    return (0, *range(2, ndim), 1)


def to_first(ndim: int) -> tuple[int, ...]:
    """Axes of permute_dims from "last" to "first": (0, ndim - 1, 1, ..., ndim - 2)."""
    return (0, ndim - 1, *range(1, ndim - 1))


def permuted(values: Sequence, axes: Sequence[int]) -> tuple:
    """`values` in the order of `axes`."""
    return tuple(values[a] for a in axes)


def is_free(dims: Sequence[tensors.Dim] | None) -> bool:
    """Whether both storages of a shape hold the same bytes: there is one channel, or nothing but channels."""
    return dims is not None and (len(dims) < 3 or tensors.is_one(dims[1]) or all(tensors.is_one(d) for d in dims[2:]))


def moved_axis(axis: int, ndim: int) -> int:
    """Where axis `axis` of (N, C, ...) stands in the "last" storage."""
    return to_last(ndim).index(axis % ndim)


# Planners: (graph, node) -> Plan, or None where the node can do "first" only.


def _convolution(_: Graph, node: Node) -> Plan | None:
    a = node.attrs
    if a.data_layout != "NCHW" or a.out_layout != "NCHW":
        return None

    def last(_: Graph, operands: Sequence[Expr]) -> Expr:
        return rebuild(node, [operands[0], node.args[1]], data_layout="NHWC", out_layout="NHWC")

    return Plan([node.args[0]], last, Side.LAST, Side.LAST)


def _window(_: Graph, node: Node) -> Plan | None:
    """Poolings vectorise over channels: half as good where these are not innermost, hence `first_cost`."""
    if node.attrs.layout != "NCHW" or getattr(node.attrs, "out_layout", "NCHW") != "NCHW":
        return None
    resize = node.op == "image.resize2d"

    def last(_: Graph, operands: Sequence[Expr]) -> Expr:
        layouts = {"layout": "NHWC"} if resize else {"layout": "NHWC", "out_layout": "NHWC"}
        return rebuild(node, [operands[0], *node.args[1:]], **layouts)

    return Plan([node.args[0]], last, first_cost=elements(node.var))


def _elementwise(_: Graph, node: Node) -> Plan | None:
    operands, ndim = tensor_operands(node), tensors.rank(node.var)
    full = [o for o in operands if tensors.rank(o) == ndim and isinstance(o, relax.Var)]
    if not full or any(not _aligns(o, ndim) for o in operands):
        return None
    return Plan(operands, lambda _, moved: on_operands(node, list(moved)), align=True)


def _aligns(operand: Expr, ndim: int) -> bool:
    """Whether an operand of lower rank than the result can be moved along: constants, and what a reshape moves."""
    dims = tensors.shape(operand)
    if dims is None:
        return False
    padded = (1,) * (ndim - len(dims)) + dims
    return len(dims) == ndim or not isinstance(operand, relax.Var) or is_free(padded)


def _concat(_: Graph, node: Node) -> Plan | None:
    if not isinstance(node.args[0], Tuple):
        return None
    ndim = tensors.rank(node.var)
    axis = moved_axis(int(node.attrs.axis or 0), ndim)
    return Plan(list(node.args[0].fields), lambda _, moved: relax.op.concat(list(moved), axis))


def _split(_: Graph, node: Node) -> Plan | None:
    parts = tensors.sections(node.attrs.indices_or_sections)
    axis = moved_axis(int(node.attrs.axis), tensors.rank(node.args[0]))
    return Plan([node.args[0]], lambda _, moved: relax.op.split(moved[0], parts, axis))


def _get_item(graph: Graph, node: Node) -> Plan | None:
    """Parts of a split are stored as the split's input is; other tuples hold plain tensors."""
    if graph.producer(node.args[0], "split") is None:
        return None
    return Plan([node.args[0]], lambda _, moved: relax.TupleGetItem(moved[0], node.value.index))


def _slice(_: Graph, node: Node) -> Plan | None:
    if not all(isinstance(a, Tuple) for a in node.args[1:]):
        return None
    ndim = tensors.rank(node.args[0])
    axes = [moved_axis(int(a), ndim) for a in node.args[1].fields]
    bounds = [list(a.fields) for a in node.args[2:]]
    inbound = bool(node.attrs.assume_inbound)
    return Plan(
        [node.args[0]], lambda _, moved: relax.op.strided_slice(moved[0], axes, *bounds, assume_inbound=inbound)
    )


def _pad(_: Graph, node: Node) -> Plan | None:
    widths = tensors.ints(node.attrs.pad_width)
    pairs = permuted([widths[k : k + 2] for k in range(0, len(widths), 2)], to_last(len(widths) // 2))
    flat = [w for pair in pairs for w in pair]
    mode, value = node.attrs.pad_mode, float(node.attrs.pad_value)
    return Plan([node.args[0]], lambda _, moved: relax.op.nn.pad(moved[0], flat, mode, value))


def _along_axis(_: Graph, node: Node) -> Plan | None:
    make = {"nn.softmax": relax.op.nn.softmax, "nn.log_softmax": relax.op.nn.log_softmax}[node.op]
    axis = moved_axis(int(node.attrs.axis), tensors.rank(node.var))
    return Plan([node.args[0]], lambda _, moved: make(moved[0], axis))


def _prelu(_: Graph, node: Node) -> Plan | None:
    axis = moved_axis(int(node.attrs.axis), tensors.rank(node.var))
    return Plan([node.args[0]], lambda _, moved: relax.op.nn.prelu(moved[0], node.args[1], axis))


def _reduction(_: Graph, node: Node) -> Plan | None:
    """Tied to its result with keepdims; without, where the axes that are left stand in the same order either way."""
    ndim = tensors.rank(node.args[0])
    axes = tensors.axes_of(node.attrs.axis, ndim)
    keepdims = bool(node.attrs.keepdims)
    moved_axes = [moved_axis(a, ndim) for a in axes]
    if node.op in ("argmax", "argmin") and len(axes) != 1:
        return None
    argument = moved_axes[0] if node.op in ("argmax", "argmin") else sorted(moved_axes)
    make = getattr(relax.op, node.op)

    def last(_: Graph, moved: Sequence[Expr]) -> Expr:
        return make(moved[0], argument, keepdims)

    if keepdims:
        return Plan([node.args[0]], last)
    rest = [a for a in range(ndim) if a not in axes]
    rest_last = [a for a in to_last(ndim) if a not in axes]
    if rest == rest_last:
        return Plan([node.args[0]], last, makes=Side.FIRST)
    return Plan([node.args[0]], last) if rest[:2] == [0, 1] and len(rest) > 2 else None


def _reshape(graph: Graph, node: Node) -> Plan | None:
    """Free where only sizes of one move; tied where batch and channels stay and the axes behind regroup."""
    source, dims = tensors.shape(node.args[0]), tensors.shape(node.var)
    if source is None or dims is None or not isinstance(node.args[0], relax.Var):
        return None
    shuffled = _shuffle(graph, node)
    if shuffled is not None:
        return shuffled
    free_in, free_out = is_free(source), is_free(dims)

    def last(_: Graph, moved: Sequence[Expr]) -> Expr:
        return relax.op.reshape(moved[0], permuted(dims, to_last(len(dims))) if len(dims) > 2 else dims)

    if free_in:
        return Plan([node.args[0]], last, Side.ANY, Side.CHOSEN if free_out else Side.FIRST)
    keeps = len(dims) > 2 and tensors.same_dims(source[:2], dims[:2])
    return Plan([node.args[0]], last) if keeps else None


def _shuffle(graph: Graph, node: Node) -> Plan | None:
    """Channel shuffle: reshape to (N, G, C/G, ...), swap axes 1 and 2, reshape back; "last" swaps the innermost two."""
    swap = graph.sole_producer(node.args[0], "permute_dims")
    split = graph.sole_producer(swap.args[0], "reshape") if swap is not None else None
    if swap is None or split is None:
        return None
    source, parts, dims = tensors.shape(split.args[0]), tensors.shape(split.var), tensors.shape(node.var)
    if (
        source is None
        or parts is None
        or dims is None
        or len(parts) != len(source) + 1
        or not tensors.same_dims(source, dims)
    ):
        return None
    axes = tensors.permutation(swap.attrs, len(parts))
    same = tensors.same_dims((source[0], *source[2:]), (parts[0], *parts[3:]))
    if len(source) < 3 or not same or axes != (0, 2, 1, *range(3, len(parts))):
        return None

    def last(graph: Graph, moved: Sequence[Expr]) -> Expr:
        rank = len(parts)
        grouped = graph.emit(relax.op.reshape(moved[0], (parts[0], *parts[3:], parts[1], parts[2])))
        swapped = graph.emit(relax.op.permute_dims(grouped, (*range(rank - 2), rank - 1, rank - 2)))
        return relax.op.reshape(swapped, permuted(dims, to_last(len(dims))))

    return Plan([split.args[0]], last, absorbs=(split.var, swap.var))


def _permute(graph: Graph, node: Node) -> Plan | None:
    """permute_dims that is itself a change of storage: its input stored "last", or its result, makes it vanish."""
    ndim = tensors.rank(node.var)
    axes = tensors.permutation(node.attrs, ndim)
    if axes == to_last(ndim) and (axes != to_first(ndim) or _made_by_windows(graph, node.args[0])):
        return Plan([node.args[0]], lambda _, moved: moved[0], Side.LAST, Side.FIRST)
    if axes == to_first(ndim):
        return Plan([node.args[0]], lambda _, moved: moved[0], Side.FIRST, Side.LAST)
    return None


def _made_by_windows(graph: Graph, expr: Expr) -> bool:
    """Whether a convolution or pooling stands behind `expr`, looking through what plans can carry over."""
    seen: set[Expr] = set()
    queue = [expr]
    while queue:
        node = graph.producer(queue.pop())
        if node is None or node.var in seen:
            continue
        seen.add(node.var)
        if node.op in ("nn.conv2d", "nn.conv2d_transpose"):
            return True
        if node.op in PLANNERS and node.op != "permute_dims" and tensors.rank(node.var) > 2:
            queue.extend(a for a in node.args if isinstance(a, relax.Var))
    return False


def elements(expr: Expr) -> int:
    """Number of elements of a tensor; symbolic dimensions count as 64."""
    dims = tensors.shape(expr) or ()
    count = 1
    for d in dims:
        count *= d if isinstance(d, int) else 64
    return count


PLANNERS: dict[str, Callable[[Graph, Node], Plan | None]] = {
    "nn.conv2d": _convolution,
    "nn.conv2d_transpose": _convolution,
    "nn.max_pool2d": _window,
    "nn.avg_pool2d": _window,
    "nn.adaptive_avg_pool2d": _window,
    "image.resize2d": _window,
    **dict.fromkeys(UNARY | BROADCASTING, _elementwise),
    "concat": _concat,
    "split": _split,
    "get_item": _get_item,
    "strided_slice": _slice,
    "nn.pad": _pad,
    "nn.softmax": _along_axis,
    "nn.log_softmax": _along_axis,
    "nn.prelu": _prelu,
    **dict.fromkeys(("mean", "sum", "max", "min", "prod", "argmax", "argmin"), _reduction),
    "reshape": _reshape,
    "permute_dims": _permute,
}
