"""Quantisation and products of 8-bit integers against ONNX Runtime: rounding, saturation, scales and zero points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from kompilo.compiler.errors import ModelError
from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.passes.anchors import op_name
from kompilo.compiler.passes.fuse_anchors import GraphUses
from kompilo.compiler.passes.pipeline import run_phases
from kompilo.compiler.schedule.selection import Selector
from kompilo.targets.cuda.target import CudaTarget

from op_test import check_model, check_op, floats, ints, make_model


def u8(*shape, seed=0):
    return ints(*shape, low=0, high=256, dtype="uint8", seed=seed)


def i8(*shape, seed=0):
    return ints(*shape, low=-128, high=128, dtype="int8", seed=seed)


def f4(*values):
    return np.array(values, "f4")


HALVES = f4(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 1e9, -1e9, np.inf, -np.inf)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_quantize_rounds_halves_to_even_and_saturates(dtype):
    check_op("QuantizeLinear", [HALVES, np.float32(1.0), np.array(7, dtype)], atol=0)


QUANTIZE = {
    "without zero point": ([floats(3, 5), np.float32(0.02)], {}),
    "per channel": ([floats(2, 3, 4), f4(0.01, 0.02, 0.03), np.array([1, 2, 3], "uint8")], {"axis": 1}),
    "last axis": ([floats(2, 3), f4(0.01, 0.02, 0.03), np.array([-1, 0, 3], "int8")], {"axis": -1}),
    "asked for": ([floats(3, 5), np.float32(0.02)], {"output_dtype": TensorProto.INT8}),
}


@pytest.mark.parametrize("name", QUANTIZE)
def test_quantize(name):
    inputs, attrs = QUANTIZE[name]
    check_op("QuantizeLinear", inputs, attrs, const=range(1, len(inputs)), dynamic=True, atol=0)


def test_quantize_integers():
    x = ints(4, 5, dtype="int32", low=-300, high=300)
    inputs = [x, np.float32(2.0), np.array(3, "int8")]
    check_op("QuantizeLinear", inputs, opset=13, reference="onnx", atol=0)  # ONNX Runtime has no such kernel


def test_quantize_with_scales_from_outside():
    check_op(
        "QuantizeLinear", [floats(2, 3, 4), f4(0.01, 0.02, 0.03), np.array([1, 2, 3], "uint8")], {"axis": 1}, atol=0
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32"])
def test_dequantize(dtype):
    x = ints(3, 4, low=0, high=120, dtype=dtype)
    check_op("DequantizeLinear", [x, np.float32(0.3)])
    point = np.zeros(4, dtype) if dtype == "int32" else np.array([1, 2, 3, 4], dtype)
    check_op("DequantizeLinear", [x, f4(0.1, 0.2, 0.3, 0.4), point], {"axis": 1}, const=(1, 2), dynamic=True)


@pytest.mark.parametrize(
    "x", [floats(3, 7), np.zeros((2, 3), "f4"), floats(5, low=1, high=3), -floats(5, low=1, high=3)]
)
def test_dynamic_quantize(x):
    check_op("DynamicQuantizeLinear", [x], outputs=3, dynamic=True)


MATMULS = {
    "plain": [u8(3, 8), i8(8, 5)],
    "zero points": [u8(3, 8), i8(8, 5), np.uint8(120), np.int8(3)],
    "columns": [u8(3, 8), u8(8, 5), np.uint8(120), np.array([128, 127, 129, 128, 128], "uint8")],
    "batches": [i8(2, 3, 8), i8(8, 5), np.int8(-4)],
    "both batches": [u8(2, 3, 8), u8(2, 8, 5), np.uint8(7), np.uint8(250)],
}


@pytest.mark.parametrize("name", MATMULS)
@pytest.mark.parametrize("const", [(), (1, 3)], ids=["from outside", "constant"])
def test_matmul_integer(name, const):
    inputs = MATMULS[name]
    check_op("MatMulInteger", inputs, const=[c for c in const if c < len(inputs)], atol=0)


@pytest.mark.parametrize("const", [(), (1, 2, 3, 4, 5, 6, 7)], ids=["from outside", "constant"])
@pytest.mark.parametrize("kind", ["tensor", "column"])
def test_qlinear_matmul(const, kind):
    scale, point = (np.float32(0.02), np.uint8(130)) if kind == "tensor" else (floats(5, low=0.01, high=0.03), u8(5))
    inputs = [u8(4, 9), np.float32(0.03), np.uint8(99), u8(9, 5, seed=1), scale, point, np.float32(0.9), np.uint8(110)]
    check_op("QLinearMatMul", inputs, const=const, atol=1)


PADDED = {"pads": [1, 0, 2, 1], "strides": [2, 1]}
CONVOLUTIONS = {
    "plain": ([u8(1, 3, 6, 7), i8(4, 3, 3, 3)], {}),
    "zero point and padding": ([u8(1, 3, 6, 7), u8(4, 3, 3, 2), np.uint8(128), np.uint8(127)], PADDED),
    "far zero point": ([u8(1, 3, 6, 7), u8(4, 3, 3, 2), np.uint8(128), np.uint8(3)], PADDED),
    "grouped": ([u8(2, 4, 5, 5), i8(6, 2, 3, 3), np.uint8(11)], {"group": 2, "pads": [1, 1, 1, 1]}),
    "same": ([u8(1, 2, 7, 6), i8(3, 2, 3, 3), np.uint8(9)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "one axis": ([u8(1, 2, 9), i8(3, 2, 3), np.uint8(200)], {"pads": [1, 1]}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv_integer(name):
    inputs, attrs = CONVOLUTIONS[name]
    check_op("ConvInteger", inputs, attrs, const=[c for c in (1, 3) if c < len(inputs)], atol=0)


def test_conv_integer_from_outside():
    inputs, attrs = CONVOLUTIONS["zero point and padding"]
    check_op("ConvInteger", inputs, attrs, atol=0)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_qlinear_conv(dtype):
    """Per-channel scales, a bias, padding with the zero point."""
    data = u8(1, 3, 7, 6) if dtype == "uint8" else i8(1, 3, 7, 6)
    scales, points = floats(4, low=0.01, high=0.02), np.zeros(4, "int8")
    rest = [np.float32(0.7), np.array(5, dtype), ints(4, low=-900, high=900, dtype="int32")]
    inputs = [data, np.float32(0.03), np.array(17, dtype), i8(4, 3, 3, 3), scales, points, *rest]
    check_op("QLinearConv", inputs, PADDED, const=range(1, 9), atol=1)
    check_op("QLinearConv", inputs, PADDED, const=range(3, 9), atol=1)


def test_what_is_refused():
    with pytest.raises(ModelError, match="scales and zero points must be scalars or vectors"):
        check_op("DequantizeLinear", [i8(4, 6), floats(2, 6)], {"axis": 0})
    with pytest.raises(ModelError, match="blocks of 3 need input 1 and a fixed size on axis 0 that fit, found 3"):
        check_op("DequantizeLinear", [i8(4, 6), floats(3, 6)], {"axis": 0, "block_size": 3})
    with pytest.raises(ModelError, match="needs 2 elements on axis 1, found 3"):
        check_op("QuantizeLinear", [floats(2, 3), f4(1, 2), np.zeros(2, "uint8")], {"axis": 1})
    with pytest.raises(ModelError, match="input 0 has elements of int32, expected one of int8, uint8"):
        check_op("MatMulInteger", [ints(2, 3, dtype="int32"), i8(3, 4)])


def dynamic_model(weights):
    """What tools for dynamic quantisation make of a matmul."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["p"]),
        helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    inputs = {"x": floats(32, 64), "w": weights, "wz": np.array(128, "uint8")}
    return make_model(nodes, inputs, ["y"], const=("w", "wz")), {"x": inputs["x"]}


