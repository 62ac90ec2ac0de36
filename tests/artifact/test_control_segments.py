"""Manifests of models with `If` and `Loop` between segments: what does not fit together is refused before it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kompilo.compiler.artifact.segments import SegmentEntry, check_segments
from kompilo.compiler.errors import ArtifactError
from kompilo.compiler.segments import Control, ControlGraph, HostOperator
from kompilo.compiler.tensor_spec import TensorSpec


def spec(name: str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, (2,), dtype)


CHOICE, LOOP = HostOperator("If", "choice", "its condition is data"), HostOperator("Loop", "loop", "its count is data")
BRANCHES = Control(CHOICE, (ControlGraph((0,), ("t",)), ControlGraph((), ("x",))), ("y",), condition="c")
BODY = Control(LOOP, (ControlGraph((2,), ("c", "more")),), ("z",), None, "n", "step", ("y",), ("v",))
INPUTS = [spec("x"), spec("c", "bool"), spec("n", "int64")]
SEGMENTS = [
    SegmentEntry((spec("x"),), (spec("t"),), None),
    SegmentEntry((spec("x"), spec("c", "bool")), (spec("y"),), None, control=BRANCHES),
    SegmentEntry((spec("v"), spec("step", "int64")), (spec("more"),), None),
    SegmentEntry((spec("y"), spec("n", "int64"), spec("c", "bool")), (spec("z"),), None, control=BODY),
]
CODE = [("cpu", 0), ("cpu", 2)]


def check(segments: list[SegmentEntry]) -> None:
    check_segments(segments, INPUTS, [spec("z")], CODE)


def changed(number: int, **fields: object) -> list[SegmentEntry]:
    """The segments with other fields in one, or in its control."""
    found, control = SEGMENTS[number], SEGMENTS[number].control
    own = {name: fields.pop(name) for name in ("inputs", "outputs", "model") if name in fields}
    made = replace(found, **own, control=replace(control, **fields) if control else None)
    return [*SEGMENTS[:number], made, *SEGMENTS[number + 1 :]]


def test_what_fits() -> None:
    check(SEGMENTS)


BROKEN = {
    "own segment": (changed(1, graphs=(ControlGraph((1,), ("t",)), ControlGraph((), ("x",)))), "segments before it"),
    "later segment": (changed(1, graphs=(ControlGraph((2,), ("t",)), ControlGraph((), ("x",)))), "segments before it"),
    "negative": (changed(1, graphs=(ControlGraph((-1,), ("t",)), ControlGraph((), ("x",)))), "segments before it"),
    "shared": (changed(3, graphs=(ControlGraph((0,), ("c", "t")),)), "belongs to two graphs"),
    "no condition": (changed(1, condition=None), "its If is not whole"),
    "no step": (changed(3, step=None), "its Loop is not whole"),
    "unread": (changed(3, limit="other"), "its Loop is not whole"),
    "carried": (changed(3, carried=()), "its Loop is not whole"),
    "results": (changed(1, results=("y", "")), "its If is not whole"),
    "three graphs": (changed(1, graphs=(*BRANCHES.graphs, ControlGraph((), ("x",)))), "its If is not whole"),
    "unknown result": (changed(1, graphs=(ControlGraph((0,), ("t",)), ControlGraph((), ("w",)))), "gives no"),
    "result of the other": (changed(1, graphs=(ControlGraph((), ("x",)), ControlGraph((0,), ("z",)))), "gives no"),
    "unknown input": (changed(2, inputs=(spec("w"),)), "nothing before it gives"),
    "name again": (changed(3, results=("y",), outputs=(spec("y"),)), "it gives"),
    "condition of an If": (
        changed(1, inputs=(spec("x"), spec("c"))),
        r"segment 1: expected bool for its condition 'c', found \['float32'\]",
    ),
    "condition of a Loop": (
        changed(3, condition="c", inputs=(spec("y"), spec("n", "int64"), spec("c", "sequence(bool)"))),
        "segment 3: expected bool for its condition 'c'",
    ),
    "limit": (
        changed(3, inputs=(spec("y"), spec("n", "string"), spec("c", "bool"))),
        r"segment 3: expected int64 for its limit 'n', found \['string'\]",
    ),
    "two kinds": (changed(1, model="host/segment1.onnx"), "two kinds"),
}


@pytest.mark.parametrize(("segments", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_what_does_not_fit(segments: list[SegmentEntry], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check(segments)


@pytest.mark.parametrize(("dtype", "fits"), [("bool", True), ("sequence(bool)", False), ("string", False)])
def test_what_a_decision_is_given(dtype: str, fits: bool) -> None:
    """What gives a condition has to say the same of its type as what reads it."""
    inputs = [spec("x"), spec("c", dtype), spec("n", "int64")]
    if fits:
        check_segments(SEGMENTS, inputs, [spec("z")], CODE)
        return
    with pytest.raises(ArtifactError, match="segment 1: expected bool for its condition 'c', found"):
        check_segments(SEGMENTS, inputs, [spec("z")], CODE)


def test_a_carried_value_decides() -> None:
    """An inner name may be one that is used outside, for a value of another type."""
    inner = Control(CHOICE, (ControlGraph((), ("v",)), ControlGraph((), ("c",))), ("chosen",), condition="v")
    outer = Control(LOOP, (ControlGraph((0,), ("c", "chosen")),), ("z",), None, "n", "step", ("c",), ("v",))
    read = (spec("n", "int64"), spec("c", "bool"))
    segments = [
        SegmentEntry((spec("v", "bool"), read[1]), (spec("chosen", "bool"),), None, control=inner),
        SegmentEntry(read, (spec("z", "bool"),), None, control=outer),
    ]
    check_segments(segments, [spec("v"), spec("c", "bool"), read[0]], [spec("z", "bool")], [])


def test_graphs_in_graphs() -> None:
    """Deeper than anybody writes is refused, rather than walked without end."""
    segments = [SegmentEntry((spec("x"),), (spec("t"),), None)]
    for number in range(70):
        graphs = (ControlGraph((number,), ("t",)), ControlGraph((), ("x",)))
        control = Control(CHOICE, graphs, ("t",), condition="c")
        segments.append(SegmentEntry((spec("x"), spec("c", "bool")), (spec("t"),), None, control=control))
    with pytest.raises(ArtifactError, match="nested deeper than"):
        check_segments(segments, INPUTS, [spec("t")], [("cpu", 0)])
