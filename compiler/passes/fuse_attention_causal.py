"""Recognise causal masks that a model computes from the positions of queries and keys, whose numbers are open."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import tirx
from tvm.relax import Expr

from . import tensors
from .graph import Graph, Node

# Comparison of a row's position with a key's -> whether the key is hidden where it holds, and how many keys behind
# the row's own are seen although: "row < key" hides from the next key on.
_ROW_TO_KEY = {"less": (True, 0), "less_equal": (True, -1), "greater_equal": (False, 0), "greater": (False, -1)}
_MIRRORED = {"less": "greater", "less_equal": "greater_equal", "greater": "less", "greater_equal": "less_equal"}


@dataclass(frozen=True)
class Causal:
    """Row i sees keys up to i + `offset`; `fill` is what is added to the scores of others."""

    offset: int
    fill: float


def computed_causal(graph: Graph, mask: Expr) -> Causal | None:
    """What a mask of (rows, keys), which is added to scores, is: where(less(rows, keys), fill, 0) or the like."""
    node = graph.producer(mask)
    while node is not None and node.op in ("astype", "add"):
        if node.op == "astype":
            node = graph.producer(node.args[0])
        else:
            rest = [a for a in node.args if not _is_zero(graph, a)]
            node = graph.producer(rest[0]) if len(rest) == 1 else None
    if node is None or node.op != "where":
        return None
    hidden = _hidden(graph, node.args[0])
    chosen = [tensors.scalar(a) for a in node.args[1:]]
    if hidden is None:
        return None
    where_true, offset = hidden
    fill, nothing = chosen if where_true else chosen[::-1]
    return Causal(offset, float(fill)) if nothing == 0 and fill is not None else None


def _hidden(graph: Graph, condition: Expr) -> tuple[bool, int] | None:
    """Whether keys are hidden where the condition is true, or where it is false; and the last key seen."""
    node = graph.producer(condition, *_ROW_TO_KEY)
    if node is None or tensors.rank(node.var) != 2:
        return None
    left, right = (_position(graph, a) for a in node.args)
    if left is None or right is None or left[0] == right[0]:
        return None
    name = node.op if left[0] == 0 else _MIRRORED[node.op]
    row, key = (left, right) if left[0] == 0 else (right, left)
    where_true, seen = _ROW_TO_KEY[name]
    return where_true, row[1] - key[1] + seen


def _position(graph: Graph, expr: Expr) -> tuple[int, int] | None:
    """The axis (0: rows, 1: keys) along which a tensor counts, and where it begins."""
    node, begin = graph.producer(expr), 0
    while node is not None and node.op in ("add", "astype"):
        if node.op == "add":
            value = tensors.scalar(node.args[1])
            if value is None or int(value) != value:
                return None
            begin += int(value)
        node = graph.producer(node.args[0])
    if node is None or node.op != "reshape":
        return None
    dims, counted = tensors.shape(node.var), graph.producer(node.args[0], "call_tir")
    if dims is None or len(dims) != 2 or counted is None or tensors.rank(counted.var) != 1:
        return None
    ones = [tensors.is_one(d) for d in dims]
    if ones.count(True) != 1 or not _counts(graph, counted):
        return None
    return ones.index(False), begin


def _counts(graph: Graph, node: Node) -> bool:
    """Whether a kernel's result is 0, 1, 2, ..."""
    store = _only_store(graph, node)
    return store is not None and len(store.indices) == 1 and store.value.same_as(store.indices[0])


def _is_zero(graph: Graph, expr: Expr) -> bool:
    """Whether all elements are zero."""
    if tensors.scalar(expr) is not None:
        return tensors.scalar(expr) == 0
    node = graph.producer(expr, "call_tir")
    store = _only_store(graph, node) if node is not None else None
    return store is not None and isinstance(store.value, tirx.FloatImm) and float(store.value.value) == 0.0


def _only_store(graph: Graph, node: Node) -> tirx.BufferStore | None:
    """The one statement of a kernel without inputs."""
    gvar, inputs = node.args[0], node.args[1]
    func = graph.function(gvar) if isinstance(gvar, tvm.ir.GlobalVar) else None
    if not isinstance(func, tirx.PrimFunc) or not isinstance(inputs, tvm.ir.Tuple) or len(inputs.fields):
        return None
    found: list[tirx.BufferStore] = []
    tvm_ffi.structural_walk(func.body, (tirx.BufferStore, found.append), order="post")
    return found[0] if len(found) == 1 else None
