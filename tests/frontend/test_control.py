"""`If` and `Loop` that only runs decide: their graphs are compiled, and the loader goes through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from host_models import BOOL, FLOAT, INT64, model, node, tensor
from onnx import GraphProto, NodeProto, helper, numpy_helper

import kompilo
from kompilo.compiler.errors import KompiloError, ModelError
from kompilo.compiler.frontend.host_import import import_program
from kompilo.compiler.runtime.host_module import HostedModule

from op_test import floats


def graph(nodes: Sequence[NodeProto], outputs: str, inputs: Sequence[onnx.ValueInfoProto] = (), **stored) -> GraphProto:
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs.split()]
    return helper.make_graph(nodes, "inner", list(inputs), results, weights)


def same_as_onnxruntime(proto: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]], path: Path) -> HostedModule:
    """Compiled, written to a file and loaded, the model gives what ONNX Runtime gives; returns it."""
    kompilo.compile(proto).save(path / "model.kpo")
    module = kompilo.load(path / "model.kpo", threads=1)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for feed in feeds:
        for (name, found), wanted in zip(module.run(feed).items(), session.run(None, dict(feed)), strict=True):
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), name
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=name)
    return module


def by_rate() -> onnx.ModelProto:
    """Branches of other shapes, one with a branch in it, that read sizes, weights and values around them; behind them
    a result that is an input in one branch."""
    same = node("Identity", "x", "x_again")
    small = graph(
        [node("Slice", "x zero one", "cut"), node("Sum", "cut w", "cut2"), same], "cut2 x_again", one=np.array([1])
    )
    large = graph([node("MatMul", "x square", "long"), same], "long x_again", square=floats(5, 5))
    inner = node("If", "loud", "chosen kept", then_branch=small, else_branch=large)
    halves = graph([node("Reshape", "x half", "halved"), node("Neg", "x", "less")], "halved less", half=[-1, 5])
    nodes = [
        node("Constant", "", "zero", value=numpy_helper.from_array(np.array([0]))),
        node("Equal", "rate fast", "is_fast"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Greater", "top w_top", "loud"),
        node("If", "is_fast", "picked same", then_branch=graph([inner], "chosen kept"), else_branch=halves),
        node("Exp", "picked", "y"),
        node("Add", "same x", "z"),
    ]
    inputs = [tensor("x", FLOAT, ["n", 5]), tensor("rate", INT64, [1])]
    weights = {"fast": [16000], "w": floats(1, 5), "w_top": np.float32(1)}
    return model(nodes, inputs, [tensor("y", FLOAT, None), tensor("z", FLOAT, None)], **weights)


def test_branches(tmp_path):
    quiet, loud = floats(3, 5, high=0.5), floats(4, 5) + 2
    feeds = [{"x": x, "rate": np.array([rate])} for x in (quiet, loud) for rate in (16000, 8000)]
    module = same_as_onnxruntime(by_rate(), feeds, tmp_path)
    assert [str(s) for s in module.outputs] == ["y: float32[picked_dim0, 5]", "z: float32[n, 5]"]
    assert not any(segment.operators for segment in module.artifact.segments)
    chosen = [s.control.operator for s in module.artifact.segments if s.control]
    assert [(o.node, o.reason) for o in chosen] == [
        ("CHOSEN", "its condition is data"),
        ("PICKED", "its condition is data"),
    ]


def growing(limit: str, alive: str) -> onnx.ModelProto:
    """Each iteration makes a value one longer, until its last element is large; only odd steps change another."""
    odd, even = graph([node("Add", "more bias", "added")], "added"), graph([node("Identity", "more", "kept")], "kept")
    body = graph(
        [
            node("Cast", "step", "number", to=FLOAT),
            node("Add", "number start", "next"),
            node("Concat", "so_far next", "longer", axis=0),
            node("Mod", "step two", "parity"),
            node("Cast", "parity", "is_odd", to=BOOL),
            node("If", "is_odd", "bent", then_branch=odd, else_branch=even),
            node("ReduceMax", "longer", "top", keepdims=0),
            node("Less", "top large", "going_on"),
            node("Mul", "bent number", "row"),
        ],
        "going_on longer bent row row",
        [
            tensor("step", INT64, []),
            tensor("going", BOOL, []),
            tensor("so_far", FLOAT, [1]),
            tensor("more", FLOAT, [2]),
        ],
        two=np.array(2),
        large=np.float32(4),
    )
    loop = helper.make_node("Loop", [limit, alive, "start", "pair"], ["all", "last", "rows", "same"], body=body)
    nodes = [loop, node("Neg", "all", "y")]
    inputs = [
        tensor("start", FLOAT, [1]),
        tensor("pair", FLOAT, [2]),
        tensor("most", INT64, []),
        tensor("go", BOOL, []),
    ]
    outputs = [tensor("y", FLOAT, None), tensor("rows", FLOAT, None)]
    return model(nodes, inputs, outputs, bias=floats(2))


@pytest.mark.parametrize(("limit", "alive"), [("most", "go"), ("", "")])
def test_loop(tmp_path, limit, alive):
    feeds = [
        {"start": np.float32([start]), "pair": floats(2), "most": np.array(most), "go": np.array(go)}
        for start, most, go in ((-2, 9, True), (-2, 3, True), (3.5, 9, True), (1, 0, True), (1, 9, False))
    ]
    proto = growing(limit, alive)
    if not limit:
        del proto.graph.input[2:]
        feeds = [{k: v for k, v in feed.items() if k in ("start", "pair")} for feed in feeds[:3]]
    module = same_as_onnxruntime(proto, feeds, tmp_path)
    assert [str(s) for s in module.outputs] == ["y: float32[all_dim0]", "rows: float32[rows_dim0, 2]"]


def counted(trips: int) -> onnx.ModelProto:
    body = graph(
        [node("Mul", "v half", "halved"), node("Add", "halved x", "next")],
        "going next",
        [tensor("step", INT64, []), tensor("going", BOOL, []), tensor("v", FLOAT, ["n", 3])],
        half=np.float32(0.5),
    )
    nodes = [helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)]
    return model(nodes, [tensor("x", FLOAT, ["n", 3])], [tensor("y", FLOAT, ["n", 3])], trips=np.array(trips))


def test_a_long_loop(tmp_path):
    """More iterations than are written out; sizes that no iteration changes keep their names."""
    module = same_as_onnxruntime(counted(600), [{"x": floats(2, 3)}], tmp_path)
    assert [str(s) for s in module.outputs] == ["y: float32[n, 3]"]


def test_no_iterations(tmp_path):
    """The sizes of rows that never come are those of the inputs, and 0 where only a row would have told."""
    body = graph(
        [
            node("Add", "v x", "next"),
            node("Transpose", "next", "turned"),
            node("NonZero", "next", "places"),
            node("Identity", "going", "going_on"),
        ],
        "going_on next turned places",
        [tensor("step", INT64, []), tensor("going", BOOL, []), tensor("v", FLOAT, ["n", 3])],
    )
    loop = helper.make_node("Loop", ["most", "", "x"], ["last", "rows", "found"], body=body)
    inputs = [tensor("x", FLOAT, ["n", 3]), tensor("most", INT64, [])]
    proto = model([loop], inputs, [tensor(name, FLOAT, None) for name in ("last", "rows")])
    proto.graph.output.append(tensor("found", INT64, None))
    x = floats(5, 3)
    module = same_as_onnxruntime(proto, [{"x": x, "most": np.array(2)}], tmp_path)
    last, rows, found = module(x, np.array(0))
    assert np.array_equal(last, x)
    assert (rows.shape, rows.dtype) == ((0, 3, 5), np.float32)
    assert (found.shape, found.dtype) == ((0, 2, 0), np.int64)


def test_inside_what_is_known(tmp_path):
    """A choice by data in the branch that a known condition takes, in a function of the model."""
    deep = node(
        "If",
        "up",
        "out",
        then_branch=graph([node("Exp", "t", "u")], "u"),
        else_branch=graph([node("Identity", "t", "v")], "v"),
    )
    taken = graph([node("Add", "x shift", "t"), deep], "out", shift=np.float32(2))
    nodes = [
        node("Shape", "x", "s"),
        node("Size", "s", "rank"),
        node("Equal", "rank two", "known"),
        node("Sub", "x x", "zeros"),
        node("If", "known", "picked", then_branch=taken, else_branch=graph([node("NoSuchOperator", "x", "v")], "v")),
        node("Add", "picked zeros", "y"),
    ]
    constants = [node("Constant", "", "two", value_int=2)]
    function = helper.make_function(
        "own", "Choose", ["x", "up"], ["y"], constants + nodes, [helper.make_opsetid("", 20)]
    )
    call = helper.make_node("Choose", ["x", "up"], ["y"], domain="own")
    proto = model([call], [tensor("x", FLOAT, ["n", 2]), tensor("up", BOOL, [])], [tensor("y", FLOAT, None)])
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    artifact = kompilo.compile(proto)
    module = kompilo.load(artifact, threads=1)
    x = floats(3, 2)
    np.testing.assert_allclose(module(x, np.array(True)), np.exp(x + 2), rtol=1e-5)
    np.testing.assert_allclose(module(x, np.array(False)), x + 2, rtol=1e-6)


def chosen(then: GraphProto, other: GraphProto, behind: str = "Identity") -> onnx.ModelProto:
    nodes = [
        helper.make_node("If", ["c"], ["p"], "choice", then_branch=then, else_branch=other),
        node(behind, "p", "y"),
    ]
    inputs = [tensor("x", FLOAT, ["n", 2]), tensor("c", BOOL, ["k"])]
    return model(nodes, inputs, [tensor("y", FLOAT, None)])


def doubled(outputs: str) -> onnx.ModelProto:
    """A Loop over one value whose outputs, all of the model's, have these names."""
    inputs = [tensor("step", INT64, []), tensor("going", BOOL, []), tensor("v", FLOAT, [2])]
    body = graph([node("Add", "v v", "next"), node("Identity", "going", "going_on")], "going_on next", inputs)
    loop = helper.make_node("Loop", ["most", "", "x"], outputs.split(), "repeat", body=body)
    results = [tensor(name, FLOAT, None) for name in outputs.split()]
    return model([loop], [tensor("x", FLOAT, [2]), tensor("most", INT64, [])], results)


