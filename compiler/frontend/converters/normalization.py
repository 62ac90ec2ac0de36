"""Normalisations: inference BatchNormalization folded to a scale and a shift, the others by their formulas."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from tvm import ir, relax, te, tirx

from ..dtypes import numpy_dtype
from ..values import Dim, Value, constant
from .broadcast import fit, scalar, shape_of
from .convolution import per_channel
from .padding import all_fixed, tidy
from .reduction import reduce
from .registry import converter
from .runtime_checks import with_sizes

if TYPE_CHECKING:
    from ..node import Node

_op = relax.op
_BATCH_NORM_INPUTS = ("scale", "B", "mean", "var")


@converter("BatchNormalization")
def batch_normalization(node: Node) -> relax.Expr | tuple[relax.Expr, ...]:
    """y = x * a + b with a = scale / sqrt(var + epsilon) and b = B - mean * a; constants where the statistics are."""
    epsilon, trailing = node.attr("epsilon", 1e-5), node.rank(0) - 2
    if node.attr("training_mode", 0):
        return _batch_norm_training(node, epsilon, trailing)
    if node.opset < 14 and node.num_outputs > 1:
        raise node.error(f"a node with {node.num_outputs} outputs trains; only inference, with one, is supported")
    for i, name in enumerate(_BATCH_NORM_INPUTS, 1):
        if not node.has(i):
            raise node.error(f"input {name!r} is required and was not found")
    statistics = _agreed_shape(node, range(1, 5))
    x = with_sizes(node, 0, dict(enumerate(statistics, 1)))
    constants = [c.astype(np.float64) for c in map(node.const, range(1, 5)) if c is not None]
    if len(constants) < 4:
        return _scale_and_shift(node, x, [_channels(node, i, trailing, statistics) for i in range(1, 5)], epsilon)
    scale, shift, mean, var = constants
    factor = scale / np.sqrt(var + epsilon)
    dtype = numpy_dtype(node.dtype(0))
    # spatial=0 of old opsets has statistics of shape (C, D1, ...): no axes to add.
    shape = scale.shape + (1,) * (trailing if scale.ndim == 1 else 0)
    scaled = _op.multiply(x, constant(factor.reshape(shape).astype(dtype)))
    return node.emit(_op.add(node.emit(scaled), constant((shift - mean * factor).reshape(shape).astype(dtype))))


def _agreed_shape(node: Node, indices: Iterable[int]) -> list[Dim]:
    """The one shape of several inputs: a fixed size where one has it."""
    shapes = [node.shape(i) for i in indices]
    if len({len(shape) for shape in shapes}) > 1:
        raise node.error(f"scale, bias and statistics need one shape, found {', '.join(map(str, shapes))}")
    return [next((d for d in sizes if isinstance(d, int)), sizes[0]) for sizes in zip(*shapes, strict=True)]


def _channels(node: Node, index: int, trailing: int, shape: list[Dim]) -> relax.Expr:
    return per_channel(node, index, trailing if node.rank(index) == 1 else 0, shape)


def _scale_and_shift(node: Node, x: relax.Expr, statistics: list[relax.Expr], epsilon: float) -> relax.Expr:
    scale, shift, mean, var = statistics
    factor = node.emit(_op.multiply(scale, _inverse_deviation(node, var, epsilon)))
    offset = node.emit(_op.subtract(shift, node.emit(_op.multiply(mean, factor))))
    dtype = str(x.ty.dtype)
    factor, offset = (v if str(v.ty.dtype) == dtype else node.emit(_op.astype(v, dtype)) for v in (factor, offset))
    return node.emit(_op.add(node.emit(_op.multiply(x, factor)), offset))


def _inverse_deviation(node: Node, variance: relax.Expr, epsilon: float) -> relax.Expr:
    dtype = str(variance.ty.dtype)
    return node.emit(_op.rsqrt(node.emit(_op.add(variance, scalar(epsilon, dtype)))))


def _batch_norm_training(node: Node, epsilon: float, trailing: int) -> tuple[relax.Expr, ...]:
    """Statistics of the batch itself, and the running ones: running * momentum + batch * (1 - momentum)."""
    x, momentum = node.inputs[0], node.attr("momentum", 0.9)
    axes = [0, *range(2, trailing + 2)]
    _, mean, variance = _centred(node, x, axes)
    statistics = [per_channel(node, 1, trailing), per_channel(node, 2, trailing), mean, variance]
    running = []
    for i, batch in ((3, mean), (4, variance)):
        dtype, given = node.dtype(i), node.shape(i)
        if len(given) != 1 or node.symbols.equal(given[0], _shape(node, batch)[1]) is False:
            raise node.error(f"input {i} needs one value of each channel, found shape {[str(d) for d in given]}")
        batch = node.emit(_op.reshape(batch, given))
        old = node.emit(_op.multiply(node.inputs[i], scalar(momentum, dtype)))
        new = node.emit(_op.multiply(batch, scalar(1 - momentum, dtype)))
        running.append(node.emit(_op.add(old, new)))
    return _scale_and_shift(node, x, statistics, epsilon), *running


def _centred(node: Node, x: relax.Expr, axes: list[int]) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """x - mean, the mean and the variance over `axes` (kept). Two passes: E[x^2] - E[x]^2 cancels badly."""
    mean = reduce(node, "mean", x, axes, keepdims=True)
    deviation = node.emit(_op.subtract(x, mean))
    return (deviation, mean, reduce(node, "mean", node.emit(_op.multiply(deviation, deviation)), axes, keepdims=True))


@converter("InstanceNormalization")
def instance_normalization(node: Node) -> relax.Expr:
    rank = node.rank(0)
    channels = _agreed_shape(node, (1, 2))
    x = with_sizes(node, 0, {1: channels[0]}, "channels")
    deviation, _, variance = _centred(node, x, list(range(2, rank)))
    unit = node.emit(_op.multiply(deviation, _inverse_deviation(node, variance, node.attr("epsilon", 1e-5))))
    scaled = node.emit(_op.multiply(unit, per_channel(node, 1, rank - 2, channels)))
    return node.emit(_op.add(scaled, per_channel(node, 2, rank - 2, channels)))


def _shape(node: Node, x: relax.Expr) -> list[Dim]:
    return [node.symbols.simplify(d) for d in Value(expr=x).shape or []]


def _fit_scale(node: Node, axes: list[int]) -> relax.Expr:
    """Input 0, its symbolic sizes on `axes` fixed to those of a scale (input 1) that spans them."""
    scale = node.shape(1)
    sizes = dict(zip(axes, scale, strict=True)) if len(scale) == len(axes) else {}
    return with_sizes(node, 0, {a: s for a, s in sizes.items() if isinstance(s, int) and s != 1})


def _trailing(node: Node, index: int, shape: list[Dim]) -> relax.Expr | None:
    """Input `index` with the trailing sizes of `shape`, except where it has a 1; None where it is omitted."""
    if not node.has(index):
        return None
    if node.rank(index) > len(shape):
        raise node.error(f"input {index} needs at most {len(shape)} dimensions, found {node.rank(index)}")
    return fit(node, node.inputs[index], shape)


@converter("LayerNormalization")
@converter("LayerNormalization", domain="com.microsoft")
def layer_normalization(node: Node) -> relax.Expr | tuple[relax.Expr, relax.Expr, relax.Expr]:
    """nn.layer_norm over the trailing axes; the formula where Mean and InvStdDev are wanted or the scale broadcasts."""
    rank, dtype, epsilon = node.rank(0), node.dtype(0), node.attr("epsilon", 1e-5)
    axes = list(range(node.axis(node.attr("axis", -1), rank), rank))
    x = _fit_scale(node, axes)
    shape = _shape(node, x)
    wide = "float32" if node.attr("stash_type", 1) == 1 and dtype in ("float16", "bfloat16") else dtype
    normalized = shape[axes[0] :]
    # TVM's layer_norm is for float32 and narrower.
    scale, bias = _trailing(node, 1, shape), _trailing(node, 2, shape)
    plain = node.num_outputs == 1 and wide == dtype != "float64" and shape_of(scale) == normalized
    if plain and (bias is None or shape_of(bias) == normalized):
        if bias is None:
            if not all_fixed(normalized):
                bias = node.emit(_op.zeros(normalized, dtype))
            else:
                bias = constant(np.zeros(normalized, numpy_dtype(dtype)))
        return node.emit(_op.nn.layer_norm(x, scale, bias, axes, epsilon))
    x = x if wide == dtype else node.emit(_op.astype(x, wide))
    deviation, mean, variance = _centred(node, x, axes)
    inverse = _inverse_deviation(node, variance, epsilon)
    out = node.emit(_op.multiply(deviation, inverse))
    out = out if wide == dtype else node.emit(_op.astype(out, dtype))
    out = node.emit(_op.multiply(out, scale))
    out = out if bias is None else node.emit(_op.add(out, bias))
    if wide == "float64" and node.attr("stash_type", 1) == 1:
        mean, inverse = (node.emit(_op.astype(v, "float32")) for v in (mean, inverse))
    return out, mean, inverse


@converter("RMSNormalization", since=23)
@converter("SimplifiedLayerNormalization")
def rms_normalization(node: Node) -> relax.Expr:
    """nn.rms_norm over the trailing axes; the formula where the scale broadcasts or a 16-bit type is widened."""
    rank, dtype, epsilon = node.rank(0), node.dtype(0), node.attr("epsilon", 1e-5)
    axes = list(range(node.axis(node.attr("axis", -1), rank), rank))
    x = _fit_scale(node, axes)
    shape = _shape(node, x)
    wide = "float32" if node.attr("stash_type", 1) == 1 and dtype in ("float16", "bfloat16") else dtype
    # TVM's rms_norm cannot be lowered when it normalises over all axes.
    scale = _trailing(node, 1, shape)
    if wide == dtype and axes[0] > 0 and shape_of(scale) == shape[axes[0] :]:
        return node.emit(_op.nn.rms_norm(x, scale, axes, epsilon))
    x = x if wide == dtype else node.emit(_op.astype(x, wide))
    square = reduce(node, "mean", node.emit(_op.multiply(x, x)), axes, keepdims=True)
    out = node.emit(_op.multiply(x, _inverse_deviation(node, square, epsilon)))
    out = out if wide == dtype else node.emit(_op.astype(out, dtype))
    return node.emit(_op.multiply(out, scale))


def _with_channels(node: Node, channels: Dim) -> relax.Expr:
    """Input 0 with as many channels as its scale has, where one of both is fixed."""
    own = node.shape(0)[1]
    return with_sizes(
        node, 0, {1: own if isinstance(own, int) and not isinstance(channels, int) else channels}, "channels"
    )


@converter("GroupNormalization", since=18)
def group_normalization(node: Node) -> relax.Expr:
    """Normalise each group of channels; scale and bias are per group before opset 21, per channel since."""
    groups, dtype = node.required("num_groups"), node.dtype(0)
    per_scale = _agreed_shape(node, (1, 2))
    x = node.inputs[0] if node.opset < 21 else _with_channels(node, per_scale[0])
    shape = _shape(node, x)
    channels = shape[1]
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        raise node.error(f"attribute 'num_groups' must divide the channel count {channels}, found {groups}")
    wide = "float32" if node.attr("stash_type", 1) == 1 and dtype in ("float16", "bfloat16") else dtype
    x = x if wide == dtype else node.emit(_op.astype(x, wide))
    x = node.emit(_op.reshape(x, [shape[0], groups, tidy(math.prod(shape[2:]) * (channels // groups))]))
    deviation, _, variance = _centred(node, x, [2])
    out = node.emit(_op.multiply(deviation, _inverse_deviation(node, variance, node.attr("epsilon", 1e-5))))
    out = out if wide == dtype else node.emit(_op.astype(out, dtype))
    if node.opset < 21:
        out = node.emit(_op.multiply(out, per_channel(node, 1, 1, [groups])))
        return node.emit(_op.reshape(node.emit(_op.add(out, per_channel(node, 2, 1, [groups]))), shape))
    out = node.emit(_op.reshape(out, shape))
    out = node.emit(_op.multiply(out, per_channel(node, 1, len(shape) - 2, [channels])))
    return node.emit(_op.add(out, per_channel(node, 2, len(shape) - 2, [channels])))


@converter("LRN")
def lrn(node: Node) -> relax.Expr:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels)^beta, as one elementwise kernel."""
    size, dtype = node.required("size"), node.dtype(0)
    alpha, beta, bias = (node.attr("alpha", 1e-4), node.attr("beta", 0.75), node.attr("bias", 1.0))
    if size < 1:
        raise node.error(f"attribute 'size' must be positive, found {size}")
    before = (size - 1) // 2
    channels = node.shape(0)[1]
    # Taps that lie beyond every channel are left out.
    reach = channels if isinstance(channels, int) else size
    taps = range(max(-before, 1 - reach), min(size - before, reach))

    def compute(x: te.Tensor) -> te.Tensor:
        def square(n: tirx.Var, c: ir.Expr, at: tuple[tirx.Var, ...]) -> ir.Expr:
            value = x(n, c, *at)
            inside = tirx.all(c >= 0, c < x.shape[1])
            return tirx.if_then_else(inside, value * value, tirx.const(0, dtype))

        def element(n: tirx.Var, c: tirx.Var, *at: tirx.Var) -> ir.Expr:
            total = sum((square(n, c + tap, at) for tap in taps), tirx.const(0, dtype))
            base = tirx.const(bias, dtype) + tirx.const(alpha / size, dtype) * total
            return x(n, c, *at) * _negative_power(base, beta, dtype)

        return te.compute(x.shape, element, name="lrn")

    return node.te(compute, node.inputs[0], name="lrn")


