"""Operators through the whole compiler whose frontend form later passes could trip over."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import kompilo

from op_test import floats, i64, make_model, reference_outputs

CASES = {
    "top_k": ("TopK", [floats(3, 9), i64(3)], (1,), 2, {"axis": 1}),
    "scatter_elements": ("ScatterElements", [floats(3, 4), np.array([[0, 2, 1, -1]]), floats(1, 4, seed=1)], (), 1, {}),
    "cum_sum": ("CumSum", [floats(3, 4, 5), i64(1)], (1,), 1, {"reverse": 1, "exclusive": 1}),
    "scatter_nd": ("ScatterND", [floats(4, 3), np.array([[1], [3]]), floats(2, 3, seed=1)], (), 1, {}),
}


@pytest.mark.parametrize(("op", "inputs", "const", "outputs", "attrs"), CASES.values(), ids=CASES.keys())
def test_external_block(op, inputs, const, outputs, attrs):
    named = {f"x{i}": x for i, x in enumerate(inputs)}
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, list(named), results, **attrs)
    model = make_model([node], named, results, const=[f"x{i}" for i in const])
    feeds = {name: x for i, (name, x) in enumerate(named.items()) if i not in const}
    found = kompilo.load(kompilo.compile(model)).run(feeds)
    for got, wanted in zip(found.values(), reference_outputs(model, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("pads", [[1, 0, 0, 2], [3, 0, 0, 0], [0, 0, 4, 5]])
def test_transposed_convolution_of_unknown_sizes_with_uneven_pads(pads):
    weight = floats(2, 3, 3, 3)
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["t"], strides=[2, 3], pads=pads),
        helper.make_node("MaxPool", ["t"], ["y"], kernel_shape=[2, 2]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, "h", "w"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    module = kompilo.load(kompilo.compile(model))
    reference = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in [(1, 2, 5, 6), (2, 2, 9, 4)]:
        data = floats(*shape)
        np.testing.assert_allclose(module(data), reference.run(None, {"x": data})[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [("n",), (64,), ()])
@pytest.mark.parametrize("target", [TensorProto.BFLOAT16, TensorProto.FLOAT16])
def test_a_cast_and_back_rounds(shape, target):
    """Only a pair of casts that loses nothing may vanish."""
    nodes = [helper.make_node("Cast", ["x"], ["t"], to=target), helper.make_node("Cast", ["t"], ["y"], to=1)]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    module = kompilo.load(kompilo.compile(model), threads=1)
    odd = np.array(
        [1.0039062, 1.01171875, 3.01171875, 255.5, -255.5, 0, -0.0, np.inf, -np.inf, np.nan, 1e-40], np.float32
    )
    odd = np.append(odd, np.array([0x7FFFFFFF, 0xFF800001], np.uint32).view(np.float32))  # other NaNs
    data = np.concatenate([odd, floats(64 - odd.size, low=-100, high=100)])
    data = data[0] if not shape else data
    dtype = helper.tensor_dtype_to_np_dtype(target)
    with np.errstate(invalid="ignore"):  # of NaNs that signal
        expected = np.asarray(data).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(module(data), expected)


@pytest.mark.parametrize("target", [TensorProto.BFLOAT16, TensorProto.FLOAT16])
def test_convolutions_of_16_bit_floats(target):
    """Cast, convolve, cast back: float32 results within the rounding of operands and result."""
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=target),
        helper.make_node("Cast", ["w"], ["w16"], to=target),
        helper.make_node("Conv", ["x16", "w16"], ["y16"], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
    ]
    data, weight = floats(1, 3, 8, 8), floats(4, 3, 3, 3, seed=1)
    infos = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in (("x", data), ("w", weight))}
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", list(infos.values()), [out])
    module = kompilo.load(kompilo.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])))
    plain = make_model([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], {"x": data, "w": weight}, ["y"])
    (expected,) = reference_outputs(plain, {"x": data, "w": weight})
    precision = 2**-8 if target == TensorProto.BFLOAT16 else 2**-11
    found = module.run({"x": data, "w": weight})["y"]
    assert 0 < np.abs(found - expected).max() < 4 * precision * np.abs(expected).max()
