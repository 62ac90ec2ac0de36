"""Optimisers' steps and BitCast, against ONNX's reference evaluator and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from kompilo.compiler.errors import ModelError

from op_test import check_model, check_op, floats, make_model

F = np.float32
ATTRS = {
    "Momentum": {"alpha": 0.95, "beta": 0.1, "mode": "nesterov", "norm_coefficient": 0.01},
    "Adagrad": {"decay_factor": 0.1, "epsilon": 1e-5, "norm_coefficient": 0.01},
    "Adam": {"alpha": 0.9, "beta": 0.99, "epsilon": 1e-2, "norm_coefficient": 0.01, "norm_coefficient_post": 0.1},
}


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("op", list(ATTRS))
def test_two_tensors(op, count):
    groups = 4 if op == "Adam" else 3
    named = {"rate": np.array(0.1, F), "count": np.array(count, np.int64)}
    for group in range(groups):
        for tensor, shape in enumerate([(3,), (2, 5)]):
            named[f"x{group}_{tensor}"] = floats(*shape, seed=group, low=0.1)
    outputs = [f"y{i}" for i in range(2 * (groups - 1))]
    domain = "ai.onnx.preview.training"
    node = helper.make_node(op, list(named), outputs, domain=domain, **ATTRS[op])
    check_model(make_model([node], named, outputs, domain=domain), named, reference="onnx")


@pytest.mark.parametrize(
    ("source", "target"), [("float32", "int32"), ("int64", "float64"), ("uint8", "int8"), ("bool", "uint8")]
)
def test_bit_cast(source, target):
    data = floats(3, 5).astype(source) if source != "int64" else floats(3, 5, dtype="float64").view("int64")
    code = helper.np_dtype_to_tensor_dtype(np.dtype(target))
    check_op("BitCast", [data], {"to": code}, opset=26, reference=[data.view(target)], dynamic=True)


def test_bit_cast_of_another_width():
    with pytest.raises(ModelError, match="float32 has not as many bits as INT64"):
        check_op("BitCast", [floats(3)], {"to": TensorProto.INT64}, opset=26, reference=[])
