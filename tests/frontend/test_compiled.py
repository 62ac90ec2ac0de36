"""Operators whose code is a loop nest of its own, through the whole compiler: they come as one external block."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import kompilo

from op_test import floats, i64, make_model, reference_outputs

CASES = {
    "top_k": ("TopK", [floats(3, 9), i64(3)], (1,), 2, {"axis": 1}),
    "scatter_elements": ("ScatterElements", [floats(3, 4), np.array([[0, 2, 1, -1]]), floats(1, 4, seed=1)], (), 1, {}),
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
        np.testing.assert_array_equal(got, wanted)
