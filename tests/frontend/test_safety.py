"""Indices and shapes that are wrong: an error or a clamped position, never memory that is not the tensor's."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from kompilo.compiler.errors import ModelError
from kompilo.compiler.frontend.importer import import_model

from op_test import check_op, floats, i64, make_model, reference_outputs

FAR = 10**12
POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}
IMAGE = floats(2, 1, 4, 4)
REGION = np.array([[0, 0, 3, 3]], np.float32)


@pytest.mark.parametrize("index", [FAR, -FAR])
def test_indices_far_outside_are_clamped(index):
    last = index > 0
    expected = np.zeros((1, 1, 4, 4), np.float32)
    expected.reshape(-1)[-1 if last else 0] = 5
    values = np.full((1, 1, 1, 1), 5, np.float32)
    check_op("MaxUnpool", [values, np.full((1, 1, 1, 1), index)], {"kernel_shape": [4, 4]}, reference=[expected])
    same = [IMAGE[[-1 if last else 0]], REGION, i64(0)]
    attrs = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    node = helper.make_node("RoiAlign", ["x", "r", "b"], ["y"], **attrs)
    named = dict(zip("xrb", same, strict=True))
    wanted = reference_outputs(make_model([node], named, ["y"]), named)
    check_op("RoiAlign", [IMAGE, REGION, i64(index)], attrs, reference=wanted)
    regions = np.array([[index, 0, 0, 3, 3]], np.float32)
    best = IMAGE[-1 if last else 0].max().reshape(1, 1, 1, 1)
    check_op("MaxRoiPool", [IMAGE, regions], {"pooled_shape": [1, 1]}, reference=[best])


SHAPES = {
    "gather_elements": (
        "GatherElements",
        [floats(3, 4), np.zeros((9, 1), np.int64)],
        {"axis": 1},
        "9 elements on axis 0",
    ),
    "gather_elements_rank": ("GatherElements", [floats(3, 4), i64(0)], {}, "need 2 dimensions"),
    "scatter_elements": (
        "ScatterElements",
        [floats(3, 4), np.zeros((1, 4), np.int64), floats(1, 3)],
        {},
        "input 2 needs 4 elements on axis 1, found 3",
    ),
    "scatter_elements_beside": (
        "ScatterElements",
        [floats(3, 4), np.zeros((1, 9), np.int64), floats(1, 9)],
        {},
        "9 elements on axis 1, expected at most 4",
    ),
    "scatter_nd": (
        "ScatterND",
        [floats(3, 4), np.zeros((2, 1), np.int64), floats(3, 4)],
        {},
        "input 2 needs 2 elements on axis 0, found 3",
    ),
    "gather_nd": (
        "GatherND",
        [floats(2, 3, 4), np.zeros((5, 1), np.int64)],
        {"batch_dims": 1},
        "input 1 needs 2 elements on axis 0, found 5",
    ),
    "reverse_sequence": ("ReverseSequence", [floats(3, 2, 4), i64(1, 2, 3)], {}, "input 1 needs 2 lengths"),
    "roi_align": ("RoiAlign", [IMAGE, REGION, i64(0, 1)], {}, "input 2 needs 1 regions on axis 0, found 2"),
    "grid_sample": ("GridSample", [IMAGE, floats(3, 2, 2, 2)], {}, "input 1 needs 2 grids on axis 0, found 3"),
    "deform_conv": (
        "DeformConv",
        [floats(1, 1, 3, 3), floats(1, 1, 2, 2), floats(1, 8, 2, 2), None, floats(1, 4, 2, 2, 7)],
        {},
        "expected floating-point inputs of as many dimensions",
    ),
    "conv_transpose": (
        "ConvTranspose",
        [IMAGE, floats(1, 1, 3, 3)],
        {"output_shape": [8]},
        r"'output_shape' needs 2 values, found \[8\]",
    ),
    "batch_norm": (
        "BatchNormalization",
        [IMAGE, floats(1), floats(1), floats(1), floats(1, 2)],
        {"training_mode": 1},
        r"input 4 needs one value of each channel, found shape \['1', '2'\]",
    ),
    "dropout": (
        "Dropout",
        [IMAGE, np.array(0.5, np.float32), np.ones(3, bool)],
        {},
        "input 2 needs 1 elements on axis 0, found 3",
    ),
    "suppression": (
        "NonMaxSuppression",
        [floats(1, 3, 4), floats(1, 1, 3), i64(2), floats(1, 5)],
        {},
        "input 3 needs 1 elements on axis 1, found 5",
    ),
    "max_unpool": ("MaxUnpool", [IMAGE, np.zeros((1, 1, 4, 4), np.int64)], POOL, "the indices need the input's shape"),
}


@pytest.mark.parametrize(("op", "inputs", "attrs", "message"), SHAPES.values(), ids=SHAPES.keys())
def test_shapes_that_do_not_fit(op, inputs, attrs, message):
    with pytest.raises(ModelError, match=message):
        check_op(op, inputs, attrs)


def test_constants_that_would_not_fit():
    """A repeated element is not written out where that takes gigabytes."""
    node = helper.make_node("ConstantOfShape", ["s"], ["y"])
    shape = i64(2**31, 2)
    with pytest.raises(ModelError, match="has 17179869184 bytes, expected at most"):
        import_model(make_model([node], {"s": shape}, ["y"], const=["s"]))


def test_constant_indices_far_outside_end():
    """ONNX's own evaluator would count such an index back to the axis step by step."""
    with pytest.raises(ModelError, match="GatherElements node"):
        check_op("GatherElements", [floats(2, 3), np.full((2, 3), 2**62)], const=(0, 1))
    with pytest.raises(ModelError, match="axis 0 of input 0 must be at least 9223372036854775807, found 2"):
        check_op("GatherElements", [floats(2, 3), np.full((2, 3), 2**63 - 1)], const=(1,))


def test_an_operand_is_omitted():
    with pytest.raises(ModelError, match="Min node 'y': input 1 is required and was not found"):
        import_model(make_model([helper.make_node("Min", ["x", "", "x"], ["y"])], {"x": floats(2)}, ["y"]))


def test_mod_before_its_first_opset():
    with pytest.raises(ModelError, match=r"operator Mod \(opset 6\) is not supported"):
        check_op("Mod", [floats(2, 3)], opset=6)
