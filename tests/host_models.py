"""Models some operators of which no target has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from kompilo.compiler.frontend.host_import import ImportedProgram, import_program

FLOAT, INT64, STRING, BOOL, UINT8 = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.STRING,
    TensorProto.BOOL,
    TensorProto.UINT8,
)


def tensor(name: str, kind: int, shape: Sequence[int | str] | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def sequence(name: str, kind: int, shape: Sequence[int | str] | None = None) -> ValueInfoProto:
    inner = helper.make_tensor_type_proto(kind, shape)
    return helper.make_value_info(name, helper.make_sequence_type_proto(inner))


def optional(name: str, kind: int, shape: Sequence[int | str] | None = None) -> ValueInfoProto:
    inner = helper.make_tensor_type_proto(kind, shape)
    return helper.make_value_info(name, helper.make_optional_type_proto(inner))


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    opset: int = 20,
    **weights: Any,
) -> onnx.ModelProto:
    """A model of `nodes` with the initializers `weights`."""
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), stored)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 4)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node called as its first output in upper case; inputs and outputs are words."""
    names = outputs.split()
    return helper.make_node(op, inputs.split(), names, name=names[0].upper(), **attributes)


# Rows are the n-grams a, b, c, "a b", "b c" of `sentences`.
WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, -1, 0], [0, 0.5, -2]], np.float32)


def sentences() -> onnx.ModelProto:
    """Words in, on the host: cleaned and counted; compiled: a matrix product and its argmax; on the host: a name."""
    grams = {
        "min_gram_length": 1,
        "max_gram_length": 2,
        "max_skip_count": 0,
        "ngram_counts": [0, 3],
        "ngram_indexes": range(5),
    }
    nodes = [
        node("StringNormalizer", "words", "clean", case_change_action="LOWER", stopwords=["the"]),
        node("TfIdfVectorizer", "clean", "counts", mode="TF", pool_strings=list("abcabbc"), **grams),
        node("MatMul", "counts w", "scores"),
        node("Softmax", "scores", "prob"),
        node("ArgMax", "scores", "best", axis=-1, keepdims=0),
        node("LabelEncoder", "best", "label", domain="ai.onnx.ml", keys_int64s=range(3), values_strings=list("xyz")),
    ]
    outputs = [tensor("prob", FLOAT, None), tensor("label", STRING, None)]
    return model(nodes, [tensor("words", STRING, ["n"])], outputs, w=WEIGHTS)


def kinds(program: ImportedProgram) -> str:
    """ "hch" for host, compiled, host."""
    return "".join("c" if number in program.compiled else "h" for number in range(len(program.parts)))


def split(proto: onnx.ModelProto, **options: Any) -> ImportedProgram:
    return import_program(proto, **options)
