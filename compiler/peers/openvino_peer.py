"""OpenVINO as a peer: one stream, latency mode, fp32 arithmetic, the CPU plugin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import ModelError
from .base import Peer, Runner

# OpenVINO reports usage over the network unless told otherwise before it is imported.
os.environ.setdefault("OPENVINO_TELEMETRY_OPTOUT", "1")

import openvino


class OpenVinoPeer(Peer):
    """One compiled model with one inference request."""

    name = "openvino"
    distribution = "openvino"

    @property
    def runs_on(self) -> str:
        """Its devices."""
        return ", ".join(self._model.get_property("EXECUTION_DEVICES"))

    def load(self, path: Path, threads: int) -> None:
        """Compile the model for `threads` threads."""
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            core = openvino.Core()
            self._names = [_name(o, k) for k, o in enumerate(core.read_model(str(path)).outputs)]
            self._model = core.compile_model(str(path), "CPU", config)
            self._request = self._model.create_infer_request()
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load {path.name!r}: {' '.join(str(error).split())[:300]}") from error

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> Runner:
        """An inference call that shares input and output memory with numpy."""
        infer, feeds = self._request.infer, dict(inputs)
        return lambda: infer(feeds, share_inputs=True, share_outputs=True)

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; the results are copies."""
        try:
            results = self._request.infer(dict(inputs))
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot run the model: {' '.join(str(error).split())[:300]}") from error
        return dict(zip(self._names, (np.array(v) for v in results.values()), strict=True))


def _name(port: openvino.Output, index: int) -> str:
    names = port.get_names()
    return min(names) if names else f"output{index}"
