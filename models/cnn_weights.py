"""Seeded random parameters that keep a deep CNN's activations in range, identical on every machine.

Filters are drawn as 24-bit integers, centred per output channel in integer arithmetic and scaled by one float, so no
sum depends on the order in which a CPU adds. Their scale comes from the estimated mean and variance of the activation
they read, carried along the graph by one small rule per operator (He et al. 2015, made explicit).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

import numpy as np

# Percent of its mean that each filter loses. At 0, networks of this depth answer nearly the same to every image: noise
# of 1e-3 in the image moves the logits by 1e-5 to 1e-4 of their range. At 100 they are chaotic (ResNet-50: 6e-2) and
# show nothing but rounding. At 50 it is 3e-4 to 6e-3.
CENTRED_PERCENT = 50
_HALF_RANGE = 1 << 23
# A uniform variable on [-2^23, 2^23) has this standard deviation.
_UNIFORM_STD = _HALF_RANGE / math.sqrt(3.0)


@dataclass(frozen=True)
class Moments:
    """Estimated mean and variance of an activation."""

    mean: float
    variance: float

    @property
    def std(self) -> float:
        """Standard deviation."""
        return math.sqrt(self.variance)


NORMALISED = Moments(0.0, 1.0)


def _relu(x: Moments) -> Moments:
    density = math.exp(-0.5 * x.mean**2 / x.variance) / math.sqrt(2 * math.pi)
    mass = 0.5 * (1 + math.erf(x.mean / math.sqrt(2 * x.variance)))
    mean = x.mean * mass + x.std * density
    second = (x.mean**2 + x.variance) * mass + x.mean * x.std * density
    return Moments(mean, max(second - mean**2, 1e-6))


def _max_pool(x: Moments) -> Moments:
    # Measured on these networks: of nine rectified neighbours the largest lies about 1.8 deviations above the mean.
    return Moments(x.mean + 1.8 * x.std, 1.1 * x.variance)


def _average_pool(x: Moments) -> Moments:
    # Channels keep their own means, so averaging over space leaves about 0.4 of the variance (measured).
    return Moments(x.mean, 0.4 * x.variance)


def _sum(*xs: Moments) -> Moments:
    return Moments(sum(x.mean for x in xs), sum(x.variance for x in xs))


def _concat(*xs: Moments) -> Moments:
    return Moments(sum(x.mean for x in xs) / len(xs), sum(x.variance for x in xs) / len(xs))


def _normalised(*_: Moments) -> Moments:
    return NORMALISED


# ONNX operator -> moments of its result from those of its activations; an operator not named passes its first through.
MOMENT_RULES: dict[str, Callable[..., Moments]] = {
    "Conv": _normalised,
    "Gemm": _normalised,
    "BatchNormalization": _normalised,
    "Relu": _relu,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _average_pool,
    "Sum": _sum,
    "Concat": _concat,
}


def _raw(seed: int, name: str, count: int) -> np.ndarray:
    """`count` int32 uniform on [-2^23, 2^23). Raw generator words, whose stream numpy promises never to change."""
    words = np.random.PCG64([seed, crc32(name.encode())]).random_raw((count + 1) // 2)
    values = words.view(np.uint32)[:count]
    values >>= 8
    signed = values.view(np.int32)
    signed -= _HALF_RANGE
    return signed


def draw_filter(seed: int, name: str, shape: tuple[int, ...], reads: Moments, gain: float = 1.0) -> np.ndarray:
    """Weights (outputs, ...) of a Conv or a transposed Gemm: its result has variance about gain^2.

    float32 of `shape`, partly centred for each output.
    """
    fan_in = math.prod(shape[1:])
    raw = _raw(seed, name, math.prod(shape)).reshape(shape[0], fan_in)
    raw -= (raw.sum(axis=1, dtype=np.int64, keepdims=True) * CENTRED_PERCENT // (100 * fan_in)).astype(np.int32)
    left = (1 - CENTRED_PERCENT / 100) ** 2
    scale = np.float32(gain / (_UNIFORM_STD * math.sqrt(fan_in * (left * reads.mean**2 + reads.variance))))
    values = raw.astype(np.float32)
    values *= scale
    return values.reshape(shape)


def draw_vector(seed: int, name: str, shape: tuple[int, ...], centre: float, spread: float) -> np.ndarray:
    """A bias, scale, mean or variance: float32 of `shape`, uniform on centre +- spread."""
    values = _raw(seed, name, math.prod(shape)).astype(np.float32)
    return (values * np.float32(spread / _HALF_RANGE) + np.float32(centre)).reshape(shape)
