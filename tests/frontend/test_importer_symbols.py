"""What the importer can prove of symbolic sizes."""

import random

import pytest

from kompilo.compiler.frontend.ratio import Ratio
from kompilo.compiler.frontend.slicing import python_slice, slice_bounds
from kompilo.compiler.frontend.symbols import Symbols, dim_text, identifier

S = Symbols()
H, W = S.var("h"), S.var("w")

LESS = {
    "variable_positive": (0, H, True),
    "variable_not_minus_one": (H, -1, False),
    "half": (H // 2, H + 1, True),
    "half_not_more": (H, H // 2, False),
    "strided": ((H - 1) // 2 + 1, H + 1, True),
    "nested": (((H - 1) // 2 + 1) // 2, H + 1, True),
    "unrelated": (H, W, None),
    "depends": (H, 5, None),
    "int_max": (H, 2**31 - 1, True),
    "product": (H * 2, H * 3, True),
}


@pytest.mark.parametrize(("a", "b", "expected"), LESS.values(), ids=LESS.keys())
def test_less(a, b, expected):
    assert S.less(a, b) is expected


def test_equal():
    assert S.equal(H * 3 // 3, H) is True
    assert S.equal(H, H + 1) is False
    assert S.equal(H, W) is None
    assert S.equal(H, -1) is False


def test_minimum_and_maximum():
    assert S.minimum(H, 2**31 - 1).same_as(H)
    assert S.maximum(H, 0).same_as(H)
    assert dim_text(S.minimum(H // 2, H)) == "h // 2"
    assert dim_text(S.minimum(H, W)) == "min(h, w)"


def test_truncating_division():
    assert [S.truncdiv(a, b) for a, b in ((7, 2), (-7, 2), (7, -2), (-7, -2))] == [3, -3, -3, 3]
    assert dim_text(S.truncdiv(H * 6, 3)) == "h * 2"


def test_ratios():
    assert dim_text((Ratio.of(H) * 2.0).trunc(S)) == "h * 2"
    assert dim_text((Ratio.of(H) * 0.5).floor(S).num) == "h // 2"
    assert dim_text((H * Ratio.of(0.5)).ceil(S).num) == "(h + 1) // 2"
    with pytest.raises(ArithmeticError):
        Ratio.of(0.1)
    with pytest.raises((ArithmeticError, ValueError)):
        Ratio.of(float("nan"))


def test_identifiers():
    assert [identifier(n) for n in ("a.b/c", "1x", "", "ok")] == ["a_b_c", "_1x", "_", "ok"]


def test_slices_agree_with_python_where_it_clamps_alike():
    rng = random.Random(0)
    for _ in range(3000):
        size, start, end, step = rng.randint(0, 6), rng.randint(-9, 9), rng.randint(-9, 9), rng.choice([-3, -1, 1, 2])
        if step < 0 and start < -size:
            continue  # ONNX moves such a start to the first element, Python before it
        values = list(range(size))
        picked = values[python_slice(start, end, step, size)]
        assert picked == values[start:end:step]
        assert slice_bounds(start, end, step, size)[2] == len(picked)
