"""Operators that move elements, against ONNX Runtime: one line per case; and random shapes with hypothesis."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.errors import ModelError

from op_test import bools, check_op, floats, i64, ints

X = floats(2, 3, 4)
IMAGE = floats(1, 8, 2, 3)
BIG = 2**63 - 1
DYNAMIC = {"dynamic": (0,)}


def const(*indices, **options):
    return {"const": indices, **options}


CASES = {
    "reshape": ("Reshape", [X, i64(4, 6)], {}, const(1)),
    "reshape_minus_one": ("Reshape", [X, i64(-1, 2)], {}, const(1)),
    "reshape_zero": ("Reshape", [X, i64(0, -1)], {}, const(1)),
    "reshape_allowzero": ("Reshape", [floats(0, 3), i64(3, 0)], {"allowzero": 1}, const(1)),
    "reshape_same": ("Reshape", [X, i64(2, 3, 4)], {}, const(1)),
    "reshape_dynamic": ("Reshape", [X, i64(0, 0, 2, -1)], {}, const(1, **DYNAMIC)),
    "reshape_dynamic_flat": ("Reshape", [X, i64(-1)], {}, const(1, **DYNAMIC)),
    "reshape_attribute": ("Reshape", [X], {"shape": [6, 4]}, {"opset": 1, "reference": [X.reshape(6, 4)]}),
    "flatten": ("Flatten", [X]),
    "flatten_0": ("Flatten", [X], {"axis": 0}),
    "flatten_last": ("Flatten", [X], {"axis": -1}, DYNAMIC),
    "squeeze": ("Squeeze", [floats(1, 3, 1), i64(0)], {}, const(1)),
    "squeeze_negative": ("Squeeze", [floats(1, 3, 1), i64(-1)], {}, const(1)),
    "squeeze_all": ("Squeeze", [floats(1, 3, 1)]),
    "squeeze_attribute": ("Squeeze", [floats(1, 3, 1)], {"axes": [0, 2]}, {"opset": 11}),
    "squeeze_dynamic": ("Squeeze", [floats(1, 3, 1), i64(0)], {}, const(1, **DYNAMIC)),
    "unsqueeze": ("Unsqueeze", [X, i64(0, -1)], {}, const(1)),
    "unsqueeze_attribute": ("Unsqueeze", [X], {"axes": [1]}, {"opset": 11}),
    "unsqueeze_dynamic": ("Unsqueeze", [X, i64(3, 0)], {}, const(1, **DYNAMIC)),
    "transpose": ("Transpose", [X], {"perm": [2, 0, 1]}, DYNAMIC),
    "transpose_default": ("Transpose", [X]),
    "transpose_identity": ("Transpose", [X], {"perm": [0, 1, 2]}),
    "expand": ("Expand", [floats(3, 1), i64(2, 1, 4)], {}, const(1)),
    "expand_smaller": ("Expand", [X, i64(3, 1)], {}, const(1)),
    "expand_dynamic": ("Expand", [floats(1, 3), i64(4, 1, 1)], {}, const(1, **DYNAMIC)),
    "tile": ("Tile", [X, i64(1, 2, 3)], {}, const(1)),
    "tile_dynamic": ("Tile", [X, i64(2, 1, 2)], {}, const(1, **DYNAMIC)),
    "depth_to_space_dcr": ("DepthToSpace", [IMAGE], {"blocksize": 2}),
    "depth_to_space_crd": ("DepthToSpace", [IMAGE], {"blocksize": 2, "mode": "CRD"}),
    "space_to_depth": ("SpaceToDepth", [floats(1, 2, 4, 6)], {"blocksize": 2}),
    "space_to_depth_dynamic": ("SpaceToDepth", [floats(1, 2, 4, 6)], {"blocksize": 2}, {"dynamic": True}),
    "constant_of_shape": ("ConstantOfShape", [i64(2, 3)], {}, const(0)),
    "shape": ("Shape", [X]),
    "shape_dynamic": ("Shape", [X], {}, DYNAMIC),
    "shape_part": ("Shape", [X], {"start": -2, "end": 5}, DYNAMIC),
    "size_dynamic": ("Size", [X], {}, DYNAMIC),
    "concat": ("Concat", [X, floats(2, 1, 4), floats(2, 2, 4)], {"axis": 1}),
    "concat_negative": ("Concat", [X, floats(2, 3, 1)], {"axis": -1}),
    "concat_one": ("Concat", [X], {"axis": 0}),
    "concat_empty": ("Concat", [X, floats(2, 0, 4)], {"axis": 1}),
    "concat_const": ("Concat", [X, floats(2, 1, 4)], {"axis": 1}, const(1)),
    "concat_dynamic": ("Concat", [X, floats(2, 1, 4)], {"axis": 1}, {"dynamic": True}),
    "split": ("Split", [floats(6, 2), i64(1, 2, 3)], {"axis": 0}, const(1, outputs=3)),
    "split_even": ("Split", [floats(6, 2)], {"axis": 0, "num_outputs": 3}, {"outputs": 3}),
    "split_uneven": ("Split", [floats(7, 2)], {"axis": 0, "num_outputs": 3}, {"outputs": 3}),
    "split_attribute": ("Split", [floats(6, 2)], {"axis": 0, "split": [2, 4]}, {"outputs": 2, "opset": 11}),
    "split_dynamic": ("Split", [floats(6, 2)], {"axis": 0, "num_outputs": 2}, {"outputs": 2, **DYNAMIC}),
    "slice": ("Slice", [X, i64(1, 0), i64(3, 2), i64(1, 2)], {}, const(1, 2, 3)),
    "slice_default_axes": ("Slice", [X, i64(0, 1), i64(1, 3)], {}, const(1, 2)),
    "slice_negative": ("Slice", [X, i64(-3), i64(-1), i64(-1)], {}, const(1, 2, 3)),
    "slice_steps": ("Slice", [floats(9, 2), i64(1), i64(BIG), i64(0), i64(3)], {}, const(1, 2, 3, 4)),
    "slice_reverse": ("Slice", [floats(9, 2), i64(-1), i64(-BIG), i64(0), i64(-1)], {}, const(1, 2, 3, 4)),
    "slice_reverse_2": ("Slice", [floats(9, 2), i64(7), i64(1), i64(0), i64(-2)], {}, const(1, 2, 3, 4)),
    "slice_empty": ("Slice", [floats(9, 2), i64(5), i64(5), i64(0)], {}, const(1, 2, 3)),
    "slice_attributes": ("Slice", [X], {"starts": [0, -2], "ends": [1, BIG], "axes": [0, 2]}, {"opset": 9}),
    "slice_dynamic": ("Slice", [X, i64(1), i64(BIG), i64(2)], {}, const(1, 2, 3, **DYNAMIC)),
    "slice_dynamic_last": ("Slice", [X, i64(-1), i64(BIG), i64(1)], {}, const(1, 2, 3, **DYNAMIC)),
    "slice_dynamic_steps": ("Slice", [X, i64(0), i64(-1), i64(2), i64(2)], {}, const(1, 2, 3, 4, **DYNAMIC)),
    "slice_dynamic_reverse": ("Slice", [X, i64(BIG), i64(-BIG), i64(2), i64(-1)], {}, const(1, 2, 3, 4, **DYNAMIC)),
    "gather": ("Gather", [X, i64(0, 2, -1)], {"axis": 1}, const(1)),
    "gather_runtime": ("Gather", [X, ints(2, 2, low=-3, high=3)], {"axis": 1}),
    "gather_scalar": ("Gather", [X, np.array(-1)], {"axis": 2}, const(1)),
    "gather_int32": ("Gather", [X, ints(2, low=-2, high=2, dtype="int32")], {"axis": 0}),
    "gather_dynamic": ("Gather", [X, ints(2, 2, low=-3, high=3)], {"axis": 1}, {"dynamic": True}),
    "gather_elements": ("GatherElements", [X, ints(2, 2, 4, low=-3, high=3)], {"axis": 1}),
    "gather_elements_dynamic": ("GatherElements", [X, ints(2, 2, 4, low=-3, high=3)], {"axis": 1}, {"dynamic": True}),
    "gather_nd": ("GatherND", [X, ints(5, 2, low=-2, high=2)]),
    "gather_nd_full": ("GatherND", [X, ints(5, 1, 3, low=-2, high=2)]),
    "gather_nd_batch": ("GatherND", [X, ints(2, 5, 1, low=-3, high=3)], {"batch_dims": 1}),
    "scatter_elements": ("ScatterElements", [X, i64(0, -1).reshape(1, 2, 1), floats(1, 2, 1)], {"axis": 1}),
    "scatter_elements_add": (
        "ScatterElements",
        [X, ints(2, 2, 3, low=-3, high=3), floats(2, 2, 3)],
        {"axis": 1, "reduction": "add"},
    ),
    "scatter_elements_mul": (
        "ScatterElements",
        [X, ints(2, 5, 3, low=-3, high=3), floats(2, 5, 3)],
        {"axis": 1, "reduction": "mul"},
    ),
    "scatter_elements_max": (
        "ScatterElements",
        [X, ints(1, 2, 3, low=-4, high=4), floats(1, 2, 3)],
        {"axis": 2, "reduction": "max"},
    ),
    "scatter_nd": ("ScatterND", [X, i64(0, 1, -1, 2).reshape(2, 2), floats(2, 4)]),
    "scatter_nd_add": ("ScatterND", [X, ints(5, 1, low=-2, high=2), floats(5, 3, 4)], {"reduction": "add"}),
    "scatter_nd_min": ("ScatterND", [X, ints(5, 3, low=-2, high=2), floats(5)], {"reduction": "min"}),
    "scatter_nd_dynamic": ("ScatterND", [X, i64(0, 1, -1, 2).reshape(2, 2), floats(2, 4)], {}, {"dynamic": (0, 2)}),
    "pad": ("Pad", [X, i64(0, 1, 2, 0, 0, 1)], {}, const(1)),
    "pad_value": ("Pad", [X, i64(0, 1, 2, 0, 0, 1), np.float32(3).reshape(())], {}, const(1, 2)),
    "pad_runtime_value": ("Pad", [X, i64(0, 1, 2, 0, 0, 1), np.float32(3).reshape(())], {}, const(1)),
    "pad_negative": ("Pad", [X, i64(0, -1, 2, 0, 0, -2)], {}, const(1)),
    "pad_axes": ("Pad", [X, i64(1, 2), None, i64(-1)], {}, const(1, 3)),
    "pad_int": ("Pad", [ints(2, 3), i64(1, 0, 0, 1), np.array(7)], {}, const(1, 2)),
    "pad_reflect": ("Pad", [X, i64(0, 1, 3, 0, 2, 1)], {"mode": "reflect"}, const(1)),
    "pad_edge": ("Pad", [X, i64(1, 1, 3, 0, 4, 1)], {"mode": "edge"}, const(1)),
    "pad_wrap": ("Pad", [X, i64(0, 1, 3, 0, 2, 1)], {"mode": "wrap"}, const(1)),
    "pad_attributes": ("Pad", [X], {"pads": [0, 1, 2, 0, 0, 1], "value": 2.0}, {"opset": 10}),
    "pad_dynamic": ("Pad", [X, i64(0, 1, 2, 0, 0, 1)], {}, const(1, **DYNAMIC)),
    "pad_reflect_dynamic": ("Pad", [X, i64(0, 1, 3, 0, 2, 1)], {"mode": "reflect"}, const(1, **DYNAMIC)),
    "one_hot": ("OneHot", [ints(2, 3, low=-3, high=4), np.array(4), floats(2)], {}, const(1)),
    "one_hot_axis": ("OneHot", [ints(2, 3, low=0, high=4), i64(4), ints(2)], {"axis": 0}, const(1)),
    "trilu": ("Trilu", [floats(2, 3, 4)], {}, DYNAMIC),
    "trilu_lower": ("Trilu", [floats(3, 4), np.array(1)], {"upper": 0}, const(1)),
    "trilu_negative": ("Trilu", [ints(3, 4), np.array(-1)], {}, const(1)),
    "eye_like": ("EyeLike", [floats(3, 4)], {"k": 1, "dtype": 7}),
    "eye_like_dynamic": ("EyeLike", [floats(3, 4)], {"k": -1}, DYNAMIC),
    "range": ("Range", [np.array(10), np.array(-1), np.array(-3)], {}, const(0, 1, 2)),
    "range_float": (
        "Range",
        [np.float32(0).reshape(()), np.float32(1).reshape(()), np.float32(0.3).reshape(())],
        {},
        const(0, 1, 2),
    ),
    "cumsum": ("CumSum", [X, np.array(1)], {}, const(1)),
    "cumsum_exclusive": ("CumSum", [X, np.array(2)], {"exclusive": 1}, const(1)),
    "cumsum_reverse": ("CumSum", [X, np.array(-1)], {"reverse": 1}, const(1)),
    "cumsum_both": ("CumSum", [X, np.array(0)], {"reverse": 1, "exclusive": 1}, const(1)),
    "cumprod": ("CumProd", [X, np.array(1)], {"exclusive": 1}, const(1, opset=26, reference="onnx")),
    "reverse_sequence": ("ReverseSequence", [floats(4, 3, 2), i64(1, 2, 4)]),
    "reverse_sequence_batch": ("ReverseSequence", [floats(3, 4), i64(1, 2, 4)], {"batch_axis": 0, "time_axis": 1}),
    "topk": ("TopK", [floats(3, 9), i64(4)], {}, const(1, outputs=2)),
    "topk_smallest": ("TopK", [floats(3, 9), i64(4)], {"largest": 0}, const(1, outputs=2)),
    "topk_axis": ("TopK", [floats(3, 9, 2), i64(3)], {"axis": 1}, const(1, outputs=2)),
    "topk_ties": ("TopK", [ints(4, 9, low=0, high=3), i64(5)], {}, const(1, outputs=2)),
    "topk_all": ("TopK", [floats(3, 5), i64(5)], {}, const(1, outputs=2)),
    "topk_attribute": ("TopK", [floats(3, 9)], {"k": 2}, {"opset": 9, "outputs": 2}),
    "topk_dynamic": ("TopK", [floats(3, 9), i64(4)], {}, const(1, outputs=2, **DYNAMIC)),
    "where_bool": ("Where", [bools(3, 4), floats(3, 4), floats(4)]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_operator(case):
    op, inputs, attrs, options = (*case, {}, {})[:4]
    check_op(op, inputs, attrs, **options)


ERRORS = {
    "reshape_count": ("Reshape", [X, i64(5, -1)], {}, const(1), "do not divide by 5"),
    "reshape_sizes": ("Reshape", [X, i64(5, 5)], {}, const(1), "cannot be reshaped"),
    "reshape_two_unknown": ("Reshape", [X, i64(-1, -1)], {}, const(1), "at most one -1"),
    "reshape_runtime": ("Reshape", [X, i64(4, 6)], {}, {"dynamic": [1]}, "must be a vector of fixed length"),
    "squeeze_size": ("Squeeze", [X, i64(0)], {}, const(1), "axis 0 has size 2, expected 1"),
    "unsqueeze_twice": ("Unsqueeze", [X, i64(1, 1)], {}, const(1), "name an axis twice"),
    "transpose_perm": ("Transpose", [X], {"perm": [0, 0, 1]}, {}, "not a permutation"),
    "expand_size": ("Expand", [X, i64(2, 5, 4)], {}, const(1), "size 3 does not broadcast to 5"),
    "gather_range": ("Gather", [X, i64(7)], {}, const(1), "index is out of range"),
    "gather_axis": ("Gather", [X, i64(0)], {"axis": 3}, const(1), "axis 3 is out of range"),
    "concat_sizes": ("Concat", [X, floats(2, 3, 5)], {"axis": 1}, {}, "sizes 4 and 5 on axis 2"),
    "concat_ranks": ("Concat", [X, floats(2, 3)], {"axis": 1}, {}, "3 and 2 dimensions"),
    "split_sum": ("Split", [X, i64(1, 4)], {"axis": 1}, const(1, outputs=2), "add up to 5, expected 3"),
    "slice_step": ("Slice", [X, i64(0), i64(1), i64(0), i64(0)], {}, const(1, 2, 3, 4), "step is 0"),
    "pad_count": ("Pad", [X, i64(0, 1)], {}, const(1), "2 pads are given for 3 dimensions, expected 6"),
    "pad_mode": ("Pad", [X, i64(0, 1, 2, 0, 0, 1)], {"mode": "odd"}, const(1), "mode 'odd' is not one of"),
    "add_sizes": ("Add", [X, floats(5)], {}, {}, "sizes 4 and 5 of two operands do not broadcast"),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS.keys())
def test_error(case):
    op, inputs, attrs, options, message = case
    with pytest.raises(ModelError, match=message) as error:
        check_op(op, inputs, attrs, **options)
    assert str(error.value).startswith(f"{op} node 'y0': ")


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
FEW = settings(max_examples=12, deadline=None, derandomize=True)


@FEW
@given(shape=SHAPES, data=st.data())
def test_reshape_of_any_shape(shape, data):
    perm = data.draw(st.permutations(shape))
    target = list(perm)
    hidden = data.draw(st.integers(0, len(shape) - 1))
    target[hidden] = -1
    check_op("Reshape", [floats(*shape), i64(*target)], const=(1,), dynamic=data.draw(st.booleans()) and (0,))


@FEW
@given(shape=SHAPES, data=st.data())
def test_slice_of_any_bounds(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    bounds = [-BIG, -5, -2, -1, 0, 1, 2, 5]
    step = data.draw(st.sampled_from([-2, -1, 1, 2]))
    start = data.draw(st.sampled_from([*bounds, BIG]))
    # ONNX Runtime reads BIG as "through the first element" when it is the end of a backward slice; ONNX does not.
    end = data.draw(st.sampled_from([*bounds, BIG] if step > 0 else bounds))
    check_op(
        "Slice",
        [floats(*shape), i64(start), i64(end), i64(axis), i64(step)],
        const=(1, 2, 3, 4),
        dynamic=data.draw(st.booleans()) and (0,),
    )


@FEW
@given(shape=SHAPES, indices=SHAPES, data=st.data())
def test_gather_of_any_shape(shape, indices, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    where = ints(*indices[:2], low=-shape[axis], high=shape[axis])
    check_op("Gather", [floats(*shape), where], {"axis": axis}, const=data.draw(st.sampled_from([(), (1,)])))


@FEW
@given(shape=SHAPES, data=st.data())
def test_broadcast_of_any_shape(shape, data):
    other = [d if data.draw(st.booleans()) else 1 for d in shape][data.draw(st.integers(0, len(shape) - 1)) :]
    check_op("Mul", [floats(*shape), floats(*other, seed=1)], dynamic=data.draw(st.booleans()) and (0,))
