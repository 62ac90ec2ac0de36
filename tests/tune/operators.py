"""Real operators and targets for the cost model's tests, and a make-believe machine that times their candidates."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.target import Target
from kompilo.compiler.tune.cost_model import ideal_seconds
from kompilo.compiler.tune.features import FEATURE_NAMES, features
from kompilo.compiler.tune.record import Measurement, Point, Record
from kompilo.compiler.tune.task import points_of
from kompilo.targets.cpu.target import CpuTarget

ESTIMATE, LOADS = FEATURE_NAMES.index("config.estimate"), FEATURE_NAMES.index("config.loads")


def cpu(preset: str = "cascadelake,cores=2") -> Target:
    """A CPU that need not be this machine's."""
    return CpuTarget.from_preset(preset)


def conv2d(size: int, channels: int, filters: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> OpSpec:
    """A convolution of a square image with bias and ReLU."""
    pad, out = kernel // 2, -(-size // stride)
    result = TensorType((1, out, out, filters), "float32")
    shapes = ((1, size, size, channels), (filters, channels // groups, kernel, kernel), (filters,))
    attrs = {
        "data_layout": "NHWC",
        "dilation": (1, 1),
        "groups": groups,
        "padding": (pad,) * 4,
        "strides": (stride, stride),
    }
    steps = (Step("add", ("anchor", "i2"), "float32"), Step("nn.relu", ("s0",), "float32"))
    types = tuple(TensorType(s, "float32") for s in shapes)
    return OpSpec("conv2d", types, (False, True, True), tuple(sorted(attrs.items())), result, result, steps)


def conv2d_transpose(size: int, channels: int, filters: int, kernel: int, stride: int) -> OpSpec:
    """A transposed convolution of a square image; its windows do not overlap if kernel == stride."""
    pad = (kernel - stride) // 2
    result = TensorType((1, size * stride, size * stride, filters), "float32")
    attrs = {
        "data_layout": "NHWC",
        "dilation": (1, 1),
        "groups": 1,
        "output_padding": (0, 0),
        "padding": (pad,) * 4,
        "strides": (stride, stride),
    }
    shapes = ((1, size, size, channels), (channels, filters, kernel, kernel))
    types = tuple(TensorType(s, "float32") for s in shapes)
    return OpSpec("conv2d_transpose", types, (False, True), tuple(sorted(attrs.items())), result, result)


def matmul(m: int, k: int, n: int, constant: bool = True) -> OpSpec:
    """A plain matrix product."""
    shapes = ((m, k), (k, n), (m, n))
    a, b, c = (TensorType(s, "float32") for s in shapes)
    attrs = (("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1)))
    return OpSpec("matmul", (a, b), (False, constant), attrs, c, c)


def pool2d(size: int, channels: int) -> OpSpec:
    """Maximum pooling, 3 x 3, stride 2."""
    data = TensorType((1, size, size, channels), "float32")
    result = TensorType((1, size // 2, size // 2, channels), "float32")
    attrs = {
        "ceil_mode": 0,
        "count_include_pad": 0,
        "dilation": (1, 1),
        "layout": "NHWC",
        "mode": "max",
        "padding": (1, 1, 0, 0),
        "pool_size": (3, 3),
        "strides": (2, 2),
    }
    return OpSpec("pool2d", (data,), (False,), tuple(sorted(attrs.items())), result, result)


OPERATORS = {
    "pointwise": conv2d(28, 64, 96),
    "pointwise of stride 2": conv2d(28, 64, 96, stride=2),
    "3x3 of stride 2": conv2d(29, 48, 96, kernel=3, stride=2),
    "3x3 that Winograd matches": conv2d(28, 128, 128, kernel=3),
    "first layer": conv2d(64, 3, 32, kernel=7, stride=2),
    "grouped": conv2d(14, 64, 64, kernel=3, groups=4),
    "depthwise": conv2d(28, 96, 96, kernel=3, groups=96),
    "one pixel": conv2d(1, 480, 24),
    "transposed": conv2d_transpose(16, 32, 24, 4, 2),
    "transposed, disjoint": conv2d_transpose(16, 32, 32, 2, 2),
    "matmul": matmul(128, 384, 1536),
    "vector times matrix": matmul(1, 512, 1000),
    "matmul of two results": matmul(40, 64, 40, constant=False),
    "pooling": pool2d(56, 64),
}


def truth(op: OpSpec, target: Target, points: Sequence[Point]) -> np.ndarray:
    """Seconds on a machine whose loads cost more than the estimate says, with 1% of noise."""
    rows = features(op, target, points).astype(float)
    noise = np.array([zlib.crc32(f"{op}{p}".encode()) / 2**32 - 0.5 for p in points])
    return ideal_seconds(op, target) * (rows[:, ESTIMATE] + 1.5 * rows[:, LOADS]) * (1 + 0.02 * noise)


def records(op: OpSpec, target: Target, points: Sequence[Point] | None = None) -> list[Record]:
    """What that machine measures of `points`, by default all."""
    points = points_of(op, target) if points is None else points
    times = truth(op, target, points)
    return [
        Record(op, target.spec.key, p, Measurement("ok", float(s), samples=9), "2026-11-22T06:00:00Z", "0.1.0")
        for p, s in zip(points, times, strict=True)
    ]
