"""Conv3dToConv2d: windows of any depth, what stays on images, and what is left alone."""

import pytest
from tvm import relax, tirx

from kompilo.compiler.passes.conv3d_to_conv2d import Conv3dToConv2d
from kompilo.compiler.passes.simplify import Simplify

from support import build, check, f32, ops, random

op = relax.op

CASES = {
    "strides": lambda x: op.nn.conv3d(x, random(0, 6, 4, 2, 3, 3), (2, 1, 2), (1, 0, 1, 0, 2, 1)),
    "dilated": lambda x: op.nn.conv3d(x, random(0, 6, 4, 3, 2, 2), 1, (0, 1, 0), dilation=(2, 1, 3)),
    "flat groups": lambda x: op.nn.conv3d(x, random(0, 6, 2, 1, 3, 3), (3, 1, 1), (1, 0, 1), groups=2),
}


@pytest.mark.parametrize("name", CASES)
def test_raised(name):
    found = ops(check(build([f32(2, 4, 7, 6, 9)], CASES[name]), Conv3dToConv2d()))
    assert found.count("nn.conv2d") == 1
    assert "nn.conv3d" not in found


def test_what_follows_stays_on_images():
    def body(x):
        y = op.nn.conv3d(x, random(0, 6, 4, 3, 3, 3), padding=1)
        y = op.nn.relu(op.add(op.multiply(y, random(1, 1)), random(2, 6, 1, 1, 1)))
        z = op.add(op.nn.conv3d(y, random(3, 6, 6, 1, 3, 3), padding=(0, 1, 1)), y)
        return op.multiply(z, random(4, 6, 5, 1, 1))

    found = ops(check(build([f32(2, 4, 5, 6, 7)], body), Conv3dToConv2d(), Simplify()))
    first = found.index("nn.conv2d")
    assert found[first : first + 6] == ["nn.conv2d", "multiply", "add", "nn.relu", "nn.conv2d", "add"]
    assert found[-1] == "multiply", "numbers by depth are none of an image"


def test_grouped_windows_that_are_deep_stay():
    mod = build([f32(1, 4, 5, 6, 7)], lambda x: op.nn.conv3d(x, random(0, 6, 2, 3, 3, 3), groups=2))
    assert ops(Conv3dToConv2d().run(mod)) == ["nn.conv3d"]


def test_open_sizes_and_weights_that_are_inputs():
    n, w = tirx.Var("n", "int64"), tirx.Var("w", "int64")
    mod = build([f32(n, 4, 5, 6, w), f32(3, 4, 2, 2, 2)], lambda x, k: op.sigmoid(op.nn.conv3d(x, k)))
    assert "nn.conv2d" in ops(check(mod, Conv3dToConv2d(), sizes={"n": 2, "w": 8}))
