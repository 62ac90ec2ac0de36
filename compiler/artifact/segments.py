"""What a manifest says of a model that is only partly compiled: its segments, in the order of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import ArtifactError
from ..segments import HostOperator, Segment
from ..tensor_spec import ANY_SHAPE, OPTIONAL, SEQUENCE, STRING, TensorSpec

_WRAPPERS = ((), (SEQUENCE,), (OPTIONAL,), (OPTIONAL, SEQUENCE))


@dataclass(frozen=True)
class SegmentEntry:
    """A Segment without its bytes: `model` names the member that holds the ONNX model of a segment on the host.

    `targets` whose `segment` is this one's number hold the code of a segment that is compiled.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: str | None
    operators: tuple[HostOperator, ...] = ()


def model_member(number: int) -> str:
    """The member that holds the ONNX model of segment `number`."""
    return f"host/segment{number}.onnx"


def segment_entries(segments: Sequence[Segment]) -> tuple[SegmentEntry, ...]:
    """What the manifest says of `segments`."""
    return tuple(
        SegmentEntry(s.inputs, s.outputs, model_member(k) if s.on_host else None, s.operators)
        for k, s in enumerate(segments)
    )


def host_models(segments: Sequence[Segment]) -> list[tuple[str, bytes]]:
    """Name and bytes of the members that hold the models of segments on the host."""
    return [(model_member(k), s.model) for k, s in enumerate(segments) if s.model is not None]


def check_segments(
    segments: Sequence[SegmentEntry],
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    code: Iterable[tuple[str, int]],
) -> None:
    """ArtifactError unless each segment reads what is there by then, and each that is compiled has code.

    `code` holds key and segment of every target.
    """
    known = {spec.name for spec in inputs}
    for number, segment in enumerate(segments):
        where = f"segment {number}"
        for spec in (*segment.inputs, *segment.outputs):
            _require(spec.name != "", f"{where}: a tensor has no name.")
        missing = [s.name for s in segment.inputs if s.name not in known]
        _require(not missing, f"{where}: nothing before it gives {missing}.")
        twice = [s.name for s in segment.outputs if s.name in known]
        _require(not twice and bool(segment.outputs), f"{where}: it gives {twice or 'nothing'}.")
        known.update(s.name for s in segment.outputs)
    missing = [s.name for s in outputs if s.name not in known]
    _require(not missing, f"no segment gives the outputs {missing}.")
    compiled = {k for k, segment in enumerate(segments) if segment.model is None}
    found: dict[str, set[int]] = {}
    for key, number in code:
        found.setdefault(key, set()).add(number)
    fine = all(numbers == compiled for numbers in found.values()) and (bool(found) or not compiled)
    _require(fine, "expected code for each compiled segment, from each target.")


def check_type(kind: str, spec: TensorSpec, elements: Iterable[str], on_host: bool) -> None:
    """ArtifactError for an element type that is none of `elements`, or a shape that cannot be.

    What is `on_host` may also be strings, sequences and optionals, and tensors whose number of dimensions is open.
    """
    hosted = on_host and spec.wrappers in _WRAPPERS and (spec.element in elements or spec.element == STRING)
    _require(hosted or spec.dtype in elements, f"{kind} {spec.name!r}: the dtype {spec.dtype!r} is unknown.")
    closed = "..." not in spec.shape or (on_host and spec.shape == ANY_SHAPE)
    _require(closed, f"{kind} {spec.name!r}: the shape {list(spec.shape)} is impossible.")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArtifactError(f"manifest.json: {message}")
