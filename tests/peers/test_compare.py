"""Errors between outputs, mismatches of NaN and infinity included."""

import numpy as np
import pytest

from kompilo.compiler.peers.compare import output_error, output_errors, worst

INF, NAN = np.inf, np.nan


def test_an_output_that_the_reference_lacks_is_a_mismatch():
    one = np.ones(1, np.float32)
    known, extra = output_errors({"y": one, "w": one}, {"y": one})
    assert (known.name, known.mismatch) == ("y", None)
    assert (extra.name, extra.mismatch) == ("w", "the reference has no such output")


@pytest.mark.parametrize(
    ("ours", "reference", "max_abs", "max_rel"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, 0.0),
        ([1.0, 4.5], [1.0, 4.0], 0.5, 0.125),
        ([0.5, 0.0], [0.0, 0.0], 0.5, 0.5),
        ([NAN, INF, -INF, 1.0], [NAN, INF, -INF, 1.0], 0.0, 0.0),
        ([], [], 0.0, 0.0),
    ],
)
def test_error(ours, reference, max_abs, max_rel):
    error = output_error("y", np.array(ours, np.float32), np.array(reference, np.float32))
    assert (error.max_abs, error.max_rel, error.mismatch) == (max_abs, max_rel, None)


@pytest.mark.parametrize(
    ("ours", "reference", "says"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), "shape"),
        (np.zeros(2, np.float64), np.zeros(2, np.float32), "dtype"),
        (np.array([NAN, 1.0], np.float32), np.array([0.0, 1.0], np.float32), "NaN"),
        (np.array([0.0, 1.0], np.float32), np.array([NAN, 1.0], np.float32), "NaN"),
        (np.array([INF], np.float32), np.array([-INF], np.float32), "infinite"),
        (np.array([NAN], np.float32), np.array([INF], np.float32), "infinite"),
    ],
)
def test_mismatches_fail_every_tolerance(ours, reference, says):
    error = output_error("y", ours, reference)
    assert says in error.mismatch
    assert not error.passes(1e30)


def test_integers_are_compared_without_overflow():
    error = output_error("y", np.array([127], np.int8), np.array([-128], np.int8))
    assert error.max_abs == 255


def test_outputs_pair_by_name_then_by_position():
    a, b = np.array([1.0]), np.array([2.0])
    assert [e.max_abs for e in output_errors({"p": b, "q": a}, {"q": a, "p": b})] == [0, 0]
    assert [e.max_abs for e in output_errors({"0": a, "1": b}, {"q": a, "p": b})] == [0, 0]
    assert output_errors({"q": a}, {"q": a, "p": b})[1].mismatch == "output is missing"


def test_the_worst_of_two_errors_is_kept():
    small, large = (output_error("y", np.array([x]), np.array([1.0])) for x in (1.1, 1.2))
    assert worst(small, large) is large
    assert worst(large, small) is large
