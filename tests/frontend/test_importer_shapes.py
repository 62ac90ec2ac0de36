"""Dynamic dimensions: names, fixing them with `inputs`, and shape computations folded at import."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kompilo.compiler.errors import InputError, ModelError, UsageError
from kompilo.compiler.frontend.importer import import_model

from op_test import check_model, floats, i64, run_imported


def model(nodes, inputs, outputs=("y",), constants=None, opset=17):
    """`inputs`: name -> dims; `constants`: name -> array."""
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n, dims in inputs.items()]
    results = [helper.make_empty_tensor_value_info(n) for n in outputs]
    weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", infos, results, weights)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


def node(op, inputs, output="y", **attrs):
    return helper.make_node(op, inputs.split(), output.split(), **attrs)


ADD = [node("Add", "a b")]
NAMED = model(ADD, {"a": ["n", 3], "b": ["n", 3]})


def shapes(imported):
    return [s.shape for s in (*imported.inputs, *imported.outputs)]


# --- names ---


def test_the_same_name_is_the_same_dimension():
    imported = import_model(NAMED)
    assert shapes(imported) == [("n", 3)] * 3
    a, b = imported.mod["main"].params
    assert a.ty.shape[0].same_as(b.ty.shape[0])


def test_unnamed_dimensions_get_names_of_their_own():
    imported = import_model(model([node("Concat", "a b", axis=0)], {"a": [None, 2, "?"], "b": [-1, 2, ""]}))
    assert shapes(imported)[:2] == [("a_dim0", 2, "a_dim2"), ("b_dim0", 2, "b_dim2")]
    assert imported.outputs[0].shape == ("a_dim0 + b_dim0", 2, "a_dim2")


def test_names_become_identifiers_and_stay_apart():
    imported = import_model(model([node("MatMul", "a b")], {"a": ["x.y", "k"], "b": ["k", "x/y"]}))
    assert shapes(imported) == [("x_y", "k"), ("k", "x_y_2"), ("x_y", "x_y_2")]


def test_names_keep_letters_of_any_language():
    imported = import_model(model([node("Relu", "x")], {"x": ["批", "n+1"]}))
    assert shapes(imported) == [("批", "n_1")] * 2
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run_imported(imported, {"x": x})[0], x)


def test_a_number_is_no_name():
    imported = import_model(model([node("Relu", "x")], {"x": ["-1", "-1"]}))
    assert shapes(imported) == [("x_dim0", "x_dim1")] * 2


@pytest.mark.parametrize("rows", [2**62, 2**70])
def test_sizes_beyond_any_memory(rows):
    with pytest.raises(UsageError, match="more elements than any memory holds"):
        import_model(NAMED, {"a": (rows, 3)})


def test_a_model_of_sizes_beyond_any_memory():
    with pytest.raises(ModelError, match=r"Input x: float32\[4611686018427387904, 3\] has more elements than"):
        import_model(model([node("Relu", "x")], {"x": [2**62, 3]}))


def test_output_formulas():
    nodes = [node("MaxPool", "x", "p", kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", "p")]
    imported = import_model(model(nodes, {"x": ["n", 3, "h", "w"]}))
    assert imported.outputs[0].shape[0] == "n"
    assert "h // 2" in imported.outputs[0].shape[1]
    assert "T." not in imported.outputs[0].shape[1]


# --- fixing dimensions ---


def test_fixing_a_named_dimension_fixes_it_everywhere():
    assert shapes(import_model(NAMED, {"a": (5, 3)})) == [(5, 3)] * 3


def test_renaming_and_joining_dimensions():
    proto = model(ADD, {"a": [None, 3], "b": [None, 3]})
    assert shapes(import_model(proto, {"a": ("batch", 3), "b": ("batch", 3)})) == [("batch", 3)] * 3
    assert shapes(import_model(proto, {"a": ("batch", 3), "b": (4, 3)}))[1:] == [(4, 3), (4, 3)]


def test_shape_given_for_an_input_without_one():
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    graph = helper.make_graph([node("Relu", "x")], "g", [info], [helper.make_empty_tensor_value_info("y")])
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    assert shapes(import_model(proto, {"x": (2, "n")})) == [(2, "n")] * 2


WRONG = {
    "name": ({"c": (2, 3)}, "input 'c', which the model does not have; it has 'a', 'b'"),
    "rank": ({"a": (2, 3, 4)}, "Input 'a' has 2 dimensions, but the given shape has 3"),
    "fixed": ({"a": (2, 4)}, "Dimension 1 of input 'a' is fixed at 3, but 4 is asked for"),
    "contradiction": ({"a": (2, 3), "b": (5, 3)}, "Dimension 0 of input 'b' is fixed at 2, but 5 is asked for"),
    "fixed_to_name": ({"a": (2, "m")}, "is fixed at 3 in the model and cannot become 'm'"),
    "negative": ({"a": (-1, 3)}, "is given as -1, expected a size"),
    "float": ({"a": (2.5, 3)}, "is given as 2.5, expected a size"),
    "empty": ({"a": ("", 3)}, "is given an empty name"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_shapes(given, message):
    with pytest.raises(UsageError, match=message):
        import_model(NAMED, given)


# --- folded shape computations: the graph keeps only the operators that touch data ---

ONE, ZERO, TWO = i64(1), i64(0), i64(2)

FOLDED = {
    # x.reshape(x.shape[0], -1)
    "reshape_batch": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Concat", "n minus", "t", axis=0),
            node("Reshape", "x t"),
        ],
        {"zero": ZERO, "minus": i64(-1)},
        ("n", "h * w * 3"),
    ),
    # heads: (n, h * 2, ...) computed with Mul, Div, Sub, Cast
    "arithmetic": (
        [
            node("Shape", "x", "s"),
            node("Split", "s sizes", "n c hw", axis=0),
            node("Mul", "n two", "n2"),
            node("Add", "n2 n2", "n4"),
            node("Div", "n4 two", "n2b"),
            node("Cast", "n2b", "f", to=TensorProto.FLOAT),
            node("Floor", "f", "g"),
            node("Cast", "g", "n2c", to=TensorProto.INT64),
            node("Sub", "n2c n", "m"),
            node("Concat", "m minus", "t", axis=0),
            node("Reshape", "x t"),
        ],
        {"sizes": i64(1, 1, 2), "two": TWO, "minus": i64(-1)},
        ("n", "h * w * 3"),
    ),
    # torch's expand: where(shape == -1, ones, shape)
    "expand_where": (
        [
            node("Shape", "x", "s"),
            node("ConstantOfShape", "four", "ones", value=numpy_helper.from_array(ONE)),
            node("Mul", "ones minus", "m"),
            node("Equal", "s m", "e"),
            node("Where", "e ones s", "t"),
            node("Expand", "b t"),
        ],
        {"four": i64(4), "minus": i64(-1), "b": np.float32(2)},
        ("n", 3, "h", "w"),
    ),
    "slice_to_half": (
        [
            node("Shape", "x", "s"),
            node("Slice", "s two three", "h"),
            node("Div", "h two", "half"),
            node("Slice", "x zero half two"),
        ],
        {"two": TWO, "three": i64(3), "zero": ZERO},
        ("n", 3, "h // 2", "w"),
    ),
    "upsample_by_sizes": (
        [
            node("Shape", "x", "s"),
            node("Slice", "s zero two", "nc"),
            node("Slice", "s two four", "hw"),
            node("Cast", "hw", "f", to=TensorProto.FLOAT),
            node("Mul", "f scale", "g"),
            node("Floor", "g", "k"),
            node("Cast", "k", "to", to=TensorProto.INT64),
            node("Concat", "nc to", "t", axis=0),
            node("Resize", "x   t".replace("   ", " none none "), mode="nearest"),
        ],
        {"zero": ZERO, "two": TWO, "four": i64(4), "scale": np.float32([2, 2])},
        ("n", 3, "h * 2", "w * 2"),
    ),
    "range_of_size": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s axis", "w", axis=0),
            node("Range", "start w step", "r"),
            node("Cast", "r", "f", to=TensorProto.FLOAT),
            node("Add", "x f"),
        ],
        {"axis": np.array(3), "start": np.array(0), "step": np.array(1)},
        ("n", 3, "h", "w"),
    ),
    "count_as_data": (
        [
            node("Size", "x", "s"),
            node("Cast", "s", "f", to=TensorProto.FLOAT),
            node("Div", "x f"),
        ],
        {},
        ("n", 3, "h", "w"),
    ),
    "shape_minus_max": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s three", "w", axis=0),
            node("Max", "w two", "m"),
            node("Min", "m large", "k"),
            node("Mod", "k k", "z"),
            node("ReduceProd", "s", "p", keepdims=0),
            node("Unsqueeze", "p zero", "q"),
            node("Add", "q z", "t"),
            node("Reshape", "x t"),
        ],
        {"three": i64(3), "two": i64(1), "large": i64(2**31 - 1), "zero": ZERO},
        ("n * h * w * 3",),
    ),
}


def folded_model(case, dims):
    nodes, constants, _ = case
    for n in nodes:
        for i, name in enumerate(n.input):
            n.input[i] = "" if name == "none" else name
    return model(nodes, {"x": dims}, constants=constants)


@pytest.mark.parametrize("case", FOLDED.values(), ids=FOLDED.keys())
def test_folded_shapes_dynamic(case):
    imported = check_model(folded_model(case, ["n", 3, "h", "w"]), {"x": floats(2, 3, 4, 6)})
    assert sorted(map(str, imported.outputs[0].shape)) == sorted(map(str, case[2]))
    assert "shape_of" not in imported.mod.script()


@pytest.mark.parametrize("case", FOLDED.values(), ids=FOLDED.keys())
def test_folded_shapes_static(case):
    imported = check_model(folded_model(case, [2, 3, 4, 6]), {"x": floats(2, 3, 4, 6)})
    assert all(isinstance(d, int) for d in imported.outputs[0].shape)
    assert len(imported.mod["main"].body.blocks[0].bindings) <= 6


def test_shape_as_output():
    imported = check_model(model([node("Shape", "x")], {"x": ["n", 3]}), {"x": floats(5, 3)})
    assert imported.outputs[0].shape == (2,)


def test_sizes_that_must_agree_are_checked_when_the_model_runs():
    """Halved and doubled again, an odd size is not what it was: equal only for even sizes."""
    nodes = [
        node("AveragePool", "x", "p", kernel_shape=[2], strides=[2]),
        node("Concat", "p p", "q", axis=2),
        node("Add", "x q"),
    ]
    proto = model(nodes, {"x": [1, 1, "w"]})
    imported = check_model(proto, {"x": floats(1, 1, 6)})
    with pytest.raises(InputError, match="`w // 2 \\* 2` must equal `w` for Add node"):
        run_imported(imported, {"x": floats(1, 1, 5)})


def test_target_that_depends_on_data():
    """Its elements become sizes of the run; how many there are has to be known."""
    nodes = [node("Cast", "x", "t", to=TensorProto.INT64), node("Reshape", "b t")]
    constants = {"b": floats(2, 3)}
    check_model(model(nodes, {"x": [2]}, constants=constants), {"x": np.array([3, 2], np.float32)})
    with pytest.raises(ModelError, match="Reshape node 'y': the shape must be a vector of fixed length"):
        import_model(model(nodes, {"x": ["n"]}, constants=constants))
