"""Operators that write into a copy of their input, one update after the other: ScatterElements, ScatterND; and TopK.

Updates may hit the same element, so the loops over them are serial; an index out of range is clamped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...loop_marks import INDEPENDENT
from ..node import Node
from ..symbols import as_expr
from ..values import Dim
from .data_movement import check_beside, index_at, inside, require_inside
from .registry import converter
from .runtime_checks import with_sizes
from .shape_ops import required_dims

op = relax.op

Reduction = Callable[[Any, Any], Any]

_REDUCTIONS: dict[str, Reduction] = {
    "none": lambda _, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "min": tirx.min,
    "max": tirx.max,
}


def _reduction(node: Node) -> Reduction:
    kind = node.attr("reduction", "none")
    if kind not in _REDUCTIONS:
        raise node.error(f"reduction {kind!r} is not one of {', '.join(_REDUCTIONS)}")
    return _REDUCTIONS[kind]


def size_of(shape: Sequence[Any]) -> Any:
    """The number of elements of a tensor of `shape`, as an expression."""
    total: Any = tirx.IntImm("int64", 1)
    for dim in shape:
        total = total * dim
    return total


def unravel(flat: Any, shape: Sequence[Any]) -> list[Any]:
    """The position on each axis of element number `flat`."""
    position = []
    for dim in reversed(shape):
        position.append(tirx.floormod(flat, dim))
        flat = tirx.floordiv(flat, dim)
    return position[::-1]


def _ravel(position: Sequence[Any], shape: Sequence[Any]) -> Any:
    flat: Any = tirx.IntImm("int64", 0)
    for at, dim in zip(position, shape, strict=True):
        flat = flat * dim + at
    return flat


def _scatter(
    data: te.Tensor, indices: te.Tensor, updates: te.Tensor, place: Callable[[Any, Any], list[Any]], combine: Reduction
) -> te.Tensor:
    """A copy of `data` with each update combined into the element that `place(indices, position of update)` names.

    ONNX wants no two updates of one element where they are not combined, so their order is free.
    """
    marks = INDEPENDENT if combine is _REDUCTIONS["none"] else None

    def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
        source, where, values, out = (T.buffer_proxy(b) for b in (*ins, *outs))
        with IRBuilder() as builder:
            with T.seq_scope():
                with T.serial(0, size_of(data.shape), annotations=INDEPENDENT) as i:
                    out[i] = source[i]
                with T.serial(0, size_of(updates.shape), annotations=marks) as j:
                    target = _ravel(place(where, unravel(j, updates.shape)), data.shape)
                    out[target] = combine(out[target], values[j])
            return builder.get()

    result = tirx.decl_buffer(data.shape, data.dtype, "scattered", layout=None)
    return te.extern(
        [data.shape], [data, indices, updates], body, dtype=data.dtype, out_buffers=[result], name="scatter"
    )


@converter("Scatter", since=9)
@converter("ScatterElements", since=11)
def scatter_elements(node: Node) -> relax.Expr:
    axis, combine = node.axis(node.attr("axis", 0), node.rank(0)), _reduction(node)
    check_beside(node, axis)

    def compute(data: te.Tensor, indices: te.Tensor, updates: te.Tensor) -> te.Tensor:
        def place(where: Any, position: list[Any]) -> list[Any]:
            index = where[_ravel(position, indices.shape)]
            beside = inside(position, data.shape)
            return [*beside[:axis], index_at(index, data.shape[axis]), *beside[axis + 1 :]]

        return _scatter(data, indices, updates, place, combine)

    updates = _updates(node, node.shape(1))
    return node.te(compute, *node.inputs[:2], updates, name="scatter_elements")


@converter("ScatterND", since=11)
def scatter_nd(node: Node) -> relax.Expr:
    """The last axis of the indices holds a position on the leading axes of the data."""
    depth, combine = node.shape(1)[-1], _reduction(node)
    if not isinstance(depth, int) or depth > node.rank(0):
        raise node.error(f"indices hold {depth} coordinates, expected at most {node.rank(0)}")
    for k in range(depth):
        known = node.const(1)
        require_inside(node, None if known is None else known[..., k], node.shape(0)[k], f"axis {k} of input 0")
    outer = node.rank(1) - 1

    def compute(data: te.Tensor, indices: te.Tensor, updates: te.Tensor) -> te.Tensor:
        def place(where: Any, position: list[Any]) -> list[Any]:
            first = _ravel([*position[:outer], tirx.IntImm("int64", 0)], indices.shape)
            return [*(index_at(where[first + k], data.shape[k]) for k in range(depth)), *position[outer:]]

        return _scatter(data, indices, updates, place, combine)

    updates = _updates(node, [*node.shape(1)[:-1], *node.shape(0)[depth:]])
    return node.te(compute, *node.inputs[:2], updates, name="scatter_nd")


def _updates(node: Node, shape: list[Dim]) -> relax.Expr:
    """Input 2 in the shape it must have; ModelError where it has another one."""
    if node.rank(2) != len(shape):
        raise node.error(f"the updates need {len(shape)} dimensions, found {node.rank(2)}")
    return with_sizes(node, 2, dict(enumerate(shape)))


@converter("TopK", since=1)
def top_k_attribute(node: Node) -> tuple[relax.Expr, ...]:
    return top_k_of(node, node.required("k"))


@converter("TopK", since=10)
def top_k(node: Node) -> tuple[relax.Expr, ...]:
    (k,) = required_dims(node, 1, "k")
    if not isinstance(k, int):
        raise node.error("k must be a fixed number")
    return top_k_of(node, k)


def top_k_of(node: Node, k: Dim) -> tuple[relax.Expr, ...]:
    """Sorted by insertion: k is small, and most elements are turned away by one comparison with the last kept one."""
    shape = node.shape(0)
    axis = node.axis(node.attr("axis", -1), len(shape))
    if isinstance(k, int) and isinstance(shape[axis], int) and not 0 <= k <= shape[axis]:
        raise node.error(f"k is {k}, expected at most {shape[axis]}, the size of axis {axis}")
    node.require_at_least(shape[axis], k, f"axis {axis} of input 0")
    if isinstance(k, int) and k == 0:
        empty = [*shape[:axis], 0, *shape[axis + 1 :]]
        return op.zeros(empty, node.dtype(0)), op.zeros(empty, "int64")
    largest = bool(node.attr("largest", 1))

    def compute(x: te.Tensor, k: ir.Expr) -> list[te.Tensor]:
        out = [*x.shape[:axis], k, *x.shape[axis + 1 :]]
        values = tirx.decl_buffer(out, x.dtype, "values", layout=None)
        indices = tirx.decl_buffer(out, "int64", "indices", layout=None)
        return te.extern(
            [out, out],
            [x],
            lambda ins, outs: _select(ins[0], outs[0], outs[1], axis, k, largest),
            dtype=[x.dtype, "int64"],
            out_buffers=[values, indices],
            name="top_k",
        )

    pair = node.te(compute, node.inputs[0], as_expr(k), name="top_k")
    return relax.TupleGetItem(pair, 0), relax.TupleGetItem(pair, 1)


def _select(
    x: tirx.Buffer, values: tirx.Buffer, indices: tirx.Buffer, axis: int, k: ir.Expr, largest: bool
) -> tvm.tirx.Stmt:
    """For each row along `axis`: keep the k best so far in order; equal elements stay in the order of their index."""
    data, value, index = (T.buffer_proxy(b) for b in (x, values, indices))
    size = x.shape[axis]
    outer, inner = size_of(x.shape[:axis]), size_of(x.shape[axis + 1 :])

    def better(a: Any, b: Any) -> ir.Expr:
        return a > b if largest else a < b

    with IRBuilder() as builder:
        with T.serial(0, outer * inner, annotations=INDEPENDENT) as row:
            source = tirx.floordiv(row, inner) * size * inner + tirx.floormod(row, inner)
            target = tirx.floordiv(row, inner) * k * inner + tirx.floormod(row, inner)
            with T.serial(0, size) as i:
                new, last = data[source + i * inner], target + (k - 1) * inner
                with T.If(i < k), T.Then():
                    value[target + i * inner] = new
                    index[target + i * inner] = i
                with T.If(tirx.any(i < k, better(new, value[last]))), T.Then():
                    kept = tirx.min(i, k)
                    with T.serial(0, kept) as step:
                        # From the last kept element to the first: move those that the new one beats one place down.
                        slot = target + (kept - 1 - step) * inner
                        with T.If(better(new, value[slot])), T.Then():
                            with T.If(kept - step < k), T.Then():
                                value[slot + inner] = value[slot]
                                index[slot + inner] = index[slot]
                            value[slot] = new
                            index[slot] = i
        return builder.get()
