"""Results as long as data decide: NonZero, Compress, Unique and NonMaxSuppression."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from kompilo.compiler.frontend.importer import import_model

from op_test import bools, check_model, check_op, floats, ints, make_model, run_imported


@pytest.mark.parametrize("x", [ints(3, 5, 2, low=0, high=2), bools(7), np.zeros((2, 3), np.float32)])
def test_non_zero(x: np.ndarray) -> None:
    """Also where nothing is chosen."""
    check_op("NonZero", [x], dynamic=x.dtype != bool)


@pytest.mark.parametrize(
    ("axis", "flags"), [(1, [0, 1, 0, 1]), (-1, [1, 1, 0]), (None, [0, 1, 0, 0, 1, 1, 0]), (0, [0])]
)
def test_compress(axis: int | None, flags: list[int]) -> None:
    """Fewer flags than slices leave the rest out."""
    attributes = {} if axis is None else {"axis": axis}
    check_op("Compress", [floats(3, 5, 2)[:, :, : 2 if axis != -1 else None], np.array(flags, bool)], attributes)


def test_what_is_chosen_goes_on() -> None:
    """A sum over, and a gather of, as many elements as a run has above zero."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["g"]),
        helper.make_node("Compress", ["x", "g"], ["c"]),
        helper.make_node("Exp", ["c"], ["e"]),
        helper.make_node("ReduceSum", ["e"], ["s"], keepdims=0),
        helper.make_node("Shape", ["c"], ["n"]),
    ]
    x = floats(13)
    model = make_model(nodes, {"x": x, "zero": np.float32(0)}, ["e", "s", "n"], const=["zero"], dynamic=["x"])
    check_model(model, {"x": x})
    found = run_imported(import_model(model), {"x": -np.abs(x)})
    assert [found[0].size, found[1].tolist(), found[2].tolist()] == [0, 0.0, [0]]


@pytest.mark.parametrize("in_order", [0, 1])
@pytest.mark.parametrize("shape", [(37,), (3, 5)])
def test_unique(shape: tuple[int, ...], in_order: int) -> None:
    check_op("Unique", [ints(*shape, low=-4, high=4)], {"sorted": in_order}, outputs=4, dynamic=in_order == 1)


@pytest.mark.parametrize(("axis", "in_order"), [(0, 1), (1, 0), (-1, 1)])
def test_unique_slices(axis: int, in_order: int) -> None:
    x = ints(5, 4, 3, low=0, high=2, dtype="float32").take([0, 3, 0, 1, 3], 0).take([0, 1, 1, 0], 1).take([2, 1, 2], 2)
    check_op("Unique", [x], {"axis": axis, "sorted": in_order}, outputs=4)


def test_unique_nan_and_halves() -> None:
    """NaN is one element, and the last."""
    x = np.array([np.nan, 2, -np.inf, 2, np.nan, -0.0, 0.0], np.float16)
    wanted = [np.array([-np.inf, 0, 2, np.nan], np.float16), np.array([2, 5, 1, 0]), np.array([3, 2, 0, 2, 3, 1, 1])]
    check_op("Unique", [x], outputs=3, reference=wanted)


@pytest.mark.parametrize("centered", [0, 1])
@pytest.mark.parametrize("known", [False, True])
def test_non_max_suppression(centered: int, known: bool) -> None:
    """Several batches and classes; corners in any order; limits that are data or known."""
    boxes, scores = floats(2, 23, 4, low=0.1, high=2), floats(2, 3, 23, low=0, high=1)
    inputs = [boxes, scores, np.array([5]), np.float32([0.4]), np.float32([0.3])]
    const = (2, 3, 4) if known else ()
    dynamic = [] if known else [1]
    check_op("NonMaxSuppression", inputs, {"center_point_box": centered}, const=const, dynamic=dynamic)


@pytest.mark.parametrize(("most", "least"), [(0, 0.5), (3, 2.0), (100, -1.0)])
def test_non_max_suppression_of_none_and_all(most: int, least: float) -> None:
    boxes, scores = floats(1, 7, 4, low=0, high=1), floats(1, 2, 7, low=0, high=1)
    check_op("NonMaxSuppression", [boxes, scores, np.array(most), np.float32(0.5), np.float32(least)])
