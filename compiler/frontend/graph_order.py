"""Checks the wiring of a graph and puts its nodes into an order in which they can be converted."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

import onnx
from onnx import AttributeProto, NodeProto

from ..errors import ModelError


def describe(node: NodeProto) -> str:
    """A node as error messages call it."""
    name = node.name or next((o for o in node.output if o), "")
    return f"{node.op_type} node {name!r}"


def ordered_nodes(
    nodes: Sequence[NodeProto],
    own: Iterable[str],
    outputs: Iterable[str],
    outer: Container[str] = (),
) -> list[NodeProto]:
    """The nodes that `outputs` depend on, each behind the nodes it reads from.

    Args:
        nodes: the nodes of one graph or function, in any order.
        own: names that the graph itself knows before its first node: inputs and initializers.
        outputs: names that are wanted.
        outer: names of enclosing graphs, which the graph may read and hide.
    Raises:
        ModelError: a name is produced twice, used but never produced, or produced from itself (a cycle).
    """
    own = set(own)
    producers = _producers(nodes, own)
    known = _Known(own, outer)
    order: list[NodeProto] = []
    state: dict[int, bool] = {}  # index of node -> finished
    for name in outputs:
        if name not in producers and name not in known:
            raise ModelError(f"Output {name!r} of the graph is not produced by any node.")
        _visit(name, nodes, producers, known, state, order)
    return order


class _Known(Container[str]):
    def __init__(self, own: set[str], outer: Container[str]):
        self._own, self._outer = own, outer

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._outer


def _producers(nodes: Sequence[NodeProto], known: set[str]) -> dict[str, int]:
    producers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in producers:
                raise ModelError(
                    f"Tensor {name!r} is produced by {describe(nodes[producers[name]])} and by {describe(node)}."
                )
            if name in known:
                raise ModelError(f"{describe(node)} produces {name!r}, which is already an input or an initializer.")
            producers[name] = index
    return producers


def _visit(
    root: str,
    nodes: Sequence[NodeProto],
    producers: dict[str, int],
    known: Container[str],
    state: dict[int, bool],
    order: list[NodeProto],
) -> None:
    """Depth-first walk without recursion: models have chains of thousands of nodes."""
    if root not in producers or state.get(producers[root]):
        return
    stack = [(producers[root], reads(nodes[producers[root]]))]
    state[producers[root]] = False
    while stack:
        index, pending = stack[-1]
        name = next(pending, None)
        if name is None:
            stack.pop()
            state[index] = True
            order.append(nodes[index])
            continue
        source = producers.get(name)
        if source is None:
            if name not in known:
                raise ModelError(
                    f"{describe(nodes[index])} reads {name!r}, which no node, input or initializer defines."
                )
        elif source not in state:
            state[source] = False
            stack.append((source, reads(nodes[source])))
        elif not state[source]:
            raise ModelError(f"{describe(nodes[source])} depends on its own output (the graph has a cycle).")


def reads(node: NodeProto) -> Iterator[str]:
    """Names that a node needs: its inputs, and what its subgraphs take from around them."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield from free_names(attribute.g)
        for graph in attribute.graphs:
            yield from free_names(graph)


def free_names(graph: onnx.GraphProto) -> list[str]:
    """Names that a subgraph reads but does not define."""
    own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    own |= {t.values.name for t in graph.sparse_initializer}
    own |= {o for node in graph.node for o in node.output}
    read = [name for node in graph.node for name in reads(node)] + [o.name for o in graph.output]
    return list(dict.fromkeys(name for name in read if name not in own))
