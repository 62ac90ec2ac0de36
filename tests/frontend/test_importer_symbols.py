"""What the importer can prove of symbolic sizes."""

import random

import pytest
import tvm_ffi
from tvm import tirx

from kompilo.compiler.frontend.bounds import lower_bound
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
    "maximum": (H // 2, tirx.max(H, tirx.IntImm("int64", 7)), True),
    "of_maximum": (tirx.max(H // 8, tirx.IntImm("int64", 1)), H + 1, True),
    "of_maximum_depends": (tirx.max(H // 8, tirx.IntImm("int64", 3)), H + 1, None),
    "minimum": (tirx.min(W, H), H + 1, True),
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


def test_remainders_cancel_and_constants_come_last():
    """Padding to whole frames, as exporters write it: x + (ceil(x / 256) * 256 - x), counted in frames."""
    x = S.simplify(tirx.max(tirx.IntImm("int64", 256), H))
    assert dim_text(x) == "max(h, 256)"
    padding = S.simplify((x + 255) // 256 * 256 - x)
    assert dim_text(S.simplify((x + padding + 1024) // 256)) == "(max(h, 256) + 255) // 256 + 4"
    assert dim_text(S.simplify(tirx.floormod(H, tirx.IntImm("int64", 3)))) == "h % 3"


def test_lower_bounds_hold():
    """For random expressions: never above what a run computes; and known for most."""
    rng = random.Random(1)
    variables = [H, W]

    def grown(depth):
        if depth == 0:
            return rng.choice([*variables, tirx.IntImm("int64", rng.randint(-5, 9))])
        a, b, c = grown(depth - 1), grown(depth - 1), rng.randint(1, 7)
        return rng.choice([a + b, a - b, a * c, a // c, tirx.max(a, b), tirx.min(a, b)])

    known = 0
    for _ in range(150):
        expr, values = grown(rng.randint(1, 4)), {v: rng.randint(1, 40) for v in variables}
        bound = lower_bound(expr, 1, 40)
        known += bound is not None
        replaced = [(tirx.Var, lambda v, values=values: tirx.IntImm("int64", values[v]))]
        found = S.simplify(tvm_ffi.structural_map(expr, replaced, order="post"))
        assert bound is None or bound <= found, expr
    assert known > 75


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