def test_dynamic_quantisation():
    model, feeds = dynamic_model(u8(64, 48))
    check_model(model, feeds, rtol=1e-4, atol=1e-2)


def test_matrix_units_multiply_the_integers():
    """Weights less their zero point are int8; the rest is an epilogue."""
    imported = import_model(dynamic_model(u8(64, 48))[0], None)
    target = CudaTarget.from_preset("sm_80")
    done = run_phases(imported.mod, target, stop_after="select", selector=Selector(target))
    found = [f.attrs for g, f in done.functions_items() if f.attrs and "kompilo.template" in f.attrs]
    assert [str(a["kompilo.template"]) for a in found] == ["matmul_tensor_core"]
    assert str(found[0]["kompilo.op"]).startswith("matmul(uint8[32,64], const int8[64,48]")
    assert not [b for b in GraphUses(done["main"]).bindings if op_name(b.value) == "matmul"]


@settings(max_examples=6, deadline=None)
@given(
    rows=st.integers(1, 5), depth=st.integers(1, 40), columns=st.integers(1, 6), left=st.integers(0, 255),
    right=st.integers(-128, 127), seed=st.integers(0, 9), constant=st.booleans(),
)  # fmt: skip
def test_any_matmul(rows, depth, columns, left, right, seed, constant):
    inputs = [u8(rows, depth, seed=seed), i8(depth, columns, seed=seed), np.uint8(left), np.int8(right)]
    want = (inputs[0].astype("i4") - left) @ (inputs[1].astype("i4") - right)
    check_op("MatMulInteger", inputs, const=(1, 3) if constant else (), reference=[want.astype("i4")], atol=0)
