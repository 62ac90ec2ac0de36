"""Reading and checking models: what is accepted, and each kind of broken model in one sentence."""

import hashlib
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kompilo.compiler.errors import ModelError, UsageError
from kompilo.compiler.frontend import convert
from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.tensor_spec import TensorSpec

from op_test import check_model, floats, make_model, run_imported

F32 = TensorProto.FLOAT


def tensor(name, shape, dtype=F32):
    return helper.make_tensor_value_info(name, dtype, shape)


def model(nodes, inputs, outputs, initializers=(), ir_version=8, opset=17, **fields):
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(initializers))
    return helper.make_model(
        graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)], producer_name="tests", **fields
    )


def relu_model(shape=(2, 3), **options):
    return model([helper.make_node("Relu", ["x"], ["y"], "act")], [tensor("x", shape)], [tensor("y", None)], **options)


# --- reading ---


def test_path_bytes_and_proto_give_the_same(tmp_path):
    proto = relu_model()
    path = tmp_path / "relu.onnx"
    onnx.save(proto, path)
    content = path.read_bytes()
    imported = [import_model(m) for m in (path, str(path), content, proto)]
    assert {(m.inputs, m.outputs) for m in imported} == {
        ((TensorSpec("x", (2, 3), "float32"),), (TensorSpec("y", (2, 3), "float32"),))
    }
    assert imported[0].provenance == {
        "file": "relu.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "producer": "tests",
        "ir_version": 8,
        "opsets": {"ai.onnx": 17},
    }
    assert imported[2].provenance["file"] is None


@pytest.mark.parametrize("ir_version", range(3, 15))
def test_ir_versions(ir_version):
    assert import_model(relu_model(ir_version=ir_version, opset=9)).provenance["ir_version"] == ir_version


GARBAGE = {
    "empty": b"",
    "text": b"this is not a model, it is a letter\n",
    "zeros": bytes(64),
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "random": np.random.default_rng(1).bytes(4096),
    "header_only": onnx.ModelProto(ir_version=8).SerializeToString(),
    "no_outputs": onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g")).SerializeToString(),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage(content, tmp_path):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(ModelError):
            import_model(source)


def test_every_truncation_is_a_model_error():
    content = model(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [tensor("x", (2, 3))],
        [tensor("y", None)],
        [numpy_helper.from_array(floats(2, 3), "w")],
    ).SerializeToString()
    sentences = []
    for length in range(0, len(content) - 1, 3):
        # A cut behind the last field that matters is a model still.
        try:
            assert [spec.name for spec in import_model(content[:length]).outputs] == ["y"]
        except ModelError as error:
            sentences.append(str(error))
    assert len(sentences) > len(content) // 6
    assert all(sentence.endswith(".") for sentence in sentences)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        import_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        import_model(tmp_path)
    with pytest.raises(UsageError, match="found int"):
        import_model(3)


# --- headers ---


def test_unknown_ir_version_and_opset():
    with pytest.raises(ModelError, match="IR version 99, expected 3 to 14"):
        import_model(relu_model(ir_version=99))
    with pytest.raises(ModelError, match="uses opset 999, expected at most"):
        import_model(relu_model(opset=999))


def test_missing_opset():
    proto = relu_model()
    del proto.opset_import[:]
    with pytest.raises(ModelError, match="opset_import is empty"):
        import_model(proto)
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelError, match="Relu node 'act' is of domain 'ai.onnx', for which the model imports"):
        import_model(proto)


def test_unknown_domain_and_operator():
    node = helper.make_node("Fancy", ["x"], ["y"], "f", domain="com.example")
    proto = model([node], [tensor("x", (2,))], [tensor("y", None)])
    with pytest.raises(ModelError, match="Fancy node 'f' is of domain 'com.example'"):
        import_model(proto)
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelError, match="Fancy node 'f': domain 'com.example' has no operator 'Fancy'"):
        import_model(proto)
    proto = model([helper.make_node("Relo", ["x"], ["y"], "f")], [tensor("x", (2,))], [tensor("y", None)])
    with pytest.raises(ModelError, match="Relo node 'f': ONNX has no operator 'Relo'"):
        import_model(proto)
    training = "ai.onnx.preview.training"
    node = helper.make_node("Gradient", ["x"], ["y"], "f", domain=training, xs=["x"], y="x")
    proto = model([node], [tensor("x", (2,))], [tensor("y", None)])
    proto.opset_import.append(helper.make_opsetid(training, 1))
    with pytest.raises(ModelError, match=r"Gradient node 'f': operator Gradient \(opset 1\) is not supported"):
        import_model(proto)


