"""CheckSizes: what is checked, and that models refuse sizes that fit no window, or not what their operators fix."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper
from tvm import relax, tirx

import kompilo
from kompilo.compiler.errors import InputError
from kompilo.compiler.passes.check_sizes import CheckSizes

from support import apply, build, const, f32, ops

H = tirx.Var("h", "int64")


def checks(body, *params) -> list[str]:
    """Conditions that the pass adds."""
    mod = apply(build(params, body), CheckSizes())
    found = [f for v, f in mod.functions_items() if v.name_hint == "check_sizes"]
    lines = str(found[0]).splitlines() if found else []
    return [line.split("`")[1] for line in lines if "assert" in line]


def test_only_what_may_be_negative() -> None:
    w = const(np.ones((2, 3, 5)))
    assert checks(lambda x: relax.op.nn.conv1d(x, w), f32(1, 3, H)) == ["h - 4"]
    assert checks(lambda x: relax.op.nn.conv1d(x, w, padding=2), f32(1, 3, H)) == []
    assert checks(lambda x: relax.op.nn.conv1d(x, w), f32(1, 3, 9)) == []


def test_nothing_to_check_is_the_same_object() -> None:
    mod = build([f32(1, 3, H)], relax.op.nn.relu)
    assert CheckSizes().run(mod) is mod


def test_the_dataflow_block_stays() -> None:
    w = const(np.ones((2, 3, 5)))
    mod = apply(build([f32(1, 3, H)], lambda x: relax.op.nn.conv1d(x, w)), CheckSizes())
    assert ops(mod) == ["nn.conv1d"]


def model(nodes, dims, **constants) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, dims)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.ones(s, np.float32), k) for k, s in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


CONV = helper.make_node("Conv", ["x", "w"], ["y"])
CASES = {
    "window": (model([CONV], ("n", 4, "h", "w"), w=(6, 4, 5, 5)), (1, 4, 4, 9), "`h - 4` must be at least 1"),
    "two windows": (model([CONV], ("n", 4, "h", "w"), w=(6, 4, 5, 5)), (1, 4, 1, 1), "must be at least 1"),
    "strided": (
        model([helper.make_node("Conv", ["x", "w"], ["y"], strides=[2])], ("n", 4, "l"), w=(6, 4, 3)),
        (1, 4, 2),
        "`(l - 3) // 2 + 1` must be at least 1",
    ),
    "pool": (
        model([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[5, 5])], ("n", 4, "h", "w")),
        (1, 4, 3, 9),
        "`h - 4` must be at least",
    ),
    "channels": (
        model([CONV], ("n", "c", "h", "w"), w=(6, 4, 1, 1)),
        (1, 5, 4, 9),
        "`c` must be 4 for Conv node 'y' (axis 1 of input 0), found c = 5 (axis 1 of input 'x')",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_models_refuse(name) -> None:
    compiled, shape, message = CASES[name]
    module = kompilo.load(kompilo.compile(compiled), threads=1)
    with pytest.raises(InputError) as caught:
        module.run({"x": np.ones(shape, np.float32)})
    assert message in str(caught.value)
    fitting = (*shape[:1], 4, *[20] * (len(shape) - 2))
    assert module.run({"x": np.ones(fitting, np.float32)})["y"].size


def test_products_of_nothing() -> None:
    """Of no rows, of no columns, and sums of none."""
    constants = {"start": [2], "end": [1 << 40], "axis": [0]}
    nodes = [
        helper.make_node("Slice", ["x", *constants], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"]),
        helper.make_node("MatMul", ["r", "w"], ["a"]),
        helper.make_node("MatMul", ["v", "t"], ["b"]),
        helper.make_node("MatMul", ["t", "r"], ["c"]),
        helper.make_node("Concat", ["c", "w"], ["y"], axis=1),
    ]
    proto = model(nodes, ("n", 24), w=(24, 9), v=(7, 24))
    proto.graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in constants.items())
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in "ab")
    loaded = kompilo.load(kompilo.compile(proto, records=False))
    for n in (2, 5):
        x = np.random.default_rng(0).standard_normal((n, 24)).astype("f4")
        y, a, b = loaded(x)
        r = x[2:]
        for found, wanted in ((y[:, :24], r.T @ r), (a, r @ np.ones((24, 9))), (b, np.ones((7, 24)) @ r.T)):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="must be at least"):
        loaded(np.zeros((0, 24), "f4"))
