"""Ranges over samples."""

import numpy as np
import pytest

from kompilo.compiler.calibration.ranges import measure_ranges
from kompilo.compiler.errors import InputError, UsageError


def run(sample):
    return [sample["x"], -2 * sample["x"], 0 * sample["x"]]


def test_minmax_takes_the_largest_magnitude_of_all_samples():
    samples = [{"x": np.array([1.0, -3.0], "f4")}, {"x": np.array([2.5, 0.0], "f4")}]
    assert measure_ranges(run, samples, "minmax").tolist() == [3.0, 6.0, 0.0]


def test_percentile_cuts_the_few_largest_off():
    values = np.concatenate([np.linspace(0, 1, 200_000), [50.0]]).astype("f4")
    rare, doubled, nothing = measure_ranges(run, [{"x": values}], "percentile")
    assert 1.0 <= rare < 1.02
    assert doubled == 2 * rare
    assert nothing == 0.0
    # One in 100 is not rare.
    assert measure_ranges(run, [{"x": np.array([*[1.0] * 99, 50.0], "f4")}], "percentile")[0] == 50.0


def test_what_is_not_finite_is_told():
    with pytest.raises(InputError, match="sample 1 gives values that are NaN or infinite"):
        measure_ranges(run, [{"x": np.ones(2)}, {"x": np.array([np.nan, 1])}], "minmax")


def test_unknown_methods_are_refused():
    with pytest.raises(UsageError, match="expected minmax or percentile, found 'entropy'"):
        measure_ranges(run, [], "entropy")
