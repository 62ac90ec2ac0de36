"""Shapes, axes, bounds and counts that are inputs of the model, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from kompilo.compiler.errors import InputError
from kompilo.compiler.frontend.importer import import_model

from op_test import bools, check_op, floats, i64, ints, make_model, run_imported

X = floats(3, 4, 5)
F = np.float32


@pytest.mark.parametrize("target", [[5, 12], [-1, 6, 2], [0, 0, 5]])
def test_reshape(target):
    check_op("Reshape", [X, i64(*target)], dynamic=[0])


def test_expand_and_tile():
    check_op("Expand", [floats(3, 1), i64(2, 1, 6)])
    check_op("Expand", [floats(3, 1), i64(1)])
    check_op("Tile", [floats(2, 3), i64(2, 1)], dynamic=[0])
    check_op("ConstantOfShape", [i64(2, 3)])
    check_op("OneHot", [ints(2, 3, low=-4, high=4), i64(4), floats(2)], {"axis": 1})


@pytest.mark.parametrize(
    ("bounds", "dtype"), [((1, 10, 2), "int64"), ((10, 1, -3), "float32"), ((3, 3, 1), "int32"), ((1, 0, 2), "float64")]
)
def test_range(bounds, dtype):
    check_op("Range", [np.array(b, dtype) for b in bounds])


def test_squeeze_and_unsqueeze():
    check_op("Squeeze", [floats(1, 3, 1, 4), i64(-2, 0)])
    check_op("Unsqueeze", [floats(3, 4), i64(0, -2)], dynamic=[0])


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1, 0], [3, 4], None, None),
        ([-2], [2**63 - 1], [2], [1]),
        ([4, -1], [-9, -(2**63)], [-1, 0], [-2, -1]),
        ([3], [1], [1], [1]),
        ([0], [9], [1], [2**40]),
    ],
)
def test_slice(starts, ends, axes, steps):
    rest = [i64(*v) if v is not None else None for v in (axes, steps)]
    while rest and rest[-1] is None:
        rest.pop()
    check_op("Slice", [X, i64(*starts), i64(*ends), *rest], dynamic=[0])


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(mode):
    fill = [np.array(7, F)] if mode == "constant" else []
    check_op("Pad", [X, i64(0, 1, 2, 2, -1, 1), *fill], {"mode": mode})


def test_pad_some_axes():
    check_op("Pad", [X, i64(1, 2, 0, 3), np.array(2, F), i64(-1, 0)])


def test_split_top_k_and_trilu():
    check_op("Split", [X, i64(1, 0, 3)], {"axis": 1}, outputs=3)
    check_op("TopK", [X, i64(3)], {"axis": 1}, outputs=2)
    for k in (-2, 9):
        check_op("Trilu", [X, np.array(k)], {"upper": k % 2})


@pytest.mark.parametrize(("axis", "reverse", "exclusive"), [(0, 0, 0), (1, 1, 0), (-1, 0, 1), (1, 1, 1)])
def test_cumulative(axis, reverse, exclusive):
    check_op("CumSum", [X, np.array(axis)], {"reverse": reverse, "exclusive": exclusive})


KINDS = ("Sum", "Prod", "Max", "Min", "Mean", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")


@pytest.mark.parametrize("kind", KINDS)
def test_reduce(kind):
    data = floats(3, 4, 5, low=0.5, high=2)
    check_op(f"Reduce{kind}", [data, i64(-1, 0)], {"keepdims": 0}, dynamic=[0], atol=1e-4)


def test_reduce_shapes():
    for axes, keep in (([1], 1), ([0, 1, 2], 0)):
        check_op("ReduceSum", [X, i64(*axes)], {"keepdims": keep}, atol=1e-4)


def test_reduce_other_types_and_empty_axes():
    check_op("ReduceMax", [bools(3, 4), i64(1)], opset=20, reference=[bools(3, 4).max(1, keepdims=True)])
    check_op("ReduceSum", [ints(3, 4), i64(0)])
    check_op("ReduceMean", [ints(3, 4, dtype="int32"), i64(1)])
    check_op("ReduceSum", [floats(3, 0, 4), i64(1)], reference=[np.zeros((3, 1, 4), F)])


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode):
    x = floats(1, 2, 6, 5)
    check_op("Resize", [x, None, np.array([1, 1, 0.6, 1.7], F)], {"mode": mode}, atol=1e-4)
    check_op("Resize", [x, None, None, i64(9, 4)], {"mode": mode, "axes": [2, 3]}, atol=1e-4)


@pytest.mark.parametrize(
    ("op", "inputs", "attrs"),
    [
        ("Reshape", [X, i64(7, 9)], {}),
        ("Reshape", [X, i64(-1, -1)], {}),
        ("Reshape", [X, i64(2**32, 2**32, 60)], {}),
        ("Expand", [X, i64(3, 4, 6)], {}),
        ("Tile", [X, i64(1, -1, 1)], {}),
        ("ConstantOfShape", [i64(2, -3)], {}),
        ("Range", [np.array(0.0, F), np.array(1.0, F), np.array(0.0, F)], {}),
        ("Squeeze", [X, i64(1)], {}),
        ("Unsqueeze", [X, i64(7)], {}),
        ("Slice", [X, i64(0), i64(2), i64(5)], {}),
        ("Slice", [X, i64(0), i64(2), i64(0), i64(0)], {}),
        ("Split", [X, i64(1, 1)], {"axis": 1}),
        ("TopK", [X, i64(6)], {}),
        ("ReduceSum", [X, i64(3)], {}),
        ("Resize", [X, None, np.array([1, 1, -2], F)], {}),
    ],
)
def test_what_no_run_may_ask_for(op, inputs, attrs):
    """Such values end as an error of the run, not in memory of others."""
    named = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    outputs = [f"y{i}" for i in range({"Split": 2, "TopK": 2}.get(op, 1))]
    model = make_model([helper.make_node(op, names, outputs, **attrs)], named, outputs)
    with pytest.raises(InputError, match="do not fit the model"):
        run_imported(import_model(model), named)
