"""Convolutions against float64: odd shapes, strides, dilation, groups, symbolic sizes, every kind of epilogue."""

from __future__ import annotations

import pytest
from conv_cases import conv2d, random_inputs, reference

from kompilo.targets.gpu.templates.conv2d_depthwise import DepthwiseConv2D
from kompilo.targets.gpu.templates.conv2d_implicit import ImplicitConv2D

from gpu_support import TARGET, needs_opencl, relative_error, run_template, spread

PLAIN = {
    "3x3": conv2d((1, 14, 14, 32), (48, 32, 3, 3), padding=(1, 1, 1, 1)),
    "1x1": conv2d((2, 7, 7, 24), (40, 24, 1, 1), epilogue=("bias", "residual", "relu")),
    "rgb": conv2d((1, 31, 33, 3), (16, 3, 7, 7), strides=(2, 2), padding=(3, 3, 3, 3)),
    "odd": conv2d((1, 9, 11, 5), (7, 5, 3, 2), padding=(1, 0, 0, 1), epilogue=("bias", "sigmoid")),
    "dilated": conv2d((1, 13, 12, 8), (12, 8, 3, 3), dilation=(2, 3), padding=(2, 3, 2, 3), epilogue=("gate", "pixel")),
    "grouped": conv2d((1, 10, 10, 24), (36, 6, 3, 3), groups=4, padding=(1, 1, 1, 1), epilogue=("bias4", "hardswish")),
    "multiplied": conv2d((1, 8, 8, 6), (12, 1, 3, 3), groups=6, epilogue=()),
    "column": conv2d((1, 40, 1, 8), (16, 8, 5, 1), padding=(2, 0, 2, 0)),
    "symbolic": conv2d(("n", "h", "w", 8), (12, 8, 3, 3), padding=(1, 1, 1, 1), out=("h", "w")),
}
SIZES = {"n": 2, "h": 9, "w": 11}
DEPTHWISE = {
    "3x3": conv2d((1, 14, 14, 32), (32, 1, 3, 3), groups=32, padding=(1, 1, 1, 1)),
    "strided": conv2d((2, 15, 17, 12), (12, 1, 3, 3), groups=12, strides=(2, 2), padding=(0, 1, 1, 0)),
    "odd": conv2d((1, 9, 11, 7), (7, 1, 5, 2), groups=7, epilogue=("residual", "hardswish")),
    "dilated": conv2d(
        (1, 13, 12, 6), (6, 1, 3, 3), groups=6, dilation=(2, 3), padding=(2, 3, 2, 3), epilogue=("gate",)
    ),
    "tall": conv2d(
        (1, 13, 18, 8), (8, 1, 5, 5), groups=8, strides=(2, 1), dilation=(2, 1), padding=(4, 2, 4, 2), epilogue=()
    ),
    "tall_inside": conv2d((1, 9, 17, 4), (4, 1, 5, 5), groups=4, padding=(0, 2, 0, 2), epilogue=("bias",)),
    "wide": conv2d((1, 12, 30, 4), (4, 1, 9, 11), groups=4, padding=(4, 5, 4, 5)),
    "column": conv2d((1, 40, 1, 8), (8, 1, 5, 1), groups=8, padding=(2, 0, 2, 0)),
    "symbolic": conv2d(("n", "h", "w", 8), (8, 1, 3, 3), groups=8, out=("oh", "ow"), epilogue=("bias", "relu")),
}


def check(template, op, config=None) -> None:
    inputs = random_inputs(op, **SIZES)
    expected = reference(op, inputs)
    assert relative_error(run_template(template, op, inputs, expected.shape, config), expected) < 3e-6, str(config)


@needs_opencl
@pytest.mark.parametrize("name", PLAIN)
def test_implicit_gemm(name):
    op = PLAIN[name]
    for config in spread(list(ImplicitConv2D().match(op, TARGET.spec)), 2):
        check(ImplicitConv2D(), op, config)


@needs_opencl
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(name):
    op = DEPTHWISE[name]
    for config in DepthwiseConv2D().match(op, TARGET.spec):
        check(DepthwiseConv2D(), op, config)


def test_each_template_takes_its_own_kind():
    assert ImplicitConv2D().match(DEPTHWISE["3x3"], TARGET.spec) is None
    assert DepthwiseConv2D().match(PLAIN["grouped"], TARGET.spec) is None
