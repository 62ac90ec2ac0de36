"""A quantized graph in numpy, node by node: what targets' integers are compared with, bit for bit.

The integer operators are exact. The float ones between them are computed in float32 in numpy's order of operations, so
that they may differ from a target's in their last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst, Tuple, TupleGetItem
from tvm.relax import Expr

from ...errors import KompiloError
from ...schedule.requantize import LARGEST, requantize
from .. import tensors
from ..graph import Graph, Node
from ..rebuild import CONVOLUTIONS, POOLS
from ..rules_constant import clip_bounds
from . import ops

Values = dict[relax.Var, object]


def evaluate(mod: tvm.IRModule, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of `main`, a graph as `quantize_module` makes it, for arrays in the order of its parameters.

    Raises KompiloError for a float operator that has no numpy form here.
    """
    values = evaluate_all(mod, inputs)
    body = mod["main"].body.body
    results = body.fields if isinstance(body, Tuple) else [body]
    found = [values[r] for r in results]
    return list(found[0]) if len(found) == 1 and isinstance(found[0], tuple) else found  # type: ignore[return-value]


def evaluate_all(mod: tvm.IRModule, inputs: Sequence[np.ndarray]) -> Values:
    """The value of every variable of `main`'s dataflow block; parameters and errors as for `evaluate`."""
    graph = Graph.of(mod)
    if graph is None:
        raise KompiloError("numpy reference: expected a module whose main has one dataflow block.")
    values: Values = dict(zip(graph.params, inputs, strict=True))
    for node in graph.nodes:
        values[node.var] = _value(node, values)
    return values


def _value(node: Node, values: Values) -> object:
    if node.op in ("alias", "match_cast"):
        return _read(node.args[0], values)
    if node.op == "tuple":
        return tuple(_read(a, values) for a in node.args)
    if isinstance(node.value, TupleGetItem):
        return _read(node.args[0], values)[node.value.index]  # type: ignore[index]
    compute = _OPERATORS.get(node.op)
    if compute is None:
        raise KompiloError(f"numpy reference: expected an operator of its table, found {node.op}.")
    result = compute(node, *(_read(a, values) for a in node.args))
    if isinstance(result, np.ndarray | np.generic) and tensors.dtype(node.var):
        return np.asarray(result, tensors.dtype(node.var))
    return result


def _read(expr: Expr, values: Values) -> object:
    if isinstance(expr, relax.Var):
        return values[expr]
    if isinstance(expr, GenericConst):
        return tensors.array(expr)
    if isinstance(expr, Tuple):
        return tuple(_read(f, values) for f in expr.fields)
    return expr  # shapes, numbers: their operators read them from the node


Array = np.ndarray


def _quantize(_: Node, x: Array, inverse: Array) -> Array:
    return np.clip(np.rint(x * inverse), -LARGEST, LARGEST).astype(np.int8)


def _requantize(node: Node, acc: Array, multiplier: Array, shift: Array) -> Array:
    return requantize(acc, multiplier, shift, *ops.limits(node.value))


def _dequantize(_: Node, x: Array, scale: Array) -> Array:
    return x.astype(np.float32) * scale


def _convolution(node: Node, x: Array, w: Array) -> Array:
    """Of integers exactly: each product and sum is an integer below 2^53."""
    a = node.attrs
    groups = int(a.groups)
    padding, fill = tensors.ints(a.padding), np.zeros((), x.dtype)
    windows = _windows(x, w.shape[2:], tensors.ints(a.strides), padding, tensors.ints(a.dilation), fill)
    rank, batch = x.ndim - 2, x.shape[0]
    sizes = windows.shape[2 : 2 + rank]
    # (N, G, C / G, outputs..., kernel...) -> (N, G, outputs, C / G * kernel)
    parted = windows.reshape(batch, groups, -1, *sizes, *w.shape[2:])
    rows = np.moveaxis(parted, 2, 2 + rank).reshape(batch, groups, int(np.prod(sizes)), -1)
    columns = w.reshape(groups, w.shape[0] // groups, -1).transpose(0, 2, 1)
    wide = np.float64 if x.dtype.kind == "i" else x.dtype
    product = rows.astype(wide) @ columns.astype(wide)
    return product.transpose(0, 1, 3, 2).reshape(batch, w.shape[0], *sizes)


def _windows(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    fill: Array,
) -> Array:
    """(N, C, outputs..., kernel...) of (N, C, sizes...); what is padded holds `fill`."""
    rank = len(kernel)
    widths = [(0, 0), (0, 0), *zip(padding[:rank], padding[rank:], strict=True)]
    padded = np.pad(x, widths, constant_values=fill)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    found = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + rank)))
    steps = tuple(slice(None, None, s) for s in strides)
    inner = tuple(slice(None, None, d) for d in dilation)
    return found[(slice(None), slice(None), *steps, *inner)]


