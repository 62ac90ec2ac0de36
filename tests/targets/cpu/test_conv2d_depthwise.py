"""Depthwise convolution: against float64 over borders, strides, channel tails and symbolic sizes."""

from __future__ import annotations

import pytest
from conv_cases import Kernel, check, conv2d, random_inputs, reference, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.schedule.op_spec import OpSpec
from kompilo.compiler.schedule.template import Config
from kompilo.targets.cpu.spec import cpu_spec
from kompilo.targets.cpu.templates.conv2d_depthwise import DepthwiseConv2D
from kompilo.targets.cpu.templates.conv2d_direct import DirectConv2D

DEPTHWISE = DepthwiseConv2D()


def depthwise(
    size: tuple, kernel: int, stride: int = 1, dilation: int = 1, epilogue=("bias", "relu"), pad=None, out=None
) -> OpSpec:
    """A depthwise convolution of (N, H, W, C) data."""
    c, p = size[3], kernel // 2 * dilation
    padding = pad or (p, p, p, p)
    return conv2d(size, (c, 1, kernel, kernel), (stride, stride), padding, (dilation, dilation), c, epilogue, out)


CASES = {
    "3x3": depthwise((1, 14, 14, 64), 3),
    "3x3, channel tail": depthwise((2, 9, 11, 37), 3, epilogue=("bias", "residual", "relu")),
    "3x3 stride 2": depthwise((1, 28, 27, 24), 3, 2, epilogue=("bias", "hardswish")),
    "5x5 stride 2": depthwise((1, 15, 13, 40), 5, 2),
    "5x5 larger than image": depthwise((1, 2, 3, 24), 5),
    "3x3 dilated": depthwise((1, 9, 9, 70), 3, dilation=2),
    "3x3 without padding": depthwise((1, 9, 30, 16), 3, pad=(0, 0, 0, 0), epilogue=()),
    "3x3 asymmetric": depthwise((1, 12, 12, 16), 3, 2, pad=(0, 0, 1, 1)),
    "one column": conv2d((1, 90, 1, 24), (24, 1, 5, 1), (1, 1), (2, 0, 2, 0), groups=24, epilogue=("residual",)),
    "split among cores": depthwise((1, 3, 3, 160), 3),
    "large": depthwise((1, 60, 64, 96), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_default_config_matches_float64(name: str) -> None:
    check(DEPTHWISE, CASES[name])


def test_avx2() -> None:
    check(DEPTHWISE, CASES["3x3, channel tail"], preset="avx2")


@pytest.mark.parametrize("split", [1, 2, 3])
@pytest.mark.parametrize("vectors", [1, 2])
def test_knobs_do_not_change_the_result(vectors: int, split: int) -> None:
    config = Config.of(tile=5, vectors=vectors, rows=2, split=split)
    check(DEPTHWISE, depthwise((1, 9, 13, 84), 3), config)


def test_one_kernel_serves_all_sizes() -> None:
    op = depthwise(("n", "h", "w", 24), 5, epilogue=("bias", "residual"), out=("h", "w"))
    kernel = Kernel(DEPTHWISE, op)
    for sizes in ({"n": 1, "h": 9, "w": 33}, {"n": 2, "h": 1, "w": 2}, {"n": 1, "h": 3, "w": 14}):
        inputs = random_inputs(op, **sizes)
        expected = reference(op, inputs)
        assert relative_error(kernel(inputs, expected.shape), expected) < 2e-6


def test_symbolic_stride() -> None:
    op = depthwise((1, "h", "w", 16), 3, 2, out=("oh", "ow"))
    kernel = Kernel(DEPTHWISE, op)
    for h, w in ((8, 9), (33, 70), (1, 1)):
        inputs = random_inputs(op, h=h, w=w)
        expected = reference(op, inputs)
        assert relative_error(kernel(inputs, expected.shape), expected) < 2e-6


@settings(max_examples=8, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 30), st.integers(2, 50)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    pad=st.tuples(*[st.integers(0, 2)] * 4),
)
def test_any_shape(size, kernel, stride, pad) -> None:
    size = (1, max(size[0], kernel), max(size[1], kernel), size[2])
    check(DEPTHWISE, depthwise(size, kernel, stride, pad=pad))


def test_refuses_other_convolutions() -> None:
    spec = cpu_spec()
    assert DEPTHWISE.match(conv2d((1, 9, 9, 8), (8, 8, 3, 3)), spec) is None
    assert DEPTHWISE.match(conv2d((1, 9, 9, 8), (16, 1, 3, 3), groups=8), spec) is None


def test_kernels_too_wide_to_unroll_are_left_to_the_direct_template():
    op = conv2d((1, 1, 300, 8), (8, 1, 1, 129), padding=(0, 64, 0, 64), groups=8)
    assert DEPTHWISE.match(op, cpu_spec()) is None
    check(DirectConv2D(), op)
