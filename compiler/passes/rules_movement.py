"""Rules about operators that only move elements: reshape, permute_dims, slices, concat, casts, pads.

Every rule returns an expression of the node's own type, or None where it does not apply.
"""

from __future__ import annotations

from tvm import relax
from tvm.ir import Tuple, TupleGetItem
from tvm.relax import Expr

from . import tensors
from .graph import Graph, Node, Rule
from .rules_constant import is_constant

RESHAPES = ("reshape", "expand_dims", "squeeze", "flatten", "nn.batch_flatten")


def _same_shape(node: Node) -> bool:
    return tensors.same_dims(tensors.shape(node.args[0]), tensors.shape(node.var))


def no_movement(_: Graph, node: Node) -> Expr | None:
    """reshape(x, shape of x) -> x, and the same for broadcast_to, split into one part, a full strided_slice with steps
    of one"""
    return node.args[0] if _same_shape(node) and tensors.dtype(node.args[0]) == tensors.dtype(node.var) else None


def full_slice(graph: Graph, node: Node) -> Expr | None:
    """strided_slice(x) -> x where it keeps every element in order"""
    steps = node.args[4] if len(node.args) > 4 else None
    if steps is not None and (not isinstance(steps, Tuple) or any(tensors.dim(s) != 1 for s in steps.fields)):
        return None
    return no_movement(graph, node)


def as_reshape(_: Graph, node: Node) -> Expr | None:
    """expand_dims(x), squeeze(x), flatten(x) -> reshape(x)"""
    dims = tensors.shape(node.var)
    return None if dims is None else relax.op.reshape(node.args[0], dims)


def reshape_of_reshape(graph: Graph, node: Node) -> Expr | None:
    """reshape(reshape(x)) -> reshape(x)"""
    inner, dims = graph.producer(node.args[0], *RESHAPES), tensors.shape(node.var)
    if inner is None or dims is None or tensors.shape(inner.args[0]) is None:
        return None
    return relax.op.reshape(inner.args[0], dims)


def slice_of_permute(graph: Graph, node: Node) -> Expr | None:
    """strided_slice(permute_dims(x, p)) -> permute_dims(strided_slice(x), p): less is moved, and matmuls take in
    permutes"""
    inner = graph.producer(node.args[0], "permute_dims")
    if inner is None or not isinstance(node.args[1], Tuple) or tensors.shape(node.var) is None:
        return None
    ndim = tensors.rank(inner.var)
    order = tensors.permutation(inner.attrs, ndim)
    axes = [order[int(a) % ndim] for a in node.args[1].fields]
    part = relax.op.strided_slice(inner.args[0], axes, *node.args[2:], assume_inbound=bool(node.attrs.assume_inbound))
    return relax.op.permute_dims(graph.emit(part), order)


def squeeze_of_permute(graph: Graph, node: Node) -> Expr | None:
    """reshape(permute_dims(x, p)) that drops one axis of size one -> permute_dims(reshape(x), p without it)"""
    inner = graph.sole_producer(node.args[0], "permute_dims")
    dims, wide = tensors.shape(node.var), tensors.shape(node.args[0])
    if inner is None or dims is None or wide is None or len(wide) != len(dims) + 1:
        return None
    order = tensors.permutation(inner.attrs, len(wide))
    for k, size in enumerate(wide):
        if tensors.is_one(size) and tensors.same_dims((*wide[:k], *wide[k + 1 :]), dims):
            source = tensors.known_shape(inner.args[0])
            dropped = order[k]
            rest = [a - (a > dropped) for a in order if a != dropped]
            narrow = graph.emit(relax.op.reshape(inner.args[0], (*source[:dropped], *source[dropped + 1 :])))
            return relax.op.permute_dims(narrow, rest)
    return None


def identity_permute(_: Graph, node: Node) -> Expr | None:
    """permute_dims(x, (0, 1, 2)) -> x"""
    ndim = tensors.rank(node.var)
    return node.args[0] if tensors.permutation(node.attrs, ndim) == tuple(range(ndim)) else None


def permute_of_permute(graph: Graph, node: Node) -> Expr | None:
    """permute_dims(permute_dims(x, p), q) -> permute_dims(x, p[q])"""
    inner = graph.producer(node.args[0], "permute_dims")
    if inner is None:
        return None
    ndim = tensors.rank(node.var)
    first, second = tensors.permutation(inner.attrs, ndim), tensors.permutation(node.attrs, ndim)
    return relax.op.permute_dims(inner.args[0], [first[a] for a in second])


