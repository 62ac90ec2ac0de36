"""Conv and ConvTranspose against ONNX Runtime."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats, make_model, reference_outputs

CONV = {
    "1x1": ([1, 3, 5, 5], [4, 3, 1, 1], {}),
    "3x3 same pads": ([2, 3, 7, 6], [4, 3, 3, 3], {"pads": [1, 1, 1, 1]}),
    "asymmetric pads": ([1, 2, 6, 5], [3, 2, 3, 3], {"pads": [0, 2, 1, 0]}),
    "stride 2": ([1, 3, 9, 8], [4, 3, 3, 3], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "stride above kernel": ([1, 3, 11, 10], [4, 3, 2, 2], {"strides": [4, 3]}),
    "unequal strides": ([1, 2, 9, 9], [4, 2, 3, 5], {"strides": [1, 3], "pads": [1, 2, 1, 2]}),
    "dilated": ([1, 2, 11, 9], [3, 2, 3, 3], {"dilations": [3, 2]}),
    "dilated strided padded": (
        [1, 2, 9, 9],
        [3, 2, 3, 3],
        {"dilations": [2, 2], "strides": [2, 1], "pads": [2, 2, 2, 2]},
    ),
    "groups": ([1, 6, 5, 5], [4, 3, 3, 3], {"group": 2}),
    "depthwise": ([1, 4, 6, 6], [4, 1, 3, 3], {"group": 4, "pads": [1, 1, 1, 1]}),
    "depthwise multiplier 2": ([1, 3, 6, 6], [6, 1, 3, 3], {"group": 3}),
    "one pixel": ([1, 3, 1, 1], [4, 3, 3, 3], {"pads": [1, 1, 1, 1]}),
    "kernel is image": ([2, 3, 4, 5], [7, 3, 4, 5], {}),
    "kernel above image": ([1, 1, 2, 2], [1, 1, 5, 5], {"pads": [2, 2, 2, 2]}),
    "VALID": ([1, 2, 7, 7], [3, 2, 3, 3], {"auto_pad": "VALID", "strides": [2, 2]}),
    "SAME_UPPER": ([1, 2, 7, 8], [3, 2, 3, 3], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "SAME_LOWER": ([1, 2, 7, 8], [3, 2, 3, 3], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "SAME_UPPER even kernel": ([1, 2, 7, 7], [3, 2, 2, 4], {"auto_pad": "SAME_UPPER"}),
    "SAME_LOWER even kernel": ([1, 2, 7, 7], [3, 2, 2, 4], {"auto_pad": "SAME_LOWER"}),
    "SAME_UPPER stride above kernel": ([1, 2, 9, 8], [3, 2, 1, 2], {"auto_pad": "SAME_UPPER", "strides": [3, 3]}),
    "1-D": ([2, 3, 10], [4, 3, 3], {"pads": [2, 1], "strides": [2]}),
    "1-D groups dilated": ([1, 4, 12], [4, 2, 3], {"group": 2, "dilations": [3]}),
    "1-D SAME_UPPER": ([1, 3, 11], [4, 3, 4], {"auto_pad": "SAME_UPPER", "strides": [3]}),
    "3-D": ([1, 2, 5, 6, 4], [3, 2, 3, 2, 3], {"pads": [1, 0, 1, 0, 1, 1], "strides": [2, 1, 1]}),
    "3-D groups": ([1, 4, 4, 4, 4], [4, 1, 2, 2, 2], {"group": 4, "dilations": [2, 1, 1]}),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("case", CONV)
def test_conv(case, dynamic):
    data, weight, attrs = CONV[case]
    x, w, b = floats(*data), floats(*weight), floats(weight[0], seed=1)
    check_op("Conv", [x, w, b], attrs, const=(1, 2), dynamic=dynamic)


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_conv_same_pads_for_the_dilated_extent(dynamic):
    # ONNX Runtime refuses auto_pad with dilations: compare with the pads that ONNX's formula gives.
    x, w = floats(1, 2, 9, 8), floats(3, 2, 3, 3)
    explicit = make_model(
        [helper.make_node("Conv", ["x", "w"], ["y"], dilations=[2, 2], strides=[2, 2], pads=[2, 1, 2, 2])],
        {"x": x, "w": w},
        ["y"],
    )
    expected = reference_outputs(explicit, {"x": x, "w": w})
    attrs = {"auto_pad": "SAME_UPPER", "dilations": [2, 2], "strides": [2, 2]}
    check_op("Conv", [x, w], attrs, const=(1,), dynamic=dynamic, reference=expected)


def test_conv_without_bias():
    check_op("Conv", [floats(1, 2, 5, 5), floats(3, 2, 3, 3)], const=(1,))


def test_conv_weights_at_run_time():
    check_op("Conv", [floats(1, 2, 5, 5), floats(3, 2, 3, 3), floats(3)])


def test_conv_float64():
    check_op("Conv", [floats(1, 2, 5, 5, dtype="float64"), floats(3, 2, 3, 3, dtype="float64")], reference="onnx")


def test_conv_old_opset():
    check_op("Conv", [floats(1, 2, 5, 5), floats(3, 2, 3, 3)], {"kernel_shape": [3, 3]}, opset=8, const=(1,))


def test_fused_conv():
    attrs = {"activation": "LeakyRelu", "activation_params": [0.1], "pads": [1, 1, 1, 1]}
    inputs = [floats(1, 2, 5, 5), floats(3, 2, 3, 3), floats(3)]
    check_op("FusedConv", inputs, attrs, domain="com.microsoft", const=(1, 2))


@settings(max_examples=12, deadline=None)
@given(
    size=st.integers(1, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    group=st.sampled_from([1, 2, 4]),
)
def test_conv_any_geometry(size, kernel, stride, dilation, pads, group):
    if size + sum(pads) < (kernel - 1) * dilation + 1:
        return
    attrs = {"strides": [stride, 1], "dilations": [dilation, 1], "pads": [pads[0], 0, pads[1], 1], "group": group}
    check_op("Conv", [floats(1, 4, size, 3), floats(4, 4 // group, kernel, 2)], attrs, const=(1,))


TRANSPOSE = {
    "plain": ([1, 2, 4, 5], [2, 3, 3, 3], {}),
    "stride 2": ([2, 2, 4, 5], [2, 3, 2, 2], {"strides": [2, 2]}),
    "pads": ([1, 2, 4, 5], [2, 3, 3, 3], {"strides": [2, 2], "pads": [1, 0, 0, 1]}),
    "output_padding": ([1, 2, 4, 5], [2, 3, 3, 3], {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}),
    "stride above kernel": ([1, 2, 3, 3], [2, 3, 2, 2], {"strides": [4, 3], "output_padding": [3, 1]}),
    "dilated": ([1, 2, 4, 4], [2, 3, 3, 3], {"dilations": [2, 3]}),
    "dilated strided": ([1, 2, 4, 4], [2, 3, 3, 3], {"dilations": [2, 2], "strides": [3, 2], "pads": [1, 2, 3, 4]}),
    "groups": ([1, 4, 4, 4], [4, 3, 3, 3], {"group": 2, "strides": [2, 2]}),
    "depthwise": ([1, 4, 4, 4], [4, 1, 4, 4], {"group": 4, "strides": [2, 2], "pads": [1] * 4}),
    "pads above kernel": ([1, 2, 5, 5], [2, 3, 2, 2], {"strides": [2, 2], "pads": [3, 2, 2, 3]}),
    "one pixel": ([1, 2, 1, 1], [2, 3, 3, 3], {"strides": [2, 2]}),
    "SAME_UPPER": ([1, 2, 4, 5], [2, 3, 3, 3], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "SAME_LOWER": ([1, 2, 4, 5], [2, 3, 3, 3], {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "1-D": ([2, 3, 5], [3, 2, 4], {"strides": [3], "pads": [1, 2], "output_padding": [1]}),
    "1-D groups": ([2, 4, 5], [4, 2, 3], {"strides": [2], "group": 2}),
    "3-D": ([1, 2, 3, 3, 2], [2, 2, 2, 3, 2], {"strides": [2, 1, 2]}),
}
FIXED_TRANSPOSE = {
    "output_shape": ([1, 2, 4, 5], [2, 3, 3, 3], {"strides": [2, 2], "output_shape": [8, 9]}),
    "output_shape odd": ([1, 2, 4, 5], [2, 3, 4, 4], {"strides": [2, 2], "output_shape": [7, 9]}),
    "output_shape SAME_UPPER": (
        [1, 2, 4, 5],
        [2, 3, 4, 4],
        {"strides": [2, 2], "output_shape": [7, 9], "auto_pad": "SAME_UPPER"},
    ),
    "output_shape above": ([1, 2, 3, 3], [2, 2, 3, 3], {"strides": [3, 2], "output_shape": [11, 8]}),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("case", TRANSPOSE)
def test_conv_transpose(case, dynamic):
    data, weight, attrs = TRANSPOSE[case]
    bias = floats(weight[1] * attrs.get("group", 1))
    check_op("ConvTranspose", [floats(*data), floats(*weight), bias], attrs, const=(1, 2), dynamic=dynamic)


@pytest.mark.parametrize("case", FIXED_TRANSPOSE)
def test_conv_transpose_output_shape(case):
    data, weight, attrs = FIXED_TRANSPOSE[case]
    check_op("ConvTranspose", [floats(*data), floats(*weight)], attrs, const=(1,))


ERRORS = {
    "channels": ([1, 2, 5, 5], [3, 4, 3, 3], {}, "needs 4 channels on axis 1, found 2"),
    "group": ([1, 4, 5, 5], [3, 2, 3, 3], {"group": 2}, "'group' must divide 3"),
    "kernel": ([1, 2, 3, 5], [3, 2, 5, 3], {}, "spans 5 elements of spatial axis 0, found 3"),
    "kernel_shape": ([1, 2, 5, 5], [3, 2, 3, 3], {"kernel_shape": [2, 2]}, "'kernel_shape' is"),
    "strides": ([1, 2, 5, 5], [3, 2, 3, 3], {"strides": [1]}, "'strides' needs 2 values"),
    "pads": ([1, 2, 5, 5], [3, 2, 3, 3], {"pads": [1, 1]}, "'pads' needs 4 values"),
    "auto_pad": ([1, 2, 5, 5], [3, 2, 3, 3], {"auto_pad": "LARGE"}, "must be one of NOTSET"),
    "rank": ([1, 2, 5], [3, 2, 3, 3], {}, "needs 3 fixed dimensions"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_conv_errors(case):
    data, weight, attrs, message = ERRORS[case]
    with pytest.raises(ModelError, match=message):
        check_op("Conv", [floats(*data), floats(*weight)], attrs, const=(1,), reference=[np.zeros(1)])
