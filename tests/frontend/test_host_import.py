"""What stays on the host, why, and in how few parts; what is refused; sequences of known length are compiled."""

import numpy as np
import pytest
from host_models import (
    BOOL,
    FLOAT,
    INT64,
    STRING,
    UINT8,
    kinds,
    model,
    node,
    optional,
    sentences,
    sequence,
    split,
    tensor,
)
from onnx import helper

import kompilo
from kompilo.compiler.frontend.host_import import import_program
from kompilo.compiler.tensor_spec import ANY_SHAPE, TensorSpec
from kompilo.errors import ModelError, UsageError


def test_parts_alternate_and_say_why():
    program = split(sentences())
    assert kinds(program) == "hch"
    assert [str(o) for o in program.host_operators] == [
        "StringNormalizer node 'CLEAN': its input 'words' holds strings",
        "TfIdfVectorizer node 'COUNTS': no target looks up n-grams",
        "ai.onnx.ml.LabelEncoder node 'LABEL': its output 'label' holds strings",
    ]
    first, second, third = program.segments
    assert [spec.name for spec in first.inputs] == ["words"]
    assert first.outputs == second.inputs == (TensorSpec("counts", (5,), "float32"),)
    assert third.inputs == (TensorSpec("best", (), "int64"),)
    assert program.inputs == (TensorSpec("words", ("n",), "string"),)
    assert program.outputs == (TensorSpec("prob", (3,), "float32"), TensorSpec("label", (), "string"))


def test_chains_that_do_not_meet_share_parts():
    """Six nodes of the host in three chains, and what reads them: one part on the host, one compiled."""
    nodes, names = [], []
    for k in range(3):
        nodes += [
            node("Relu", "x", f"r{k}"),
            node("StringConcat", "s t", f"joined{k}"),
            node("Equal", f"joined{k} s", f"same{k}"),
            node("Cast", f"same{k}", f"number{k}", to=FLOAT),
            node("Mul", f"r{k} number{k}", f"y{k}"),
        ]
        names.append(tensor(f"y{k}", FLOAT, None))
    inputs = [tensor("x", FLOAT, ["n"]), tensor("s", STRING, ["n"]), tensor("t", STRING, ["n"])]
    program = split(model(nodes, inputs, names))
    assert kinds(program) == "hc"
    assert len(program.host_operators) == 6
    assert [spec.shape for spec in program.outputs] == [("n",)] * 3


