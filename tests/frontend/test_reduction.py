"""Reductions, ArgMax and ArgMin against ONNX Runtime."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.errors import ModelError

from op_test import bools, check_op, floats, i64, ints

BOTH = pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
REDUCTIONS = [
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
]


def positive(*shape, dtype="float32"):
    return floats(*shape, low=0.5, high=2.0, dtype=dtype)


@BOTH
@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axes", [[0], [-1], [1, 2], [0, 1, 2]], ids=str)
def test_reduce(op, axes, dynamic):
    check_op(
        op, [positive(2, 3, 4), i64(*axes)], {"keepdims": len(axes) % 2}, const=(1,), dynamic=[0] if dynamic else False
    )


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reduce_axes_attribute(op):
    check_op(op, [positive(2, 3, 4)], {"axes": [1, -1], "keepdims": 0}, opset=11)
    check_op(op, [positive(2, 3, 4)], {"axes": [-2]}, opset=11)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reduce_all_axes_by_default(op):
    check_op(op, [positive(2, 3, 4)])
    check_op(op, [positive(2, 3, 4)], {"keepdims": 0}, opset=9)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reduce_scalar(op):
    check_op(op, [positive()], {"keepdims": 0})


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"])
def test_reduce_no_axes_is_a_no_op(op):
    x = positive(2, 3)
    check_op(op, [x, i64()], {"noop_with_empty_axes": 1}, const=(1,), reference=[x])
    check_op(op, [x, None], {"noop_with_empty_axes": 1}, reference=[x])


def test_reduce_no_axes_keeps_the_elementwise_part():
    x = floats(2, 3)
    attrs = {"noop_with_empty_axes": 1}
    check_op("ReduceSumSquare", [x, i64()], attrs, const=(1,), reference=[x * x])
    check_op("ReduceL1", [x, i64()], attrs, const=(1,), reference=[abs(x)])
    check_op("ReduceL2", [x, i64()], attrs, const=(1,), reference=[abs(x)])
    check_op("ReduceLogSumExp", [x, i64()], attrs, const=(1,), reference=[x])


EMPTY = {
    "ReduceSum": 0.0,
    "ReduceProd": 1.0,
    "ReduceMax": -np.inf,
    "ReduceMin": np.inf,
    "ReduceL1": 0.0,
    "ReduceL2": 0.0,
    "ReduceSumSquare": 0.0,
    "ReduceLogSum": -np.inf,
    "ReduceLogSumExp": -np.inf,
}


@pytest.mark.parametrize("op", EMPTY)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduce_of_nothing(op, keepdims):
    shape = (2, 1, 3) if keepdims else (2, 3)
    expected = np.full(shape, EMPTY[op], "float32")
    check_op(op, [floats(2, 0, 3), i64(1)], {"keepdims": keepdims}, const=(1,), reference=[expected])


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64"])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare"])
def test_reduce_dtypes(op, dtype):
    reference = "onnx" if op == "ReduceMean" else "ort"
    # Positive: how the mean of integers rounds below zero is not specified.
    x = ints(3, 4, low=1, dtype=dtype)
    check_op(
        op,
        [x, i64(1)],
        const=(1,),
        reference=[np.mean(x, 1, keepdims=True).astype(dtype)] if reference == "onnx" else "ort",
    )


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_reduce_small_integers_and_booleans(op):
    for dtype in ("int8", "uint8"):
        check_op(op, [ints(3, 4, low=0, high=100, dtype=dtype), i64(1)], const=(1,), opset=20)
    check_op(op, [bools(3, 4), i64(1)], const=(1,), opset=20)
    check_op(op, [ints(3, 4, low=-100, high=-1, dtype="int8"), i64(0)], const=(1,), opset=20)


def test_reduce_l2_of_integers():
    check_op("ReduceL2", [ints(3, 4, dtype="int32"), i64(1)], const=(1,))


def test_reduce_float16_sums_in_float32():
    x = np.full((1, 5000), 1.0, "float16")
    check_op("ReduceSum", [x], reference=[np.full((1, 1), 5000, "float16")])
    check_op("ReduceMean", [x], reference=[np.full((1, 1), 1, "float16")])


def test_reduce_log_sum_exp_of_extremes():
    check_op("ReduceLogSumExp", [floats(3, 5, low=500, high=2000), i64(1)], const=(1,))
    x = floats(3, 5)
    x[0] = -np.inf
    x[1, 2] = np.inf
    expected = np.array([-np.inf, np.inf, np.log(np.exp(x[2]).sum())], "float32")
    check_op("ReduceLogSumExp", [x, i64(1)], {"keepdims": 0}, const=(1,), reference=[expected])


@settings(max_examples=15, deadline=None)
@given(
    op=st.sampled_from(REDUCTIONS),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    keepdims=st.integers(0, 1),
    dynamic=st.booleans(),
    data=st.data(),
)
def test_reduce_any_axes(op, shape, keepdims, dynamic, data):
    rank = len(shape)
    axes = data.draw(st.lists(st.integers(0, rank - 1), unique=True, min_size=1))
    axes = [a - rank if data.draw(st.booleans()) else a for a in axes]
    check_op(op, [positive(*shape), i64(*axes)], {"keepdims": keepdims}, const=(1,), dynamic=[0] if dynamic else False)


@BOTH
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("axis", "keepdims"), [(0, 1), (-1, 0), (1, 1)])
def test_arg_reduce(op, axis, keepdims, last, dynamic):
    x = ints(3, 6, 4, low=0, high=3).astype("float32")
    check_op(op, [x], {"axis": axis, "keepdims": keepdims, "select_last_index": last}, dynamic=dynamic)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float64"])
def test_arg_max_dtypes(dtype):
    check_op("ArgMax", [ints(3, 6, low=0, high=3, dtype=dtype)], {"axis": 1})


def test_errors():
    with pytest.raises(ModelError, match="axis 2 is out of range for 2 dimensions"):
        check_op("ReduceSum", [floats(2, 3), i64(2)], const=(1,), reference=[np.zeros(1)])
    with pytest.raises(ModelError, match="axes must be a vector of fixed length"):
        check_op("ReduceSum", [floats(2, 3), i64(1)], dynamic=[1], reference=[np.zeros(1)])
    with pytest.raises(ModelError, match="axis 1 of the input is empty"):
        check_op("ArgMax", [floats(2, 0)], {"axis": 1}, reference=[np.zeros(1)])
