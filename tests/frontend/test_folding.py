"""Constants are folded to what the operator means, not to what ONNX's reference implementation makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from kompilo.compiler.errors import ModelError
from kompilo.compiler.frontend.importer import import_model

from op_test import check_op, floats, i64, ints, make_model

# Operators that the reference implementation gets wrong for some opset, attribute or number.
CASES = {
    "softmax_of_a_flattened_matrix": ("Softmax", [floats(2, 3, 4)], {}, {"opset": 11}),
    "log_softmax_of_a_flattened_matrix": ("LogSoftmax", [floats(2, 3, 4)], {"axis": 1}, {"opset": 12}),
    "softmax_of_float16": ("Softmax", [floats(2, 9, dtype="float16")], {}, {"rtol": 2e-3}),
    "lp_normalization": ("LpNormalization", [floats(3, 4)], {"p": 1}, {}),
    "global_max_pool": ("GlobalMaxPool", [floats(2, 3, 7)], {}, {}),
    "max_pool_same_lower": (
        "MaxPool",
        [floats(1, 2, 7, 7)],
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {},
    ),
    "resize_align_corners": (
        "Resize",
        [floats(1, 1, 4, 4), np.zeros(0, np.float32), np.array([1, 1, 1.4, 2], np.float32)],
        {"coordinate_transformation_mode": "align_corners", "mode": "linear"},
        {},
    ),
    "log_sum_exp_of_infinities": ("ReduceLogSumExp", [np.full((1, 3), -np.inf, np.float32)], {}, {}),
    "axis_of_an_old_operator": (
        "Add",
        [floats(2, 2, 2), floats(2)],
        {"broadcast": 1, "axis": 0},
        {"opset": 6, "reference": [floats(2, 2, 2) + floats(2).reshape(2, 1, 1)]},
    ),
    "sum_of_squares_of_int32": ("ReduceSumSquare", [ints(3, 4, dtype="int32")], {}, {}),
}


@pytest.mark.parametrize(("op", "inputs", "attrs", "options"), CASES.values(), ids=CASES.keys())
def test_operator_on_constants(op, inputs, attrs, options):
    check_op(op, inputs, attrs, const=range(len(inputs)), **options)


def test_split_sizes_that_do_not_fit_a_constant():
    nodes = [helper.make_node("Split", ["x", "s"], ["a", "y"])]
    model = make_model(nodes, {"x": floats(4), "s": i64(2, 3)}, ["y"], const=("x", "s"))
    with pytest.raises(ModelError, match="split sizes add up to 5, expected 4"):
        import_model(model)
