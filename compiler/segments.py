"""A model in parts: what is compiled, and what the onnx package's reference evaluator runs on the host."""

from __future__ import annotations

from dataclasses import dataclass

from .tensor_spec import TensorSpec


@dataclass(frozen=True)
class HostOperator:
    """An operator that is not compiled, and why: `operator` is its type, `node` what the model calls it."""

    operator: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator} node {self.node!r}: {self.reason}"


@dataclass(frozen=True)
class Segment:
    """A part of a model; a run goes through a model's segments in their order.

    Attributes:
        inputs: what it reads: inputs of the model, or outputs of earlier segments.
        outputs: what it gives, in order; no name comes twice in a model.
        model: the ONNX model that the evaluator runs, serialised; None where the segment is compiled.
        operators: what that model holds, constants apart; none where the segment is compiled.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: bytes | None = None
    operators: tuple[HostOperator, ...] = ()

    @property
    def on_host(self) -> bool:
        """Whether the evaluator runs it."""
        return self.model is not None
