"""Random inputs respect what the model can digest."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kompilo.compiler.errors import InputError
from kompilo.compiler.peers.sampling import assume_sizes, draw_inputs, integer_bounds
from kompilo.compiler.tensor_spec import TensorSpec


def test_token_ids_stay_below_the_rows_of_the_table_they_index():
    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "wide"], ["embedded"]),
        helper.make_node("Gather", ["types", "ids"], ["typed"]),
    ]
    table = numpy_helper.from_array(np.zeros((50, 4), np.float32), "table")
    types = numpy_helper.from_array(np.zeros((7, 4), np.float32), "types")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, ["N", "S"])
    out = helper.make_tensor_value_info("embedded", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [ids], [out], [table, types])
    assert integer_bounds(helper.make_model(graph)) == {"ids": 7}


def test_one_hot_depth_bounds_its_indices():
    depth = numpy_helper.from_array(np.array([257], np.int64), "depth")
    values = numpy_helper.from_array(np.array([0, 1], np.float32), "values")
    ids = helper.make_tensor_value_info("bytes", TensorProto.INT32, ["N", 8])
    out = helper.make_tensor_value_info("hot", TensorProto.FLOAT, None)
    node = helper.make_node("OneHot", ["bytes", "depth", "values"], ["hot"])
    graph = helper.make_graph([node], "g", [ids], [out], [depth, values])
    assert integer_bounds(helper.make_model(graph)) == {"bytes": 257}


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("int64", 0, 9), ("int32", 0, 9), ("uint8", 0, 9), ("bool", 0, 1)],
)
def test_integers_stay_within_bounds(dtype, low, high):
    drawn = draw_inputs([TensorSpec("x", (4, 500), dtype)], seed=1, bounds={"x": 10})["x"]
    assert drawn.dtype == dtype
    assert drawn.min() == low
    assert drawn.max() == high


def test_integers_without_a_bound_are_zeros_and_ones():
    drawn = draw_inputs([TensorSpec("x", (1000,), "int64")], seed=1)["x"]
    assert set(drawn.tolist()) == {0, 1}


def test_masks_start_with_ones_and_never_hide_everything():
    mask = draw_inputs([TensorSpec("attention_mask", (50, 8), "int64")], seed=0)["attention_mask"]
    assert (mask[:, 0] == 1).all()
    assert (np.diff(mask, axis=1) <= 0).all()
    assert 0 in mask


def test_the_same_seed_draws_the_same_values():
    specs = [TensorSpec("x", (3, 4), "float32"), TensorSpec("h", (2,), "float16")]
    first, second, other = (draw_inputs(specs, seed) for seed in (5, 5, 6))
    assert all((first[n] == second[n]).all() for n in first)
    assert (first["x"] != other["x"]).any()


def test_dynamic_dimensions_get_one_item_of_64():
    specs = [TensorSpec("ids", ("batch", "seq"), "int64"), TensorSpec("img", ("batch", 3, "H", "W"), "float32")]
    fixed, sizes = assume_sizes(specs)
    assert sizes == {"batch": 1, "seq": 64, "H": 64, "W": 64}
    assert [s.shape for s in fixed] == [(1, 64), (1, 3, 64, 64)]


def test_a_dtype_that_cannot_be_drawn_is_named():
    with pytest.raises(InputError, match="x: string"):
        draw_inputs([TensorSpec("x", (1,), "string")], seed=0)
