"""Convolutions, pooling and what comes with them in random models (see random_operators)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from random_models import Maker, Value


def _window(m: Maker, x: Value, largest: int) -> dict[str, Any]:
    n = x.rank - 2
    kernel = m.pick([1] * n, [3] * n, m.ints(n, 1, largest))
    return {
        "kernel_shape": kernel,
        "strides": m.pick([1] * n, [2] * n, m.ints(n, 1, 3)),
        "pads": m.pick([0] * 2 * n, [k // 2 for k in kernel] * 2, [m.int(0, k - 1) for k in kernel * 2]),
    }


def _fits(x: Value, window: dict[str, Any]) -> bool:
    """Whether the window lies inside the padded data, which ONNX Runtime does not ask for, but ONNX does."""
    if str(window.get("auto_pad", "")).startswith("SAME"):
        return True
    n = x.rank - 2
    pads, dilations = window.get("pads", [0] * 2 * n), window.get("dilations", [1] * n)
    extents = [
        (k - 1) * d + 1 - pads[a] - pads[a + n]
        for a, (k, d) in enumerate(zip(window["kernel_shape"], dilations, strict=True))
    ]
    return all(size >= extent for shape in x.shapes for size, extent in zip(shape[2:], extents, strict=True))


def conv(m: Maker, x: Value) -> Value | None:
    channels = x.fixed(1)
    if not channels:
        return None
    group = m.pick(1, 1, channels, *(d for d in range(1, channels + 1) if channels % d == 0))
    out = group * m.int(1, max(1, 40 // group))
    window = _window(m, x, 5)
    if m.chance(0.1):
        window["auto_pad"] = m.pick("SAME_UPPER", "SAME_LOWER", "VALID")
        del window["pads"]
    elif m.chance(0.2):
        window["dilations"] = m.ints(x.rank - 2, 1, 3)
    if not _fits(x, window):
        return None
    fan_in = channels // group * prod(window["kernel_shape"])
    weight = m.weights(out, channels // group, *window["kernel_shape"], fan_in=fan_in)
    return m.node("Conv", [x, weight, *([m.weights(out)] if m.chance(0.7) else [])], group=group, **window)


def conv_transpose(m: Maker, x: Value) -> Value | None:
    channels = x.fixed(1)
    if not channels:
        return None
    group = m.pick(1, 1, 1, *(d for d in range(1, channels + 1) if channels % d == 0))
    per_group = m.int(1, max(1, 20 // group))
    window = _window(m, x, 4)
    if m.chance(0.2):
        window["dilations"] = m.ints(x.rank - 2, 1, 2)
    if m.chance(0.3):
        window["output_padding"] = [m.int(0, s - 1) for s in window["strides"]]
    weight = m.weights(channels, per_group, *window["kernel_shape"], fan_in=channels // group * 2)
    bias = [m.weights(per_group * group)] if m.chance(0.7) else []
    return m.node("ConvTranspose", [x, weight, *bias], group=group, **window)


def pool(m: Maker, x: Value) -> Value | None:
    window = _window(m, x, 4)
    if not _fits(x, window):
        return None
    if m.chance(0.4):
        window["ceil_mode"] = 1
    if m.chance(0.4):
        return m.node("AveragePool", [x], count_include_pad=m.int(0, 1), **window)
    return m.node("MaxPool", [x], **window)


def global_pool(m: Maker, x: Value) -> Value | None:
    return m.node(m.pick("GlobalAveragePool", "GlobalMaxPool"), [x])


def batch_norm(m: Maker, x: Value) -> Value | None:
    channels = x.fixed(1)
    if not channels:
        return None
    variance = m.constant(m.rng.uniform(0.2, 2, channels).astype(np.float32))
    return m.node("BatchNormalization", [x, *(m.weights(channels) for _ in range(3)), variance])


def conv_block(m: Maker, x: Value) -> Value | None:
    y = conv(m, x)
    y = batch_norm(m, y) if y else None
    return m.node(m.pick("Relu", "HardSwish", "Sigmoid"), [y]) if y else None


def residual(m: Maker, x: Value) -> Value | None:
    channels = x.fixed(1)
    if not channels:
        return None
    weight = m.weights(channels, channels, *[3] * (x.rank - 2), fan_in=channels * 3 ** (x.rank - 2))
    y = m.node("Conv", [m.node("Relu", [x]), weight, m.weights(channels)], pads=[1] * 2 * (x.rank - 2))
    return m.node("Add", m.pick([x, y], [y, x])) if y else None


def gate(m: Maker, x: Value) -> Value | None:
    """Squeeze and excitation."""
    channels = x.fixed(1)
    if not channels:
        return None
    ones, few = [1] * (x.rank - 2), m.int(1, 9)
    y = m.node("GlobalAveragePool", [x])
    y = m.node("Relu", [m.node("Conv", [y, m.weights(few, channels, *ones, fan_in=channels), m.weights(few)])])
    y = m.node("Conv", [y, m.weights(channels, few, *ones, fan_in=few)])
    return m.node("Mul", [x, m.node(m.pick("HardSigmoid", "Sigmoid"), [y])])


def instance_norm(m: Maker, x: Value) -> Value | None:
    channels = x.fixed(1)
    small = any(prod(s[2:]) < 4 for s in x.shapes)
    if not channels or small:
        return None
    return m.node("InstanceNormalization", [x, m.weights(channels), m.weights(channels)], epsilon=0.01)


def lrn(m: Maker, x: Value) -> Value | None:
    return m.node("LRN", [x], size=m.pick(3, 5), alpha=0.1)


def resize(m: Maker, x: Value) -> Value | None:
    mode = m.pick("nearest", "linear", "cubic") if x.rank == 4 else m.pick("nearest", "linear")
    scales = np.array([1, 1, *(m.pick(0.5, 1.0, 1.5, 2.0, 3.0) for _ in range(x.rank - 2))], np.float32)
    transform = m.pick("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    rounding = {"nearest_mode": m.pick("floor", "round_prefer_floor")} if mode == "nearest" else {}
    return m.node(
        "Resize", [x, "", m.constant(scales)], mode=mode, coordinate_transformation_mode=transform, **rounding
    )


def shuffle(m: Maker, x: Value) -> Value | None:
    """Channel shuffle."""
    dims = [x.fixed(a) for a in range(4)]
    if None in dims[1:]:
        return None
    groups = m.pick(*(d for d in range(1, dims[1] + 1) if dims[1] % d == 0))
    y = m.node("Reshape", [x, m.constant([0, groups, dims[1] // groups, *dims[2:]])])
    y = m.node("Transpose", [y], perm=[0, 2, 1, 3, 4])
    return m.node("Reshape", [y, m.constant([0, *dims[1:]])])


def space_depth(m: Maker, x: Value) -> Value | None:
    if not any(size % 2 for shape in x.shapes for size in shape[2:]):
        return m.node("SpaceToDepth", [x], blocksize=2)
    if (x.fixed(1) or 1) % 4:
        return None
    return m.node("DepthToSpace", [x], blocksize=2, mode=m.pick("DCR", "CRD"))


CONVOLUTIONAL: tuple[Callable[[Maker, Value], Value | None], ...] = (
    *(conv, conv, conv, conv_block, conv_block, conv_block, conv_transpose, conv_transpose, pool, pool, pool),
    *(global_pool, batch_norm, residual, residual, gate, gate, instance_norm, resize, resize),
)
CONVOLUTIONAL_2D = (shuffle, shuffle, space_depth, lrn)
