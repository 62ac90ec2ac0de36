"""Normalisations and softmaxes against ONNX Runtime (or ONNX's reference where ONNX Runtime lacks the operator)."""

import numpy as np
import pytest

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats

BOTH = pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])


def _statistics(channels, dtype="float32"):
    """scale, bias, mean, variance."""
    vectors = [floats(channels, seed=s, dtype=dtype) for s in range(3)]
    return [*vectors, floats(channels, low=0.1, high=3.0, seed=3, dtype=dtype)]


@BOTH
@pytest.mark.parametrize("shape", [[2, 3, 5, 4], [2, 3, 7], [2, 3, 2, 3, 4], [4, 3]], ids=str)
def test_batch_normalization(shape, dynamic):
    check_op(
        "BatchNormalization", [floats(*shape), *_statistics(3)], {"epsilon": 1e-3}, const=(1, 2, 3, 4), dynamic=dynamic
    )


def test_batch_normalization_statistics_at_run_time():
    check_op("BatchNormalization", [floats(2, 3, 5, 4), *_statistics(3)])


@pytest.mark.parametrize("opset", [7, 9, 14])
def test_batch_normalization_old_opsets(opset):
    check_op("BatchNormalization", [floats(2, 3, 5, 4), *_statistics(3)], opset=opset, const=(1, 2, 3, 4))


def test_batch_normalization_with_statistics_per_element():
    shape = [3, 2, 4]
    inputs = [floats(5, *shape), *(floats(*shape, seed=s) for s in range(3)), floats(*shape, low=0.5, seed=4)]
    x, scale, bias, mean, var = inputs
    expected = (x - mean) / np.sqrt(var + np.float32(1e-5)) * scale + bias
    check_op("BatchNormalization", inputs, {"spatial": 0}, opset=7, const=(1, 2, 3, 4), reference=[expected])


def test_batch_normalization_in_training():
    attrs = {"training_mode": 1, "momentum": 0.7}
    check_op("BatchNormalization", [floats(2, 3, 5, 4), *_statistics(3)], attrs, outputs=3)


@BOTH
@pytest.mark.parametrize("shape", [[2, 3, 5, 4], [1, 3, 8], [2, 3, 2, 3, 4]], ids=str)
def test_instance_normalization(shape, dynamic):
    check_op("InstanceNormalization", [floats(*shape), floats(3), floats(3, seed=1)], const=(1, 2), dynamic=dynamic)


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("axis", [-1, 1, 2, -2, 0])
def test_layer_normalization(axis, dynamic):
    x = floats(2, 3, 8, low=4, high=9)
    parameters = [floats(*x.shape[axis:]), floats(*x.shape[axis:], seed=1)]
    check_op("LayerNormalization", [x, *parameters], {"axis": axis, "epsilon": 1e-3}, const=(1, 2), dynamic=dynamic)


def test_layer_normalization_without_bias():
    check_op("LayerNormalization", [floats(2, 3, 8), floats(8)], const=(1,))


def test_layer_normalization_with_a_scale_that_broadcasts():
    inputs = [floats(2, 3, 8), floats(1, 8), floats(3, 1)]
    check_op("LayerNormalization", inputs, {"axis": 1}, const=(1, 2), reference="onnx")


def test_layer_normalization_outputs():
    check_op("LayerNormalization", [floats(2, 3, 8), floats(8), floats(8, seed=1)], outputs=3)


def test_layer_normalization_float64():
    check_op("LayerNormalization", [floats(3, 4, dtype="float64"), floats(4, dtype="float64")])
    check_op("LayerNormalization", [floats(3, 4, dtype="float64"), floats(4, dtype="float64")], outputs=3)


