"""Broken models with strings, sequences and optionals: split, or refused in a sentence; never another exception."""

from __future__ import annotations

import random
from collections.abc import Iterator

import onnx
import pytest
from host_models import BOOL, FLOAT, INT64, model, node, optional, sentences, sequence, split, tensor
from onnx import AttributeProto, NodeProto, helper

from kompilo.compiler.runtime.host_evaluator import HostSegment
from kompilo.errors import KompiloError

MUTANTS = 250
OPERATORS = """
SequenceAt SequenceInsert SequenceErase SequenceLength SplitToSequence ConcatFromSequence SequenceMap Loop If Optional
OptionalGetElement OptionalHasElement StringConcat LabelEncoder Identity Cast Concat Constant Reshape NoSuchOperator
""".split()  # noqa: SIM905


def lists() -> onnx.ModelProto:
    """Sequences and optionals in the graph and inside a loop."""
    body = helper.make_graph(
        [
            node("SequenceAt", "q step", "item"),
            node("SequenceInsert", "so_far item", "more"),
            node("Not", "no", "alive"),
        ],
        "body",
        [tensor("step", INT64, []), tensor("going", BOOL, []), sequence("so_far", FLOAT)],
        [tensor("alive", BOOL, []), sequence("more", FLOAT)],
    )
    nodes = [
        node("Constant", "", "two", value_int=2),
        node("Constant", "", "no", value=helper.make_tensor("no", BOOL, [], [False])),
        node("SplitToSequence", "x two", "parts", axis=1, keepdims=0),
        node("SequenceConstruct", "x x", "pair"),
        node("SequenceAt", "pair two", "second"),
        helper.make_node("Loop", ["two", "no", "parts"], ["all"], body=body),
        node("Optional", "x", "maybe"),
        node("OptionalGetElement", "maybe", "got"),
        node("OptionalHasElement", "o", "there"),
        node("ConcatFromSequence", "q", "joined", axis=0),
        node("Add", "joined got", "y"),
    ]
    inputs = [tensor("x", FLOAT, ["n", 3]), sequence("q", FLOAT, ["n", 3]), optional("o", FLOAT, [2])]
    return model(nodes, inputs, [tensor("y", FLOAT, None), tensor("there", BOOL, None), sequence("all", FLOAT)])


def all_nodes(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    for one in graph.node:
        yield one
        for attribute in one.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def mutate(proto: onnx.ModelProto, rng: random.Random) -> None:
    """One change: an edge, an operator, an attribute, an input's type or size, the opset."""
    nodes, graph = list(all_nodes(proto.graph)), proto.graph
    names = [info.name for info in graph.input] + [name for one in nodes for name in one.output] + [""]
    one, info = rng.choice(nodes), rng.choice(graph.input)
    match rng.randrange(9):
        case 0 if one.input:
            one.input[rng.randrange(len(one.input))] = rng.choice(names)
        case 1 if one.output:
            one.output[rng.randrange(len(one.output))] = rng.choice(names)
        case 2 if one.attribute:
            del one.attribute[rng.randrange(len(one.attribute))]
        case 3 if one.attribute:
            attribute = rng.choice(one.attribute)
            attribute.type, attribute.i = rng.choice([1, 2, 3, 4, 5, 6, 7, 8]), rng.choice([-1, 0, 2**40])
        case 4:
            one.op_type = rng.choice(OPERATORS)
        case 5 if info.type.HasField("tensor_type"):
            info.type.tensor_type.elem_type = rng.randrange(25)
        case 6:
            info.type.CopyFrom(rng.choice([*graph.input, *graph.output]).type)
        case 7:
            proto.opset_import[0].version = rng.choice([1, 7, 11, 13, 18, 26])
        case _:
            one.domain = rng.choice(["ai.onnx", "ai.onnx.ml", "own"])


@pytest.mark.parametrize("seed", range(2))
def test_broken_models(seed):
    rng = random.Random(seed)
    states, messages = {"split": 0}, []
    for _ in range(MUTANTS):
        proto = onnx.ModelProto()
        proto.CopyFrom(rng.choice([sentences, lists])())
        for _ in range(rng.randint(1, 3)):
            mutate(proto, rng)
        try:
            for part in split(proto).segments:
                if part.on_host:
                    HostSegment(part)
            states["split"] += 1
        except KompiloError as error:
            messages.append(error.message)
    unclear = [message for message in messages if not message.endswith(".") or "\n" in message]
    assert not unclear
    states["refused"] = len(messages)
    assert min(states.values()) > MUTANTS // 10, states


def test_the_models_are_fine_before_they_are_broken():
    assert split(sentences()).segments
    assert {"Loop", "OptionalHasElement", "ConcatFromSequence"} <= {o.operator for o in split(lists()).host_operators}
