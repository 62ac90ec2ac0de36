"""Silero VAD: a small network that tells speech from silence, window by window; all variants that its wheel holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .sound import quiet, voice
from .specialised import Specialised
from .wheel import Wheel, WheelMember
from .zoo_model import Arrays, ModelInput, ZooModel, normal

_WHEEL = Wheel("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8")
_FOLDER = "silero_vad/data/"
PLAIN = WheelMember(
    _WHEEL, _FOLDER + "silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"
)
_OPSET_15 = WheelMember(
    _WHEEL, _FOLDER + "silero_vad_16k_op15.onnx", "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
)
_HALF = WheelMember(
    _WHEEL, _FOLDER + "silero_vad_half.onnx", "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769"
)
_IFLESS = WheelMember(
    _WHEEL, _FOLDER + "silero_vad_op18_ifless.onnx", "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28"
)
_SEQUENCE = WheelMember(
    _WHEEL, _FOLDER + "silero_vad_16k_sequence.onnx", "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
)
_OPENVINO = WheelMember(
    _WHEEL, _FOLDER + "silero_vad_openvino_16k.onnx", "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87"
)
# Samples that a window shares with the one before it, and all that it has, by samples a second.
_CONTEXT = {16000: 64, 8000: 32}
_WINDOW = {16000: 576, 8000: 288}
_STATE = 128
_PITCH = 140.0


def windows(count: int, rate: int) -> np.ndarray:
    """Windows of a second of noise and then a voice, as the model takes them one after the other.

    float32 (count, 576 or 288), the second half of them speech.
    """
    context, size = _CONTEXT[rate], _WINDOW[rate]
    step = size - context
    noise = quiet(np.random.default_rng(0), (count * step + context,)) * np.float32(0.01)
    speech = voice(count * step, rate, _PITCH)
    speech[: count // 2 * step] = 0
    sound = noise + np.concatenate([np.zeros(context, np.float32), speech])
    return np.stack([sound[k * step : k * step + size] for k in range(count)])


def _real_batch(rate: int) -> Callable[[], list[Arrays]]:
    """Windows as a batch of streams that have just begun: two of noise, two of speech."""
    return lambda: [{"input": windows(4, rate), "state": np.zeros((2, 4, _STATE), np.float32)}]


def _real_rates() -> list[Arrays]:
    """`_real_batch` at both rates, with the rate as an input."""
    return [feeds | {"sr": np.array(rate, np.int64)} for rate in _WINDOW for feeds in _real_batch(rate)()]


def _real_sequence() -> list[Arrays]:
    state = np.zeros((1, 1, _STATE), np.float32)
    return [{"input": windows(60, 16000), "h": state, "c": state}]


def _state(batch: int | str) -> ModelInput:
    return ModelInput("state", (2, batch, _STATE), "float32", (2, 1, _STATE), normal)


def _windowed(name: str, member: WheelMember, rate: int, sha256: str, sr: bool, summary: str) -> ZooModel:
    """A variant for batches of windows at one rate; its input `sr` is that rate if it has one."""
    sizes = {"input": ("batch", _WINDOW[rate]), "state": (2, "batch", _STATE)}
    return ZooModel(
        name=name,
        summary=f"Silero VAD at {rate // 1000} kHz, {summary}: a window of sound and a state -> speech or not",
        license="MIT",
        source=Specialised(name, member, sha256, {"sr": rate} if sr else {}, sizes),
        inputs=(
            ModelInput("input", ("batch", _WINDOW[rate]), "float32", (1, _WINDOW[rate]), quiet),
            _state("batch"),
        ),
        real=_real_batch(rate),
    )


MODELS = (
    _windowed(
        "silero_vad_16k",
        PLAIN,
        16000,
        "f113eccb4b6bd2ace5bd65a04253ef5d1ebd56055550f6204f1f271b6351a673",
        True,
        "as most take it",
    ),
    _windowed(
        "silero_vad_8k",
        PLAIN,
        8000,
        "f5b4b05fef7d78b56cf58b7299b1017eaf2d48f03208557bcf12b38d119f3860",
        True,
        "as most take it",
    ),
    _windowed(
        "silero_vad_op15",
        _OPSET_15,
        16000,
        "c7cc5a16883c4a0fbdeb6810e5b79226d16fc6f41627f806d45c131393d8cff6",
        True,
        "opset 15",
    ),
    _windowed(
        "silero_vad_half",
        _HALF,
        16000,
        "d5b9cef1bbca609f8ef49ddbd7df571b26b4cfbd17f7cd544fbb6bfd36b9affb",
        False,
        "half of the file",
    ),
    _windowed(
        "silero_vad_ifless_16k",
        _IFLESS,
        16000,
        "dffdf9b5931022819710c643edb607c2a97e7747f965bf13a7e53c724f6e0a0d",
        True,
        "without branches inside",
    ),
    _windowed(
        "silero_vad_ifless_8k",
        _IFLESS,
        8000,
        "a5c29b1bae7bcecd5db194c80d22981bb00f2c8c2fed2d6688951ba617bf20ac",
        True,
        "without branches inside",
    ),
    ZooModel(
        name="silero_vad_ifless",
        summary="Silero VAD at 16 and 8 kHz, as an input says: a window of sound and a state -> speech or not",
        license="MIT",
        source=_IFLESS,
        inputs=(
            ModelInput("input", ("batch", "sequence"), "float32", (1, 576), quiet),
            ModelInput("sr", (), "int64", (), lambda rng, shape: np.full(shape, 16000, np.int64)),
            _state("batch"),
        ),
        real=_real_rates,
    ),
    ZooModel(
        name="silero_vad_sequence",
        summary="Silero VAD at 16 kHz for a whole recording: all its windows -> speech or not, window by window",
        license="MIT",
        source=_SEQUENCE,
        inputs=(
            ModelInput("input", ("sequence_length", 576), "float32", (64, 576), quiet),
            ModelInput("h", (1, 1, _STATE), "float32", (1, 1, _STATE)),
            ModelInput("c", (1, 1, _STATE), "float32", (1, 1, _STATE)),
        ),
        real=_real_sequence,
    ),
    ZooModel(
        name="silero_vad_openvino",
        summary="Silero VAD at 16 kHz, all sizes fixed: a window of sound and a state -> speech or not",
        license="MIT",
        source=_OPENVINO,
        inputs=(ModelInput("input", (1, 576), "float32", (1, 576), quiet), _state(1)),
        real=lambda: [
            {"input": windows(4, 16000)[k : k + 1], "state": np.zeros((2, 1, _STATE), np.float32)} for k in (0, 3)
        ],
    ),
)