def test_layer_normalization_float16():
    inputs = [floats(2, 64, dtype="float16"), floats(64, dtype="float16"), floats(64, dtype="float16", seed=1)]
    check_op("LayerNormalization", inputs, reference="onnx", rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("shape", [[2, 6, 3, 4], [1, 6, 5]], ids=str)
def test_group_normalization(shape, opset):
    count = 6 if opset == 21 else 3
    inputs = [floats(*shape), floats(count), floats(count, seed=1)]
    check_op("GroupNormalization", inputs, {"num_groups": 3}, opset=opset, const=(1, 2))


def test_group_normalization_dynamic():
    inputs = [floats(2, 6, 3, 4), floats(6), floats(6, seed=1)]
    check_op("GroupNormalization", inputs, {"num_groups": 3}, const=(1, 2), dynamic=True)


@BOTH
@pytest.mark.parametrize("axis", [-1, -2])
def test_rms_normalization(axis, dynamic):
    x = floats(2, 3, 8)
    inputs = [x, floats(*x.shape[axis:])]
    check_op("RMSNormalization", inputs, {"axis": axis}, opset=23, const=(1,), dynamic=dynamic, reference="onnx")


@BOTH
@pytest.mark.parametrize("size", [1, 3, 5, 4])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
def test_lrn(size, beta, dynamic):
    if dynamic and beta != 0.75:
        return
    attrs = {"size": size, "alpha": 0.3, "beta": beta, "bias": 1.5}
    # ONNX Runtime takes odd sizes only; ONNX's reference needs as many images as channels.
    check_op("LRN", [floats(5, 5, 3, 4)], attrs, dynamic=dynamic, reference="ort" if size % 2 else "onnx")


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_lp_normalization(p, axis):
    check_op("LpNormalization", [floats(3, 4, 5)], {"p": p, "axis": axis})


def test_lp_normalization_of_zeros():
    x = np.zeros((2, 3), "float32")
    check_op("LpNormalization", [x], reference=[x])


@BOTH
@pytest.mark.parametrize("axes", [None, [0, 2, 3], [2, 3], [-1]], ids=str)
def test_mean_variance_normalization(axes, dynamic):
    attrs = {"axes": axes} if axes else {}
    check_op("MeanVarianceNormalization", [floats(2, 3, 4, 5)], attrs, dynamic=dynamic, rtol=1e-4, atol=1e-4)


SOFTMAX = ["Softmax", "LogSoftmax", "Hardmax"]


@BOTH
@pytest.mark.parametrize("op", SOFTMAX)
@pytest.mark.parametrize("axis", [None, -1, 0, 1, -2])
def test_softmax(op, axis, dynamic):
    attrs = {} if axis is None else {"axis": axis}
    check_op(op, [floats(2, 3, 4)], attrs, dynamic=dynamic)


@BOTH
@pytest.mark.parametrize("op", SOFTMAX)
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
def test_softmax_flattens_before_opset_13(op, axis, dynamic):
    attrs = {} if axis is None else {"axis": axis}
    check_op(op, [floats(2, 3, 4)], attrs, opset=11, dynamic=dynamic)


def test_softmax_flattening_ones():
    check_op("Softmax", [floats(2, 5, 1, 1)], opset=9)


def test_softmax_of_large_numbers():
    check_op("Softmax", [floats(3, 7, low=-2000, high=2000)])
    check_op("LogSoftmax", [floats(3, 7, low=-2000, high=2000)])


def test_softmax_with_masked_elements():
    x = floats(3, 7)
    x[:, 4:] = -np.inf
    check_op("Softmax", [x])


def test_softmax_float16():
    check_op("Softmax", [floats(3, 40, dtype="float16")], rtol=2e-3, atol=1e-4)


def test_hardmax_takes_the_first_of_equals():
    check_op("Hardmax", [np.array([[1, 3, 3, 2], [0, 0, 0, 0]], "float32")])


def test_errors():
    with pytest.raises(ModelError, match="axis 3 is out of range for 2 dimensions"):
        check_op("Softmax", [floats(2, 3)], {"axis": 3}, reference=[np.zeros(1)])
    with pytest.raises(ModelError, match="'size' must be positive"):
        check_op("LRN", [floats(1, 3, 2, 2)], {"size": 0}, reference=[np.zeros(1)])
    with pytest.raises(ModelError, match="a node with 5 outputs trains"):
        check_op(
            "BatchNormalization", [floats(1, 3, 2, 2), *_statistics(3)], opset=9, outputs=5, reference=[np.zeros(1)]
        )


def test_batch_normalization_of_doubles_keeps_their_precision():
    inputs = [floats(2, 3, 5, dtype="float64"), *_statistics(3, "float64")]
    check_op("BatchNormalization", inputs, const=(1, 2, 3, 4), reference="onnx", rtol=1e-12, atol=1e-12)
