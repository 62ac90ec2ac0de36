"""Splits a graph into parts that alternate between compiled code and the host, with few changes from one to the other;
`If` and `Loop` that the loader decides are parts of their own.

Constants, and the integer operators that compute with the sizes of tensors, are repeated in every compiled part that
reads them: sizes then stay sizes, and nothing small has to travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from onnx import NodeProto

from .converters.registry import canonical_domain
from .evaluate import evaluated_operators
from .graph_order import free_names, reads


@dataclass
class Part:
    """Nodes that run together: `inputs` come from the model or earlier parts, `outputs` are read later.

    A part that `is_control` has one node, the last; those before it are for the graphs of that node.
    """

    on_host: bool
    nodes: list[NodeProto]
    is_control: bool = False
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def partition(
    nodes: Sequence[NodeProto],
    is_host: Callable[[NodeProto], bool],
    is_control: Callable[[NodeProto], bool],
    stored: Iterable[str],
    outputs: Sequence[str],
) -> list[Part]:
    """The parts that a run goes through, none of them empty.

    Args:
        nodes: each behind those that it reads from.
        is_host: whether a node runs on the host.
        is_control: whether a node is one that the loader decides; its inputs are neither constants nor `stored`, but
            for those that nothing else reads.
        stored: names of initializers, which belong to no part.
        outputs: names that the model gives.
    """
    known = set(stored)
    cheap = _Cheap(nodes, is_host, known, {name for node in nodes if is_control(node) for name in node.input})

    def plan(host_first: bool) -> list[Part]:
        turns = _schedule(nodes, lambda node: is_host(node) or is_control(node), cheap, host_first)
        return _finish(_apart(turns, is_control), cheap, known, outputs)

    return min(plan(False), plan(True), key=len)


class _Cheap:
    """What is repeated rather than handed over: constants everywhere, arithmetic on sizes in compiled parts."""

    def __init__(
        self, nodes: Sequence[NodeProto], is_host: Callable[[NodeProto], bool], stored: set[str], kept: set[str]
    ) -> None:
        self._kept = kept
        self._constants: dict[str, NodeProto] = {}
        self._sizes: dict[str, NodeProto] = {}
        arithmetic = evaluated_operators()
        for node in nodes:
            if canonical_domain(node.domain):
                continue
            if node.op_type == "Constant":
                self._constants.update({node.output[0]: node} if node.output[0] not in kept else {})
            elif not is_host(node) and node.op_type in arithmetic:
                of_sizes = all(n in self._sizes or n in self._constants or n in stored for n in reads(node))
                if node.op_type in ("Shape", "Size") or (of_sizes and any(n in self._sizes for n in reads(node))):
                    self._sizes.update(dict.fromkeys(filter(None, node.output), node))

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def fits_anywhere(self, node: NodeProto) -> bool:
        """Whether the node is a constant that no part has to give."""
        return node.op_type == "Constant" and node.output[0] not in self._kept

    def repeated(self, names: Iterable[str], on_host: bool) -> tuple[list[NodeProto], set[str]]:
        """The nodes that make what can be repeated of `names`, in order, and the names that they give."""
        nodes: list[NodeProto] = []
        given: set[str] = set()

        def visit(name: str) -> None:
            node = self._constants.get(name) or (None if on_host else self._sizes.get(name))
            if node is None or name in given:
                return
            given.update(filter(None, node.output))
            for read in reads(node):
                visit(read)
            nodes.append(node)

        for name in names:
            visit(name)
        return nodes, given


def _schedule(
    nodes: Sequence[NodeProto], is_host: Callable[[NodeProto], bool], cheap: _Cheap, host_first: bool
) -> list[Part]:
    """All nodes in parts, each as large as it can be when its turn comes."""
    parts: list[Part] = []
    produced = {name for node in nodes for name in node.output if name and not cheap.is_constant(name)}
    ready: set[str] = set()
    left, on_host = list(nodes), host_first
    while left:
        part, waiting = Part(on_host, []), []
        for node in left:
            fits = is_host(node) == on_host or (cheap.fits_anywhere(node) and not is_host(node))
            if fits and all(name in ready or name not in produced for name in reads(node)):
                part.nodes.append(node)
                ready.update(node.output)
            else:
                waiting.append(node)
        parts.append(part)
        left, on_host = waiting, not on_host
    return parts


def _apart(parts: list[Part], is_control: Callable[[NodeProto], bool]) -> list[Part]:
    """The parts, with those of the host cut where the loader decides."""
    result: list[Part] = []
    for part in parts:
        run: list[NodeProto] = []
        for node in part.nodes:
            if is_control(node):
                result += [Part(part.on_host, run), Part(False, [node], is_control=True)]
                run = []
            else:
                run.append(node)
        result.append(Part(part.on_host, run))
    return result


def _finish(parts: list[Part], cheap: _Cheap, stored: set[str], outputs: Sequence[str]) -> list[Part]:
    """`parts` with what they read and give, from the last to the first; what nobody needs is left out."""
    wanted = dict.fromkeys(outputs)
    kept: list[Part] = []
    for part in reversed(parts):
        own = {name for node in part.nodes for name in node.output if name}
        part.outputs = [name for name in wanted if name in own]
        if not part.outputs:
            continue
        part.nodes = _needed(part.nodes, part.outputs)
        given = {name for node in part.nodes for name in node.output}
        direct = [name for name in part.nodes[-1].input if name] if part.is_control else []
        read = dict.fromkeys(name for node in part.nodes for name in _read(node, part) if name not in given)
        repeated, made = cheap.repeated(read, part.on_host)
        part.nodes = [*repeated, *part.nodes]
        outside = dict.fromkeys(name for node in part.nodes for name in reads(node))
        part.inputs = [name for name in outside if name in direct or name not in given | made | stored]
        for name in part.outputs:
            del wanted[name]
        wanted.update(dict.fromkeys(part.inputs))
        kept.append(part)
    return kept[::-1]


def _read(node: NodeProto, part: Part) -> Iterable[str]:
    """What a part reads for `node`: of one that the loader decides, what its graphs read."""
    if not part.is_control:
        return reads(node)
    return (name for attribute in node.attribute if attribute.HasField("g") for name in free_names(attribute.g))


def _needed(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Those of `nodes` that `outputs` depend on."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(filter(None, node.output)):
            wanted.update(reads(node))
            kept.append(node)
    return kept[::-1]
