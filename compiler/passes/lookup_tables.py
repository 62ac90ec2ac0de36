"""One-hot products become table look-ups, and what is computed on looked-up rows is computed on the table instead."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr

from . import tensors
from .base import Pass
from .graph import Graph, Node
from .rules_constant import ANY_BINARY, ANY_UNARY, CONSTANT_RULES, FLOAT_BINARY, FLOAT_UNARY

ELEMENTWISE = {*FLOAT_UNARY, *FLOAT_BINARY, *ANY_UNARY, *ANY_BINARY, "clip"}
# Work on the table only pays if the table is no larger than what was looked up, or small anyway.
SMALL_TABLE = 1 << 16


@dataclass(frozen=True)
class LookupTables(Pass):
    """Turn one-hot matmuls into `take`, and move elementwise operators from looked-up rows to the table.

    Before:  y = matmul(astype(equal(reshape(x, (..., 1)), [0, ..., K-1]), "float32"), W); z = gelu(add(y, b))
    After:   z = take(gelu([W; 0] + b), where(0 <= x < K, x, K))

    Needs integer x and constant W of shape (K, N). Exact: a one-hot row picks a row of W, any other x zeros.
    """

    name: str = field(default="lookup_tables", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The same object if the graph has no such product and no look-up."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        graph.apply({"matmul": (one_hot_matmul,), **dict.fromkeys(ELEMENTWISE, (elementwise_on_rows,))})
        return graph.to_module()


def one_hot_matmul(graph: Graph, node: Node) -> Expr | None:
    """matmul(one_hot(x), W) -> take(W with a row of zeros, row number)"""
    weight = tensors.array(node.args[1])
    indices = _one_hot_indices(graph, node.args[0])
    if weight is None or weight.ndim != 2 or indices is None or str(weight.dtype) != tensors.dtype(node.var):
        return None
    classes = weight.shape[0]
    kind = tensors.dtype(indices)
    low, high = (tensors.constant(np.asarray(v), kind) for v in (0, classes))
    known = graph.emit(
        relax.op.logical_and(graph.emit(relax.op.greater_equal(indices, low)), graph.emit(relax.op.less(indices, high)))
    )
    row = graph.emit(relax.op.where(known, indices, high))
    table = tensors.constant(np.concatenate([weight, np.zeros((1, weight.shape[1]), weight.dtype)]))
    return relax.op.take(table, row, axis=0, mode="clip")


def _one_hot_indices(graph: Graph, expr: Expr) -> Expr | None:
    """The integer tensor x of astype(equal(x[..., None], arange(K))), or None if `expr` is no such encoding."""
    cast = graph.producer(expr, "astype")
    equal = graph.producer(cast.args[0], "equal") if cast is not None else None
    if equal is None:
        return None
    column, classes = equal.args
    values, dims = tensors.array(classes), tensors.shape(column)
    if values is None or dims is None or not dims or not tensors.is_one(dims[-1]):
        return None
    full = tensors.shape(equal.var)
    counts = values.dtype.kind in "iu" and values.size == values.shape[-1]
    if not counts or full is None or len(full) != len(dims) or not tensors.same_dims(full[:-1], dims[:-1]):
        return None
    if not np.array_equal(values.reshape(-1), np.arange(values.size)) or tensors.dtype(column) not in (
        "int32",
        "int64",
    ):
        return None
    return graph.emit(relax.op.reshape(column, dims[:-1]))


def elementwise_on_rows(graph: Graph, node: Node) -> Expr | None:
    """f(take(T, i), take(U, i), constants along the last axis) -> take(f(T, U, constants), i)"""
    looked_up = [_lookup(graph, a) for a in node.args]
    first = next((x for x in looked_up if x is not None), None)
    if first is None or not tensors.same_dims(tensors.shape(node.var), tensors.shape(first.var)):
        return None
    table, indices = first.args
    rows = int(table.ty.shape[0])
    if int(np.prod([int(d) for d in table.ty.shape])) > SMALL_TABLE and not _fewer(rows, tensors.shape(indices)):
        return None
    operands = [_on_table(arg, lookup, indices) for arg, lookup in zip(node.args, looked_up, strict=True)]
    if any(o is None for o in operands):
        return None
    shape = tuple(int(d) for d in table.ty.shape)
    call = Call(node.value.op, operands, node.attrs, ret_ty=relax.TensorType(shape, tensors.dtype(node.var)))
    folded = CONSTANT_RULES[node.op][0](graph, Node(relax.Var("table", call.ty), call))
    return None if folded is None else relax.op.take(folded, indices, axis=0, mode=str(first.attrs.mode))


def _lookup(graph: Graph, expr: Expr) -> Node | None:
    """The node that looks rows up in a constant matrix, if `expr` is its result."""
    node = graph.producer(expr, "take")
    if node is None or node.attrs.axis is None or int(node.attrs.axis) != 0:
        return None
    return node if isinstance(node.args[0], GenericConst) and tensors.rank(node.args[0]) == 2 else None


def _on_table(arg: Expr, lookup: Node | None, indices: Expr) -> Expr | None:
    """What stands for `arg` when the operator runs on the table: another table, a row, or a scalar."""
    if lookup is not None:
        return lookup.args[0] if lookup.args[1].same_as(indices) else None
    value = tensors.array(arg)
    if value is None:
        return arg if not isinstance(arg, relax.Var) and not isinstance(arg.ty, relax.TensorType) else None
    if value.size != (value.shape[-1] if value.ndim else 1):
        return None
    return tensors.constant(value.reshape(value.shape[-1:]))


def _fewer(rows: int, looked_up: tuple[tensors.Dim, ...] | None) -> bool:
    """Whether the table has at most as many rows as there are look-ups."""
    count = tensors.product(looked_up) if looked_up is not None else None
    return isinstance(count, int) and rows <= count
