"""Scan and Loop of a known number of iterations, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kompilo.compiler.errors import ModelError
from kompilo.compiler.frontend.importer import import_model

from op_test import check_model, floats, make_model

FLOAT = TensorProto.FLOAT


def info(name, shape, dtype=FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def running_sum():
    """(state, row) -> (state + row * scale of the outer graph, their sum)."""
    nodes = [
        helper.make_node("Mul", ["row", "scale"], ["scaled"]),
        helper.make_node("Add", ["state", "scaled"], ["next"]),
        helper.make_node("Identity", ["next"], ["out"]),
    ]
    inputs, outputs = ([info(n, [3]) for n in names] for names in (("state", "row"), ("next", "out")))
    return helper.make_graph(nodes, "body", inputs, outputs)


@pytest.mark.parametrize(("axis", "back", "out_axis", "out_back"), [(0, 0, 0, 0), (1, 1, 1, 0), (0, 1, 0, 1)])
def test_scan(axis, back, out_axis, out_back):
    attrs = {"scan_input_axes": [axis], "scan_input_directions": [back]}
    attrs |= {"scan_output_axes": [out_axis], "scan_output_directions": [out_back]}
    node = helper.make_node("Scan", ["s", "x"], ["last", "all"], body=running_sum(), num_scan_inputs=1, **attrs)
    feeds = {"s": floats(3), "x": floats(*((5, 3) if axis == 0 else (3, 5))), "scale": floats(3, seed=1)}
    check_model(make_model([node], feeds, ["last", "all"]), feeds)


def loop_model(trips, condition=None, stop_at=None):
    """value = value * 2 + iteration, `trips` times or until the iteration `stop_at`."""
    nodes = [
        helper.make_node("Cast", ["i"], ["number"], to=FLOAT),
        helper.make_node("Add", ["v", "v"], ["twice"]),
        helper.make_node("Add", ["twice", "number"], ["next"]),
        helper.make_node("Identity", ["next"], ["seen"]),
        helper.make_node("Less", ["i", "stop"], ["more"])
        if stop_at is not None
        else helper.make_node("Identity", ["c"], ["more"]),
    ]
    inputs = [info("i", [], TensorProto.INT64), info("c", [], TensorProto.BOOL), info("v", [2])]
    outputs = [info("more", [], TensorProto.BOOL), info("next", [2]), info("seen", [2])]
    stored = [numpy_helper.from_array(np.array(stop_at, np.int64), "stop")] if stop_at is not None else []
    body = helper.make_graph(nodes, "body", inputs, outputs, stored)
    named = {"x": floats(2)}
    if trips is not None:
        named["trips"] = np.array(trips, np.int64)
    if condition is not None:
        named["alive"] = np.array(condition)
    names = ["trips" if trips is not None else "", "alive" if condition is not None else "", "x"]
    node = helper.make_node("Loop", names, ["y", "seen_all"], body=body)
    return make_model([node], named, ["y", "seen_all"], const=[n for n in named if n != "x"])


@pytest.mark.parametrize(("trips", "condition", "stop"), [(4, None, None), (4, True, 1), (None, True, 3)])
def test_loop(trips, condition, stop):
    check_model(loop_model(trips, condition, stop), {"x": floats(2)})


def test_refusals():
    with pytest.raises(ModelError, match="Loop node 'y': it has more than 512 iterations"):
        import_model(loop_model(1000))
    with pytest.raises(ModelError, match="Loop node 'y': it never runs"):
        import_model(loop_model(0))
    node = helper.make_node("Scan", ["s", "x"], ["last", "all"], body=running_sum(), num_scan_inputs=1)
    feeds = {"s": floats(3), "x": floats(5, 3), "scale": floats(3)}
    with pytest.raises(ModelError, match="the scanned axes must have one fixed size, found \\['x0'\\]"):
        import_model(make_model([node], feeds, ["last", "all"], dynamic=["x"]))


@pytest.mark.parametrize(
    ("opset", "inputs", "attrs", "message"),
    [
        (9, ["s", "x"], {"num_scan_inputs": 3}, "'num_scan_inputs' must be 0 to 2, found 3"),
        (8, ["", "s", "x"], {"num_scan_inputs": 3}, "'num_scan_inputs' must be 0 to 2, found 3"),
        (9, ["s", "x"], {"num_scan_inputs": 1, "scan_input_axes": [0, 0]}, r"needs 1 values, found \[0, 0\]"),
        (8, ["", "s", "x"], {"num_scan_inputs": 1, "directions": [0, 0]}, r"needs 1 values, found \[0, 0\]"),
    ],
)
def test_scans_of_other_numbers_of_inputs(opset, inputs, attrs, message):
    node = helper.make_node("Scan", inputs, ["last", "all"], body=running_sum(), **attrs)
    feeds = {"s": floats(2, 3), "x": floats(2, 5, 3), "scale": floats(3)}
    with pytest.raises(ModelError, match=message):
        import_model(make_model([node], feeds, ["last", "all"], opset=opset))


def test_scan_with_a_batch():
    """Opset 8: the elements of a batch are scanned each by itself, forward or backward."""
    nodes = [helper.make_node("Add", ["s", "v"], ["next"]), helper.make_node("Mul", ["next", "v"], ["row"])]
    body = helper.make_graph(nodes, "body", [info("s", [2]), info("v", [2])], [info("next", [2]), info("row", [2])])
    node = helper.make_node("Scan", ["", "start", "x"], ["last", "rows"], body=body, num_scan_inputs=1, directions=[1])
    start, x = floats(3, 2), floats(3, 5, 2)
    sums = start[:, None] + np.cumsum(x[:, ::-1], 1)
    model = make_model([node], {"start": start, "x": x}, ["last", "rows"], opset=8)
    check_model(model, {"start": start, "x": x}, reference=[sums[:, -1], sums * x[:, ::-1]])
