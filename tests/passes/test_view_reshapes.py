"""Copies that may become views of another shape, and one that looks like such a copy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import kompilo
from kompilo.compiler.runtime.module import Module


def first_rows(rows: int) -> Module:
    nodes = [
        helper.make_node("Slice", ["x", "starts", "ends"], ["first"]),
        helper.make_node("MatMul", ["w", "first"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 30])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            helper.make_tensor("starts", TensorProto.INT64, [1], [0]),
            helper.make_tensor("ends", TensorProto.INT64, [1], [rows]),
            helper.make_tensor("w", TensorProto.FLOAT, [2, rows], np.arange(2.0 * rows)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return kompilo.load(kompilo.compile(model))


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_the_first_rows_of_a_tensor_are_no_reshape_of_it(rows: int) -> None:
    x = np.random.default_rng(rows).normal(size=(4, 30)).astype(np.float32)
    weights = np.arange(2.0 * rows, dtype=np.float32).reshape(2, rows)
    np.testing.assert_allclose(first_rows(rows)(x), weights @ x[:rows], rtol=1e-5, atol=1e-5)
