"""A loaded model that is hardware, run by its target's simulator behind the same interface."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from ..artifact.artifact import Artifact
from ..artifact.records import TargetCode
from ..element_types import array_dtype
from ..errors import ArtifactError, UsageError
from .module import Module
from .tensors import check_shapes, to_array

GROUP = "kompilo.simulators"


class SimulatedModule(Module):
    """A design of hardware; see Module. One call runs at a time, others wait.

    Attributes:
        predicted_seconds: of one call on the real part, its data being on the chip: a prediction of the cycle model,
            not a measurement.
    """

    def __init__(self, artifact: Artifact, target: TargetCode, weights: Sequence[np.ndarray], threads: int) -> None:
        self.inputs, self.outputs = tuple(artifact.inputs), tuple(artifact.outputs)
        self.artifact, self.target, self.threads = artifact, target, threads
        self._output_names = [spec.name for spec in self.outputs]
        self._names = {spec.name: index for index, spec in enumerate(self.inputs)}
        self._count = len(self.inputs)
        self._simulator = simulator_for(target).open_design(target.device[0].code, weights)
        self.predicted_seconds: float = self._simulator.seconds

    @property
    def runs_on(self) -> str:
        """The part's key, and that times taken are not its own."""
        assert self.target is not None, "a simulated module has one target"
        return f"{self.target.key} (simulated)"

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Runs the model; arguments, result and errors as for Module, where tensors on a GPU are not taken."""
        ordered = self._arrange(values, named)
        given = [to_array(v, s, array_dtype(s.dtype)) for v, s in zip(ordered, self.inputs, strict=True)]
        check_shapes(self.inputs, given)
        native = [np.ascontiguousarray(a, a.dtype.newbyteorder("=")) for a in given]
        results = self._simulator.run(native)
        shaped = [
            np.asarray(r).astype(array_dtype(s.dtype), copy=False).reshape([int(d) for d in s.shape])
            for r, s in zip(results, self.outputs, strict=True)
        ]
        return shaped[0] if len(shaped) == 1 else tuple(shaped)

    def enqueue(self, *values: Any, stream: int = 0, **named: Any) -> Any:
        """UsageError: a simulation has no stream."""
        raise UsageError("enqueue: expected a model that is loaded on a GPU, found one that is simulated.")


@cache
def _simulator(kind: str) -> Any:
    for entry in entry_points(group=GROUP, name=kind):
        return entry.load()
    raise ArtifactError(
        f"the artifact has hardware for {kind}, and no simulator of it is installed.", "install Kompilo as a whole."
    )


def simulator_for(target: TargetCode) -> Any:
    """The module that simulates `target`, found by the entry points `kompilo.simulators`; ArtifactError if there is
    none."""
    return _simulator(target.name.partition(":")[0])
