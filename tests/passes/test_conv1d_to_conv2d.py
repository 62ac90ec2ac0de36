"""Conv1dToConv2d: every one-dimensional operator, and that elementwise operators stay fusible."""

import pytest
from tvm import relax, tirx

from kompilo.compiler.passes.conv1d_to_conv2d import Conv1dToConv2d
from kompilo.compiler.passes.simplify import Simplify

from support import build, check, f32, ops, random

op = relax.op

CASES = {
    "conv1d": (lambda x: op.nn.conv1d(x, random(0, 6, 4, 3), 2, (1, 2), 1), "nn.conv2d"),
    "conv1d dilated": (lambda x: op.nn.conv1d(x, random(0, 6, 4, 3), dilation=2), "nn.conv2d"),
    "conv1d grouped": (lambda x: op.nn.conv1d(x, random(0, 6, 2, 3), groups=2), "nn.conv2d"),
    "conv1d_transpose": (
        lambda x: op.nn.conv1d_transpose(x, random(0, 4, 6, 3), strides=2, padding=(1, 0), output_padding=1),
        "nn.conv2d_transpose",
    ),
    "max_pool1d": (lambda x: op.nn.max_pool1d(x, (3,), (2,), (1, 0)), "nn.max_pool2d"),
    "avg_pool1d": (lambda x: op.nn.avg_pool1d(x, (3,), (2,), (1, 1), count_include_pad=True), "nn.avg_pool2d"),
}


@pytest.mark.parametrize("name", CASES)
def test_raised(name):
    body, expected = CASES[name]
    assert ops(check(build([f32(2, 4, 11)], body), Conv1dToConv2d())) == ["reshape", expected, "reshape"]


def test_weights_that_are_inputs():
    mod = build([f32(2, 4, 11), f32(6, 4, 3)], op.nn.conv1d)
    assert ops(check(mod, Conv1dToConv2d())) == ["reshape", "reshape", "nn.conv2d", "reshape"]


def test_elementwise_operators_between_stay_four_dimensional():
    def body(x, y):
        z = op.nn.relu(op.add(op.nn.conv1d(x, random(0, 6, 4, 3), padding=1), random(1, 6, 1)))
        z = op.concat([op.multiply(z, y), op.add(z, random(2, 11))], 2)
        z = op.concat([z, z], 1)
        return op.mean(op.nn.max_pool1d(op.nn.conv1d(z, random(3, 2, 12, 1)), 2), [2])

    after = check(build([f32(2, 4, 11), f32(2, 6, 11)], body), Conv1dToConv2d(), Simplify())
    expected = "reshape nn.conv2d add nn.relu reshape multiply add concat concat nn.conv2d nn.max_pool2d reshape mean"
    assert sorted(ops(after)) == sorted(expected.split())


def test_symbolic_length():
    n = tirx.Var("n", "int64")
    mod = build([f32(1, 4, n)], lambda x: op.sigmoid(op.nn.conv1d(x, random(0, 6, 4, 3), padding=1)))
    assert ops(check(mod, Conv1dToConv2d(), sizes={"n": 5})) == ["reshape", "nn.conv2d", "sigmoid", "reshape"]
