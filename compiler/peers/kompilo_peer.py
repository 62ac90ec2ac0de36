"""Kompilo itself, behind the same interface as its peers; reads artifacts rather than ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .base import Peer, Runner


class KompiloPeer(Peer):
    """One loaded artifact."""

    name = "kompilo"
    distribution = "kompilo"

    def load(self, path: Path, threads: int) -> None:
        """Load the artifact to run on `threads` threads."""
        from ..runtime.module import load

        self._module = load(path, threads=threads)

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> Runner:
        """A call of the module with `inputs` bound."""
        run, feeds = self._module.run, dict(inputs)
        return lambda: run(feeds)

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        return dict(self._module.run(dict(inputs)))
