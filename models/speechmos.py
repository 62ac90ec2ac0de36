"""Microsoft's speech quality models (DNSMOS, AECMOS, PLCMOS): what a listener would say of a recording, in points."""

from __future__ import annotations

import numpy as np

from .sound import quiet, voice
from .wheel import Wheel, WheelMember
from .zoo_model import Arrays, ModelInput, ZooModel, normal

_WHEEL = Wheel("speechmos", "0.0.1.1", "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7")
_LICENSE = "MIT"
# What DNSMOS listens to: 9.01 s at 16 kHz.
_SAMPLES = 144160


def _recordings() -> list[Arrays]:
    """A clean voice, and the same in noise, as a batch of two."""
    clean = voice(_SAMPLES, 16000, 120.0)
    noisy = clean + quiet(np.random.default_rng(1), (_SAMPLES,))
    return [{"input_1": np.stack([clean, noisy.clip(-1, 1)])}]


def _dnsmos(name: str, member: str, sha256: str, row: tuple[int, ...], what: str) -> ZooModel:
    """One of DNSMOS: batches of recordings, or of their spectra."""
    sound = row == (_SAMPLES,)
    return ZooModel(
        name=name,
        summary=f"DNSMOS: 9 s of speech at 16 kHz {'' if sound else '(as a spectrum) '}-> {what}",
        license=_LICENSE,
        source=WheelMember(_WHEEL, f"speechmos/{member}", sha256),
        inputs=(ModelInput("input_1", ("N", *row), "float32", (1, *row), quiet if sound else normal),),
        real=_recordings if sound else None,
    )


def _aecmos(name: str, member: str, sha256: str, hidden: int, what: str) -> ZooModel:
    """One of AECMOS: mel spectra of what was played, what the microphone heard, and what was sent."""
    return ZooModel(
        name=name,
        summary=f"AECMOS, {what}: spectra of three signals -> echo and other degradation",
        license=_LICENSE,
        source=WheelMember(_WHEEL, f"speechmos/aecmos_models/{member}", sha256),
        inputs=(
            ModelInput("input", ("batch_size", 3, "frames", 160), "float32", (1, 3, 640, 160)),
            ModelInput("h0", (4, 1, hidden), "float32", (4, 1, hidden)),
        ),
    )


MODELS = (
    _dnsmos(
        "dnsmos",
        "dnsmos_models/sig_bak_ovr.onnx",
        "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
        (_SAMPLES,),
        "quality of speech, of background, of both",
    ),
    _dnsmos(
        "dnsmos_personal",
        "pdnsmos_models/sig_bak_ovr.onnx",
        "9e3a197449ca2177f0997afec3bd6b890117ce2f17b89d6eea7fa0d47272c81c",
        (_SAMPLES,),
        "the same, other talkers being noise",
    ),
    _dnsmos(
        "dnsmos_p808",
        "dnsmos_models/model_v8.onnx",
        "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
        (900, 120),
        "quality, as ITU-T P.808 asks for it",
    ),
    _dnsmos(
        "dnsmos_sig",
        "dnsmos_models/sig.onnx",
        "d2fbdb293bc2366dfbae2b7477c490f981d24a8b4405efd3c11787569c6549d7",
        (901, 161),
        "quality of speech",
    ),
    _dnsmos(
        "dnsmos_bak_ovr",
        "dnsmos_models/bak_ovr.onnx",
        "5f335c90994618150192a656a474bcf8a9cbcedbc47965494ba8da79605d1308",
        (901, 161),
        "quality of background and of all",
    ),
    _aecmos(
        "aecmos",
        "Run_1663915512_Stage_0.onnx",
        "f53122f43cb7e5b77ec797e85c8b997cfc2aac8220857c709226d876de8c0a99",
        64,
        "16 kHz with a marker of who talks",
    ),
    _aecmos(
        "aecmos_plain",
        "Run_1663829550_Stage_0.onnx",
        "b517d8d9ca2f91ea55d15f605a15917c19be5d832868fe115c7c5bc48986dae1",
        64,
        "16 kHz",
    ),
    _aecmos(
        "aecmos_48k",
        "Run_1668423760_Stage_0.onnx",
        "b57bc007046d7230008ad2b802cb378f998ff3d96be074389a4d07533b7d4aaf",
        96,
        "48 kHz with a marker of who talks",
    ),
    ZooModel(
        name="plcmos",
        summary="PLCMOS v2: spectrum of speech with lost packets, and a rater -> quality",
        license=_LICENSE,
        source=WheelMember(
            _WHEEL,
            "speechmos/plcmos_models/plcmos_v2.onnx",
            "c0ad3fc64ef9682b4749c0e96636b41c73b4b30bd123b9348feea06a96895286",
        ),
        inputs=(
            ModelInput("degraded_audio", ("batch_size", 1, "frames", 257), "float32", (1, 1, 500, 257)),
            ModelInput("rater_embed", ("batch_size", 64), "float32", (1, 64)),
        ),
    ),
)