# --- wiring ---


def chain(*wires):
    """Relu nodes named by their output."""
    return [helper.make_node("Relu", [a], [b], f"to_{b}") for a, b in wires]


def test_nodes_in_any_order():
    proto = model(chain(("b", "y"), ("a", "b"), ("x", "a")), [tensor("x", (2,))], [tensor("y", None)])
    assert import_model(proto).outputs[0].shape == (2,)


def test_long_chain_in_reverse():
    names = ["x", *(f"t{i}" for i in range(3000)), "y"]
    wires = list(pairwise(names))[::-1]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in wires]
    assert import_model(model(nodes, [tensor("x", (2,))], [tensor("y", None)])).outputs[0].shape == (2,)


WIRING = {
    "cycle": (chain(("y", "a"), ("a", "y")), "depends on its own output"),
    "self_loop": (chain(("y", "y")), "'to_y' depends on its own output"),
    "undefined_input": (chain(("nowhere", "y")), "'to_y' reads 'nowhere', which no node, input or initializer defines"),
    "undefined_output": (chain(("x", "a")), "Output 'y' of the graph is not produced"),
    "produced_twice": (chain(("x", "y"), ("x", "y")), "Tensor 'y' is produced by Relu node 'to_y' and by Relu node"),
    "produces_input": (chain(("x", "x"), ("x", "y")), "produces 'x', which is already an input"),
}


@pytest.mark.parametrize(("nodes", "message"), WIRING.values(), ids=WIRING.keys())
def test_broken_wiring(nodes, message):
    with pytest.raises(ModelError, match=message):
        import_model(model(nodes, [tensor("x", (2,))], [tensor("y", None)]))


def test_unused_nodes_are_not_converted():
    nodes = [*chain(("x", "y")), helper.make_node("Multinomial", ["x"], ["unused"])]
    assert import_model(model(nodes, [tensor("x", (2,))], [tensor("y", None)])).outputs[0].name == "y"


def test_duplicate_inputs_and_initializers():
    with pytest.raises(ModelError, match="two inputs named 'x'"):
        import_model(model(chain(("x", "y")), [tensor("x", (2,)), tensor("x", (2,))], [tensor("y", None)]))
    weights = [numpy_helper.from_array(floats(2), "w")] * 2
    with pytest.raises(ModelError, match="Two initializers are named 'w'"):
        import_model(model(chain(("w", "y")), [], [tensor("y", None)], weights))


def test_missing_required_input():
    proto = model([helper.make_node("Add", ["x"], ["y"], "sum")], [tensor("x", (2,))], [tensor("y", None)])
    with pytest.raises(ModelError, match="Add node 'sum': input 1 is required and was not found"):
        import_model(proto)


def test_other_errors_name_the_node_and_keep_their_cause(monkeypatch):
    def fails(node):
        raise RuntimeError("first line\nlast line")

    monkeypatch.setattr(convert, "find_converter", lambda *_: fails)
    with pytest.raises(ModelError, match="Relu node 'act' cannot be converted: RuntimeError: last line") as error:
        import_model(relu_model())
    assert error.value.__cause__ is not None


def test_names_that_are_not_text():
    for place in (b"act", b"Relu", b"xq", b"nq"):
        proto = model(
            [helper.make_node("Relu", ["xq"], ["y"], "act")], [tensor("xq", ("nq",))], [tensor("y", None)]
        ).SerializeToString()
        with pytest.raises(ModelError, match="is damaged: the name .* is not UTF-8 text"):
            import_model(proto.replace(place, b"\xff\xfe" + place[2:]))


# op, inputs as (shape, dtype), attributes, message
MISMATCHES = {
    "kind_of_attribute": ("Softmax", [((2,), F32)], {"axis": 1.5}, "attribute 'axis' must be INT, found FLOAT"),
    "list_for_number": ("Softmax", [((2,), F32)], {"axis": [1]}, "attribute 'axis' must be INT, found INTS"),
    "element_type": ("Not", [((2,), F32)], {}, "input 0 has elements of float32, expected one of bool"),
    "two_element_types": (
        "Add",
        [((2,), F32), ((2,), TensorProto.INT32)],
        {},
        "inputs 0 and 1 must have elements of one type, found float32 and int32",
    ),
    "variadic_element_types": (
        "Concat",
        [((2,), F32), ((2,), TensorProto.INT32)],
        {"axis": 0},
        "inputs 0 and 1 must have elements of one type",
    ),
    "no_inputs": ("Relu", [], {}, "input 0 is required and was not found"),
    "too_many_inputs": ("Relu", [((2,), F32)] * 2, {}, "has 2 inputs, expected at most 1"),
}


