"""Models of ai.onnx.ml without what only the host has: maps become columns, and labels that are strings a look-up.

ZipMap(scores)                              ->  scores, a tensor with a column for each label
Classifier(x, classlabels_strings=[...])    ->  Gather([...], Classifier(x, classlabels_ints=[0, 1, ...]))
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from ..errors import ModelError
from .graph_order import describe

_DOMAIN = "ai.onnx.ml"
# Classifiers -> the attribute that has their labels where these are integers.
_CLASSIFIERS = {
    "LinearClassifier": "classlabels_ints",
    "SVMClassifier": "classlabels_ints",
    "TreeEnsembleClassifier": "classlabels_int64s",
}
_STRINGS = "classlabels_strings"


def without_maps_and_labels(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` as above, itself where it has no such nodes. Nodes in graphs of other nodes are left alone.

    Raises:
        ModelError: a ZipMap without labels, or with two kinds of them.
    """
    if not any(_is_zip_map(node) or _has_strings(node) for node in model.graph.node):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {i.name for i in graph.input}
    taken |= {tensor.name for tensor in graph.initializer}
    nodes = [part for node in graph.node for part in _rewritten(node, graph, taken)]
    del graph.node[:]
    graph.node.extend(nodes)
    return changed


def _is_zip_map(node: NodeProto) -> bool:
    return node.domain == _DOMAIN and node.op_type == "ZipMap" and bool(node.input) and bool(node.output)


def _has_strings(node: NodeProto) -> bool:
    known = node.domain == _DOMAIN and node.op_type in _CLASSIFIERS and bool(node.output) and bool(node.output[0])
    return known and any(a.name == _STRINGS and a.strings for a in node.attribute)


def _rewritten(node: NodeProto, graph: onnx.GraphProto, taken: set[str]) -> Iterator[NodeProto]:
    if _is_zip_map(node):
        given = [a.name for a in node.attribute if a.name.startswith("classlabels_") and (a.strings or a.ints)]
        if len(given) != 1:
            raise ModelError(
                f"{describe(node)} must have classlabels_int64s or classlabels_strings, found {len(given)} of them."
            )
        _as_tensor(graph, node.output[0])
        yield helper.make_node("Identity", node.input[:1], node.output[:1], node.name)
    elif _has_strings(node):
        yield from _with_look_up(node, graph, taken)
    else:
        yield node


def _as_tensor(graph: onnx.GraphProto, name: str) -> None:
    """Forget that value `name` is a sequence of maps."""
    for info in (*graph.output, *graph.value_info):
        if info.name == name and info.type.WhichOneof("value") != "tensor_type":
            info.type.CopyFrom(helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))


def _with_look_up(node: NodeProto, graph: onnx.GraphProto, taken: set[str]) -> Iterator[NodeProto]:
    strings = next(a.strings for a in node.attribute if a.name == _STRINGS)
    classes, names = (_fresh(f"{node.output[0]}_{what}", taken) for what in ("class", "labels"))
    graph.initializer.append(
        numpy_helper.from_array(np.array([s.decode("utf-8", "replace") for s in strings], object), names)
    )
    classifier = NodeProto()
    classifier.CopyFrom(node)
    classifier.output[0] = classes
    kept = [a for a in node.attribute if a.name not in (_STRINGS, _CLASSIFIERS[node.op_type])]
    del classifier.attribute[:]
    classifier.attribute.extend(kept)
    classifier.attribute.append(helper.make_attribute(_CLASSIFIERS[node.op_type], list(range(len(strings)))))
    yield classifier
    yield helper.make_node("Gather", [names, classes], node.output[:1], f"{node.name or node.output[0]}_labels")


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
