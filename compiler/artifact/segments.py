"""What a manifest says of a model that is only partly compiled: its segments, in the order of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ArtifactError
from ..segments import Control, HostOperator, Segment, outermost
from ..tensor_spec import ANY_SHAPE, OPTIONAL, SEQUENCE, STRING, TensorSpec

# Graphs in graphs, as many as anybody writes.
_MAX_NESTING = 64

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
    control: Control | None = None

    @property
    def is_compiled(self) -> bool:
        """Whether it is code."""
        return self.model is None and self.control is None


def model_member(number: int) -> str:
    """The member that holds the ONNX model of segment `number`."""
    return f"host/segment{number}.onnx"


def segment_entries(segments: Sequence[Segment]) -> tuple[SegmentEntry, ...]:
    """What the manifest says of `segments`."""
    return tuple(
        SegmentEntry(s.inputs, s.outputs, model_member(k) if s.on_host else None, s.operators, s.control)
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
    inputs = tuple(inputs)
    types = _types(segments, inputs)
    for number, segment in enumerate(segments):
        for spec in (*segment.inputs, *segment.outputs):
            _require(spec.name != "", f"segment {number}: a tensor has no name.")
        _require(segment.control is None or segment.model is None, f"segment {number}: it is of two kinds.")
        if segment.control is not None:
            _check_control(number, segment, segment.control, types)
    used = [n for s in segments if s.control for graph in s.control.graphs for n in graph.segments]
    _require(len(set(used)) == len(used), "a segment belongs to two graphs.")
    known = _check_order(segments, outermost([s.control for s in segments]), {spec.name for spec in inputs}, 0)
    missing = [s.name for s in outputs if s.name not in known]
    _require(not missing, f"no segment gives the outputs {missing}.")
    compiled = {k for k, segment in enumerate(segments) if segment.is_compiled}
    found: dict[str, set[int]] = {}
    for key, number in code:
        found.setdefault(key, set()).add(number)
    fine = all(numbers == compiled for numbers in found.values()) and (bool(found) or not compiled)
    _require(fine, "expected code for each compiled segment, from each target.")


def _types(segments: Sequence[SegmentEntry], inputs: Iterable[TensorSpec]) -> dict[str, set[str]]:
    """The types of what is given under each name, which graphs may use again."""
    found: dict[str, set[str]] = {}
    for spec in (*inputs, *(spec for segment in segments for spec in segment.outputs)):
        found.setdefault(spec.name, set()).add(spec.dtype)
    for segment in segments:
        if segment.control is None:
            continue
        read = {spec.name: spec.dtype for spec in segment.inputs}
        if segment.control.step is not None:
            found.setdefault(segment.control.step, set()).add("int64")
        for first, carried in zip(segment.control.first, segment.control.carried, strict=False):
            found.setdefault(carried, set()).add(read.get(first, ""))
    return found


def _check_control(number: int, segment: SegmentEntry, control: Control, types: Mapping[str, set[str]]) -> None:
    """ArtifactError where the parts of `If` or `Loop` do not fit together; `types` are those of what is given."""
    read = {spec.name for spec in segment.inputs}
    count = len(control.results) + int(control.is_loop)
    given = [name for name in control.results if name]
    fine = len(control.graphs) in (1, 2) and all(len(graph.outputs) == count for graph in control.graphs)
    fine = fine and sorted(given) == sorted(spec.name for spec in segment.outputs)
    if control.is_loop:
        fine = fine and len(control.first) == len(control.carried) <= len(control.results) and control.step is not None
    else:
        fine = fine and control.condition is not None and not control.first and not control.carried
    named = {control.condition, control.limit, *control.first} - {None}
    _require(fine and named <= read, f"segment {number}: its {control.operator.operator} is not whole.")
    for what, name, dtype in (("condition", control.condition, "bool"), ("limit", control.limit, "int64")):
        wrong = {s.dtype for s in segment.inputs if s.name == name} - {dtype}
        if name is not None and dtype not in types.get(name, {dtype}):
            wrong |= types[name]
        _require(not wrong, f"segment {number}: expected {dtype} for its {what} {name!r}, found {sorted(wrong)}.")
    below = all(0 <= inner < number for graph in control.graphs for inner in graph.segments)
    _require(below, f"segment {number}: expected graphs of segments before it.")


def _check_order(segments: Sequence[SegmentEntry], order: Iterable[int], known: set[str], depth: int) -> set[str]:
    """All names known after the segments `order`; ArtifactError unless each reads what is there by then."""
    _require(depth <= _MAX_NESTING, f"segments are nested deeper than {_MAX_NESTING}.")
    start, known = known, set(known)
    for number in order:
        segment = segments[number]
        missing = [s.name for s in segment.inputs if s.name not in known]
        _require(not missing, f"segment {number}: nothing before it gives {missing}.")
        control = segment.control
        for graph in control.graphs if control else ():
            own = {*control.carried, *([control.step] if control.step else [])} if control else set()
            inner = _check_order(segments, graph.segments, known | own, depth + 1)
            missing = [name for name in graph.outputs if name and name not in inner]
            _require(not missing, f"segment {number}: its graph gives no {missing}.")
        # A graph may use names again that are known around it.
        twice = [s.name for s in segment.outputs if s.name in known and (depth == 0 or s.name not in start)]
        _require(not twice and bool(segment.outputs), f"segment {number}: it gives {twice or 'nothing'}.")
        known.update(s.name for s in segment.outputs)
    return known


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
