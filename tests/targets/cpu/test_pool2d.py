"""The pooling template against a direct numpy evaluation in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.target import find_target
from kompilo.targets.cpu.templates.pool2d import Pool2D

TARGET = find_target("cpu")


@dataclass(frozen=True)
class Case:
    """Input shape NHWC and window."""

    shape: tuple[int, int, int, int]
    size: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    include_pad: bool = False
    symbolic: bool = False


def reference(x: np.ndarray, case: Case, mode: str) -> np.ndarray:
    top, left, bottom, right = case.padding
    fill = -np.inf if mode == "max" else 0.0
    sides = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(x.astype("float64"), sides, constant_values=fill)
    inside = np.pad(np.ones_like(x, dtype="float64"), sides)
    reach = [(k - 1) * d + 1 for k, d in zip(case.size, case.dilation, strict=True)]

    def windows(a: np.ndarray) -> np.ndarray:
        view = np.lib.stride_tricks.sliding_window_view(a, reach, (1, 2))
        return view[:, :: case.stride[0], :: case.stride[1], :, :: case.dilation[0], :: case.dilation[1]]

    if mode == "max":
        return windows(padded).max((-2, -1))
    count = case.size[0] * case.size[1] if case.include_pad else windows(inside).sum((-2, -1))
    return windows(padded).sum((-2, -1)) / count


def check(case: Case, mode: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=case.shape).astype("float32")
    bias = rng.normal(size=case.shape[-1:]).astype("float32")
    expected = np.maximum(reference(x, case, mode) + bias, 0)
    names = ("n", "h", "w")
    shape = (*names, case.shape[3]) if case.symbolic else case.shape
    result = ("n", "oh", "ow", case.shape[3]) if case.symbolic else expected.shape
    op = OpSpec(
        kind="pool2d",
        inputs=(TensorType(shape, "float32"), TensorType(bias.shape, "float32")),
        constant=(False, True),
        attrs=(
            ("ceil_mode", 0), ("count_include_pad", int(case.include_pad)), ("dilation", case.dilation), ("mode", mode),
            ("padding", case.padding), ("pool_size", case.size), ("strides", case.stride),
        ),
        anchor_type=TensorType(result, "float32"),
        output=TensorType(result, "float32"),
        epilogue=(Step("add", ("anchor", "i1"), "float32"), Step("nn.relu", ("s0",), "float32")),
    )  # fmt: skip
    space = Pool2D().match(op, TARGET.spec)
    assert space is not None
    func = Pool2D().build(op, TARGET.spec, space.default).func
    library = tvm.compile(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), TARGET.tvm_target())
    tensors = [tvm.runtime.tensor(a) for a in (x, bias, np.full(expected.shape, np.nan, "float32"))]
    library["main"](*tensors)
    np.testing.assert_allclose(tensors[-1].numpy(), expected, rtol=1e-5, atol=1e-5)


CASES = [
    Case((1, 12, 12, 64), (3, 3), (2, 2), (1, 1, 1, 1)),
    Case((2, 7, 9, 24), (3, 3), (1, 1), (1, 1, 1, 1)),
    Case((1, 5, 5, 131), (2, 2), (2, 2)),
    Case((1, 1, 1, 3), (1, 1)),
    Case((1, 4, 6, 5), (4, 6)),
    Case((1, 9, 9, 16), (3, 2), (2, 3), (0, 1, 2, 0)),
    Case((1, 11, 13, 8), (3, 3), (1, 2), (2, 2, 2, 2), (2, 2)),
    Case((1, 6, 6, 40), (5, 5), (1, 1), (2, 2, 2, 2), include_pad=True),
    Case((2, 8, 7, 20), (3, 3), (2, 2), (1, 1, 1, 1), symbolic=True),
    Case((1, 2, 2, 4), (2, 2), (3, 3), symbolic=True),
]


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_numpy(case: Case, mode: str) -> None:
    check(case, mode)


def test_maximum_of_nothing_but_infinities() -> None:
    shape = TensorType((1, 4, 4, 20), "float32")
    result = TensorType((1, 2, 2, 20), "float32")
    attrs = {"ceil_mode": 0, "count_include_pad": 0, "dilation": (1, 1), "mode": "max", "padding": (0, 0, 0, 0)}
    attrs |= {"pool_size": (2, 2), "strides": (2, 2)}
    op = OpSpec("pool2d", (shape,), (False,), tuple(sorted(attrs.items())), result, result)
    x = np.full(shape.shape, -np.inf, "float32")
    x[0, 0, 0] = -1
    func = Pool2D().build(op, TARGET.spec, Pool2D().match(op, TARGET.spec).default).func
    out = tvm.runtime.tensor(np.zeros(result.shape, "float32"))
    tvm.compile(func, TARGET.tvm_target())(tvm.runtime.tensor(x), out)
    expected = np.full(result.shape, -np.inf)
    expected[0, 0, 0] = -1
    np.testing.assert_array_equal(out.numpy(), expected)


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    extra=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    channels=st.integers(1, 40),
    pad=st.integers(0, 1),
    mode=st.sampled_from(["max", "avg"]),
)
def test_random_windows(size, stride, extra, channels, pad, mode) -> None:
    pad = min(pad, size[0] - 1, size[1] - 1)
    shape = (1, size[0] + extra[0], size[1] + extra[1], channels)
    check(Case(shape, size, stride, (pad,) * 4), mode)
