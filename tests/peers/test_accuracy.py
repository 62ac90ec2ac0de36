"""Accuracy of lower precision."""

import math

import numpy as np
import pytest

from kompilo.compiler.peers.accuracy import Accuracy, add_outputs


def test_figures_grow_over_samples():
    found: dict[str, Accuracy] = {}
    reference = np.array([[1.0, 0.0], [0.0, 3.0]])
    add_outputs(found, {"o": np.array([[1.1, 0.0], [0.0, 3.0]])}, {"y": reference}, np.array([0, 0]))
    add_outputs(found, {"o": np.array([[0.0, 1.0]])}, {"y": np.array([[-1.0, -2.0]])}, np.array([1]))
    (y,) = found.values()
    assert y.name == "y"
    assert y.max_abs == 3.0
    assert y.error == 3.0 / 5.0
    assert y.agreement == pytest.approx(2 / 3)
    assert y.correct == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert y.sqnr == pytest.approx(10 * math.log10(15 / 10.01))


def test_classes_may_have_axes_of_size_one_behind():
    y = Accuracy("y")
    y.add(np.array([0.0, 1.0]).reshape(1, 2, 1, 1), np.array([0.5, 0.0]).reshape(1, 2, 1, 1), np.array([1]))
    assert y.agreement == 0.0
    assert y.correct == (0.0, 1.0)


def test_what_is_no_classifier_has_no_agreement():
    y = Accuracy("y")
    y.add(np.ones((1, 2, 3)), np.ones((1, 2, 3)))
    assert (y.agreement, y.correct, y.sqnr, y.error) == (None, None, math.inf, 0.0)
    y.add(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)))
    assert y.as_dict()["top1_agreement"] is None


def test_integers_are_left_out():
    found: dict[str, Accuracy] = {}
    add_outputs(found, {"i": np.ones(3, int)}, {"i": np.ones(3, int)})
    assert not found
