"""Operators defined by other operators: function bodies of ONNX's schemas, functions of the model, and If."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from kompilo.compiler.errors import ModelError
from kompilo.compiler.frontend import functions
from kompilo.compiler.frontend.importer import import_model

from op_test import check_model, check_op, floats

X = floats(2, 3, 4)

# Operators that have no converter of their own: each expands to the nodes of its schema's function.
EXPANDED = {
    "negative_log_likelihood": (
        "NegativeLogLikelihoodLoss",
        [floats(3, 5), np.array([1, 4, 0])],
        {"reduction": "mean"},
        {"rtol": 1e-4, "opset": 13},
    ),
    "affine_grid": ("AffineGrid", [floats(2, 2, 3), np.array([2, 1, 2, 3])], {}, {"const": (1,), "opset": 20}),
}


@pytest.mark.parametrize("case", EXPANDED.values(), ids=EXPANDED.keys())
def test_schema_functions(case):
    op, inputs, attrs, options = case
    check_op(op, inputs, attrs, **options)


def local_function(nodes, name="Scaled", inputs=("a",), outputs=("r",), attributes=(), opset=17):
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, list(inputs), list(outputs), nodes, opsets, attributes=list(attributes))


def model_with(nodes, function_list, outputs=("y",), dims=(2, 3, 4)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(dims))],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, functions=function_list, ir_version=8, opset_imports=opsets)


def with_reference(op, inputs, outputs, attribute, reference):
    """A node whose attribute is the calling function's."""
    node = helper.make_node(op, inputs, outputs)
    entry = node.attribute.add()
    entry.name, entry.ref_attr_name, entry.type = attribute, reference, 1
    return node


def test_local_function_with_an_attribute_called_twice():
    body = [with_reference("LeakyRelu", ["a"], ["b"], "alpha", "slope"), helper.make_node("Neg", ["b"], ["r"])]
    calls = [
        helper.make_node("Scaled", ["x"], ["t"], domain="local", slope=0.5),
        helper.make_node("Scaled", ["t"], ["y"], domain="local", slope=0.25),
    ]
    check_model(model_with(calls, [local_function(body, attributes=["slope"])]), {"x": X})


def test_local_function_hides_a_standard_operator_and_nests():
    inner = local_function([helper.make_node("Relu", ["a"], ["r"])], "Inner")
    outer = local_function(
        [
            helper.make_node("Inner", ["a"], ["t"], domain="local"),
            helper.make_node("Inner", ["b"], ["s"], domain="local"),
            helper.make_node("Sub", ["t", "s"], ["r"]),
        ],
        "Outer",
        inputs=("a", "b"),
    )
    calls = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Outer", ["x", "n"], ["y"], domain="local")]
    check_model(model_with(calls, [inner, outer]), {"x": X})


def test_local_function_that_calls_itself():
    body = [helper.make_node("Scaled", ["a"], ["r"], domain="local")]
    call = helper.make_node("Scaled", ["x"], ["y"], "call", domain="local")
    with pytest.raises(ModelError, match="function 'Scaled' calls itself"):
        import_model(model_with([call], [local_function(body)]))


def test_error_inside_a_function_names_the_call():
    body = [helper.make_node("Multinomial", ["a"], ["r"])]
    call = helper.make_node("Scaled", ["x"], ["y"], "call", domain="local")
    with pytest.raises(ModelError, match="Multinomial node 'call/Multinomial_0'"):
        import_model(model_with([call], [local_function(body)]))


def branch(op):
    """A subgraph that reads x of the graph around it."""
    return helper.make_graph(
        [helper.make_node(op, ["x"], [f"{op}_out"])], op, [], [helper.make_empty_tensor_value_info(f"{op}_out")]
    )


@pytest.mark.parametrize("condition", [True, False])
def test_if_on_a_constant(condition):
    nodes = [
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", TensorProto.BOOL, [], [condition])),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg")),
    ]
    expected = np.maximum(X, 0) if condition else -X
    check_model(model_with(nodes, []), {"x": X}, reference=[expected])


def test_if_on_a_shape():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Size", ["s"], ["rank"]),
        helper.make_node("Constant", [], ["three"], value_int=3),
        helper.make_node("Equal", ["rank", "three"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg")),
    ]
    check_model(model_with(nodes, [], dims=["n", 3, "k"]), {"x": X}, reference=[np.maximum(X, 0)])


def test_if_on_data():
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], "choice", then_branch=branch("Relu"), else_branch=branch("Neg")),
    ]
    with pytest.raises(ModelError, match="If node 'choice': its condition is data"):
        import_model(model_with(nodes, []))


def test_defaults_of_a_schema_function():
    """Attributes that the call leaves out take the schema's defaults inside the body."""
    call = helper.make_node("ThresholdedRelu", ["x"], ["y"])
    body = functions.schema_function(call, [], 22)
    bound = functions.bind(body, call, {"": 22})
    constants = [a.f for n in bound.nodes for a in n.attribute if n.op_type == "Constant"]
    assert 1.0 in constants
