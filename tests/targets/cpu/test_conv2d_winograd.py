"""Winograd convolution: exact transforms, kernels against float64 with all borders and tails, and its choice."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from conv_cases import check, conv2d
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.schedule.template import Config
from kompilo.targets.cpu.spec import cpu_spec
from kompilo.targets.cpu.templates.conv2d_winograd import WinogradConv2D
from kompilo.targets.cpu.templates.conv2d_winograd_plan import WinogradPlan
from kompilo.targets.cpu.templates.winograd_transforms import POINTS, TAPS, linear_program, toom_cook

WINOGRAD = WinogradConv2D()
SAME = (1, 1, 1, 1)
TOLERANCE = {2: 1.5e-6, 3: 5e-6, 4: 1e-5}


def config(m: int = 4, rows: int = 6, vectors: int = 2, tiles: int = 12, blocks: int = 1, parts: int = 1) -> Config:
    return Config.of(m=m, rows=rows, vectors=vectors, tiles=tiles, blocks=blocks, parts=parts)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept convolutions for which the direct template is faster."""
    monkeypatch.setattr("kompilo.targets.cpu.templates.conv2d_winograd.MARGIN", 0.0)


@pytest.mark.parametrize("m", POINTS)
def test_transforms_are_exact(m: int) -> None:
    t, edge = toom_cook(m, POINTS[m]), m + TAPS - 1
    rng = np.random.default_rng(m)
    data = [Fraction(int(x)) for x in rng.integers(-9, 9, edge)]
    taps = [Fraction(int(x)) for x in rng.integers(-9, 9, TAPS)]

    def times(matrix, vector):
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    products = [a * b for a, b in zip(times(t.filter, taps), times(t.data, data), strict=True)]
    assert times(t.output, products) == [sum(taps[k] * data[i + k] for k in range(TAPS)) for i in range(m)]


@pytest.mark.parametrize("m", POINTS)
def test_programs_compute_their_matrix_with_fewer_operations(m: int) -> None:
    for matrix in (toom_cook(m, POINTS[m]).data, toom_cook(m, POINTS[m]).output):
        program = linear_program(matrix)
        values = [Fraction(k * k + 1) for k in range(program.inputs)]
        for a, ratio, b in program.shared:
            values.append(values[a] + ratio * values[b])
        rows = [sum(factor * values[k] for k, factor in row) for row in program.rows]
        assert rows == [sum(c * values[k] for k, c in enumerate(row)) for row in matrix]
        assert program.operations() < sum(c != 0 for row in matrix for c in row)


CASES = {
    "even": (conv2d((1, 16, 16, 32), (64, 32, 3, 3), padding=SAME), config()),
    "one tile": (conv2d((1, 4, 4, 16), (16, 16, 3, 3), padding=SAME), config(rows=1, vectors=1, tiles=1)),
    "smaller than a tile": (conv2d((1, 2, 3, 16), (16, 16, 3, 3), padding=SAME), config(rows=1, vectors=1, tiles=1)),
    "odd sizes": (
        conv2d((1, 15, 17, 40), (72, 40, 3, 3), padding=SAME, epilogue=("bias", "residual", "relu")),
        config(),
    ),
    "odd channels": (conv2d((1, 9, 10, 37), (41, 37, 3, 3), padding=SAME, epilogue=("bias4", "hardswish")), config()),
    "few output channels": (conv2d((1, 9, 10, 24), (5, 24, 3, 3), padding=SAME), config(vectors=1)),
    "no padding": (conv2d((1, 13, 11, 32), (48, 32, 3, 3), epilogue=()), config(vectors=3)),
    "asymmetric padding": (conv2d((1, 12, 13, 16), (32, 16, 3, 3), padding=(0, 2, 1, 0)), config()),
    "much padding": (conv2d((1, 5, 5, 16), (32, 16, 3, 3), padding=(3, 3, 3, 3)), config()),
    "batch": (conv2d((3, 9, 7, 16), (32, 16, 3, 3), padding=SAME, epilogue=("bias", "gate")), config()),
    "per pixel": (conv2d((1, 9, 7, 16), (32, 16, 3, 3), padding=SAME, epilogue=("bias", "pixel", "sigmoid")), config()),
    "passes and parts": (
        conv2d((1, 9, 9, 256), (128, 256, 3, 3), padding=SAME),
        config(rows=3, tiles=6, blocks=2, parts=2),
    ),
    "all at once": (conv2d((1, 13, 13, 64), (96, 64, 3, 3), padding=SAME), config(rows=8, tiles=16, blocks=3)),
}


