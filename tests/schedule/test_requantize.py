"""Fixed-point factors and requantization against integers of any length."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompilo.compiler.schedule.requantize import fixed_point, fixed_points, requantize

INT32 = st.integers(-(2**31), 2**31 - 1)


@given(INT32, st.integers(2**30, 2**31 - 1), st.integers(1, 62), st.integers(-127, 0), st.integers(0, 127))
def test_requantize_is_its_formula(acc, multiplier, shift, low, high):
    exact = (acc * multiplier + (1 << (shift - 1))) >> shift
    (found,) = requantize(np.array([acc], "i4"), np.array(multiplier, "i4"), np.array(shift, "i4"), low, high)
    assert found == min(max(exact, low), high)
    assert found.dtype == np.int8


@given(st.floats(2.0**-32, 2.0**29))
def test_factors_are_as_close_as_31_bits_allow(factor):
    multiplier, shift = fixed_point(factor)
    assert 2**30 <= multiplier < 2**31
    assert 1 <= shift <= 62
    assert abs(multiplier * 2.0**-shift / factor - 1) <= 2.0**-31


@pytest.mark.parametrize(
    ("factor", "expected"),
    {0.0: (0, 1), 2.0**-33: (0, 1), 1.0: (2**30, 30), 2.0**31: (2**31 - 1, 1), 1 - 2.0**-33: (2**30, 30)}.items(),
)
def test_factors_at_the_ends(factor, expected):
    assert fixed_point(factor) == expected


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_other_factors_are_refused(factor):
    with pytest.raises(ValueError, match="not negative|at least 0"):
        fixed_point(factor)


def test_factors_keep_their_shape():
    multiplier, shift = fixed_points(np.full((3, 1, 1), 0.75))
    assert multiplier.shape == shift.shape == (3, 1, 1)
    assert requantize(np.full((1, 3, 2, 2), 4, "i4"), multiplier, shift, -127, 127).tolist() == [[[[3] * 2] * 2] * 3]


def test_the_arithmetic_needs_no_tvm():
    code = "import sys, kompilo.compiler.schedule.requantize; assert 'tvm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
