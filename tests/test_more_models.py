"""The zoo's second group: one artifact each with its dimensions open, three sizes, against ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import onnxruntime
import pytest
from zoo_check import check

import kompilo
from kompilo.compiler.errors import InputError
from kompilo.models import zoo

Shapes = Mapping[str, tuple[int, ...]]


def _windows(size: int) -> tuple[Shapes, ...]:
    return tuple({"input": (batch, size), "state": (2, batch, 128)} for batch in (1, 3, 8))


def _spectra(hidden: int) -> tuple[Shapes, ...]:
    return tuple({"input": (1, 3, frames, 160), "h0": (4, 1, hidden)} for frames in (640, 16, 333))


def _batches(*row: int) -> tuple[Shapes, ...]:
    return tuple({"input_1": (batch, *row)} for batch in (1, 2, 3))


_STATES = {"h": (1, 1, 128), "c": (1, 1, 128)}
_TOKENS = ("input_ids", "attention_mask", "token_type_ids")
SIZES: dict[str, tuple[Shapes, ...]] = {
    "silero_vad_16k": _windows(576),
    "silero_vad_8k": _windows(288),
    "silero_vad_op15": _windows(576),
    "silero_vad_half": _windows(576),
    "silero_vad_ifless_16k": _windows(576),
    "silero_vad_ifless_8k": _windows(288),
    "silero_vad_ifless": tuple({**shapes, "sr": ()} for shapes in _windows(576)),
    "silero_vad_sequence": tuple({"input": (count, 576), **_STATES} for count in (64, 1, 7)),
    "silero_vad_openvino": ({"input": (1, 576), "state": (2, 1, 128)},),
    "dnsmos": _batches(144160),
    "dnsmos_personal": _batches(144160),
    "dnsmos_p808": _batches(900, 120),
    "dnsmos_sig": _batches(901, 161),
    "dnsmos_bak_ovr": _batches(901, 161),
    "aecmos": _spectra(64),
    "aecmos_plain": _spectra(64),
    "aecmos_48k": _spectra(96),
    "plcmos": tuple({"degraded_audio": (1, 1, frames, 257), "rater_embed": (1, 64)} for frames in (500, 20, 333)),
    "swift_f0": tuple({"audio": (1, samples), "fmin": (), "fmax": ()} for samples in (48000, 255, 4001)),
    "minilm_l6_int8": tuple(dict.fromkeys(_TOKENS, shape) for shape in ((1, 128), (3, 17), (2, 1))),
}


# Other weights, sizes or wrappings of another's graph.
TWINS = {
    "dnsmos_personal": "dnsmos",
    "dnsmos_bak_ovr": "dnsmos_sig",
    "aecmos": "aecmos_48k",
    "silero_vad_8k": "silero_vad_16k",
    "silero_vad_op15": "silero_vad_half",
    "silero_vad_ifless_16k": "silero_vad_ifless",
}


def test_every_model_is_listed():
    assert set(SIZES) == set(zoo.more_names())
    assert not set(zoo.names()) & set(zoo.more_names())
    assert zoo.all_names() == [*zoo.names(), *zoo.more_names()]


@pytest.mark.parametrize("name", SIZES)
def test_agrees_with_onnxruntime(name, reference, zoo_model):
    if name in TWINS and "KOMPILO_TEST_ALL_MODELS" not in os.environ:
        pytest.skip(f"zoo:{TWINS[name]} has nearly the same graph; KOMPILO_TEST_ALL_MODELS=1 runs this one too")
    model = zoo_model(name)
    module = kompilo.load(kompilo.compile(f"zoo:{name}"), threads=1)
    for seed, shapes in enumerate(SIZES[name]):
        check(model, module, reference, model.sample_inputs(seed, shapes))
    for feeds in model.real_inputs():
        check(model, module, reference, feeds)
    if name == "plcmos":
        with pytest.raises(InputError, match="`batch_size` must be 1 for Squeeze"):
            module.run(model.sample_inputs(0, {"degraded_audio": (2, 1, 20, 257), "rater_embed": (2, 64)}))


def test_branches_check_their_inputs_in_every_run(zoo_model):
    model = zoo_model("silero_vad_ifless")
    module = kompilo.load(kompilo.compile("zoo:silero_vad_ifless"), threads=1)
    wide, narrow = model.real_inputs()
    for feeds in (wide, wide, narrow, narrow):
        assert module.run(feeds)["output"].shape == (4, 1)
    with pytest.raises(InputError, match="'batch'"):
        module.run(narrow | {"state": wide["state"][:, :3]})
    with pytest.raises(InputError, match="int64"):
        module.run(narrow | {"sr": np.array(8000.0)})
    np.testing.assert_array_equal(module.run(narrow | {"sr": 8000})["output"], module.run(narrow)["output"])


def outputs(name, zoo_model):
    """What ONNX Runtime gives for the model's first real inputs."""
    model = zoo_model(name)
    session = onnxruntime.InferenceSession(str(model.path()), providers=["CPUExecutionProvider"])
    return session.run(None, model.real_inputs()[0])


@pytest.mark.parametrize("name", [n for n in SIZES if n.startswith("silero") and n != "silero_vad_openvino"])
def test_silero_hears_the_voice(name, zoo_model):
    """The first half of the windows is silence; the state of the others is that of a stream that has just begun."""
    speech = outputs(name, zoo_model)[0].ravel()
    half = len(speech) // 2
    assert speech[:half].max() < 0.3
    assert speech[half:].min() > 0.5


def test_dnsmos_prefers_the_clean_voice(zoo_model):
    clean, noisy = outputs("dnsmos", zoo_model)[0]
    assert (clean > noisy + 0.5).all()


def test_swift_f0_finds_the_pitch(zoo_model):
    pitch, confidence = outputs("swift_f0", zoo_model)
    np.testing.assert_allclose(pitch[confidence > 0.9], 220, rtol=0.02)
    assert (confidence > 0.9).mean() > 0.5


def test_minilm_int8_finds_the_paraphrase(zoo_model):
    tokens = outputs("minilm_l6_int8", zoo_model)[0]
    mask = zoo_model("minilm_l6_int8").real_inputs()[0]["attention_mask"][..., None]
    vectors = (tokens * mask).sum(axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.8
    assert similar[0, 2] < 0.3