@pytest.mark.parametrize("name", CASES)
def test_matches_float64(name: str, always: None) -> None:
    op, plan = CASES[name]
    check(WINOGRAD, op, plan, tolerance=TOLERANCE[4])


@pytest.mark.parametrize("m", TOLERANCE)
def test_tile_sizes(m: int, always: None) -> None:
    op = conv2d((1, 20, 23, 48), (40, 48, 3, 3), padding=SAME, epilogue=("bias", "residual", "relu"))
    check(WINOGRAD, op, config(m=m), tolerance=TOLERANCE[m])


@pytest.mark.parametrize("channels", [64, 512])
def test_default_of_real_layers(channels: int, always: None) -> None:
    op = conv2d((1, 14, 14, channels), (64, channels, 3, 3), padding=SAME)
    check(WINOGRAD, op, tolerance=TOLERANCE[4])


def test_avx2(always: None) -> None:
    op = conv2d((1, 15, 17, 20), (27, 20, 3, 3), padding=SAME, epilogue=("bias", "residual"))
    check(WINOGRAD, op, preset="avx2", tolerance=TOLERANCE[4])


def test_one_kernel_serves_all_batches(always: None) -> None:
    op = conv2d(("n", 13, 13, 32), (32, 32, 3, 3), padding=SAME, epilogue=("bias", "residual", "relu"))
    for batch in (1, 3):
        check(WINOGRAD, op, tolerance=TOLERANCE[4], n=batch)


@settings(max_examples=10, deadline=None)
@given(
    size=st.tuples(st.integers(3, 21), st.integers(3, 21)),
    channels=st.tuples(st.integers(16, 50), st.integers(1, 70)),
    pad=st.tuples(*[st.integers(0, 2)] * 4),
    m=st.sampled_from((2, 3, 4)),
    cut=st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)),
)
def test_any_shape(size, channels, pad, m, cut) -> None:
    (c, o), (rows, vectors, times) = channels, cut
    op = conv2d((1, *size, c), (o, c, 3, 3), padding=pad)
    plan = config(m, rows, vectors, rows * times)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kompilo.targets.cpu.templates.conv2d_winograd.MARGIN", 0.0)
        check(WINOGRAD, op, plan, tolerance=TOLERANCE[m])


def test_all_offered_configs_are_right() -> None:
    op = conv2d((1, 28, 28, 64), (96, 64, 3, 3), padding=SAME, epilogue=("bias",))
    configs = list(WINOGRAD.match(op, cpu_spec()))
    assert len({c["m"] for c in configs}) == 3
    for plan in configs[::4]:
        check(WINOGRAD, op, plan, tolerance=TOLERANCE[int(plan["m"])])


def test_is_chosen_where_it_wins_only() -> None:
    spec = cpu_spec("cascadelake")

    def chosen(size: int, channels: int, out: int) -> bool:
        op = conv2d((1, size, size, channels), (out, channels, 3, 3), padding=SAME)
        return WINOGRAD.match(op, spec) is not None

    # VGG and ResNet layers of 14 x 14 up; 7 x 7 of 512 channels reads more weights than it saves arithmetic.
    assert all(
        chosen(s, c, c) for s, c in ((224, 64), (112, 128), (56, 64), (56, 256), (28, 128), (28, 512), (14, 256))
    )
    assert not chosen(7, 512, 512)
    assert not chosen(7, 128, 32)


@pytest.mark.parametrize(
    "op",
    [
        conv2d((1, 28, 28, 64), (64, 64, 3, 3), (2, 2), SAME),
        conv2d((1, 28, 28, 64), (64, 64, 3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)),
        conv2d((1, 28, 28, 64), (64, 64, 5, 5), padding=(2, 2, 2, 2)),
        conv2d((1, 28, 28, 64), (64, 32, 3, 3), padding=SAME, groups=2),
        conv2d((1, 224, 224, 3), (64, 3, 3, 3), padding=SAME),
        conv2d((1, "h", "w", 64), (64, 64, 3, 3), padding=SAME, out=("h", "w")),
    ],
    ids=["stride", "dilation", "5x5", "groups", "RGB", "symbolic"],
)
def test_refuses_what_it_cannot_do(op, always: None) -> None:
    assert WINOGRAD.match(op, cpu_spec()) is None


def test_packed_weights_have_the_announced_size() -> None:
    plan = WinogradPlan(m=4, channels=20, out_channels=70, lanes=16, rows=6, vectors=2, tiles=12, blocks=1, parts=1)
    assert plan.pack(np.ones((70, 20, 3, 3), "float32")).shape == (plan.size,)
