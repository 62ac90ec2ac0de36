"""Poolings against ONNX Runtime."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats, i64, ints

BOTH = pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])

# shape, attributes; MaxPool and AveragePool alike.
POOLS = {
    "2x2": ([1, 3, 6, 6], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "stride 1": ([2, 3, 6, 5], {"kernel_shape": [3, 2]}),
    "padded": ([1, 3, 7, 7], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "asymmetric pads": ([1, 2, 7, 8], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 2, 0]}),
    "ceil": ([1, 2, 7, 8], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "ceil padded": ([1, 2, 8, 9], {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    "ceil window would start in padding": (
        [1, 2, 4, 4],
        {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    ),
    "ceil stride above kernel": ([1, 2, 8, 9], {"kernel_shape": [2, 2], "strides": [3, 4], "ceil_mode": 1}),
    "stride above kernel": ([1, 2, 9, 9], {"kernel_shape": [2, 2], "strides": [4, 3]}),
    "kernel is image": ([2, 3, 5, 4], {"kernel_shape": [5, 4]}),
    "one pixel": ([1, 3, 1, 1], {"kernel_shape": [1, 1]}),
    "one pixel padded": ([1, 3, 1, 1], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "VALID": ([1, 3, 7, 8], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "VALID"}),
    "SAME_UPPER": ([1, 3, 7, 8], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "SAME_LOWER": ([1, 3, 7, 8], {"kernel_shape": [3, 2], "strides": [2, 3], "auto_pad": "SAME_LOWER"}),
    "SAME_UPPER stride 1": ([1, 3, 5, 6], {"kernel_shape": [2, 4], "auto_pad": "SAME_UPPER"}),
    "1-D": ([2, 3, 9], {"kernel_shape": [3], "strides": [2], "pads": [1, 0]}),
    "1-D ceil": ([2, 3, 10], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
    "3-D": ([1, 2, 5, 6, 4], {"kernel_shape": [2, 3, 2], "strides": [2, 1, 2], "pads": [1, 1, 0, 0, 1, 1]}),
    "3-D ceil": ([1, 2, 6, 6, 4], {"kernel_shape": [3, 3, 3], "strides": [2, 2, 2], "ceil_mode": 1}),
    "dilated": ([1, 2, 9, 8], {"kernel_shape": [3, 2], "dilations": [2, 3]}),
    "dilated padded": ([1, 2, 9, 8], {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [2, 1, 0, 2]}),
    "dilated ceil": (
        [1, 2, 9, 8],
        {"kernel_shape": [2, 2], "dilations": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1},
    ),
}


@BOTH
@pytest.mark.parametrize("case", POOLS)
def test_max_pool(case, dynamic):
    shape, attrs = POOLS[case]
    check_op("MaxPool", [floats(*shape)], attrs, dynamic=dynamic)


@pytest.mark.parametrize(("include_pad", "dynamic"), [(0, False), (1, False), (1, True)])
@pytest.mark.parametrize("case", POOLS)
def test_average_pool(case, include_pad, dynamic):
    shape, attrs = POOLS[case]
    check_op("AveragePool", [floats(*shape)], {**attrs, "count_include_pad": include_pad}, dynamic=dynamic)


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize("case", POOLS)
def test_max_pool_indices(case, storage_order):
    shape, attrs = POOLS[case]
    if storage_order and len(shape) != 4:
        return
    # Few different values: among equal ones the first wins.
    x = ints(*shape, low=-2, high=2).astype("float32")
    check_op("MaxPool", [x], {**attrs, "storage_order": storage_order}, outputs=2)


def test_max_pool_indices_dynamic():
    attrs = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    check_op("MaxPool", [floats(2, 3, 6, 7)], attrs, outputs=2, dynamic=True)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float64"])
def test_max_pool_dtypes(dtype):
    x = ints(1, 2, 6, 6, low=0, high=100).astype(dtype)
    check_op("MaxPool", [x], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})


def test_max_pool_of_negative_numbers_ignores_padding():
    attrs = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    check_op("MaxPool", [floats(1, 2, 6, 6, low=-9, high=-5)], attrs)


def test_average_pool_old_opsets():
    for opset in (7, 10, 11):
        attrs = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
        check_op("AveragePool", [floats(1, 2, 5, 5)], attrs, opset=opset)


@settings(max_examples=20, deadline=None)
@given(
    op=st.sampled_from(["MaxPool", "AveragePool"]),
    size=st.integers(1, 10),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 5),
    pads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    ceil_mode=st.integers(0, 1),
    include_pad=st.integers(0, 1),
    dynamic=st.booleans(),
)
def test_pool_any_geometry(op, size, kernel, stride, pads, ceil_mode, include_pad, dynamic):
    if size + sum(pads) < kernel or max(pads) >= kernel:
        return
    attrs = {"kernel_shape": [kernel], "strides": [stride], "pads": pads, "ceil_mode": ceil_mode}
    if op == "AveragePool":
        attrs["count_include_pad"] = include_pad
    check_op(op, [floats(1, 2, size)], attrs, dynamic=dynamic)


@BOTH
@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(p, dynamic):
    attrs = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "p": p}
    check_op("LpPool", [floats(1, 3, 7, 6)], attrs, dynamic=dynamic)


def test_lp_pool_ceil_and_dilations():
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2], "dilations": [2, 1], "ceil_mode": 1}
    check_op("LpPool", [floats(1, 3, 8, 7)], attrs)


@BOTH
@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("shape", [[2, 3, 5, 4], [1, 3, 1, 1], [2, 3, 7], [1, 2, 3, 4, 5]], ids=str)
def test_global_pools(op, shape, dynamic):
    check_op(op, [floats(*shape)], dynamic=dynamic)


def test_max_unpool():
    x = np.array([5, 6, 7, 8], "float32").reshape(1, 1, 2, 2)
    indices = np.array([5, 7, 13, 15], "int64").reshape(1, 1, 2, 2)
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2]}
    check_op("MaxUnpool", [x, indices], attrs)
    check_op("MaxUnpool", [x, indices, i64(1, 1, 5, 5)], attrs, const=(2,), reference="onnx")
    check_op("MaxUnpool", [x, indices, i64(1, 1, 5, 5)], attrs, reference="onnx")


ERRORS = {
    "kernel_shape": ([1, 2, 5, 5], {}, "'kernel_shape' is required"),
    "kernel rank": ([1, 2, 5, 5], {"kernel_shape": [2]}, "needs 2 fixed sizes"),
    "kernel": ([1, 2, 3, 3], {"kernel_shape": [5, 5]}, "spans 5 elements of spatial axis 0, found 3"),
    "rank": ([4, 5], {"kernel_shape": [1]}, "needs a batch, a channel and spatial axes"),
    "stride": ([1, 2, 5, 5], {"kernel_shape": [2, 2], "strides": [0, 1]}, "'strides' needs values of at least 1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_pool_errors(case):
    shape, attrs, message = ERRORS[case]
    with pytest.raises(ModelError, match=message):
        check_op("MaxPool", [floats(*shape)], attrs, reference=[np.zeros(1)])
