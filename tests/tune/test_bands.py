"""Bands of a large result hold what the whole does, and show what is wrong with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_reference import matmul, pool

from kompilo.compiler.schedule.masks import ADDED, KEEPS
from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.tune.bands import truth
from kompilo.compiler.tune.measure.operands import random_operands
from kompilo.compiler.tune.reference import evaluate


def f32(*shape: int) -> TensorType:
    return TensorType(shape, "float32")


def conv(batch: int, height: int, stride: int, padding: tuple[int, ...], dilation: int = 1) -> OpSpec:
    """3 x 3, 4 -> 6 channels, 9 columns; a bias and a sum of the result's shape behind it."""
    top, left, bottom, right = padding
    rows = (height + top + bottom - 2 * dilation - 1) // stride + 1
    columns = (9 + left + right - 2 * dilation - 1) // stride + 1
    out = f32(batch, rows, columns, 6)
    attrs = (("dilation", (dilation,) * 2), ("groups", 1), ("padding", padding), ("strides", (stride,) * 2))
    steps = (Step("add", ("anchor", "i2"), "float32"), Step("add", ("s0", "i3"), "float32"))
    inputs = (f32(batch, height, 9, 4), f32(6, 4, 3, 3), f32(1, 1, 1, 6), out)
    return OpSpec("conv2d", inputs, (False, True, True, False), attrs, out, out, steps)


def square() -> OpSpec:
    """A convolution whose own input is added to its result."""
    op = replace(conv(1, 40, 1, (1, 1, 1, 1)), epilogue=(Step("add", ("anchor", "i0"), "float32"),))
    data = f32(1, 40, 9, 6)
    return replace(op, inputs=(data, f32(6, 6, 3, 3)), constant=(False, True), anchor_type=data, output=data)


def pooled(mode: str) -> OpSpec:
    result = f32(1, 21, 3, 1)
    return replace(pool(mode), inputs=(f32(1, 41, 3, 1),), anchor_type=result, output=result)


def permuted() -> OpSpec:
    op = matmul(50, 7, 5)
    return replace(op, attrs=tuple(sorted({**dict(op.attrs), "out_perm": (1, 0)}.items())), output=f32(7, 50))


def attention() -> OpSpec:
    """2 heads of 60 queries and 9 keys, heads within rows, a mask of each kind, and a causal one with an offset."""
    order = (0, 2, 1, 3)
    attrs = dict.fromkeys(("q_perm", "k_perm", "v_perm", "out_perm"), order)
    attrs |= {"scale": 0.3, "masks": (ADDED, KEEPS, ADDED), "fill": "-inf", "causal": 1, "offset": 3, "zero_rows": 1}
    masks = f32(60, 9), TensorType((1, 2, 60, 1), "bool"), f32(9)
    inputs = (f32(1, 60, 2, 5), f32(1, 9, 2, 5), f32(1, 9, 2, 4), *masks)
    result = f32(1, 2, 60, 4)
    op = OpSpec("attention", inputs, (False,) * 6, tuple(sorted(attrs.items())), result, f32(1, 60, 2, 4))
    return replace(
        op, inputs=(*inputs, result), constant=(False,) * 7, epilogue=(Step("add", ("anchor", "i6"), "float32"),)
    )


OPERATORS = {
    "attention": attention(),
    "rows": conv(1, 60, 1, (1, 1, 1, 1)),
    "stride": conv(2, 61, 2, (0, 1, 2, 0)),
    "dilation": conv(1, 70, 3, (3, 2, 1, 2), dilation=2),
    "batch": conv(50, 6, 1, (1, 1, 1, 1)),
    "input again": square(),
    "maximum": pooled("max"),
    "mean": pooled("avg"),
    "matmul": matmul(60, 8, 5, ("add", ("anchor", "i2")), extra=(60, 8)),
    "columns": matmul(3, 80, 5, ("multiply", ("anchor", "i2")), extra=(80,)),
    "permuted": permuted(),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_bands_are_parts_of_the_whole(name: str) -> None:
    op = OPERATORS[name]
    arrays = random_operands(op, 0)
    whole, bands = evaluate(op, arrays), truth(op, arrays, most=16).bands
    assert len(bands) == 4, "the operator was to be cut"
    for where, expected in bands:
        # Products of fewer rows may be summed in another order.
        np.testing.assert_allclose(expected.values, whole.values[where], rtol=1e-13)
    assert bands[0][0] != bands[-1][0]


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_wrong_is_found(name: str) -> None:
    op = OPERATORS[name]
    arrays = random_operands(op, 0)
    whole, expected = evaluate(op, arrays), truth(op, arrays, most=16)
    right = whole.values.astype(np.float32)
    error, _, index = expected.worst(right)
    assert index is None
    assert error < 1e-5
    for place in ((0,) * right.ndim, tuple(d - 1 for d in right.shape)):
        wrong = right.copy()
        wrong[place] += whole.largest
        _, value, index = expected.worst(wrong)
        assert index == place
        assert value == pytest.approx(whole.values[place])
    for place in np.ndindex(*right.shape[:2]):
        unwritten = right.copy()
        unwritten[place] = np.nan
        assert expected.worst(unwritten)[2] is not None


def test_small_results_are_compared_whole() -> None:
    op = OPERATORS["rows"]
    assert [where for where, _ in truth(op, random_operands(op, 0)).bands] == [()]


def test_a_photograph_takes_seconds() -> None:
    """3 x 3 of 64 channels at 1920 x 1080: all of it would be 150 billion operations and several gigabytes."""
    image = f32(1, 1080, 1920, 64)
    attrs = (("dilation", (1, 1)), ("groups", 1), ("padding", (1, 1, 1, 1)), ("strides", (1, 1)))
    op = OpSpec("conv2d", (image, f32(64, 64, 3, 3)), (False, True), attrs, image, image)
    data = np.broadcast_to(np.float32(0.5), (1, 1080, 1920, 64))
    weight = np.full((64, 64, 3, 3), 0.25, np.float32)
    expected = truth(op, [data, weight])
    assert sum(e.values.size for _, e in expected.bands) <= 5 << 20
    corner, inside = expected.bands[0][1].values[0, 0, 0, 0], expected.bands[1][1].values[0, 0, 5, 0]
    assert (corner, inside) == (4 * 64 * 0.125, 9 * 64 * 0.125)
