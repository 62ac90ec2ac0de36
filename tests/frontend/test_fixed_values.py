"""Inputs that are constants from compiling on."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import kompilo
from kompilo.compiler.errors import UsageError
from kompilo.models import silero

from op_test import floats


def model():
    """y = x * 2 if flag else x + k, of (n, 3)."""
    infos = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        helper.make_tensor_value_info("k", TensorProto.FLOAT, [3]),
    ]
    result = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    branches = {
        "then_branch": helper.make_graph([helper.make_node("Add", ["x", "x"], ["r"])], "then", [], result),
        "else_branch": helper.make_graph([helper.make_node("Add", ["x", "k"], ["r"])], "else", [], result),
    }
    graph = helper.make_graph(
        [helper.make_node("If", ["flag"], ["y"], **branches)],
        "g",
        infos,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_values_decide_branches_and_are_no_inputs():
    x, proto = floats(5, 3), model()
    untouched = proto.SerializeToString()
    twice = kompilo.compile(proto, values={"flag": True})
    assert [spec.name for spec in twice.inputs] == ["x", "k"]
    assert not twice.segments
    assert twice.provenance["values"] == {"flag": True}
    np.testing.assert_array_equal(kompilo.load(twice, threads=1)(x, floats(3)), 2 * x)
    more = kompilo.compile(proto, inputs={"x": (5, 3)}, values={"flag": np.array(False), "k": [1, 2, 3.5]})
    np.testing.assert_array_equal(kompilo.load(more, threads=1)(x), x + np.array([1, 2, 3.5], np.float32))
    assert proto.SerializeToString() == untouched


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flg": True}, "A value is given for input 'flg', which the model does not have; it has 'x', 'flag', 'k'"),
        ({"flag": 1}, "The value given for input 'flag' is 1, expected bool"),
        ({"k": [1, 2]}, r"The value of input 'k' has the shape \[2\], expected \[3\]"),
        ({"k": "one"}, "The value given for input 'k' is 'one', expected float32"),
        ({"k": [[1], [2, 3]]}, "The value given for input 'k' is"),
        ({"x": 1.0}, r"The value of input 'x' has the shape \[\], expected \['n', 3\]"),
    ],
)
def test_values_that_do_not_fit(values, message):
    with pytest.raises(UsageError, match=message):
        kompilo.compile(model(), values=values)


def test_numbers_that_an_integer_type_does_not_hold():
    info = helper.make_tensor_value_info("x", TensorProto.INT8, [])
    out = helper.make_tensor_value_info("y", TensorProto.INT8, [])
    proto = helper.make_model(helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [info], [out]))
    with pytest.raises(UsageError, match="is 300, which is no int8"):
        kompilo.compile(proto, values={"x": 300})
    with pytest.raises(UsageError, match="is 1.5, expected int8"):
        kompilo.compile(proto, values={"x": 1.5})


def test_silero_as_its_wheel_has_it(zoo_model):
    """Two networks to choose from, branches by sizes with results of other ranks: decided by a rate and a window."""
    zoo_model("silero_vad_16k")
    rate, size = 8000, 288
    path = silero.PLAIN.get()
    artifact = kompilo.compile(path, inputs={"input": ("batch", size)}, values={"sr": rate})
    module = kompilo.load(artifact, threads=1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        feeds = {"input": floats(batch, size, low=-0.1, high=0.1), "state": floats(2, batch, 128)}
        expected = session.run(None, feeds | {"sr": np.array(rate)})
        for got, want in zip(module.run(feeds).values(), expected, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-5)