@pytest.mark.parametrize(("op", "inputs", "attrs", "message"), MISMATCHES.values(), ids=MISMATCHES.keys())
def test_nodes_that_do_not_fit_the_schema(op, inputs, attrs, message):
    infos = [tensor(f"x{i}", *spec) for i, spec in enumerate(inputs)]
    node = helper.make_node(op, [info.name for info in infos], ["y"], "n", **attrs)
    with pytest.raises(ModelError, match=f"{op} node 'n'.*{message}"):
        import_model(model([node], infos, [tensor("y", None)]))


def test_a_window_wider_than_all_channels_costs_nothing():
    node = helper.make_node("LRN", ["x"], ["y"], size=10**9)
    mod = import_model(make_model([node], {"x": floats(1, 5, 2, 2)}, ["y"])).mod
    assert len(mod.script()) < 10_000, "as many operators as the window has channels would be far longer"


@pytest.mark.parametrize("shapes", [{"x": 5}, {"x": None}, {"x": "ab"}, [2, 3]])
def test_shapes_that_are_no_lists(shapes):
    with pytest.raises(UsageError, match="expected a"):
        import_model(relu_model(("a", "b")), shapes)


def test_the_importer_works_after_an_error(capfd):
    test_missing_required_input()
    import_model(relu_model())
    assert capfd.readouterr().err == ""


# --- inputs and outputs ---


def test_initializers_listed_as_inputs_are_constants():
    weights = numpy_helper.from_array(floats(3), "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    proto = model(
        nodes, [tensor("x", (2, 3)), tensor("w", (3,))], [tensor("y", None)], [weights], ir_version=3, opset=8
    )
    assert [s.name for s in import_model(proto).inputs] == ["x"]


def test_outputs_that_are_inputs_initializers_or_twice_the_same():
    proto = model(
        chain(("x", "y")),
        [tensor("x", (2,))],
        [tensor("y", None), tensor("x", (2,)), tensor("w", None), tensor("y", None)],
        [numpy_helper.from_array(floats(3), "w")],
    )
    imported = import_model(proto)
    assert [s.name for s in imported.outputs] == ["y", "x", "w", "y"]
    x = floats(2)
    y, x_again, w, y_again = run_imported(imported, {"x": x})
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(x_again, x)
    np.testing.assert_array_equal(w, floats(3))
    np.testing.assert_array_equal(y_again, y)


def test_types_that_are_not_tensors_or_not_supported():
    sequence = helper.make_tensor_sequence_value_info("x", F32, None)
    with pytest.raises(ModelError, match="Input 'x' must be a tensor, found sequence"):
        import_model(model(chain(("x", "y")), [sequence], [tensor("y", None)]))
    with pytest.raises(ModelError, match="Input 'x' has element type STRING"):
        import_model(model(chain(("x", "y")), [tensor("x", (2,), TensorProto.STRING)], [tensor("y", None)]))
    with pytest.raises(ModelError, match="Input 'x' has no shape in the model"):
        import_model(model(chain(("x", "y")), [tensor("x", None)], [tensor("y", None)]))


def test_damaged_initializer():
    weights = numpy_helper.from_array(floats(4), "w")
    weights.raw_data = weights.raw_data[:-3]
    with pytest.raises(ModelError, match="Tensor 'w' is damaged"):
        import_model(model(chain(("w", "y")), [], [tensor("y", None)], [weights]))


def test_constants_alone(tmp_path):
    nodes = [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    proto = make_model(nodes, {"x": floats(2, 3), "w": floats(4, 3)}, ["y"], const=("w",))
    check_model(proto, {"x": floats(2, 3)})
    folded = import_model(proto).mod.script()
    assert "permute_dims" not in folded


def test_constant_attributes():
    nodes = [
        helper.make_node("Constant", [], ["a"], value_float=2.0),
        helper.make_node("Constant", [], ["b"], value_ints=[2, 3]),
        helper.make_node("Expand", ["a", "b"], ["c"]),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]
    check_model(make_model(nodes, {"x": floats(2, 3)}, ["y"]), {"x": floats(2, 3)})
