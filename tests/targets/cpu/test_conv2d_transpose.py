"""Transposed convolution: overlapping and disjoint windows, all attributes, against float64."""

from __future__ import annotations

import pytest
from conv_cases import EPILOGUES, Kernel, check, random_inputs, reference, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.schedule.target import find_target
from kompilo.targets.cpu.templates.conv2d_transpose import TransposedConv2D

TRANSPOSED = TransposedConv2D()


def transposed(
    data: tuple,
    weight: tuple[int, int, int, int],
    strides=(1, 1),
    padding=(0, 0, 0, 0),
    output_padding=(0, 0),
    dilation=(1, 1),
    groups=1,
    epilogue=("bias", "relu"),
    out=None,
) -> OpSpec:
    """A conv2d_transpose of NHWC `data` with IOHW `weight`."""
    size = out or tuple(
        (d - 1) * strides[a] - padding[a] - padding[a + 2] + (weight[2 + a] - 1) * dilation[a] + 1 + output_padding[a]
        for a, d in enumerate(data[1:3])
    )
    anchor = TensorType((data[0], *size, weight[1] * groups), "float32")
    inputs, steps = [TensorType(data, "float32"), TensorType(weight, "float32")], []
    for name in epilogue:
        EPILOGUES[name](anchor, inputs, steps)
    attrs = {
        "data_layout": "NHWC",
        "dilation": dilation,
        "groups": groups,
        "output_padding": output_padding,
        "padding": padding,
        "strides": strides,
    }
    constant = (False, True, *(False for _ in inputs[2:]))
    return OpSpec(
        "conv2d_transpose", tuple(inputs), constant, tuple(sorted(attrs.items())), anchor, anchor, tuple(steps)
    )


CASES = {
    "2x2 stride 2": transposed((1, 9, 31, 24), (24, 24, 2, 2), (2, 2), epilogue=("bias", "residual", "relu")),
    "2x2 stride 2, whole vectors": transposed((2, 5, 7, 16), (16, 32, 2, 2), (2, 2)),
    "2x2 stride 2, many channels": transposed((1, 5, 7, 16), (16, 96, 2, 2), (2, 2), epilogue=("bias", "hardswish")),
    "2x2 stride 2 to one channel": transposed((1, 9, 31, 24), (24, 1, 2, 2), (2, 2), epilogue=("bias", "sigmoid")),
    "2x2 stride 2 to three channels": transposed((1, 9, 31, 24), (24, 3, 2, 2), (2, 2), epilogue=("bias",)),
    "3x3 stride 2": transposed((1, 9, 10, 16), (16, 24, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    "4x4 stride 2": transposed((1, 8, 8, 12), (12, 20, 4, 4), (2, 2), (1, 1, 1, 1), epilogue=()),
    "3x3 stride 1": transposed((1, 8, 9, 12), (12, 20, 3, 3), (1, 1), (1, 1, 1, 1)),
    "kernel smaller than stride": transposed((1, 6, 5, 8), (8, 16, 2, 1), (3, 2)),
    "dilated": transposed((1, 6, 5, 8), (8, 16, 3, 3), (2, 1), (1, 0, 2, 1), (1, 0), (2, 3)),
    "dilation and stride share a factor": transposed((1, 6, 5, 8), (8, 16, 3, 3), (4, 2), dilation=(2, 2)),
    "groups": transposed((1, 6, 5, 8), (8, 6, 3, 3), (2, 2), (1, 1, 1, 1), groups=2),
    "disjoint with groups": transposed((1, 6, 5, 8), (8, 6, 2, 2), (2, 2), groups=2),
    "cropped": transposed((1, 6, 5, 8), (8, 6, 2, 2), (2, 2), (1, 0, 0, 1)),
    "many phases": transposed((1, 3, 5, 8), (8, 6, 16, 16), (8, 8), (4, 4, 4, 4)),
    "many phases, ragged": transposed((2, 4, 3, 8), (8, 6, 9, 7), (5, 4), (1, 2, 3, 0), epilogue=("bias", "residual")),
    "many phases, dilated": transposed((1, 4, 3, 8), (8, 6, 3, 5), (5, 6), dilation=(2, 3), output_padding=(3, 1)),
    "output smaller than the stride": transposed((1, 1, 1, 8), (8, 6, 9, 9), (8, 8), (3, 3, 3, 3)),
    "one row": transposed((1, 1, 20, 8), (8, 16, 1, 4), (1, 2), (0, 1, 0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_default_config_matches_float64(name: str) -> None:
    check(TRANSPOSED, CASES[name])


@pytest.mark.parametrize("name", ["2x2 stride 2", "3x3 stride 2"])
def test_avx2(name: str) -> None:
    check(TRANSPOSED, CASES[name], preset="avx2")


@pytest.mark.parametrize(
    "op",
    [
        transposed(("n", "h", "w", 12), (12, 1, 2, 2), (2, 2), epilogue=("bias", "sigmoid"), out=("2h", "2w")),
        transposed(("n", "h", "w", 12), (12, 24, 2, 2), (2, 2), epilogue=("bias", "residual"), out=("2h", "2w")),
        transposed(("n", "h", "w", 12), (12, 24, 4, 4), (2, 2), (1, 1, 1, 1), out=("2h", "2w")),
        transposed(("n", "h", "w", 12), (12, 24, 2, 12), (2, 6), (0, 3, 0, 3), out=("2h", "6w")),
    ],
    ids=str,
)
def test_one_kernel_serves_all_sizes(op: OpSpec) -> None:
    kernel = Kernel(TRANSPOSED, op)
    for n, h, w in ((1, 3, 40), (2, 1, 7)):
        inputs = random_inputs(op, **{"n": n, "h": h, "w": w, "2h": 2 * h, "2w": 2 * w, "6w": 6 * w})
        expected = reference(op, inputs)
        assert relative_error(kernel(inputs, expected.shape), expected) < 2e-6


def test_phases_alike_share_their_code() -> None:
    op = transposed((1, 7, 7, 21), (21, 21, 64, 64), (32, 32), (16, 16, 16, 16))
    candidate = TRANSPOSED.build(op, find_target("cpu").spec, TRANSPOSED.match(op, find_target("cpu").spec).default)
    one_phase = transposed((1, 7, 7, 21), (21, 21, 3, 3), (1, 1), (1, 1, 1, 1))
    single = TRANSPOSED.build(
        one_phase, find_target("cpu").spec, TRANSPOSED.match(one_phase, find_target("cpu").spec).default
    )
    assert len(candidate.func.script()) < 12 * len(single.func.script())


@settings(max_examples=10, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 20)),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 20)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
)
def test_any_shape(size, channels, kernel, stride, dilation) -> None:
    check(TRANSPOSED, transposed((1, *size, channels[0]), (*channels, *kernel), stride, dilation=(dilation, dilation)))
