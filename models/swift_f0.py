"""SwiftF0: a small network that tells the pitch of a voice or an instrument."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .sound import quiet, voice
from .wheel import Wheel, WheelMember
from .zoo_model import Arrays, ModelInput, ZooModel

_WHEEL = Wheel("swift-f0", "0.3.0", "d7240c7c94b1d3e8f0e0cd2701b79be89a0f23a19cd5f944895a6518ecad72f3")
# The range of pitches that its package asks for, in Hz.
_LOWEST, _HIGHEST = 46.875, 2093.75
VOICE_PITCH = 220.0


def _always(value: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    return lambda rng, shape: np.full(shape, value, np.float32)


def real_inputs() -> list[Arrays]:
    """A second of a voice at 220 Hz with a little noise, without which logarithms of nothing would be heard."""
    sound = voice(16000, 16000, VOICE_PITCH) + np.float32(0.01) * quiet(np.random.default_rng(0), (16000,))
    limits = {"fmin": np.array(_LOWEST, np.float32), "fmax": np.array(_HIGHEST, np.float32)}
    return [{"audio": sound[None], **limits}]


MODEL = ZooModel(
    name="swift_f0",
    summary="SwiftF0: sound at 16 kHz -> pitch in Hz and confidence, 62 times a second",
    license="MIT",
    source=WheelMember(
        _WHEEL, "swift_f0/model.onnx", "6385e8c2ebc3872e82c9ff5946228de44cd3be77a750ea53698b7dbfe94b0a22"
    ),
    inputs=(
        ModelInput("audio", (1, "samples"), "float32", (1, 48000), quiet),
        ModelInput("fmin", (), "float32", (), _always(_LOWEST)),
        ModelInput("fmax", (), "float32", (), _always(_HIGHEST)),
    ),
    real=real_inputs,
)
