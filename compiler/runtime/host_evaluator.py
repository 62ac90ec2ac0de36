"""Runs a segment that is not compiled: the reference evaluator of the onnx package, one node after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ArtifactError, KompiloError
from ..segments import Segment
from .host_values import conform

Values = dict[str, Any]


class HostSegment:
    """The operators of one segment; calls may come from several threads at once.

    Raises:
        KompiloError: the onnx package is not installed.
        ArtifactError: the evaluator does not know what the segment holds.
    """

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        # As with compiled code, each concurrent call has evaluators of its own; a list's pop and append are atomic.
        self._idle = [_Evaluators(segment)]

    def run(self, values: Values) -> Values:
        """The segment's outputs by name, for the values by name that it may read.

        Raises:
            KompiloError: an operator failed, or gave something else than it has to.
        """
        try:
            evaluators = self._idle.pop()
        except IndexError:
            evaluators = _Evaluators(self._segment)
        results = evaluators.run({spec.name: values[spec.name] for spec in self._segment.inputs})
        self._idle.append(evaluators)
        try:
            return {spec.name: conform(results[spec.name], spec) for spec in self._segment.outputs}
        except ValueError as error:
            operators = ", ".join(dict.fromkeys(o.operator for o in self._segment.operators))
            raise KompiloError(f"the host's {operators} cannot be trusted with these inputs: {error}.") from None


class _Evaluators:
    """One evaluator for each node, so that an error is that of a node, and what the nodes have in common."""

    def __init__(self, segment: Segment) -> None:
        try:
            import onnx
            from onnx.reference import ReferenceEvaluator

            from .host_operators import OPERATORS
        except ImportError as error:
            first = segment.operators[0]
            raise KompiloError(
                f"the artifact has operators that the onnx package runs on the host ({first.operator} node "
                f"{first.node!r} for one), and that package cannot be imported ({error}).",
                "pip install onnx",
            ) from None
        try:
            model = onnx.load_from_string(segment.model)
            self._known: Values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
            self._steps = []
            for node in model.graph.node:
                graph = onnx.helper.make_graph(
                    [node], "node", [], [onnx.ValueInfoProto(name=n) for n in node.output if n]
                )
                single = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
                self._steps.append((node, ReferenceEvaluator(single, new_ops=OPERATORS)))
        except Exception as error:
            raise ArtifactError(f"the artifact's operators for the host cannot be loaded: {_reason(error)}.") from error

    def run(self, inputs: Mapping[str, Any]) -> Values:
        values = {**self._known, **inputs}
        for node, evaluator in self._steps:
            try:
                with np.errstate(all="ignore"):
                    results = evaluator.run(None, values)
            except Exception as error:
                where = f"{node.op_type} node {node.name or node.output[0]!r}"
                raise KompiloError(f"{where} cannot run on these inputs: {_reason(error)}.") from error
            values.update(zip(filter(None, node.output), results, strict=True))
        return values


def _reason(error: BaseException) -> str:
    """What went wrong in the first place, without the evaluator's own words around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
