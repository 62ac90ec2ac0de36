"""The `onnx` package's own reference evaluator as a peer: slow, in numpy, no second runtime needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from ..errors import ModelError
from .base import Peer, Runner


class ReferencePeer(Peer):
    """One ReferenceEvaluator; `threads` is numpy's affair and ignored."""

    name = "reference"
    distribution = "onnx"

    def load(self, path: Path, threads: int) -> None:
        """Read the model, external data included."""
        try:
            self._evaluator = ReferenceEvaluator(onnx.load(path))
        except Exception as error:  # the evaluator raises classes of its own making
            raise ModelError(f"the ONNX reference evaluator cannot load {path.name!r}: {error}") from error

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> Runner:
        """A call of the evaluator with `inputs` bound."""
        feeds = dict(inputs)
        return lambda: self._evaluator.run(None, feeds)

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        try:
            results = self._evaluator.run(None, dict(inputs))
        except Exception as error:
            raise ModelError(f"the ONNX reference evaluator cannot run the model: {error}") from error
        return dict(zip(self._evaluator.output_names, map(np.asarray, results), strict=True))
