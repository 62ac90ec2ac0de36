"""`If` and `Loop` that only runs decide: how the conversion tells of them, and `If`s put in the place of a branch."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import AttributeProto, NodeProto

from ..errors import ModelError


def key_of(node: NodeProto) -> str:
    """What tells a node from the others of its graph: the first output that has a name."""
    return next((name for name in node.output if name), "")


class DecidedInRuns(ModelError):
    """A condition or a count is data, or a loop is too long to be written out.

    Attributes:
        reason: what is data, in words.
        path: from the graph that was converted to the node: the key of each node on the way, and which of its graphs
            the next one is in: a branch of an `If` whose condition is known, "" for the body of a function. That of
            the node itself, the last, is None.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason
        self.path: tuple[tuple[str, str | None], ...] = ()

    def at(self, node: NodeProto) -> DecidedInRuns:
        """The same of `node`, which the loader has to drive: of a Scan, which it does not drive, a ModelError."""
        if node.op_type == "Scan":
            raise ModelError(self.message)
        return self._with(((key_of(node), None),))

    def inside(self, node: NodeProto, graph: str) -> DecidedInRuns:
        """The same, seen from around `node`."""
        return self._with(((key_of(node), graph), *self.path))

    def _with(self, path: tuple[tuple[str, str | None], ...]) -> DecidedInRuns:
        found = DecidedInRuns(self.message, self.reason)
        found.path = path
        return found


def with_branch_inlined(model: onnx.ModelProto, key: str, branch: str) -> onnx.ModelProto:
    """The model with the nodes of a branch in the place of the `If` whose first output is `key`.

    Names that the branch defines get a prefix; the outputs are copies.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    place = next(i for i, node in enumerate(graph.node) if key_of(node) == key)
    call = onnx.NodeProto()
    call.CopyFrom(graph.node[place])
    inner = next(a.g for a in call.attribute if a.name == branch)
    names = {name: f"{key}/{branch}/{name}" for name in _defined(inner)}
    stored = list(inner.initializer)
    for tensor in stored:
        tensor.name = names[tensor.name]
    _rename(inner, names)
    copies = [
        onnx.helper.make_node("Identity", [names.get(given.name, given.name)], [name], name=f"{key}/{branch}/{name}")
        for given, name in zip(inner.output, call.output, strict=False)
        if name
    ]
    nodes = [*graph.node[:place], *inner.node, *copies, *graph.node[place + 1 :]]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(stored)
    return result


def _defined(graph: onnx.GraphProto) -> list[str]:
    names = [tensor.name for tensor in graph.initializer]
    return names + [name for node in graph.node for name in node.output if name]


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename what the nodes of `graph`, and those of the graphs in them, read and give."""
    for node in graph.node:
        for fields in (node.input, node.output):
            for index, name in enumerate(fields):
                fields[index] = names.get(name, name)
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.type == AttributeProto.GRAPH else []:
                own = {*_defined(inner), *(info.name for info in inner.input)}
                seen = {name: new for name, new in names.items() if name not in own}
                _rename(inner, seen)
                for info in inner.output:
                    info.name = seen.get(info.name, info.name)