def _pool(node: Node, x: Array) -> Array:
    """Maximum, or average of floats, of windows that no border cuts off but for padding."""
    a = node.attrs
    kernel, padding = tensors.ints(a.pool_size), tensors.ints(a.padding)
    largest = "max" in node.op
    if a.ceil_mode:
        raise KompiloError(f"numpy reference: expected {node.op} of whole windows, found windows that are cut off.")
    lowest = np.iinfo(x.dtype).min if x.dtype.kind == "i" else -np.inf
    fill = np.asarray(lowest if largest else 0, x.dtype)
    axes = tuple(range(-len(kernel), 0))

    def windows(value: Array) -> Array:
        return _windows(value, kernel, tensors.ints(a.strides), padding, tensors.ints(a.dilation), fill)

    if largest:
        return windows(x).max(axis=axes)
    if a.count_include_pad:
        return windows(x).mean(axis=axes)
    return windows(x).sum(axis=axes) / windows(np.ones_like(x)).sum(axis=axes)


def _matmul(node: Node, x: Array, w: Array) -> Array:
    wide = np.float64 if tensors.dtype(node.var) == "int32" else x.dtype
    return x.astype(wide) @ w.astype(wide)


def _reshape(node: Node, x: Array, *_: object) -> Array:
    """Sizes that only a run tells: the one that is left over."""
    dims = [d if isinstance(d, int) else -1 for d in tensors.known_shape(node.var)]
    if dims.count(-1) > 1:  # leading sizes that stay as they were
        dims = [x.shape[k] if d == -1 and k < x.ndim else d for k, d in enumerate(dims)]
    return x.reshape(dims)


def _slice(node: Node, x: Array, *_: object) -> Array:
    axes, begin, end, *strides = ([int(v) for v in a.fields] for a in node.args[1:])
    index = [slice(None)] * x.ndim
    for axis, first, last, step in zip(axes, begin, end, strides[0] if strides else [1] * len(axes), strict=True):
        index[axis] = slice(first, last, step)
    return x[tuple(index)]


def _softmax(node: Node, x: Array) -> Array:
    axis = int(node.attrs.axis)
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def _reduction(function: Callable[..., object]) -> Callable[..., object]:
    def reduce(node: Node, x: Array) -> object:
        axes = tensors.axes_of(node.attrs.axis, x.ndim)
        return function(x, axis=axes, keepdims=bool(node.attrs.keepdims))

    return reduce


def _plain(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda node, *operands: function(*operands)


_OPERATORS: Mapping[str, Callable[..., object]] = {
    ops.QUANTIZE: _quantize,
    ops.REQUANTIZE: _requantize,
    ops.DEQUANTIZE: _dequantize,
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(POOLS, _pool),
    "matmul": _matmul,
    "concat": lambda node, parts: np.concatenate(parts, int(node.attrs.axis or 0)),
    **dict.fromkeys(("reshape", "expand_dims", "squeeze", "flatten", "nn.batch_flatten"), _reshape),
    "permute_dims": lambda node, x: x.transpose(tensors.permutation(node.attrs, x.ndim)),
    "strided_slice": _slice,
    "astype": lambda node, x: x.astype(tensors.dtype(node.var)),
    "sum": _reduction(np.sum),
    "mean": _reduction(np.mean),
    "max": _reduction(np.max),
    "min": _reduction(np.min),
    "nn.softmax": _softmax,
    "nn.log_softmax": lambda node, x: np.log(_softmax(node, x)),
    "clip": lambda node, x, *_: np.clip(x, *clip_bounds(node)),
    "nn.relu": _plain(lambda x: np.maximum(x, x.dtype.type(0))),
    "sigmoid": _plain(lambda x: 1 / (1 + np.exp(-x))),
    "tanh": _plain(np.tanh),
    "exp": _plain(np.exp),
    "sqrt": _plain(np.sqrt),
    "negative": _plain(np.negative),
    "add": _plain(np.add),
    "subtract": _plain(np.subtract),
    "multiply": _plain(np.multiply),
    "divide": _plain(np.divide),
    "maximum": _plain(np.maximum),
    "minimum": _plain(np.minimum),
}
