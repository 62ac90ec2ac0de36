"""Let anchors multiply 16-bit floats as they are stored, where the target's templates do."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.relax import Expr

from ..schedule.op_spec import OpSpec, TensorType
from ..schedule.selection import Selector, matches
from . import tensors
from .anchors import ANCHORS, tensor_type
from .base import Pass
from .graph import Graph, Node, typed
from .rebuild import rebuild

_NARROW = ("float16", "bfloat16")
_MOVES = ("permute_dims", "reshape")


@dataclass(frozen=True)
class NarrowOperands(Pass):
    """Undo casts to float32 ahead of matmuls and convolutions whose sums are float32 anyway.

    Before:  w = astype(x, "float32"); y = matmul(w, W)                # x: float16; W: numbers that float16 has
    After:   y = matmul(x, W16, out_dtype="float32")

    Products and sums are the same. Only where a template of the target takes such operands: others want float32.
    Comes right before SelectTemplates.
    """

    selector: Selector
    name: str = field(default="narrow_operands", init=False)

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with such operands."""
        graph = Graph.of(mod)
        if graph is None:
            return mod
        graph.sweep(self._narrowed)
        return graph.to_module() if graph.changed else mod

    def _narrowed(self, graph: Graph, node: Node) -> Expr | None:
        if node.op not in ("matmul", "nn.conv2d") or tensors.dtype(node.var) != "float32":
            return None
        dtype = next((d for d in (_narrow_type(graph, x) for x in node.args[:2]) if d is not None), None)
        if dtype is None or not all(_can_be(graph, x, dtype) for x in node.args[:2]):
            return None
        op = _spec(graph, node, dtype)
        if op is None or not matches(op, self.selector.target):
            return None
        operands = [_narrow(graph, x, dtype) for x in node.args[:2]]
        if node.op == "matmul":
            return typed(relax.op.matmul(*operands, out_dtype="float32"), node.ty)
        return typed(rebuild(node, operands, out_dtype="float32"), node.ty)


def _narrow_type(graph: Graph, expr: Expr) -> str | None:
    """The type that `expr` was cast from, if it is one of 16 bits."""
    made = graph.producer(expr, "astype", *_MOVES)
    if made is None:
        return None
    if made.op in _MOVES:
        return _narrow_type(graph, made.args[0])
    dtype = tensors.dtype(made.args[0])
    return dtype if dtype in _NARROW else None


def _can_be(graph: Graph, expr: Expr, dtype: str) -> bool:
    """Whether `expr` holds numbers of `dtype` only, as far as can be seen."""
    value = tensors.array(expr)
    if value is None:
        return _narrow_type(graph, expr) == dtype
    if dtype != "float16":  # numpy has no other
        return False
    with np.errstate(over="ignore"):
        return bool(np.array_equal(value.astype(dtype).astype("float32"), value))


def _narrow(graph: Graph, expr: Expr, dtype: str) -> Expr:
    """`expr`, of which `_can_be` holds, in `dtype`."""
    value = tensors.array(expr)
    if value is not None:
        return tensors.constant(value, dtype)
    made = graph.producer(expr, "astype", *_MOVES)
    assert made is not None
    if made.op == "astype":
        return made.args[0]
    data = _narrow(graph, made.args[0], dtype)
    if made.op == "reshape":
        return graph.emit(relax.op.reshape(data, made.args[1]))
    return graph.emit(relax.op.permute_dims(data, tensors.permutation(made.attrs, tensors.rank(expr))))


def _is_constant(graph: Graph, expr: Expr) -> bool:
    """Whether `expr` is a constant, or the cast of one: large ones are not cast at compile time."""
    made = graph.producer(expr, "astype")
    return tensors.array(made.args[0] if made is not None else expr) is not None


def _spec(graph: Graph, node: Node, dtype: str) -> OpSpec | None:
    """The anchor alone, on operands of type `dtype`; None if it is no anchor."""
    anchor = ANCHORS[node.op](node.value, {})
    if anchor is None:
        return None
    result = tensor_type(node.var)
    return OpSpec(
        kind=anchor.kind,
        inputs=tuple(TensorType(tensor_type(x).shape, dtype) for x in anchor.operands),
        constant=tuple(_is_constant(graph, x) for x in node.args[:2]),
        attrs=tuple(sorted(anchor.attrs.items())),
        anchor_type=result,
        output=result,
    )
