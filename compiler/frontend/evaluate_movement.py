"""Evaluators of operators that give sizes or move elements: the same for numbers and for symbolic sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import ir

from .node import Node
from .operands import MOST_ELEMENTS, Evaluator, Operand, Operands, Undecided, axes
from .slicing import python_slice


def _shape(node: Node, _: Operands) -> np.ndarray:
    dims = node.shape(0)
    return _int64(dims[node.attr("start", 0) : node.attr("end", len(dims))])


def _size(node: Node, _: Operands) -> np.ndarray:
    return _int64(math.prod(node.shape(0), start=1))


def _int64(sizes: Any) -> np.ndarray:
    array = np.array(sizes, object)
    return array if any(isinstance(e, ir.Expr) for e in array.reshape(-1)) else array.astype(np.int64)


# --- moving elements: the same for numbers and symbols ---


def _identity(_: Node, o: Operands) -> Operand:
    return o[0]


def _reshape(node: Node, o: Operands) -> np.ndarray:
    target = node.attr("shape") if node.opset < 5 else o[1].ints()
    if not node.attr("allowzero", 0):
        target = [o[0].array.shape[i] if d == 0 else d for i, d in enumerate(target)]
    return o[0].array.reshape(target)


def _flatten(node: Node, o: Operands) -> np.ndarray:
    shape = o[0].array.shape
    return o[0].array.reshape(math.prod(shape[: node.attr("axis", 1)] if shape else ()), -1)


def _unsqueeze(node: Node, o: Operands) -> np.ndarray:
    return np.expand_dims(o[0].array, tuple(axes(node, o) or ()))


def _squeeze(node: Node, o: Operands) -> np.ndarray:
    given = axes(node, o)
    return np.squeeze(o[0].array, None if given is None else tuple(given))


def _transpose(node: Node, o: Operands) -> np.ndarray:
    return np.transpose(o[0].array, node.attr("perm"))


def _concat(node: Node, o: Operands) -> np.ndarray:
    arrays = [x.objects() for x in o] if any(x.symbolic for x in o) else [x.array for x in o]
    return np.concatenate(arrays, node.attr("axis", 1))


def _gather(node: Node, o: Operands) -> np.ndarray:
    indices = np.array(o[1].ints(), np.int64).reshape(o[1].array.shape)
    return np.asarray(np.take(o[0].array, indices, node.attr("axis", 0)))


def _slice(node: Node, o: Operands) -> np.ndarray:
    array = o[0].array
    if node.opset < 10:
        starts, ends, along, steps = node.attr("starts"), node.attr("ends"), node.attr("axes"), None
    else:
        starts, ends = o[1].ints(), o[2].ints()
        along, steps = (None if given is None else given.ints() for given in (o.get(3), o.get(4)))
    index: list[slice] = [slice(None)] * array.ndim
    for i, axis in enumerate(range(len(starts)) if along is None else along):
        index[axis] = python_slice(starts[i], ends[i], 1 if steps is None else steps[i], array.shape[axis])
    return array[tuple(index)]


def _split(node: Node, o: Operands) -> tuple[np.ndarray, ...]:
    axis, array, given = node.attr("axis", 0), o[0].array, o.get(1)
    sizes = node.attr("split") if given is None else given.ints()
    if sizes is None:
        count = node.attr("num_outputs", node.num_outputs)
        chunk = -(-array.shape[axis] // count)
        cuts = [min(chunk * i, array.shape[axis]) for i in range(1, count)]
    else:
        if sum(sizes) != array.shape[axis] or min(sizes, default=0) < 0:
            raise Undecided
        cuts = list(np.cumsum(sizes)[:-1])
    return tuple(np.split(array, cuts, axis))


def _expand(node: Node, o: Operands) -> np.ndarray:
    shape = np.broadcast_shapes(o[0].array.shape, tuple(o[1].ints()))
    if math.prod(shape) > max(o[0].array.size, MOST_ELEMENTS):
        raise Undecided
    return np.broadcast_to(o[0].array, shape)


def _tile(node: Node, o: Operands) -> np.ndarray:
    if node.opset < 6 or o[0].array.size * math.prod(o[1].ints()) > MOST_ELEMENTS:
        raise Undecided
    return np.tile(o[0].array, o[1].ints())


def _constant_of_shape(node: Node, o: Operands) -> np.ndarray:
    """A view of the one value: constant weights of models without data cost no memory before they are used."""
    value = node.attr("value", np.zeros(1, np.float32))
    return np.broadcast_to(value.reshape(-1)[0], o[0].ints())


MOVEMENT: dict[str, Evaluator] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _identity,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
}
