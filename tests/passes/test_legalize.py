"""Reductions whose result is the identity of the reduction, compiled whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import kompilo
from kompilo.compiler.runtime.module import Module

ROWS = {
    "float32": [[-np.inf] * 5, [np.inf] * 5, [-np.inf, 1, 2, -np.inf, 2], [3.4e38, 3.4028235e38, 1, 1, 1]],
    "float64": [[-np.inf] * 5, [np.inf] * 5, [-1.7e308, -np.inf, 1.7e308, np.inf, np.inf]],
    "uint8": [[0] * 5, [255] * 5, [0, 1, 0, 1, 0]],
    "int32": [[-(2**31)] * 5, [2**31 - 1] * 5, [-(2**31), 0, 2**31 - 1, 0, -(2**31)]],
}


def compiled(op: str, x: np.ndarray, **attrs: int) -> Module:
    element = helper.np_dtype_to_tensor_dtype(x.dtype)
    node = helper.make_node(op, ["x"], ["y"], **attrs)
    out = onnx.TensorProto.INT64 if op.startswith("Arg") else element
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", element, x.shape)],
        [helper.make_tensor_value_info("y", out, None)],
    )
    opset = helper.make_opsetid("", 17)
    return kompilo.load(kompilo.compile(helper.make_model(graph, opset_imports=[opset], ir_version=8)))


@pytest.mark.parametrize("dtype", ROWS)
@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_extremes_of_extreme_values(op: str, dtype: str) -> None:
    x = np.array(ROWS[dtype], dtype)
    expected = x.max(axis=1) if op == "ReduceMax" else x.min(axis=1)
    np.testing.assert_array_equal(compiled(op, x, axes=[1], keepdims=0)(x), expected)


@pytest.mark.parametrize("dtype", ROWS)
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_positions_of_extreme_values(op: str, last: int, dtype: str) -> None:
    x = np.array(ROWS[dtype], dtype)
    find = np.argmax if op == "ArgMax" else np.argmin
    expected = x.shape[1] - 1 - find(x[:, ::-1], axis=1) if last else find(x, axis=1)
    found = compiled(op, x, axis=1, keepdims=0, select_last_index=last)(x)
    np.testing.assert_array_equal(found, expected)
