"""ONNX Runtime as a peer: all graph optimisations, sequential execution, the CPU provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..errors import ModelError
from .base import Peer, Runner

_ERROR_ONLY = 3


class OnnxRuntimePeer(Peer):
    """One InferenceSession."""

    name = "onnxruntime"
    distribution = "onnxruntime"

    @property
    def runs_on(self) -> str:
        """Its execution providers."""
        return ", ".join(name.removesuffix("ExecutionProvider") for name in self._session.get_providers())

    def load(self, path: Path, threads: int) -> None:
        """Create the session with `threads` intra-op threads."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _ERROR_ONLY
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception classes have no common base
            raise ModelError(f"ONNX Runtime cannot load {path.name!r}: {_sentence(error)}") from error

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> Runner:
        """A call of the session with `inputs` bound."""
        run, feeds = self._session.run, dict(inputs)
        return lambda: run(None, feeds)

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        names = [o.name for o in self._session.get_outputs()]
        try:
            results = dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot run the model: {_sentence(error)}") from error
        return {name: _columns(value) for name, value in results.items()}


def _columns(value: Any) -> Any:
    """A sequence of maps with a column for each key, which ONNX Runtime gives in their order; else the value itself."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return np.array([list(row.values()) for row in value], np.float32)
    return value


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
