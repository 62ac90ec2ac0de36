"""A loaded model that is not compiled as a whole: its segments, one after the other, or as `If` and `Loop` decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..artifact.artifact import Artifact
from ..artifact.records import TargetCode
from ..errors import InputError, UsageError
from ..segments import Segment, outermost
from ..tensor_spec import STRING
from .choice import choose_target
from .control import ControlSegment, Step, Values
from .host_evaluator import HostSegment
from .host_values import accept, check_names, owned
from .module import Module, load


class HostedModule(Module):
    """A model in segments; see Module. Between them values are arrays in the memory of the host.

    Inputs that are strings may be strings, arrays or nested lists of them, results are object arrays; sequences are
    lists, and optionals None where they hold nothing.
    """

    def __init__(self, artifact: Artifact, device: str, threads: int) -> None:
        self.inputs, self.outputs = tuple(artifact.inputs), tuple(artifact.outputs)
        self.artifact, self.threads = artifact, threads
        self._output_names = [spec.name for spec in self.outputs]
        self._names = {spec.name: index for index, spec in enumerate(self.inputs)}
        self._count = len(self.inputs)
        self._checked: list[Any] | None = None  # dtype and shape of each input of a call that was checked
        self.target = _target(artifact, device)
        order = outermost([segment.control for segment in artifact.segments])
        self._steps = _steps(artifact, order, self.target, device, threads)
        self._compiled = {
            s.name for n in order if artifact.segments[n].is_compiled for s in artifact.segments[n].outputs
        }

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Runs the model; arguments, result and errors as for Module, where tensors on a GPU are not taken."""
        known: Values = dict(zip(self._names, self._accepted(self._arrange(values, named)), strict=True))
        for step in self._steps:
            known.update(step(known))
        results = [known[name] if name in self._compiled else owned(known[name]) for name in self._output_names]
        return results[0] if len(results) == 1 else tuple(results)

    def _accepted(self, values: Sequence[Any]) -> Sequence[Any]:
        """The values as segments take them. Arrays of the dtypes and shapes of a call that was checked need no check:
        20 us less for three inputs."""
        kinds = [(value.dtype, value.shape) if type(value) is np.ndarray else None for value in values]
        if kinds == self._checked:
            return values
        accepted = [accept(value, spec) for value, spec in zip(values, self.inputs, strict=True)]
        check_names(self.inputs, accepted)
        plain = all(a is value and kind is not None for a, value, kind in zip(accepted, values, kinds, strict=True))
        if plain and not any(spec.dtype == STRING for spec in self.inputs):
            self._checked = kinds
        return accepted

    def enqueue(self, *values: Any, stream: int = 0, **named: Any) -> Any:
        """UsageError: what runs decide cannot wait in a GPU's stream."""
        raise UsageError("enqueue: expected a model that is compiled as a whole, found one in segments.")


def _steps(
    artifact: Artifact, order: Sequence[int], target: TargetCode | None, device: str, threads: int
) -> list[Step]:
    """What runs the segments `order`; all that are compiled run the code for one kind of hardware, that of `target`."""
    steps: list[Step] = []
    for number in order:
        segment = artifact.segments[number]
        if segment.control is not None:
            graphs = [_steps(artifact, graph.segments, target, device, threads) for graph in segment.control.graphs]
            steps.append(ControlSegment(segment, segment.control, graphs).run)
        elif segment.on_host:
            steps.append(HostSegment(segment).run)
        else:
            codes = tuple(t for t in artifact.targets if t.segment == number and target and t.key == target.key)
            part = replace(artifact, inputs=segment.inputs, outputs=segment.outputs, targets=codes, segments=())
            steps.append(_compiled(load(part, device, threads), segment))
    return steps


def _target(artifact: Artifact, device: str) -> TargetCode | None:
    """The first segment's code that `device` names; None where nothing is compiled."""
    if artifact.targets:
        first = artifact.targets[0].segment
        return choose_target(
            replace(artifact, targets=tuple(t for t in artifact.targets if t.segment == first)), device
        )[0]
    if device not in ("auto", "cpu"):
        raise UsageError(f"device {device!r}: expected auto or cpu, for all operators of the model run on the host.")
    return None


def _compiled(module: Module, segment: Segment) -> Step:
    names, results = [s.name for s in segment.inputs], [s.name for s in segment.outputs]

    def run(known: Values) -> Values:
        try:
            result = module(*[known[name] for name in names])
        except InputError as error:
            raise InputError(f"between segments: {error.message}", error.hint) from error
        return dict(zip(results, (result,) if len(results) == 1 else result, strict=True))

    return run
