"""Where the operands of attention come from: casts, scales, permutations and repeated heads are looked through."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import relax
from tvm.relax import Expr

from . import tensors
from .graph import Graph, Node

_NARROW = ("float16", "bfloat16")


@dataclass(frozen=True)
class Source:
    """An operand is `value` permuted by `perm`, with entries of batch axes repeated, times `scale`."""

    value: Expr
    perm: tuple[int, ...]
    scale: float = 1.0


def source_of(graph: Graph, expr: Expr) -> Source:
    """The farthest source of the matrices `expr`; `expr` itself if nothing is known of it."""
    found = Source(expr, tuple(range(tensors.rank(expr))))
    while True:
        node = graph.producer(found.value)
        step = _STEPS[node.op](graph, node, found) if node is not None and node.op in _STEPS else None
        if step is None:
            return found
        found = step


def factor_of(node: Node) -> tuple[Expr, float] | None:
    """x and c where a node is x * c, c * x or x / c for a number c, with the shape of x."""
    for data, number in ((0, 1), (1, 0)) if node.op == "multiply" else ((0, 1),):
        value = tensors.scalar(node.args[number])
        if value is not None and tensors.same_dims(tensors.shape(node.args[data]), tensors.shape(node.var)):
            if node.op == "multiply":
                return node.args[data], float(value)
            return (node.args[data], 1.0 / float(value)) if value else None
    return None


def _cast(_: Graph, node: Node, found: Source) -> Source | None:
    """16-bit floats that are multiplied in float32 are as good as they are."""
    narrow = tensors.dtype(node.args[0]) in _NARROW and tensors.dtype(node.var) == "float32"
    return replace(found, value=node.args[0]) if narrow else None


def _scaled(_: Graph, node: Node, found: Source) -> Source | None:
    parts = factor_of(node)
    return replace(found, value=parts[0], scale=found.scale * parts[1]) if parts is not None else None


def _permuted(_: Graph, node: Node, found: Source) -> Source | None:
    axes = tensors.permutation(node.attrs, len(found.perm))
    return replace(found, value=node.args[0], perm=tuple(axes[a] for a in found.perm))


def _broadcast(_: Graph, node: Node, found: Source) -> Source | None:
    """One entry of a batch axis serves all."""
    before, after = tensors.shape(node.args[0]), tensors.shape(node.var)
    if before is None or after is None or len(before) != len(after):
        return None
    changed = [a for a, (b, c) in enumerate(zip(before, after, strict=True)) if not tensors.same_dim(b, c)]
    fits = all(tensors.is_one(before[a]) and _is_batch(found, a) for a in changed)
    return replace(found, value=node.args[0]) if fits else None


def _repeated(graph: Graph, node: Node, found: Source) -> Source | None:
    """reshape(broadcast_to(x of (.., h, 1, ..), (.., h, g, ..)), (.., h * g, ..)) -> x of (.., h, ..)"""
    inner, after = graph.producer(node.args[0], "broadcast_to"), tensors.shape(node.var)
    if inner is None or after is None:
        return None
    before, wide = tensors.shape(inner.args[0]), tensors.shape(inner.var)
    if before is None or wide is None or not len(before) == len(wide) == len(after) + 1:
        return None
    for axis in range(1, len(wide)):
        narrow = (*before[:axis], *before[axis + 1 :])
        others = (*wide[: axis - 1], *wide[axis + 1 :])
        if (
            tensors.is_one(before[axis])
            and tensors.same_dims(narrow, (*wide[:axis], *wide[axis + 1 :]))
            and tensors.same_dims(others, (*after[: axis - 1], *after[axis:]))
            and tensors.same_dim(tensors.product(wide[axis - 1 : axis + 1]), after[axis - 1])
            and _is_batch(found, axis - 1)
        ):
            return replace(found, value=_reshaped(graph, inner.args[0], narrow))
    return None


def _reshaped(graph: Graph, expr: Expr, dims: tuple[tensors.Dim, ...]) -> Expr:
    """`expr` in another shape; what it was reshaped from, if that has it already."""
    made = graph.producer(expr, "reshape")
    if made is not None and tensors.same_dims(tensors.shape(made.args[0]), dims):
        return made.args[0]
    return graph.emit(relax.op.reshape(expr, dims))


def _is_batch(found: Source, axis: int) -> bool:
    """Whether an axis of memory is none of the matrices' own."""
    return found.perm.index(axis) < len(found.perm) - 2


_STEPS = {
    "astype": _cast,
    "multiply": _scaled,
    "divide": _scaled,
    "permute_dims": _permuted,
    "broadcast_to": _broadcast,
    "reshape": _repeated,
}