def test_sizes_and_constants_are_repeated_rather_than_handed_over():
    """The second compiled part reads `x` for its size, which stays a size: only `keys` travels to the host."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Cast", "x", "keys", to=INT64),
        node("LabelEncoder", "keys", "names", domain="ai.onnx.ml", keys_int64s=[1, 2], values_strings=["a", "b"]),
        node("Constant", "", "a", value_strings=["a"]),
        node("Equal", "names a", "is_a"),
        node("Constant", "", "two", value_ints=[2, 1]),
        node("Mul", "shape two", "doubled"),
        node("Cast", "is_a", "number", to=FLOAT),
        node("Concat", "number number", "twice", axis=0),
        node("Reshape", "twice doubled", "y"),
    ]
    program = split(model(nodes, [tensor("x", FLOAT, ["n", 3])], [tensor("y", FLOAT, None)]))
    assert kinds(program) == "chc"
    assert [spec.name for spec in program.parts[0].outputs] == ["keys"]
    assert {spec.name for spec in program.parts[2].inputs} == {"is_a", "x"}
    assert [o.operator for o in program.host_operators] == ["ai.onnx.ml.LabelEncoder", "Equal"]
    assert program.outputs[0].shape == ("n * 2", 3)


def test_an_operator_behind_an_unknown_number_of_dimensions():
    """What the evaluator is trusted with follows to the host, and says so; anything else is refused."""
    at = node("SequenceAt", "s k", "item")
    inputs, outputs = [sequence("s", FLOAT), tensor("k", INT64, [])], [tensor("y", FLOAT, None)]
    program = split(model([at, node("Neg", "item", "y")], inputs, outputs))
    assert kinds(program) == "h"
    assert program.host_operators[1].reason == "only a run knows how many dimensions its input 'item' has"
    assert program.outputs == (TensorSpec("y", ANY_SHAPE, "float32"),)
    with pytest.raises(
        ModelError, match=r"GlobalMaxPool node 'Y' cannot be compiled \(only a run knows .* not trusted"
    ) as refused:
        split(model([at, node("GlobalMaxPool", "item", "y")], inputs, outputs))
    assert "--input NAME:1x576" in (refused.value.hint or "")
    known = [sequence("s", FLOAT, [2, "m"]), inputs[1]]
    assert kinds(split(model([at, node("Neg", "item", "y")], known, outputs))) == "hc"


def test_the_hint_to_fix_what_branches_depend_on():
    """A model that is refused for a branch of fewer dimensions compiles as the hint says."""
    branches = node("ReduceMax", "x", "t", keepdims=0), node("Neg", "x", "t")
    result = [helper.make_empty_tensor_value_info("t")]
    flat, same = (helper.make_graph([branch], "branch", [], result) for branch in branches)
    nodes = [node("If", "c", "p", then_branch=flat, else_branch=same), node("Exp", "p", "y")]
    inputs = [tensor("x", FLOAT, ["n", 2]), tensor("c", BOOL, [])]
    proto = model(nodes, inputs, [tensor("y", FLOAT, None)])
    with pytest.raises(ModelError, match="only a run knows how many dimensions 'p' has") as refused:
        import_program(proto)
    assert "values that branches depend on with --value NAME=16000" in (refused.value.hint or "")
    assert import_program(proto, values={"c": False}).outputs == (TensorSpec("y", ("n", 2), "float32"),)


def known_sequences() -> tuple[list, dict[str, np.ndarray]]:
    """Nodes on sequences of known length, and what their outputs have to be for x of shape [5, 3]."""
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    nodes = [
        node("Neg", "x", "minus"),
        node("SequenceConstruct", "x minus", "pair"),
        node("Constant", "", "last", value_int=-1),
        node("Constant", "", "zero", value_int=0),
        node("SequenceAt", "pair last", "second"),
        node("SequenceInsert", "pair second zero", "three"),
        node("SequenceErase", "three last", "two"),
        node("SequenceLength", "three", "length"),
        node("ConcatFromSequence", "two", "stacked", axis=-1, new_axis=1),
        node("Constant", "", "sizes", value_ints=[2, 3]),
        node("SplitToSequence", "x sizes", "parts", axis=0),
        node("SequenceAt", "parts zero", "head"),
        node("SplitToSequence", "x", "columns", axis=1, keepdims=0),
        node("SequenceAt", "columns last", "column"),
        node("SplitToSequence", "x two_rows", "uneven", axis=0),
        node("SequenceAt", "uneven last", "tail"),
        node("Constant", "", "two_rows", value_int=2),
        node("Optional", "head", "maybe"),
        node("OptionalHasElement", "maybe", "there"),
        node("OptionalGetElement", "maybe", "got"),
        node("OptionalHasElement", "", "nothing"),
    ]
    expected = {
        "second": -x,
        "length": np.array(3),
        "stacked": np.stack([-x, x], -1),
        "head": x[:2],
        "column": x[:, 2],
        "tail": x[4:],
        "there": np.array(True),
        "got": x[:2],
        "nothing": np.array(False),
    }
    return nodes, expected


def test_sequences_of_known_length_are_compiled():
    nodes, expected = known_sequences()
    outputs = [tensor(name, helper.np_dtype_to_tensor_dtype(y.dtype), None) for name, y in expected.items()]
    artifact = kompilo.compile(model(nodes, [tensor("x", FLOAT, [5, 3])], outputs), records=False, host=False)
    assert not artifact.segments
    assert artifact.format_version == 1
    results = kompilo.load(artifact).run({"x": np.arange(15, dtype=np.float32).reshape(5, 3)})
    for name, y in expected.items():
        np.testing.assert_array_equal(results[name], y, err_msg=name)
        assert results[name].dtype == y.dtype, name


def test_a_sequence_that_is_wanted_is_made_of_its_compiled_parts():
    nodes = [node("SplitToSequence", "x", "parts", axis=1), node("Neg", "x", "y")]
    program = split(model(nodes, [tensor("x", FLOAT, ["n", 2])], [sequence("parts", FLOAT), tensor("y", FLOAT, None)]))
    assert kinds(program) == "ch"
    assert [o.operator for o in program.host_operators] == ["SequenceConstruct"]


def test_no_host_refuses_with_the_node_and_the_reason():
    with pytest.raises(ModelError, match="StringNormalizer node 'CLEAN' cannot be compiled: its input 'words' holds"):
        split(sentences(), host=False)
    sides = [tensor("x", UINT8, ["n"])], [tensor("y", UINT8, None)]
    with pytest.raises(ModelError, match="no target decodes images"):
        split(model([node("ImageDecoder", "x", "y")], *sides), host=False)


X, S = tensor("x", FLOAT, ["n"]), tensor("s", STRING, ["n"])
REFUSED = [
    (node("Cast", "x", "y", to=STRING), STRING, "how numbers look as strings is left open"),
    (node("Cast", "s", "y", to=BOOL), BOOL, "it makes truth values"),
    (node("RegexFullMatch", "s", "y", pattern="a(?=b)b"), BOOL, "may mean other things to RE2"),
    (node("RegexFullMatch", "s", "y", pattern="[[:alpha:]]+"), BOOL, "may mean other things to RE2"),
    (node("StringNormalizer", "s", "y", case_change_action="TITLE"), STRING, "case_change_action is 'TITLE'"),
    (node("Trilu", "s", "y"), STRING, "not trusted with Trilu of strings"),
    (node("StringConcat", "s", "y"), STRING, "is not made as ONNX asks"),
    (node("TopK", "s k", "y i"), STRING, "not trusted with TopK of strings"),
    (node("GatherElements", "s x", "y"), STRING, r"input 1 is a tensor\(float\), which GatherElements does not take"),
    (node("Squeeze", "s", "y", nonsense=1), STRING, "is not made as ONNX asks: Unrecognized attribute: nonsense"),
    (
        node("LabelEncoder", "x", "y", domain="ai.onnx.ml", keys_floats=[1.0, np.nan], values_strings=["a", "b"]),
        STRING,
        "a key is NaN",
    ),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), REFUSED, ids=[str(k) for k in range(len(REFUSED))])
def test_what_the_evaluator_is_not_trusted_with_is_refused(wrong, kind, message):
    given = [info for info in (X, S, tensor("k", INT64, [1])) if info.name in wrong.input]
    with pytest.raises(ModelError, match=message):
        split(model([wrong], given, [tensor("y", kind, None)]))


def test_graphs_inside_operators_are_looked_into():
    """A branch that makes a sequence takes its If to the host; a node in it that is not trusted is named."""

    def choose(inner: str, opset: int = 20):
        made = [node("SequenceConstruct", "x", "seq")]
        other = [node(inner, "x", "other"), node("SequenceConstruct", "other", "both")]
        branches = {
            "then_branch": helper.make_graph(made, "yes", [], [sequence("seq", FLOAT)]),
            "else_branch": helper.make_graph(other, "no", [], [sequence("both", FLOAT)]),
        }
        inputs = [tensor("c", BOOL, []), X]
        return model([node("If", "c", "y", **branches)], inputs, [sequence("y", FLOAT)], opset)

    program = split(choose("Neg"))
    assert program.host_operators[0].reason == "its output 'y' is a sequence"
    with pytest.raises(ModelError, match="If node 'Y' .* and LRN node 'OTHER' in its graph cannot run on the host"):
        split(choose("LRN"))


def test_functions_of_the_model_are_taken_apart():
    proto = model([helper.make_node("Join", ["s"], ["y"], domain="own")], [S], [tensor("y", STRING, None)])
    body = [node("StringConcat", "a a", "b")]
    opsets = [helper.make_opsetid("", 20)]
    proto.functions.append(helper.make_function("own", "Join", ["a"], ["b"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    assert [o.operator for o in split(proto).host_operators] == ["StringConcat"]


def test_both_spellings_of_the_standard_domain():
    proto = model([node("StringConcat", "s s", "y", domain="ai.onnx")], [S], [tensor("y", STRING, None)])
    proto.opset_import[0].domain = "ai.onnx"
    assert kompilo.load(kompilo.compile(proto, records=False))(["a", "b"]).tolist() == ["aa", "bb"]


def test_shapes_of_inputs_are_asked_for_as_of_any_model():
    nodes = [node("StringConcat", "s t", "joined"), node("Equal", "joined s", "y")]
    proto = model(nodes, [S, tensor("t", STRING, ["n"])], [tensor("y", BOOL, None)])
    assert split(proto, inputs={"s": (4,)}).outputs == (TensorSpec("y", (4,), "bool"),)
    with pytest.raises(UsageError, match="Input 's' has 1 dimensions"):
        split(proto, inputs={"s": (4, 4)})
    with pytest.raises(UsageError, match="A shape is given for input 'u'"):
        split(proto, inputs={"u": (4,)})


@pytest.mark.parametrize(
    ("inputs", "nodes", "message"),
    [
        ([S], [node("StringConcat", "s t", "y")], "StringConcat node 'Y' reads 't', which no node"),
        ([S], [node("StringConcat", "s y", "y")], "cycle"),
        ([S, S], [node("StringConcat", "s s", "y")], "two inputs named 's'"),
        ([tensor("s", STRING, None)], [node("StringConcat", "s s", "y")], "Input 's' has no shape"),
        ([helper.make_value_info("s", helper.make_map_type_proto(INT64, X.type))], [node("Identity", "s", "y")], "map"),
        ([optional("s", FLOAT)], [node("NoSuchOperator", "s", "y")], "not trusted with NoSuchOperator"),
        (  # ONNX's inference would end the process: a rule of ai.onnx.ml takes types for known
            [S],
            [
                node("NoSuchOperator", "", "x"),
                node("LabelEncoder", "x", "y", domain="ai.onnx.ml", keys_int64s=[1], values_strings=["a"]),
                node("StringConcat", "s s", "t"),
            ],
            "no operator 'NoSuchOperator'",
        ),
    ],
)
def test_broken_models_are_refused_in_a_sentence(inputs, nodes, message):
    with pytest.raises(ModelError, match=message):
        split(model(nodes, inputs, [tensor("y", STRING, None)]))
