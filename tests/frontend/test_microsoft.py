"""Operators of the domain com.microsoft against ONNX Runtime: activations, products, normalisations."""

import numpy as np
import pytest
from onnx import helper

pytest.importorskip("onnxruntime", reason="what ONNX Runtime has is compared with ONNX Runtime")

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats, ints, make_model, reference_outputs

MS = "com.microsoft"
NORM = {"epsilon": 1e-5}
CONV = [floats(2, 6, 9, 7), floats(4, 3, 3, 2, seed=1), floats(4)]
X, SKIP = floats(2, 5, 12), floats(2, 5, 12, seed=1)
IDS = [ints(2, 5, low=0, high=11, dtype="int32"), ints(2, 5, low=0, high=2, dtype="int32", seed=1)]
TABLES = [floats(11, 12), floats(9, 12, seed=1), floats(2, 12, seed=2), floats(12, seed=3), floats(12, seed=4)]
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)

# name -> operator, inputs, attributes, and further arguments of check_op.
CASES = {
    "gelu": ("Gelu", [floats(3, 5)]),
    "bias_gelu": ("BiasGelu", [floats(3, 4, 7), floats(7)], {}, {"dynamic": True}),
    "fast_gelu": ("FastGelu", [floats(3, 7)]),
    "fast_gelu_bias": ("FastGelu", [floats(3, 7), floats(7)], {}, {"const": (1,)}),
    "quick_gelu": ("QuickGelu", [floats(3, 7)], {}, {"dynamic": True}),
    "quick_gelu_alpha": ("QuickGelu", [floats(3, 7)], {"alpha": 0.7}),
    "matmul": ("FusedMatMul", [floats(3, 5), floats(5, 7)], {"alpha": 0.3}),
    "matmul_trans": ("FusedMatMul", [floats(2, 5, 3), floats(2, 7, 5)], {"transA": 1, "transB": 1}, {"dynamic": (0,)}),
    "matmul_batch": ("FusedMatMul", [floats(3, 2, 5), floats(5, 2, 7)], {"transBatchA": 1, "transBatchB": 1}),
    "matmul_both": (
        "FusedMatMul",
        [floats(5, 4, 2, 3), floats(7, 4, 2, 5)],
        {"transBatchA": 1, "transA": 1, "transBatchB": 1, "transB": 1, "alpha": 2.0},
    ),
    "matmul_constant": ("FusedMatMul", [floats(2, 3, 5), floats(7, 5)], {"transB": 1, "alpha": 0.5}, {"const": (1,)}),
    "transpose_matmul": ("TransposeMatMul", [floats(5, 3), floats(5, 7)], {"transA": 1}),
    "gemm": ("FusedGemm", [floats(3, 5), floats(7, 5), floats(7)], {"transB": 1, "activation": "Relu"}),
    "gemm_leaky": (
        "FusedGemm",
        [floats(5, 3), floats(5, 7), floats(3, 1)],
        {"transA": 1, "alpha": 0.5, "beta": 2.0, "activation": "LeakyRelu", "activation_alpha": 0.2},
        {"dynamic": (0,)},
    ),
    "conv_clip": ("FusedConv", CONV, {"group": 2, "activation": "Clip", "activation_params": [-1.0, 1.5]}),
    "conv_sum": ("FusedConv", [*CONV, floats(2, 4, 4, 3)], {"group": 2, "strides": [2, 2], "activation": "Relu"}),
    "conv_pads": (
        "ConvTransposeWithDynamicPads",
        [floats(1, 2, 5, 4), floats(2, 3, 3, 3), np.array([1, 0, 1, 2])],
        {"strides": [2, 1]},
        {"const": (1, 2)},
    ),
    "skip": ("SkipLayerNormalization", [X, SKIP, floats(12), floats(12, seed=2)], NORM),
    "skip_bias": (
        "SkipLayerNormalization",
        [X, SKIP[0], floats(12), None, floats(12, seed=2)],
        NORM,
        {"const": (2, 4), "dynamic": (0, 1)},
    ),
    "skip_one": ("SkipLayerNormalization", [X, SKIP[:1], floats(12)], NORM),
    "skip_flat": ("SkipLayerNormalization", [X[0], SKIP[0], floats(12)], NORM),
    "simple": ("SkipSimplifiedLayerNormalization", [X, SKIP, floats(12)], NORM, {"dynamic": (0, 1)}),
    "simple_bias": ("SkipSimplifiedLayerNormalization", [X[0], SKIP[0], floats(12), floats(12, seed=2)]),
    "embed": ("EmbedLayerNormalization", [*IDS, *TABLES, MASK], NORM, {"outputs": 2, "dynamic": (0, 1, 7)}),
    "embed_no_mask": ("EmbedLayerNormalization", [*IDS, *TABLES], NORM, {"outputs": 3}),
    "embed_no_segments": (
        "EmbedLayerNormalization",
        [IDS[0], None, *TABLES[:2], None, *TABLES[3:], None, np.array([[3, 1, 4, 1, 5]], np.int32)],
        NORM,
        {"outputs": 2, "const": (2, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operator(case):
    op, inputs, attrs, more = (*CASES[case], {}, {})[:4]
    check_op(op, inputs, attrs, domain=MS, rtol=1e-4, atol=1e-5, **more)


@pytest.mark.parametrize(
    "activation",
    ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid", "Selu", "ThresholdedRelu", "Softplus", "Softsign"],
)
def test_fused_gemm_activations(activation):
    attrs = {"activation": activation, "activation_alpha": 0.4, "activation_beta": 0.3, "activation_gamma": 1.1}
    check_op("FusedGemm", [floats(3, 5), floats(5, 4)], attrs, domain=MS, const=(1,))


@pytest.mark.parametrize(("activation", "params"), [("Tanh", []), ("LeakyRelu", [0.3]), ("HardSigmoid", [0.3, 0.4])])
def test_fused_conv_activations(activation, params):
    attrs = {"activation": activation} | ({"activation_params": params} if params else {})
    check_op("FusedConv", [floats(1, 3, 5, 4), floats(2, 3, 1, 1)], attrs, domain=MS)


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_the_sum_before_a_normalisation_is_an_output(op):
    x, skip, scale, bias = floats(2, 5, 12), floats(2, 5, 12, seed=1), floats(12), floats(12, seed=2)
    inputs = [x, skip, scale, None, bias] if op == "SkipLayerNormalization" else [x, skip, scale, bias]
    check_op(op, inputs, domain=MS, outputs=["y", "", "", "sum"])


def test_channels_last():
    """ONNX Runtime has no kernel of it for CPUs: the same as FusedConv of transposed tensors."""
    x, residual = floats(2, 6, 9, 7), floats(2, 4, 9, 6, seed=3)
    attrs = {"group": 2, "pads": [1, 0, 1, 0], "activation": "Relu"}
    inputs = [x, *CONV[1:], residual]
    named = {f"x{i}": array for i, array in enumerate(inputs)}
    node = helper.make_node("FusedConv", list(named), ["y"], domain=MS, **attrs)
    expected = reference_outputs(make_model([node], named, ["y"], domain=MS), named)[0]
    last = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, residual)]
    check_op("NhwcFusedConv", [last[0], *CONV[1:], last[1]], attrs, domain=MS, reference=[np.moveaxis(expected, 1, -1)])


REFUSED = [
    ("FusedMatMul", [floats(3, 5), floats(5, 7)], {"beta": 1.0}, "has an attribute 'beta'"),
    ("FusedMatMul", [floats(3, 5), floats(4, 7)], {}, "MatMul node .*do not fit"),
    ("FusedMatMul", [floats(3, 5), floats(5, 7)], {"transBatchA": 1}, "input 0 needs at least 3 dimensions"),
    ("FusedMatMul", [ints(3, 5), ints(5, 7)], {}, "input 0 has elements of int64"),
    ("BiasGelu", [floats(3, 5), floats(4)], {}, "input 1 needs 5 elements on axis 0, found 4"),
    ("BiasGelu", [floats(3, 5)], {}, "input 1 is required"),
    ("FusedGemm", [floats(3, 5), floats(5, 4)], {"activation": "Soft"}, "'activation' must be one of .*'Soft'"),
    ("FusedGemm", [floats(3, 5), floats(5, 4)], {"activation": "Elu"}, "attribute 'activation_alpha' is required"),
    ("FusedConv", CONV, {"group": 2, "activation": "Clip"}, "'activation_params' needs 2 numbers .*found 0"),
    ("SkipLayerNormalization", [X, floats(5, 11), floats(12)], {}, "input 1 needs 12 elements on axis 1"),
    ("SkipLayerNormalization", [floats(12), floats(12), floats(12)], {}, "input 0 needs 2 or 3 dimensions"),
    ("EmbedLayerNormalization", [IDS[0], None, *TABLES], {}, "go together"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "attrs", "message"), REFUSED)
def test_refused(op, inputs, attrs, message):
    with pytest.raises(ModelError, match=message):
        check_op(op, inputs, attrs, domain=MS, reference=[])