def _negative_power(base: ir.Expr, exponent: float, dtype: str) -> ir.Expr:
    """base^-exponent. Square roots for the usual exponents: they vectorise, a call of powf does not."""
    one = tirx.const(1, dtype)
    if exponent == 0.75:
        root = tirx.sqrt(base)
        return one / (root * tirx.sqrt(root))
    if exponent == 0.5:
        return one / tirx.sqrt(base)
    return one / base if exponent == 1 else tirx.pow(base, tirx.const(-exponent, dtype))


@converter("LpNormalization")
def lp_normalization(node: Node) -> relax.Expr:
    """x / norm along one axis; 0 where the norm is 0."""
    x, dtype, p = node.inputs[0], node.dtype(0), node.attr("p", 2)
    if p not in (1, 2):
        raise node.error(f"attribute 'p' must be 1 or 2, found {p}")
    axis = node.axis(node.attr("axis", -1), node.rank(0))
    powered = node.emit(_op.abs(x) if p == 1 else _op.multiply(x, x))
    norm = reduce(node, "sum", powered, [axis], keepdims=True)
    norm = norm if p == 1 else node.emit(_op.sqrt(norm))
    is_zero = node.emit(_op.equal(norm, scalar(0, dtype)))
    # x is 0 everywhere the norm is 0, so any divisor will do there.
    return node.emit(_op.divide(x, node.emit(_op.where(is_zero, scalar(1, dtype), norm))))


@converter("MeanVarianceNormalization", since=9)
def mean_variance_normalization(node: Node) -> relax.Expr:
    """(x - mean) / (standard deviation + 1e-9) over `axes`."""
    rank, dtype = node.rank(0), node.dtype(0)
    axes = sorted({node.axis(a, rank) for a in node.attr("axes") or [0, 2, 3]})
    deviation, _, variance = _centred(node, node.inputs[0], axes)
    divisor = node.emit(_op.add(node.emit(_op.sqrt(variance)), scalar(1e-9, dtype)))
    return node.emit(_op.divide(deviation, divisor))
