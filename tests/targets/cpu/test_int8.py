"""Convolutions and products of int8 are numpy's integers: over tails, borders, strides, groups, both ways to add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from conv_cases import conv2d, conv2d_anchor
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.requantize import fixed_points, requantize
from kompilo.targets.cpu.spec import cpu_spec
from kompilo.targets.cpu.target import CpuTarget
from kompilo.targets.cpu.templates.conv2d_int8 import Int8Conv2D
from kompilo.targets.cpu.templates.conv2d_int8_depthwise import Int8Depthwise
from kompilo.targets.cpu.templates.int8_nest import VNNI, WIDENED, Int8Weights, dot_of
from kompilo.targets.cpu.templates.matmul_int8 import Int8Matmul

SAME3 = (1, 1, 1, 1)


def integers(op: OpSpec) -> OpSpec:
    """`op` on int8, with a bias and requantization behind its int32 sums."""
    shape = op.anchor_type.shape
    channels = (shape[-1],)
    names = ("i2", "i3", "i4", "i5")
    types = [TensorType(channels, d) for d in ("int32", "int64", "int64", "int64")]
    steps = [
        Step("add", ("anchor", names[0]), "int32"),
        Step("astype", ("s0",), "int64"),
        Step("multiply", ("s1", names[1]), "int64"),
        Step("add", ("s2", names[2]), "int64"),
        Step("right_shift", ("s3", names[3]), "int64"),
        Step("clip", ("s4", -127.0, 127.0), "int64"),
        Step("astype", ("s5",), "int8"),
    ]
    operands = [TensorType(t.shape, "int8") for t in op.inputs[:2]]
    return replace(
        op,
        inputs=(*operands, *types),
        constant=(False, True, *[True] * 4),
        anchor_type=TensorType(shape, "int32"),
        output=TensorType(shape, "int8"),
        epilogue=tuple(steps),
    )


def matmul(
    m: int | str, k: int, n: int, lead: tuple[int | str, ...] = (), rhs_perm: tuple[int, int] = (0, 1)
) -> OpSpec:
    axes = tuple(range(len(lead) + 2))
    weight = tuple((k, n)[a] for a in rhs_perm)
    result = TensorType((*lead, m, n), "float32")
    inputs = (TensorType((*lead, m, k), "float32"), TensorType(weight, "float32"))
    attrs = (("lhs_perm", axes), ("out_perm", axes), ("rhs_perm", rhs_perm))
    return OpSpec("matmul", inputs, (False, True), attrs, result, result)


def check(template, op: OpSpec, preset: str | None = None, sizes: dict[str, int] | None = None) -> None:
    op = integers(op)
    rng = np.random.default_rng(3)
    target = CpuTarget(cpu_spec(preset))
    space = template.match(op, target.spec)
    assert space is not None, f"{template.name} refused {op}"
    candidate = template.build(op, target.spec, space.default)
    shapes = [[(sizes or {}).get(d, d) for d in t.shape] for t in op.inputs]
    data, weight = (rng.integers(-128, 128, s).astype("int8") for s in shapes[:2])
    if op.kind == "conv2d":
        sums = conv2d_anchor(op, data.astype("f8"), weight.astype("f8"))
    else:
        sums = data.astype("f8") @ weight.transpose(op.ints("rhs_perm")).astype("f8")
    channels = sums.shape[-1]
    bias = rng.integers(-(2**20), 2**20, channels).astype("int32")
    multiplier, shift = fixed_points(rng.uniform(0.5, 2.0, channels) * 60 / max(1.0, np.abs(sums).max()))
    total = sums.astype("int32") + bias
    expected = requantize(total, multiplier, shift, -127, 127)
    wide = [x.astype("int64") for x in (multiplier, np.int64(1) << (shift.astype("int64") - 1), shift)]
    arrays = [data, candidate.packers[1](weight), bias, *wide]
    library = tvm.compile(tvm.IRModule({"main": candidate.func}), target.tvm_target())
    out = tvm.runtime.tensor(np.full(expected.shape, -128, "int8"))  # what no element of the result is
    library["main"](*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays), out)
    np.testing.assert_array_equal(out.numpy(), expected)


CONVOLUTIONS = {
    "pointwise, odd": conv2d((2, 5, 7, 37), (41, 37, 1, 1), epilogue=()),
    "3x3": conv2d((1, 9, 11, 24), (40, 24, 3, 3), (1, 1), SAME3, epilogue=()),
    "of an RGB image": conv2d((1, 17, 19, 3), (20, 3, 7, 7), (2, 2), (3, 3, 3, 3), epilogue=()),
    "kernel larger than image": conv2d((1, 3, 3, 8), (16, 8, 5, 5), (1, 1), (2, 2, 2, 2), epilogue=()),
    "dilated, asymmetric": conv2d((2, 15, 17, 6), (24, 6, 3, 5), (2, 1), (1, 2, 3, 4), (2, 3), epilogue=()),
    "groups of 3 channels": conv2d((1, 7, 7, 9), (48, 3, 3, 3), (1, 1), SAME3, groups=3, epilogue=()),
    "one column": conv2d((1, 60, 1, 16), (24, 16, 5, 1), (2, 1), (2, 0, 2, 0), epilogue=()),
    "one output channel": conv2d((1, 6, 6, 12), (1, 12, 3, 3), (1, 1), SAME3, epilogue=()),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    check(Int8Conv2D(), CONVOLUTIONS[name])


@pytest.mark.parametrize("name", ["pointwise, odd", "of an RGB image", "groups of 3 channels"])
def test_convolutions_on_avx2(name: str) -> None:
    check(Int8Conv2D(), CONVOLUTIONS[name], "avx2")


@settings(max_examples=5, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 21), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3)
)
def test_any_convolution(height: int, width: int, channels: int, out: int, kernel: int, stride: int) -> None:
    pad = (kernel // 2,) * 4
    op = conv2d((1, height, width, channels), (out, channels, kernel, kernel), (stride, stride), pad, epilogue=())
    check(Int8Conv2D(), op)


DEPTHWISE = {
    "odd": conv2d((2, 9, 7, 37), (37, 1, 3, 3), (1, 1), SAME3, groups=37, epilogue=()),
    "stride, dilation, asymmetric": conv2d((1, 11, 12, 16), (16, 1, 3, 5), (2, 1), (0, 1, 2, 3), (1, 2), 16, ()),
    "without padding": conv2d((1, 5, 6, 8), (8, 1, 2, 2), groups=8, epilogue=()),
    "kernel larger than image": conv2d((1, 2, 3, 3), (3, 1, 5, 5), (1, 1), (2, 2, 2, 2), groups=3, epilogue=()),
    "one column": conv2d((1, 20, 1, 16), (16, 1, 5, 1), (2, 1), (2, 0, 2, 0), groups=16, epilogue=()),
    "open sizes": conv2d(("n", "h", "w", 5), (5, 1, 3, 3), (1, 1), SAME3, groups=5, epilogue=(), out=("h", "w")),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(name: str) -> None:
    check(Int8Depthwise(), DEPTHWISE[name], None, {"n": 2, "h": 7, "w": 13})


def test_open_sizes() -> None:
    op = conv2d(("n", "h", "w", 5), (18, 5, 3, 3), (1, 1), SAME3, epilogue=(), out=("h", "w"))
    sizes = {"n": 2, "h": 7, "w": 13}
    check(Int8Conv2D(), op, None, sizes)


MATMULS = {
    "one row": matmul(1, 70, 33),
    "odd": matmul(13, 37, 50),
    "leading axes, transposed weights": matmul(5, 16, 24, lead=(3,), rhs_perm=(1, 0)),
    "open number of rows": matmul("m", 9, 17),
    "open axes in front": matmul("m", 9, 17, lead=("b",)),
    "two axes in front": matmul("m", 6, 20, lead=("b", 2)),
}


@pytest.mark.parametrize("name", MATMULS)
def test_matmuls(name: str) -> None:
    check(Int8Matmul(), MATMULS[name], None, {"m": 21, "b": 3})


def test_a_matmul_on_avx2() -> None:
    check(Int8Matmul(), MATMULS["odd"], "avx2")


def test_every_config_gives_the_same() -> None:
    op = integers(conv2d((1, 6, 9, 10), (36, 10, 3, 3), (1, 1), SAME3, epilogue=()))
    spec = cpu_spec()
    space = Int8Conv2D().match(op, spec)
    assert len({str(c) for c in space}) == len(tuple(space)) > 5
    told = Int8Conv2D().traits(op, spec, tuple(space))
    assert all(np.isfinite(np.asarray(v, float)).all() for v in told.values())


def test_flipped_signs_are_made_up_for_behind_the_weights() -> None:
    spec = cpu_spec("cascadelake")
    assert dot_of(spec) == VNNI
    assert dot_of(cpu_spec("avx2")) == dot_of(cpu_spec("skylake-avx512")) == WIDENED
    op = integers(conv2d((1, 1, 1, 5), (2, 5, 1, 1), epilogue=()))
    config = Int8Conv2D().match(op, spec).default
    from kompilo.targets.shared.conv_shape import conv_sizes

    weights = Int8Weights(conv_sizes(op), spec, config)
    packed = weights.pack(np.array([[1, 2, 3, 4, 5], [-1, -1, -1, -1, -1]], "int8")[:, :, None, None])
    assert packed.size == weights.size
    assert packed[:8].tolist() == [1, 2, 3, 4, -1, -1, -1, -1]
    assert packed[weights.blocked.size * 4 :].view("int32")[:2].tolist() == [-128 * 15, 128 * 5]


REFUSED = {
    "float32": conv2d((1, 4, 4, 8), (16, 8, 1, 1), epilogue=()),
    "depthwise": integers(conv2d((1, 4, 4, 8), (8, 1, 3, 3), groups=8, epilogue=())),
    "computed weights": replace(integers(conv2d((1, 4, 4, 8), (16, 8, 1, 1), epilogue=())), constant=(False,) * 6),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_does_not_take(name: str) -> None:
    assert Int8Conv2D().match(REFUSED[name], cpu_spec()) is None


def test_batches_of_matrices_are_refused() -> None:
    op = integers(matmul(4, 8, 6, lead=(2,)))
    stacked = replace(op, inputs=(op.inputs[0], TensorType((2, 8, 6), "int8"), *op.inputs[2:]))
    stacked = replace(stacked, attrs=tuple(sorted({**dict(op.attrs), "rhs_perm": (0, 1, 2)}.items())))
    assert Int8Matmul().match(stacked, cpu_spec()) is None
