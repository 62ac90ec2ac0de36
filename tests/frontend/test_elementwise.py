"""Elementwise operators and activations against ONNX Runtime: one line per case."""

import numpy as np
import pytest
from onnx import helper

from op_test import bools, check_model, check_op, floats, i64, ints, make_model

NAN, INF = np.nan, np.inf


def f32(*values):
    return np.array(values, np.float32)


X = floats(2, 3, 4)
POSITIVE = floats(2, 3, 4, low=0.1, high=3)
EDGES = f32(-INF, -2.5, -1.5, -0.5, -0.0, 0.0, 0.5, 1.5, 2.5, INF, NAN)

CASES = {
    "add": ("Add", [X, floats(3, 1)]),
    "add_scalar": ("Add", [X, f32(2).reshape(())]),
    "add_const": ("Add", [X, floats(4)], {}, {"const": (1,)}),
    "add_dynamic": ("Add", [X, floats(3, 1)], {}, {"dynamic": (0,)}),
    "add_dynamic_both": ("Add", [X, floats(3, 4)], {}, {"dynamic": True}),
    "add_int": ("Add", [ints(3, 4), ints(4)]),
    "add_legacy_axis": (
        "Add",
        [X, floats(2, 3)],
        {"broadcast": 1, "axis": 0},
        {"opset": 6, "reference": [X + floats(2, 3)[..., None]]},
    ),
    "add_legacy_channel": (
        "Add",
        [X, floats(3)],
        {"broadcast": 1, "axis": 1},
        {"opset": 6, "reference": [X + floats(3)[:, None]]},
    ),
    "sub": ("Sub", [X, floats(1, 4)]),
    "mul": ("Mul", [X, floats(2, 1, 1)]),
    "div": ("Div", [X, POSITIVE]),
    "div_int": ("Div", [i64(7, -7, 7, -7, 5), i64(2, 2, -2, -2, -1)]),
    "div_int_const": ("Div", [i64(7, -7, 5), i64(2)], {}, {"const": (1,)}),
    "div_int_trap": (
        "Div",
        [np.array([-(2**31), 5], np.int32), np.array([-1, 0], np.int32)],
        {},
        {"reference": [np.array([-(2**31), 5], np.int32)]},
    ),
    "div_uint8": ("Div", [ints(9, low=0, high=250, dtype="uint8"), ints(9, low=1, high=9, dtype="uint8")]),
    "mod_int": ("Mod", [i64(7, -7, 7, -7), i64(3, 3, -3, -3)]),
    "mod_fmod_int": ("Mod", [i64(7, -7, 7, -7), i64(3, 3, -3, -3)], {"fmod": 1}),
    "mod_fmod": ("Mod", [f32(7.5, -7.5, 7.5, -7.5), f32(3, 3, -3, 2)], {"fmod": 1}),
    "mod_float": (
        "Mod",
        [f32(7.5, -7.5, 7.5, -7.5, -1, 1), f32(3, 3, -3, -2, INF, INF)],
        {"fmod": 0},
        {"reference": "onnx"},
    ),
    "pow": ("Pow", [POSITIVE, floats(4)]),
    "pow_2": ("Pow", [X, f32(2)], {}, {"const": (1,)}),
    "pow_int_exponent": ("Pow", [POSITIVE, ints(4, low=-2, high=4)]),
    "pow_int": ("Pow", [ints(3, 4), i64(0, 1, 2, 3)]),
    "pow_int_float": ("Pow", [i64(1, 4, 9), f32(0.5, 0.5, 2)]),
    "bitshift_left": (
        "BitShift",
        [np.array([1, 2, 3], np.uint8), np.array([1, 2, 7], np.uint8)],
        {"direction": "LEFT"},
    ),
    "bitshift_right": (
        "BitShift",
        [np.array([16, 200], np.uint32), np.array([1, 3], np.uint32)],
        {"direction": "RIGHT"},
    ),
    "equal": ("Equal", [ints(3, 4), ints(4)]),
    "equal_bool": ("Equal", [bools(3, 4), bools(4)]),
    "greater": ("Greater", [X, floats(4)]),
    "greater_equal": ("GreaterOrEqual", [ints(3, 4), ints(4)]),
    "less": ("Less", [X, floats(4)]),
    "less_equal": ("LessOrEqual", [ints(3, 4), ints(4)]),
    "and": ("And", [bools(3, 4), bools(4)]),
    "or": ("Or", [bools(3, 4), bools(4)]),
    "xor": ("Xor", [bools(3, 4), bools(4)]),
    "not": ("Not", [bools(3, 4)]),
    "bitwise_and": ("BitwiseAnd", [ints(3, 4, dtype="int32"), ints(4, dtype="int32")]),
    "bitwise_or": ("BitwiseOr", [ints(3, 4, dtype="int32"), ints(4, dtype="int32")]),
    "bitwise_xor": ("BitwiseXor", [ints(3, 4, dtype="int32"), ints(4, dtype="int32")]),
    "bitwise_not": ("BitwiseNot", [ints(3, 4, dtype="int32")]),
    "sum": ("Sum", [X, floats(4), floats(3, 1)]),
    "sum_one": ("Sum", [X]),
    "mean": ("Mean", [X, floats(4), floats(3, 1)]),
    "max": ("Max", [X, floats(4), floats(3, 1)]),
    "max_int": ("Max", [ints(3, 4), ints(4)]),
    "min": ("Min", [X, floats(4)]),
    "where": ("Where", [bools(3, 1), X, floats(4)]),
    "where_dynamic": ("Where", [bools(2, 3, 4), X, floats(2, 3, 4)], {}, {"dynamic": True}),
    "abs": ("Abs", [EDGES]),
    "abs_uint": ("Abs", [ints(4, low=0, high=9, dtype="uint8")]),
    "neg": ("Neg", [EDGES]),
    "neg_int": ("Neg", [ints(5, dtype="int32")]),
    "sign": ("Sign", [f32(-INF, -2, -0.0, 0, 3, INF)]),
    "sign_nan": ("Sign", [f32(NAN, -1, 1)]),
    "sign_int": ("Sign", [ints(9, dtype="int32")]),
    "ceil": ("Ceil", [EDGES]),
    "floor": ("Floor", [EDGES]),
    "round": ("Round", [EDGES]),
    "reciprocal": ("Reciprocal", [POSITIVE]),
    "sqrt": ("Sqrt", [POSITIVE]),
    "exp": ("Exp", [X]),
    "log": ("Log", [POSITIVE]),
    "erf": ("Erf", [X]),
    "acos": ("Acos", [floats(9, low=-1, high=1)]),
    "acosh": ("Acosh", [floats(9, low=1, high=5)]),
    "asin": ("Asin", [floats(9, low=-1, high=1)]),
    "asinh": ("Asinh", [X]),
    "atan": ("Atan", [X]),
    "atanh": ("Atanh", [floats(9, low=-0.9, high=0.9)]),
    "cos": ("Cos", [X]),
    "cosh": ("Cosh", [X]),
    "sin": ("Sin", [X]),
    "sinh": ("Sinh", [X]),
    "sinh_edges": ("Sinh", [f32(1e-4, -0.3, 0.51, 88.9, -88.9, INF, NAN)], {}, {"atol": 0}),
    "cosh_edges": ("Cosh", [f32(0, 88.9, -88.9, -INF, NAN)], {}, {"atol": 0, "rtol": 2e-5}),
    "tan": ("Tan", [floats(9, low=-1, high=1)]),
    "tanh": ("Tanh", [X]),
    "identity": ("Identity", [X]),
    "isnan": ("IsNaN", [EDGES]),
    "isinf": ("IsInf", [EDGES]),
    "isinf_positive": ("IsInf", [EDGES], {"detect_negative": 0}),
    "isinf_negative": ("IsInf", [EDGES], {"detect_positive": 0}),
    "isinf_neither": ("IsInf", [EDGES], {"detect_positive": 0, "detect_negative": 0}, {"reference": "onnx"}),
    "clip": ("Clip", [X, f32(-1).reshape(()), f32(0.5).reshape(())], {}, {"const": (1, 2)}),
    "clip_low": ("Clip", [X, f32(-1).reshape(())], {}, {"const": (1,)}),
    "clip_high": ("Clip", [X, None, f32(0.5).reshape(())], {}, {"const": (2,)}),
    "clip_none": ("Clip", [X]),
    "clip_runtime": ("Clip", [X, f32(-1).reshape(()), f32(0.5).reshape(())]),
    "clip_crossed": ("Clip", [X, f32(1).reshape(()), f32(-1).reshape(())], {}, {"const": (1, 2)}),
    "clip_to_infinity": ("Clip", [X, None, f32(-INF).reshape(())], {}, {"const": (2,)}),
    "clip_attributes": ("Clip", [X], {"min": -1.0, "max": 0.5}, {"opset": 6}),
    "clip_int": ("Clip", [ints(9), np.int64(-1).reshape(()), np.int64(3).reshape(())], {}, {"const": (1, 2)}),
    "cast_to_int": ("Cast", [f32(-2.7, -0.5, 0.5, 2.7, 100.9)], {"to": 7}),
    "cast_to_int8": ("Cast", [f32(-2.7, -0.5, 0.5, 2.7, 100.9)], {"to": 3}),
    "cast_to_uint32": ("Cast", [f32(0.5, 255.9, 2**31, 3e9, 4294967040)], {"to": 12}),
    "cast_to_uint64": ("Cast", [f32(0.5, 255.9, 2**31, 9e18, 2**63, 1.2e19)], {"to": 13}),
    "cast_to_bool": ("Cast", [f32(-2.7, 0.0, -0.0, 0.1, NAN)], {"to": 9}),
    "cast_from_bool": ("Cast", [bools(5)], {"to": 1}),
    "cast_int_to_float": ("Cast", [ints(5)], {"to": 1}),
    "cast_to_half": ("Cast", [X], {"to": 10}),
    "cast_from_half": ("Cast", [floats(5, dtype="float16")], {"to": 1}),
    "cast_to_double": ("Cast", [X], {"to": 11}),
    "cast_narrow": ("Cast", [i64(300, -1, 127)], {"to": 2}),
    "cast_like": ("CastLike", [X, ints(1)], {}, {"opset": 19}),
    "dropout": ("Dropout", [X], {}, {"opset": 12}),
    "dropout_mask": ("Dropout", [X], {}, {"opset": 12, "outputs": 2}),
    "relu": ("Relu", [X]),
    "sigmoid": ("Sigmoid", [X]),
    "leaky_relu": ("LeakyRelu", [X], {"alpha": 0.2}),
    "prelu": ("PRelu", [X, floats(3, 1)]),
    "prelu_channel": (
        "PRelu",
        [floats(1, 3, 2, 2), floats(3)],
        {},
        {
            "opset": 6,
            "reference": [
                np.where(floats(1, 3, 2, 2) < 0, floats(1, 3, 2, 2) * floats(3)[:, None, None], floats(1, 3, 2, 2))
            ],
        },
    ),
    "thresholded_relu": ("ThresholdedRelu", [X], {"alpha": 0.7}),
    "elu": ("Elu", [X], {"alpha": 0.7}),
    "selu": ("Selu", [X]),
    "celu": ("Celu", [X], {"alpha": 0.7}),
    "hard_sigmoid": ("HardSigmoid", [floats(9, low=-5, high=5)], {"alpha": 0.3, "beta": 0.4}),
    "hard_swish": ("HardSwish", [floats(9, low=-5, high=5)]),
    "swish": ("Swish", [X], {"alpha": 0.5}, {"opset": 24, "reference": "onnx"}),
    "softplus": ("Softplus", [f32(-100, -1, 0, 1, 100)]),
    "softsign": ("Softsign", [X]),
    "mish": ("Mish", [X]),
    "gelu": ("Gelu", [X]),
    "gelu_tanh": ("Gelu", [X], {"approximate": "tanh"}),
    "shrink": ("Shrink", [X], {"lambd": 0.8, "bias": 0.3}),
    "shrink_int": ("Shrink", [ints(9, dtype="int32")], {"lambd": 1.5, "bias": 1.0}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_operator(case):
    op, inputs, attrs, options = (*case, {}, {})[:4]
    check_op(op, inputs, attrs, **options)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint64"])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_bit_shift_by_any_number(direction, dtype):
    """Beyond the width, and by negative numbers, only copies of the sign are left, or nothing."""
    width = np.iinfo(dtype).bits
    x = np.array([-8, 5, -1, 3, -128, 7, 1, -3]).astype(dtype)
    by = np.array([width, width + 1, -1, 1, 3, 0, width - 1, -width]).astype(dtype)
    inside = (by >= 0) & (by < width)
    amount = np.where(inside, by, 0).astype(dtype)
    shifted = x << amount if direction == "LEFT" else x >> amount
    rest = (np.where(x < 0, -1, 0) if direction == "RIGHT" else np.zeros(len(x))).astype(dtype)
    check_op(
        "BitShift",
        [x, by],
        {"direction": direction},
        opset=28,
        reference=[np.where(inside, shifted, rest)],
    )


@pytest.mark.parametrize("comparison", ["Equal", "Less", "GreaterOrEqual"])
def test_negated_comparisons_of_nan(comparison: str) -> None:
    x, y = np.array([1, NAN, 3, 2], np.float32), np.array([1, NAN, 4, NAN], np.float32)
    nodes = [helper.make_node(comparison, ["x", "y"], ["holds"]), helper.make_node("Not", ["holds"], ["z"])]
    check_model(make_model(nodes, {"x": x, "y": y}, ["z"]), {"x": x, "y": y})