FLAT = graph([node("ReduceSum", "x", "total", keepdims=0)], "total")
REFUSED = {
    "types": (chosen(graph([], "x"), graph([], "c")), "'p' would be float32 or bool"),
    "ranks": (chosen(FLAT, graph([], "x"), "Exp"), "only a run knows how many dimensions 'p' has"),
    "broken": (chosen(FLAT, graph([node("Relu", "lost", "t")], "t")), "'lost'"),
    "nothing": (chosen(FLAT, graph([], "x x")), "else_branch has 2 outputs, expected 1"),
    "rows": (doubled("last rows"), "Loop node 'repeat': output 'rows' is beyond the 1 that its body gives"),
}


@pytest.mark.parametrize(("proto", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(proto, message):
    with pytest.raises(ModelError, match=message):
        import_program(proto)


def test_what_a_run_refuses():
    module = kompilo.load(kompilo.compile(chosen(graph([node("Exp", "x", "e")], "e"), graph([], "x"))), threads=1)
    x = floats(2, 2)
    result = module(x, np.array([False]))
    assert np.array_equal(result, x)
    assert not np.shares_memory(result, x)
    with pytest.raises(KompiloError, match=r"If node 'choice' cannot .* expected one value .* the shape \[2\]"):
        module(x, np.array([False, True]))
