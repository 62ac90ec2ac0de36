"""What an OpSpec computes, in float64 with numpy: the truth that candidates are checked against.

`evaluate` gives the exact result and, for each of its elements, how far a candidate may be off: rounding in the anchor
grows with its depth, and an epilogue may amplify it (a square root near zero, a division). The bound follows from
computing the epilogue thrice, with the anchor's result and with it moved up and down by its rounding error; so is what
a step casts to a narrower type. Sums of integers are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np

from ..errors import UsageError
from ..schedule.masks import ADDED, KEEPS
from ..schedule.op_spec import OpSpec
from .numbers import is_integer, widen

# Largest rounding error of a result relative to the largest result, per dtype of the data or of the output. float32:
# the direct templates reach 4e-6 and Winograd 5e-6 on convolutions of 4608 multiply-adds for each output.
TOLERANCE = {"float64": 1e-11, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
INTEGERS = ("int8", "uint8", "int32")
# The same for sums in float32 of products that matrix units add, which cut off where a processor rounds, by the type of
# the operands; with float32 they are rounded to tfloat32 first, 10 bits. The element least wrong for a missing product
# is off by 3e-3 at DEPTH.
MATRIX_UNIT = {"float16": 2e-4, "bfloat16": 2e-4, "float32": 2e-3}
# What a cast to the type may move a value by, relative to the largest: twice its rounding.
_CAST = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-6}
# Up to this many multiply-adds TOLERANCE holds; beyond, errors of a sum grow with the square root of its length.
DEPTH = 4608

Reader = Callable[[OpSpec, Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Expected:
    """`values` (float64, the output's shape) and `slack`, the greatest allowed difference from each of them.

    `slack` is infinite where the result is undefined or rounding decides whether it is; `largest` is the largest
    absolute value, 1 if all are zero.
    """

    values: np.ndarray
    slack: np.ndarray
    largest: float

    def worst(self, found: np.ndarray) -> tuple[float, tuple[int, ...] | None]:
        """The error of `found` relative to the largest expected value, and the index of its worst wrong element.

        The index is None if every element is within its slack. NaN counts as wrong where a number is expected.
        """
        with np.errstate(invalid="ignore"):
            error = np.abs(found - self.values)
        wrong = ~(error <= self.slack)
        if wrong.any():  # infinities that agree, and NaN that is allowed
            wrong &= (found != self.values) & np.isfinite(self.slack)
            error = np.where(np.isfinite(self.slack) & (found != self.values), error, 0.0)
            error = np.where(np.isnan(error), np.inf, error)
        relative = float(error.max(initial=0.0)) / self.largest
        if not wrong.any():
            return relative, None
        index = np.unravel_index(int(np.argmax(np.where(wrong, error, -1.0))), error.shape)
        return relative, tuple(int(i) for i in index)


def supported(op: OpSpec) -> bool:
    """Whether `evaluate` knows the anchor, the epilogue's operators and the dtypes of `op`, and its sizes are known."""
    dtypes = {t.dtype for t in (*op.inputs, op.anchor_type, op.output)} | {s.dtype for s in op.epilogue}
    dtypes -= {"bool"} if op.kind == "attention" else set()  # masks
    steps = {s.op for s in op.epilogue}
    known = steps <= {*STEPS, CAST} and dtypes <= {*TOLERANCE, *INTEGERS}
    return op.is_static and op.kind in ANCHORS and known


def evaluate(op: OpSpec, operands: Sequence[np.ndarray]) -> Expected:
    """The result of `op` on `operands`, of the shapes of `op.inputs`: numbers, or bfloat16 as `numbers` carries it.

    Raises UsageError if `op` is not `supported`.
    """
    if not supported(op):
        raise UsageError(f"expected an operator of known sizes that the reference knows, found {op}.")
    inputs = [widen(a, t.dtype) for a, t in zip(operands, op.inputs, strict=True)]
    with np.errstate(all="ignore"):
        anchor = ANCHORS[op.kind](op, inputs)
        exact, above, below = (_epilogue(op, anchor, inputs, sign) for sign in (0, 1, -1))
        shift = np.maximum(np.abs(above - exact), np.abs(below - exact))
        slack = shift + tolerance(op) * _largest(exact)
    slack = np.where(np.isnan(slack), np.inf, slack)
    order = op.ints("out_perm") if "out_perm" in dict(op.attrs) else tuple(range(exact.ndim))
    values, slack = (np.ascontiguousarray(a.transpose(order)) for a in (exact, slack))
    return Expected(values, slack, _largest(exact) or 1.0)


def tolerance(op: OpSpec) -> float:
    """Allowed error of the output relative to its largest value; 0 for integers."""
    if is_integer(op.output.dtype):
        return 0.0
    steps = (TOLERANCE[d] for d in (op.output.dtype, *(s.dtype for s in op.epilogue)) if not is_integer(d))
    return max(anchor_tolerance(op), max(steps) * _lengthened(op))


def anchor_tolerance(op: OpSpec) -> float:
    """Allowed error of the anchor's result relative to its largest value, by the type of its sums and its operands."""
    sums, data = op.anchor_type.dtype, op.inputs[0].dtype
    if is_integer(sums):
        return 0.0
    narrower = sums == "float32" and (data != sums or dict(op.attrs).get("precision") == "tf32")
    allowed = MATRIX_UNIT.get(data, 0.0) if narrower else TOLERANCE[sums]
    if op.kind == "attention":  # weights are rounded to the operands' type
        allowed = TOLERANCE[data]
    return max(allowed, TOLERANCE[sums]) * _lengthened(op)


def _lengthened(op: OpSpec) -> float:
    return max(1.0, math.sqrt(depth(op) / DEPTH))


def depth(op: OpSpec) -> int:
    """Terms of the sum that makes one element of the anchor's result."""
    return _DEPTHS[op.kind](op)


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _epilogue(op: OpSpec, anchor: np.ndarray, inputs: Sequence[np.ndarray], sign: int) -> np.ndarray:
    """The result with everything that is rounded moved by `sign` times its greatest error."""
    anchor = anchor + sign * anchor_tolerance(op) * _largest(anchor)
    values: list[np.ndarray] = []

    def argument(ref: str | float) -> Any:
        if not isinstance(ref, str):
            return float(ref)
        if ref == "anchor":
            return anchor
        return (values if ref[0] == "s" else inputs)[int(ref[1:])]

    for step in op.epilogue:
        found = [argument(a) for a in step.args]
        values.append(_cast(found[0], step.dtype, sign) if step.op == CAST else STEPS[step.op](*found))
    return np.broadcast_to(values[-1] if values else anchor, anchor.shape)


def _cast(values: np.ndarray, dtype: str, sign: int) -> np.ndarray:
    """`values` as numbers of `dtype`: without their fraction, or moved by the rounding."""
    if is_integer(dtype):
        return np.trunc(values)
    return values + sign * _CAST.get(dtype, 0.0) * _largest(values)


def _conv2d(op: OpSpec, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """NHWC data, OIHW weights: the sum over the kernel's positions of one matrix product each."""
    data, weight = inputs[:2]
    (top, left, _, _), (dil_h, dil_w) = op.ints("padding"), op.ints("dilation")
    (stride_h, stride_w), groups = op.ints("strides"), op.ints("groups")[0]
    batch, out_h, out_w, out_c = _shape(op)
    kernel_h, kernel_w = weight.shape[2:]
    reach_h = (out_h - 1) * stride_h + (kernel_h - 1) * dil_h + 1
    reach_w = (out_w - 1) * stride_w + (kernel_w - 1) * dil_w + 1
    data = _padded(data, (top, left), (reach_h, reach_w), 0.0)
    result = np.zeros((groups, batch * out_h * out_w, out_c // groups))
    for i in range(kernel_h):
        for j in range(kernel_w):
            rows = slice(i * dil_h, i * dil_h + (out_h - 1) * stride_h + 1, stride_h)
            cols = slice(j * dil_w, j * dil_w + (out_w - 1) * stride_w + 1, stride_w)
            window = _by_group(data[:, rows, cols], groups)
            result += _products(window, weight[:, :, i, j].reshape(groups, out_c // groups, -1).transpose(0, 2, 1))
    return _from_groups(result, (batch, out_h, out_w, out_c))


def _conv2d_transpose(op: OpSpec, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """NHWC data, IOHW weights: every pixel adds its multiple of the kernel to the output; then padding is cut off."""
    data, weight = inputs[:2]
    (top, left, _, _), (dil_h, dil_w) = op.ints("padding"), op.ints("dilation")
    (stride_h, stride_w), groups = op.ints("strides"), op.ints("groups")[0]
    batch, height, width, channels = data.shape
    _, out_h, out_w, out_c = _shape(op)
    kernel_h, kernel_w = weight.shape[2:]
    rows = max(top + out_h, (height - 1) * stride_h + (kernel_h - 1) * dil_h + 1)
    cols = max(left + out_w, (width - 1) * stride_w + (kernel_w - 1) * dil_w + 1)
    full = np.zeros((batch, rows, cols, out_c))
    pixels = _by_group(data, groups)
    for i in range(kernel_h):
        for j in range(kernel_w):
            part = _products(pixels, weight[:, :, i, j].reshape(groups, channels // groups, -1))
            down = slice(i * dil_h, i * dil_h + (height - 1) * stride_h + 1, stride_h)
            across = slice(j * dil_w, j * dil_w + (width - 1) * stride_w + 1, stride_w)
            full[:, down, across] += _from_groups(part, (batch, height, width, out_c))
    return full[:, top : top + out_h, left : left + out_w]


def _pool2d(op: OpSpec, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """NHWC maximum or mean over windows; a mean divides by the window's pixels inside the image unless the attribute
    `count_include_pad` asks for all."""
    data = inputs[0]
    (top, left, _, _), (dil_h, dil_w) = op.ints("padding"), op.ints("dilation")
    (size_h, size_w), (stride_h, stride_w) = op.ints("pool_size"), op.ints("strides")
    _, out_h, out_w, _ = _shape(op)
    reach = ((out_h - 1) * stride_h + (size_h - 1) * dil_h + 1, (out_w - 1) * stride_w + (size_w - 1) * dil_w + 1)
    maximum = op.attr("mode") == "max"
    padded = _padded(data, (top, left), reach, -np.inf if maximum else 0.0)
    inside = _padded(np.ones((1, *data.shape[1:3], 1)), (top, left), reach, 0.0)

    def windows(a: np.ndarray) -> list[np.ndarray]:
        return [
            a[:, i * dil_h :: stride_h, j * dil_w :: stride_w][:, :out_h, :out_w]
            for i in range(size_h)
            for j in range(size_w)
        ]

    if maximum:
        return np.maximum.reduce(windows(padded))
    if op.attr("count_include_pad"):
        return np.add.reduce(windows(padded)) / (size_h * size_w)
    return np.add.reduce(windows(padded)) / np.maximum(np.add.reduce(windows(inside)), 1)


def _matmul(op: OpSpec, inputs: Sequence[np.ndarray]) -> np.ndarray:
    lhs, rhs = inputs[:2]
    return np.matmul(lhs.transpose(op.ints("lhs_perm")), rhs.transpose(op.ints("rhs_perm")))


def _attention(op: OpSpec, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """softmax(scale * q k^T, masked) v; rows that see no key are NaN, or zero where the attribute `zero_rows` is 1.

    One head at a time: the scores of all may be more than memory holds.
    """
    q, k, v = (x.transpose(op.ints(p)) for x, p in zip(inputs, ("q_perm", "k_perm", "v_perm"), strict=False))
    shape = _shape(op)
    masks = [np.broadcast_to(mask, (*shape[:-1], k.shape[-2])) for mask in inputs[3:][: len(op.ints("masks"))]]
    result = np.empty(shape)
    for at in np.ndindex(shape[:-2]):
        keys, values = (x[tuple(i * n // w for i, n, w in zip(at, x.shape, shape, strict=False))] for x in (k, v))
        result[at] = _weights(op, q[at] @ keys.T, [mask[at] for mask in masks]) @ values
    return result


def _weights(op: OpSpec, products: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """What attention multiplies values with, from one head's products of queries and keys."""
    scores, fill = float(str(op.attr("scale"))) * products, float(str(op.attr("fill")))
    for mask, meaning in zip(masks, op.ints("masks"), strict=True):
        scores = scores + mask if meaning == ADDED else np.where((mask != 0) == (meaning == KEEPS), scores, fill)
    if op.attr("causal"):
        rows, keys = scores.shape
        scores = np.where(np.tri(rows, keys, op.ints("offset")[0], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    if op.attr("zero_rows"):
        weights = np.where(np.isneginf(scores).all(axis=-1, keepdims=True), 0.0, weights)
    return weights


def _shape(op: OpSpec) -> tuple[int, ...]:
    return tuple(int(d) for d in op.anchor_type.shape)


def _padded(data: np.ndarray, before: tuple[int, int], reach: tuple[int, int], fill: float) -> np.ndarray:
    """NHWC data with `before` rows and columns in front, and as many behind that `reach` rows and columns exist."""
    sides = [(b, max(0, r - b - d)) for b, r, d in zip(before, reach, data.shape[1:3], strict=True)]
    if not any(map(any, sides)):
        return data
    return np.pad(data, ((0, 0), *sides, (0, 0)), constant_values=fill)


def _by_group(data: np.ndarray, groups: int) -> np.ndarray:
    """(N, H, W, C) as (groups, N * H * W, C / groups)."""
    return data.reshape(-1, groups, data.shape[3] // groups).transpose(1, 0, 2)


def _from_groups(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(groups, N * H * W, C / groups) as `shape` (N, H, W, C)."""
    return data.transpose(1, 0, 2).reshape(shape)


def _products(data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """One matrix product for each group; a single input channel needs no BLAS, whose calls would cost more."""
    if data.shape[2] == 1:
        return data * weight
    return np.matmul(data, weight)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


# From here to the end of the table erf differs from 1 by less than 2e-17.
_ERF_END = 6.0
_ERF_KNOTS = 4096


@cache
def _erf_table() -> tuple[np.ndarray, np.ndarray]:
    """erf at the knots of [0, _ERF_END], and its derivative times the distance of two knots."""
    knots = np.linspace(0.0, _ERF_END, _ERF_KNOTS + 1)
    slopes = 2.0 / math.sqrt(math.pi) * np.exp(-knots * knots) * (_ERF_END / _ERF_KNOTS)
    return np.array([math.erf(x) for x in knots]), slopes


def erf(x: np.ndarray) -> np.ndarray:
    """The error function by cubic interpolation between 4096 knots: within 1e-13, far below any tolerance here."""
    values, slopes = _erf_table()
    place = np.minimum(np.abs(x), _ERF_END) * (_ERF_KNOTS / _ERF_END)
    knot = np.minimum(np.where(np.isnan(place), 0.0, place).astype(np.int64), _ERF_KNOTS - 1)
    t = place - knot
    left, right = values[knot], values[knot + 1]
    bend_left, bend_right = slopes[knot] - (right - left), (right - left) - slopes[knot + 1]
    inside = left + t * (right - left) + t * (1 - t) * ((1 - t) * bend_left + t * bend_right)
    return np.copysign(inside, x)


# The step that changes the type (`schedule.epilogue.CAST`).
CAST = "astype"
# Every operator of `schedule.epilogue.STEP_OPS` on float64 arrays.
STEPS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "negative": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "square": np.square,
    "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "nn.relu": lambda x: np.maximum(x, 0.0),
    "nn.leakyrelu": lambda x, alpha: np.where(x >= 0, x, x * alpha),
    "nn.silu": lambda x: x * _sigmoid(x),
    "nn.gelu": _gelu,
    "sigmoid": _sigmoid,
    "exp": np.exp,
    "tanh": np.tanh,
    "erf": erf,
}

# Every kind of anchor (`passes.anchors.ANCHORS`) on float64 operands.
ANCHORS: dict[str, Reader] = {
    "conv2d": _conv2d,
    "conv2d_transpose": _conv2d_transpose,
    "pool2d": _pool2d,
    "matmul": _matmul,
    "attention": _attention,
}


_DEPTHS: dict[str, Callable[[OpSpec], int]] = {
    "conv2d": lambda op: prod(int(d) for d in op.inputs[1].shape[1:]),
    "conv2d_transpose": lambda op: int(op.inputs[1].shape[0]) * prod(int(d) for d in op.inputs[1].shape[2:]),
    "pool2d": lambda op: prod(op.ints("pool_size")),
    "matmul": lambda op: int(op.inputs[0].shape[op.ints("lhs_perm")[-1]]),
    # Of the products of queries and keys; what follows is a mean.
    "attention": lambda op: int(op.inputs[0].shape[op.ints("q_perm")[-1]]),
}
# Anchors that multiply operand 0 with operand 1 and sum.
WEIGHTED = frozenset(("conv2d", "conv2d_transpose", "matmul"))
