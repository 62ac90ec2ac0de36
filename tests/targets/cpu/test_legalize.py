"""The CPU's own legalisations against ONNX Runtime."""

import itertools

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from relax_support import TARGETS, arguments, build_graph, execute, lower
from tvm.relax import op

onnxruntime.set_default_logger_severity(4)
TARGET = TARGETS["native,cores=2"]


def run_onnx(kind: str, x: np.ndarray, inputs: int = 1, extra=(), **attributes) -> np.ndarray:
    names = [f"x{k}" for k in range(inputs)]
    values = [x, *extra]
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in zip(names, values, strict=True)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, dict(zip(names, values, strict=True)))[0]


POOLS = [
    # size, window, strides, padding (top, left, bottom, right), dilation
    ((12, 13), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((12, 13), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((7, 7), (7, 7), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((9, 10), (3, 2), (1, 3), (2, 0, 1, 1), (1, 1)),
    ((9, 10), (3, 3), (1, 1), (1, 2, 2, 1), (2, 1)),
    ((5, 5), (5, 5), (1, 1), (4, 4, 4, 4), (1, 1)),
]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize(("kind", "include"), [("MaxPool", 0), ("AveragePool", 0), ("AveragePool", 1)])
def test_pooling(kind, include, case, layout):
    size, window, strides, padding, dilation = case
    channels = 20
    shape = (2, *size, channels) if layout == "NHWC" else (2, channels, *size)
    common = {"pool_size": window, "strides": strides, "padding": padding, "dilation": dilation, "layout": layout}
    if kind == "MaxPool":
        graph = build_graph([shape], ["float32"], lambda x: op.nn.max_pool2d(x, **common))
        extra = {}
    else:
        graph = build_graph(
            [shape], ["float32"], lambda x: op.nn.avg_pool2d(x, **common, count_include_pad=bool(include))
        )
        extra = {"count_include_pad": include}
    (x,) = arguments([shape], ["float32"], {})
    (got,) = execute(lower(graph, TARGET)[0], TARGET, [x])
    planes = x.transpose(0, 3, 1, 2) if layout == "NHWC" else x
    want = run_onnx(kind, planes, kernel_shape=window, strides=strides, pads=padding, dilations=dilation, **extra)
    want = want.transpose(0, 2, 3, 1) if layout == "NHWC" else want
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_of_symbolic_size(kind):
    pool = {"max": op.nn.max_pool2d, "avg": op.nn.avg_pool2d}[kind]
    shapes = [(1, "h", "w", 12)]
    graph = build_graph(shapes, ["float32"], lambda x: pool(x, (3, 3), (2, 2), (1, 1, 1, 1), layout="NHWC"))
    lowered = lower(graph, TARGET)[0]
    onnx_kind = {"max": "MaxPool", "avg": "AveragePool"}[kind]
    for h, w in itertools.product((5, 8), repeat=2):
        (x,) = arguments(shapes, ["float32"], {"h": h, "w": w})
        (got,) = execute(lowered, TARGET, [x])
        want = run_onnx(onnx_kind, x.transpose(0, 3, 1, 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("axes", "channel"), [([2, 3], 1), ([1, 2], -1)])
def test_instance_norm_survives_a_large_mean(axes, channel):
    shape = (2, 6, 9, 10) if channel == 1 else (2, 9, 10, 6)
    shapes, dtypes = [shape, (6,), (6,)], ["float32"] * 3
    graph = build_graph(shapes, dtypes, lambda x, g, b: op.nn.instance_norm(x, g, b, channel, axes))
    x, gamma, beta = arguments(shapes, dtypes, {})
    x = x + np.float32(1000)
    (got,) = execute(lower(graph, TARGET)[0], TARGET, [x, gamma, beta])
    x64 = x.astype("f8")
    centred = x64 - x64.mean(tuple(axes), keepdims=True)
    shaped = (6, 1, 1) if channel == 1 else (6,)
    scale = gamma.reshape(shaped) / np.sqrt((centred**2).mean(tuple(axes), keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, centred * scale + beta.reshape(shaped), rtol=1e-3, atol=2e-3)
