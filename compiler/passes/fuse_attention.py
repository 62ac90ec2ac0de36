"""Recognise attention written out as two products around a softmax, for targets that have a kernel for the whole."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm.relax import Expr

from ..schedule.op_spec import OpSpec
from ..schedule.selection import Selector, matches
from . import tensors
from .anchors import ANCHORS, tensor_type
from .attention import NAME, AttentionAttrs, attention
from .base import Pass
from .fuse_attention_operands import Source, source_of
from .fuse_attention_scores import Scores, read_scores
from .graph import Graph, Node


@dataclass(frozen=True)
class FuseAttention(Pass):
    """One kompilo.attention for each softmax of products of queries and keys that weighs values.

    Before:  s = matmul(q, permute_dims(k)); p = softmax(add(multiply(s, 0.125), mask)); y = matmul(p, v)
    After:   y = kompilo.attention(q, k, v, mask, scale=0.125, k_perm=...)

    Also with the scale on q or k, in 16-bit floats that are computed in float32, with `where` for masks, with heads
    of k and v that are repeated for several of q, with constant masks that are causal, and with rows that see no key
    set to zero (as ONNX's Attention has it). Only where a template of the target takes it: elsewhere the graph stays
    as it is. Comes before other anchors are looked for.
    """

    selector: Selector
    name: str = field(default="fuse_attention", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with attention fused."""
        graph = Graph.of(mod)
        if graph is None or not any(n.op == "nn.softmax" for n in graph.nodes):
            return mod
        graph.sweep(self._fused)
        return graph.to_module() if graph.changed else mod

    def _fused(self, graph: Graph, node: Node) -> Expr | None:
        if node.op != "matmul":
            return None
        weights = _weights(graph, node.args[0])
        scores = read_scores(graph, weights.softmax, self.selector.precision == "fp16") if weights is not None else None
        if weights is None or scores is None or not _guards(graph, weights, scores):
            return None
        call = _attention(graph, node, scores, weights.guard is not None)
        if call is None or not matches(_spec(call), self.selector.target):
            return None
        return call


@dataclass(frozen=True)
class _Weights:
    """The softmax, and the condition under which a row's weights become zero."""

    softmax: Node
    guard: Expr | None


def _weights(graph: Graph, expr: Expr) -> _Weights | None:
    """The softmax behind `expr`, if nobody else uses it or what is between."""
    guard = None
    while True:
        node = graph.sole_producer(expr)
        if node is None or node.op == "nn.softmax":
            return _Weights(node, guard) if node is not None else None
        if node.op == "where" and guard is None and tensors.scalar(node.args[1]) == 0:
            guard, expr = node.args[0], node.args[2]
        elif node.op == "astype" and tensors.is_float(node.args[0]):
            expr = node.args[0]
        else:
            return None


def _guards(graph: Graph, weights: _Weights, scores: Scores) -> bool:
    """Whether the guard of `weights`, if any, is that rows of the mask are -inf throughout."""
    if weights.guard is None:
        return True
    known = tensors.array(weights.guard)
    if known is not None:
        if scores.masks or not scores.causal:
            return False
        rows, keys = (int(d) for d in scores.shape[-2:])
        visible = np.tri(rows, keys, scores.offset, dtype=bool).any(axis=1)
        return known.shape[-2:] == (rows, 1) and known.size == rows and np.array_equal(known.reshape(rows), ~visible)
    test = graph.producer(weights.guard, "equal")
    masks = [*(mask for mask, _ in scores.masks), *([scores.computed] if scores.causal else [])]
    if test is None or tensors.scalar(test.args[1]) != -np.inf or len(masks) != 1 or masks[0] is None:
        return False
    largest, mask = graph.producer(test.args[0], "max"), masks[0]
    if largest is None or tensors.axes_of(largest.attrs.axis, tensors.rank(largest.args[0])) != (
        tensors.rank(largest.args[0]) - 1,
    ):
        return False
    return bool(largest.attrs.keepdims) and largest.args[0].same_as(mask)


def _attention(graph: Graph, node: Node, scores: Scores, guarded: bool) -> tvm.ir.Call | None:
    """The call that stands for `node`, which weighs values; None where operands are not matrices of like batches."""
    assert scores.product is not None
    result, rank = tensors.shape(node.var), tensors.rank(node.var)
    operands = (*scores.product.args[:2], node.args[1])
    if result is None or rank < 2 or any(tensors.rank(x) != rank for x in operands):
        return None
    q, k, v = (source_of(graph, x) for x in operands)
    turned = (*k.perm[:-2], k.perm[-1], k.perm[-2])
    types = {tensors.dtype(s.value) for s in (q, k, v)}
    if v.scale != 1.0 or len(types) != 1 or not _batches_fit(q, k, v, result):
        return None
    attrs = AttentionAttrs(
        q_perm=q.perm,
        k_perm=turned,
        v_perm=v.perm,
        scale=scores.scale * q.scale * k.scale,
        masks=tuple(meaning for _, meaning in scores.masks),
        fill=str(float(scores.fill)),
        causal=scores.causal,
        offset=scores.offset,
        zero_rows=int(guarded),
    )
    return attention(attrs, [q.value, k.value, v.value, *(m for m, _ in scores.masks)], node.ty)


def _batches_fit(q: Source, k: Source, v: Source, result: tuple[tensors.Dim, ...]) -> bool:
    """Whether q has the result's batches, and k and v these or divisors of them."""
    shapes = [tensors.known_shape(s.value) for s in (q, k, v)]
    batches = [[shape[a] for a in s.perm[:-2]] for shape, s in zip(shapes, (q, k, v), strict=True)]
    return tensors.same_dims(batches[0], result[:-2]) and all(
        tensors.same_dim(own, whole) or (isinstance(own, int) and (own == 1 or _divides(own, whole)))
        for batch in batches[1:]
        for own, whole in zip(batch, result[:-2], strict=True)
    )


def _divides(own: int, whole: tensors.Dim) -> bool:
    return isinstance(whole, int) and whole % own == 0


def _spec(call: tvm.ir.Call) -> OpSpec:
    """The anchor alone."""
    anchor = ANCHORS[NAME](call, {})
    assert anchor is not None
    result = tensor_type(call)
    return OpSpec(
        kind=anchor.kind,
        inputs=tuple(tensor_type(x) for x in anchor.operands),
        constant=tuple(isinstance(x, tvm.ir.GenericConst) for x in anchor.operands),
        attrs=tuple(sorted(anchor.attrs.items())),
        anchor_type=result,
        output=result,
    )
