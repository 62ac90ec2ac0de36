"""Kompilo itself, behind the same interface as its peers; reads artifacts rather than ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .base import Peer, Runner


class KompiloPeer(Peer):
    """One loaded artifact, on the `device` that `kompilo.load` takes."""

    name = "kompilo"
    distribution = "kompilo"

    def __init__(self, device: str = "auto") -> None:
        self._device = device

    @property
    def runs_on(self) -> str:
        """The key of the target whose code runs, and which of several GPUs runs it."""
        from ..runtime.choice import split_number

        number = split_number(self._device)[1]
        return self._module.runs_on + (f", GPU {number}" if number else "")

    def load(self, path: Path, threads: int) -> None:
        """Load the artifact to run on `threads` threads."""
        from ..runtime.module import load

        self._module = load(path, self._device, threads)

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> Runner:
        """A call of the module with `inputs` bound."""
        run, feeds = self._module.run, dict(inputs)
        return lambda: run(feeds)

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        return dict(self._module.run(dict(inputs)))
