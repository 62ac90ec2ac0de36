"""MoE of the domain com.microsoft against ONNX Runtime."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="what ONNX Runtime has is compared with ONNX Runtime")

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats

MS = "com.microsoft"
T, E, H, INNER = 5, 4, 6, 7
X, ROUTER = floats(T, H), floats(T, E, seed=1)
FIRST, SECOND = [floats(E, INNER, H), floats(E, INNER, seed=1)], [floats(E, H, INNER, seed=2), floats(E, H, seed=3)]
PAIRS = [floats(E, 2 * INNER, H, seed=4), floats(E, 2 * INNER, seed=5)]
SWIGLU = {"k": 2, "activation_type": "swiglu", "activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_fusion": 1}
CASES = {
    "relu": ([X, ROUTER, *FIRST, *SECOND], {"k": 2}),
    "gelu": ([X, ROUTER, *FIRST, *SECOND], {"k": 3, "activation_type": "gelu", "normalize_routing_weights": 1}),
    "silu": ([X[None], ROUTER, FIRST[0], None, SECOND[0]], {"activation_type": "silu"}),
    "swiglu": ([X, ROUTER, *PAIRS, *SECOND], SWIGLU | {"swiglu_limit": 1.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_mixture_of_experts(case):
    inputs, attrs = CASES[case]
    opened = {0: (0,), 1: (0,)} if case == "relu" else False
    check_op("MoE", inputs, attrs, domain=MS, const=(2, 4), dynamic=opened, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"k": 5}, "'k' must be between 1 and the number of experts 4, found 5"),
        ({"activation_type": "tanh"}, "'activation_type' must be one of relu"),
        (SWIGLU | {"swiglu_fusion": 0}, "'swiglu_fusion' must be one of 1, 2"),
        ({"use_sparse_mixer": 1}, "'use_sparse_mixer' are not supported"),
    ],
)
def test_refused(attrs, message):
    with pytest.raises(ModelError, match=message):
        check_op("MoE", [X, ROUTER, *FIRST, *SECOND], attrs, domain=MS, reference=[np.zeros(0)])