def permute_of_ones(_: Graph, node: Node) -> Expr | None:
    """permute_dims(x) -> reshape(x) where only axes of size one change their place"""
    source, dims = tensors.shape(node.args[0]), tensors.shape(node.var)
    if source is None or dims is None:
        return None
    moved = [a for a in tensors.permutation(node.attrs, len(dims)) if not tensors.is_one(source[a])]
    return relax.op.reshape(node.args[0], dims) if moved == sorted(moved) else None


def no_cast(_: Graph, node: Node) -> Expr | None:
    """astype(x, dtype of x) -> x"""
    return node.args[0] if tensors.dtype(node.args[0]) == tensors.dtype(node.var) else None


def concat_of_one(_: Graph, node: Node) -> Expr | None:
    """concat((x,)) -> x"""
    fields = list(node.args[0].fields) if isinstance(node.args[0], Tuple) else []
    return fields[0] if len(fields) == 1 else None


def concat_of_concat(graph: Graph, node: Node) -> Expr | None:
    """concat((concat((a, b)), c)) -> concat((a, b, c)) on the same axis, where nothing else uses the inner one"""
    if not isinstance(node.args[0], Tuple):
        return None
    axis, flat, found = _concat_axis(node), [], False
    for part in node.args[0].fields:
        inner = graph.sole_producer(part, "concat")
        if inner is not None and isinstance(inner.args[0], Tuple) and _concat_axis(inner) == axis:
            flat.extend(inner.args[0].fields)
            found = True
        else:
            flat.append(part)
    return relax.op.concat(flat, axis) if found else None


def _concat_axis(node: Node) -> int:
    return int(node.attrs.axis or 0) % max(1, tensors.rank(node.var))


def item_of_tuple(graph: Graph, node: Node) -> Expr | None:
    """(a, b)[1] -> b"""
    if not isinstance(node.value, TupleGetItem):
        return None
    source, made = node.args[0], graph.producer(node.args[0], "tuple")
    if isinstance(source, Tuple):
        return source.fields[node.value.index]
    return made.args[node.value.index] if made is not None else None


def no_pad(_: Graph, node: Node) -> Expr | None:
    """nn.pad(x, 0, 0, ...) -> x"""
    return node.args[0] if not any(tensors.ints(node.attrs.pad_width)) else None


def forward_alias(graph: Graph, node: Node) -> Expr | None:
    """y = x, used by others -> x"""
    return None if node.var in graph.outputs else node.args[0]


def reduction_of_ones(_: Graph, node: Node) -> Expr | None:
    """mean(x, axes of size one) -> reshape(x); the same for sum, max, min, prod"""
    source, dims = tensors.shape(node.args[0]), tensors.shape(node.var)
    if source is None or dims is None or is_constant(node.args[0]):
        return None
    axes = tensors.axes_of(node.attrs.axis, len(source))
    if not all(tensors.is_one(source[a]) for a in axes) or tensors.dtype(node.args[0]) != tensors.dtype(node.var):
        return None
    return relax.op.reshape(node.args[0], dims)


def trivial_pool(_: Graph, node: Node) -> Expr | None:
    """pool with a window, stride and dilation of one and no padding -> x"""
    a = node.attrs
    plain = all(v == 1 for v in (*tensors.ints(a.pool_size), *tensors.ints(a.strides)))
    return node.args[0] if plain and not any(tensors.ints(a.padding)) and a.layout == a.out_layout else None


MOVEMENT_RULES: dict[str, tuple[Rule, ...]] = {
    "reshape": (no_movement, reshape_of_reshape, squeeze_of_permute),
    "expand_dims": (as_reshape,),
    "squeeze": (as_reshape,),
    "flatten": (as_reshape,),
    "nn.batch_flatten": (as_reshape,),
    "permute_dims": (identity_permute, permute_of_permute),
    "broadcast_to": (no_movement,),
    "strided_slice": (full_slice, slice_of_permute),
    "split": (no_movement,),
    "astype": (no_cast,),
    "concat": (concat_of_one, concat_of_concat),
    "get_item": (item_of_tuple,),
    "nn.pad": (no_pad,),
    "alias": (forward_alias,),
    **dict.fromkeys(("mean", "sum", "max", "min", "prod"), (reduction_of_ones,)),
    **{f"nn.{kind}_pool{n}d": (trivial_pool,) for kind in ("max", "avg") for n in (1, 2, 3)},
}

# Applied once the others are done: as a reshape, a permute_dims no longer composes with its neighbours.
LATE_MOVEMENT_RULES: dict[str, tuple[Rule, ...]] = {"permute_dims": (permute_of_ones,)}
