"""Magika: a small network that tells the type of a file from its first and last bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .wheel import Wheel, WheelMember
from .zoo_model import Arrays, ModelInput, ZooModel, integers

_WHEEL = Wheel("magika", "1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529")
_FOLDER = "magika/models/standard_v3_3/"
CONFIG = WheelMember(
    _WHEEL, _FOLDER + "config.min.json", "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db"
)


KINDS = WheelMember(
    _WHEEL,
    "magika/config/content_types_kb.min.json",
    "75208adba69bc0556403b62b32ef3ccf8b5ce494411780845852e52e6583a10d",
)


@dataclass(frozen=True)
class Verdict:
    """What a file is: a label such as "python", its description, and the model's score for it in [0, 1]."""

    label: str
    description: str
    score: float


@dataclass(frozen=True)
class Reader:
    """How Magika reads a file and answers, from the configuration that comes with the model.

    `begin` and `end` bytes are taken from the first and the last `block` bytes, after white space is stripped at the
    file's ends; what is missing is filled with `padding`, a token beyond all byte values. `labels[k]` names class k;
    an answer counts when its score reaches the label's entry in `thresholds`, or `threshold` if it has none.
    """

    begin: int
    end: int
    block: int
    padding: int
    labels: tuple[str, ...] = ()
    threshold: float = 0.5
    thresholds: Mapping[str, float] = field(default_factory=dict)
    kinds: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls) -> Reader:
        """Reads the configuration; downloads it on first use."""
        config = json.loads(CONFIG.get().read_text())
        return cls(
            begin=config["beg_size"],
            end=config["end_size"],
            block=config["block_size"],
            padding=config["padding_token"],
            labels=tuple(config["target_labels_space"]),
            threshold=config["medium_confidence_threshold"],
            thresholds=config["thresholds"],
            kinds=json.loads(KINDS.get().read_text()),
        )

    def features(self, content: bytes) -> np.ndarray:
        """int32 (1, begin + end): the model's input for a file with this content."""
        head = content[: self.block].lstrip()[: self.begin]
        tail = content[-self.block :].rstrip()[-self.end :]
        tokens = np.full(self.begin + self.end, self.padding, np.int32)
        tokens[: len(head)] = list(head)
        tokens[len(tokens) - len(tail) :] = list(tail)
        return tokens[None]

    def verdict(self, scores: np.ndarray) -> Verdict:
        """The answer for one row of the model's output, float32 (labels,); plain text or unknown where it is unsure."""
        best = int(scores.argmax())
        label, score = self.labels[best], float(scores[best])
        if score < self.thresholds.get(label, self.threshold):
            label = "txt" if self.kinds[label]["is_text"] else "unknown"
        return Verdict(label, self.kinds[label]["description"], score)


def real_inputs() -> list[Arrays]:
    """One batch of three files everybody has: a Python source, a JSON text and an ONNX model."""
    reader = Reader.load()
    files = (Path(__file__), CONFIG.get(), MODEL.path())
    return [{"bytes": np.concatenate([reader.features(path.read_bytes()) for path in files])}]


MODEL = ZooModel(
    name="magika",
    summary="Magika v3.3 file-type classifier: 2048 bytes of a file -> 214 types",
    license="Apache-2.0",
    source=WheelMember(
        _WHEEL, _FOLDER + "model.onnx", "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"
    ),
    inputs=(ModelInput("bytes", ("batch", 2048), "int32", (1, 2048), integers(0, 257, "int32")),),
    real=real_inputs,
)
