"""A model in parts: what is compiled, what the onnx package's reference evaluator runs on the host, and what the loader
decides between them."""

from __future__ import annotations

from collections.abc import Sequence
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
class ControlGraph:
    """A branch of an `If` or the body of a `Loop`.

    Attributes:
        segments: the numbers of those that it goes through, in order, all below that of the segment it belongs to.
        outputs: the names of its results, which these segments give, or which are known around it.
    """

    segments: tuple[int, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Control:
    """An `If` or a `Loop` that each run decides: the loader goes through its graphs as the values found say.

    Attributes:
        operator: the node, and why it is not compiled.
        graphs: where an `If` goes on if its condition is true, and if it is not; or the body of a `Loop`, whose
            outputs are whether to go on, the carried values, and one row for each of the other results.
        results: what the outputs are called outside, without that first one of a body; "" where nobody reads them.
        condition, limit: names of a truth value and of a number of iterations; None where a `Loop` has none.
        step: what the body calls the number of the iteration, an int64 tensor without dimensions.
        first, carried: names of the carried values before the loop, and in its body.
    """

    operator: HostOperator
    graphs: tuple[ControlGraph, ...]
    results: tuple[str, ...]
    condition: str | None = None
    limit: str | None = None
    step: str | None = None
    first: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()

    @property
    def is_loop(self) -> bool:
        """Whether this is a `Loop`."""
        return len(self.graphs) == 1


@dataclass(frozen=True)
class Segment:
    """A part of a model; a run goes through a model's segments in their order.

    Attributes:
        inputs: what it reads: inputs of the model, or outputs of earlier segments.
        outputs: what it gives, in order; no name comes twice in a model, but in two graphs of a Control.
        model: the ONNX model that the evaluator runs, serialised; None where the segment is compiled.
        operators: what that model holds, constants apart; none where the segment is compiled.
        control: what the loader does, where that is all there is to the segment.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: bytes | None = None
    operators: tuple[HostOperator, ...] = ()
    control: Control | None = None

    @property
    def on_host(self) -> bool:
        """Whether the evaluator runs it."""
        return self.model is not None

    @property
    def is_compiled(self) -> bool:
        """Whether it is code."""
        return self.model is None and self.control is None

    @property
    def not_compiled(self) -> tuple[HostOperator, ...]:
        """The operators that are not compiled."""
        return self.operators if self.control is None else (self.control.operator,)


def outermost(controls: Sequence[Control | None]) -> list[int]:
    """The numbers of the segments that belong to no graph of another, for the controls of all segments."""
    inner = {number for control in controls if control for graph in control.graphs for number in graph.segments}
    return [number for number in range(len(controls)) if number not in inner]
