"""ONNX model -> segments: what targets compile, in Relax; what stays on the host, as ONNX models; and what the loader
decides, `If` and `Loop` on data, whose graphs are segments too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnx.inliner
from google.protobuf.message import EncodeError
from onnx import NodeProto, TensorProto, TypeProto, numpy_helper

from ..errors import KompiloError, ModelError
from ..segments import HostOperator, Segment
from ..tensor_spec import ANY_SHAPE, TensorSpec
from .control import DecidedInRuns, key_of, with_branch_inlined
from .control_import import ControlImport, shifted
from .converters.registry import canonical_domain
from .fixed_values import Values, fix_values
from .graph_order import describe, ordered_nodes, reads
from .host_operators import FIX_SIZES, OPEN_RANK, check_made_well, check_trusted, host_word, inner_nodes, why_host
from .host_partition import Part, partition
from .host_sequences import without_known_sequences
from .host_types import host_signature, infer_types, may_need_host, spec_of, value_info, why_on_host
from .importer import ImportedModel, import_source
from .model_reader import ModelLike, ModelSource, read_model
from .signature import Shapes
from .tensor_data import decode_tensor

_WAY_OUT = "allow operators on the host: without --no-host, or host=True in Python"


@dataclass(frozen=True)
class ImportedProgram:
    """A model in segments, in the order of a run.

    Attributes:
        parts: an ImportedModel for each segment that is compiled, a Segment for each other one; those in the graphs
            of `If` or `Loop` stand before it.
        inputs, outputs, provenance: as those of ImportedModel, for the whole model.
    """

    parts: tuple[ImportedModel | Segment, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provenance: Mapping[str, Any]

    @property
    def compiled(self) -> dict[int, ImportedModel]:
        """The compiled parts by their numbers."""
        return {number: part for number, part in enumerate(self.parts) if isinstance(part, ImportedModel)}

    @property
    def host_operators(self) -> list[HostOperator]:
        """What stays on the host, in the order of a run."""
        return [operator for part in self.parts if isinstance(part, Segment) for operator in part.operators]

    @property
    def not_compiled(self) -> list[HostOperator]:
        """What stays on the host or is decided by the loader."""
        return [operator for part in self.parts if isinstance(part, Segment) for operator in part.not_compiled]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What an artifact says of the parts; empty where the whole model is compiled."""
        if len(self.compiled) == len(self.parts) == 1:
            return ()
        return tuple(part if isinstance(part, Segment) else Segment(part.inputs, part.outputs) for part in self.parts)


def import_program(
    model: ModelLike, inputs: Shapes | None = None, host: bool = True, values: Values | None = None
) -> ImportedProgram:
    """Read and check an ONNX model, and convert what can be compiled.

    Args:
        model, inputs: as for `import_model`.
        values: inputs that are constants of these values, see `fix_values`.
        host: whether operators may stay on the host.
    Raises:
        ModelError: as `import_model`; or an operator could be run on the host only, where that is not allowed or
            where the evaluator cannot be trusted with it.
        UsageError: `inputs` or `values` do not fit the model.
    """
    source = read_model(model)
    if values:
        source = fix_values(source, values)
    try:
        if not may_need_host(source.proto):
            return _whole(import_source(source, inputs))
    except DecidedInRuns:
        pass
    try:
        return _split(_canonical(_inlined(source)), inputs, host)
    except KompiloError:
        raise
    except Exception as error:  # what protobuf, or ONNX's inference, makes of a broken model
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no details'}"
        raise ModelError(f"The model cannot be split into what is compiled and the host's part: {reason}.") from error


def _split(source: ModelSource, inputs: Shapes | None, host: bool) -> ImportedProgram:
    """The program of a model without functions; each `If` and `Loop` that turns out to be on data becomes a part."""
    controls: dict[str, str] = {}
    while True:
        try:
            return _Splitter(source, inputs, host, controls).program()
        except DecidedInRuns as found:
            key, branch = found.path[0]
            if branch == "" or key in controls:
                raise ModelError(found.message, found.hint) from None
            if branch is None:
                controls[key] = found.reason
            else:
                source = replace(source, proto=with_branch_inlined(source.proto, key, branch))


def _whole(imported: ImportedModel) -> ImportedProgram:
    return ImportedProgram((imported,), imported.inputs, imported.outputs, imported.provenance)


def _inlined(source: ModelSource) -> ModelSource:
    """The model without functions of its own: their nodes stand where they were called."""
    if not source.proto.functions:
        return source
    try:
        proto = onnx.inliner.inline_local_functions(source.proto)
    except Exception as error:  # the inliner raises what C++ gives it
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"The functions of the model cannot be put in the place of their calls: {reason}.") from error
    return replace(source, proto=proto)


def _canonical(source: ModelSource) -> ModelSource:
    """The model with one spelling of the standard domain: ONNX's checker and evaluator take the two for different."""
    if not any(node.domain != canonical_domain(node.domain) for node in _all_nodes(source.proto)):
        return source
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    for node in _all_nodes(proto):
        node.domain = canonical_domain(node.domain)
    return replace(source, proto=proto)


def _all_nodes(proto: onnx.ModelProto) -> Iterator[NodeProto]:
    for node in proto.graph.node:
        yield node
        yield from inner_nodes(node)


class _Splitter:
    """One model on its way into segments."""

    def __init__(self, source: ModelSource, shapes: Shapes | None, host: bool, controls: Mapping[str, str]) -> None:
        self._source, self._graph, self._host = source, source.proto.graph, host
        self._shapes, self._controls = shapes, controls
        self._inputs = host_signature(self._graph, shapes)
        self._stored = _initializers(self._graph)
        self._outputs = [info.name for info in self._graph.output]
        own = self._stored.keys() | {info.name for info in self._graph.input}
        nodes = ordered_nodes(self._graph.node, own, self._outputs)
        types = self._infer(nodes)
        opset = source.opsets.get("", 1)
        nodes = without_known_sequences([*self._stored_outputs(), *nodes], self._stored, types, opset)
        nodes = self._with_given_constants(nodes)
        own = self._stored.keys() | {info.name for info in self._graph.input}
        self._nodes = ordered_nodes(nodes, own, self._outputs)
        self._types = self._infer(self._nodes)
        self._reasons = self._why_host()

    def _infer(self, nodes: Sequence[NodeProto]) -> Mapping[str, TypeProto]:
        return infer_types(self._source.proto, nodes, self._stored, self._inputs, self._source.opsets)

    def program(self) -> ImportedProgram:
        special = [spec for spec in self._inputs if not spec.is_numeric]
        if not self._reasons and not special and not any(map(self._is_control, self._nodes)):
            model = self._model(self._nodes, self._graph.input, self._outputs)
            return _whole(import_source(replace(self._source, proto=model), self._shapes))
        parts = partition(self._nodes, self._is_host, self._is_control, self._stored, self._outputs)
        if not parts:
            raise ModelError(f"Output {self._outputs[0]!r} is an input of the model, so there is nothing to compute.")
        known = {spec.name: spec for spec in self._inputs}
        imported: list[ImportedModel | Segment] = []
        for part in parts:
            specs = [known[name] for name in part.inputs]
            if part.is_control:
                imported += [shifted(inner, len(imported)) for inner in self._decided(part, specs)]
            else:
                imported.append((self._on_host if part.on_host else self._compiled)(part, specs))
            known.update((spec.name, spec) for spec in imported[-1].outputs)
        outputs = tuple(known[name] for name in self._outputs)
        return ImportedProgram(tuple(imported), tuple(self._inputs), outputs, self._source.provenance)

    def _is_host(self, node: NodeProto) -> bool:
        return id(node) in self._reasons

    def _is_control(self, node: NodeProto) -> bool:
        return key_of(node) in self._controls and not self._is_host(node)

    def _with_given_constants(self, nodes: Sequence[NodeProto]) -> list[NodeProto]:
        """The nodes, where those that the loader decides read constants by names that nothing else reads."""
        result: list[NodeProto] = []
        constants = {node.output[0]: node for node in nodes if node.op_type == "Constant"}
        for node in nodes:
            if key_of(node) in self._controls:
                copy = NodeProto()
                copy.CopyFrom(node)
                node = copy
                for index, name in enumerate(node.input):
                    new = f"{name} for {key_of(node)} {index}"
                    if name in self._stored:
                        result.append(
                            onnx.helper.make_node("Constant", [], [new], value=self._embedded(self._stored[name]))
                        )
                        node.input[index] = new
                    elif name in constants:
                        result.append(NodeProto())
                        result[-1].CopyFrom(constants[name])
                        result[-1].output[0] = node.input[index] = new
            result.append(node)
        return result

    def _stored_outputs(self) -> list[NodeProto]:
        """Initializers that are outputs, as nodes: a part of the program has to give them."""
        names = [name for name in dict.fromkeys(self._outputs) if name in self._stored]
        return [
            onnx.helper.make_node("Constant", [], [name], value=self._embedded(self._stored.pop(name)))
            for name in names
        ]

    def _embedded(self, tensor: TensorProto) -> TensorProto:
        """`tensor` with its data, which may lie in a file."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return tensor
        return numpy_helper.from_array(decode_tensor(tensor, self._source.folder), tensor.name)

    def _why_host(self) -> dict[int, str]:
        """For each node that is not compiled, by its id, the reason."""
        reasons: dict[int, str] = {}
        open_ranks = {spec.name: True for spec in self._inputs if not spec.is_numeric and not spec.wrappers}
        open_ranks = {name: True for name in open_ranks if why_on_host(self._types.get(name)) is None}
        for node in self._nodes:
            reason = why_host(node, self._types, open_ranks)
            if reason is None:
                continue
            if not self._host:
                raise ModelError(f"{describe(node)} cannot be compiled: {reason}.", _WAY_OUT)
            check_trusted(node, self._source.opsets, self._types, reason)
            check_made_well(node, self._source.opsets, self._source.proto.ir_version, self._types)
            reasons[id(node)] = reason
            open_ranks.update((name, True) for name in node.output if name and not _has_rank(self._types.get(name)))
        return reasons

    def _decided(self, part: Part, inputs: Sequence[TensorSpec]) -> list[ImportedModel | Segment]:
        """The parts of the graphs of `If` or `Loop`, and behind them its own."""
        node = NodeProto()
        node.CopyFrom(part.nodes[-1])
        node.output[:] = [name if name in part.outputs else "" for name in node.output]
        reason = HostOperator(
            host_word(node), node.name or key_of(part.nodes[-1]), self._controls[key_of(part.nodes[-1])]
        )

        def split(graph: onnx.GraphProto) -> ImportedProgram:
            own = {tensor.name for tensor in graph.initializer} | {name for n in graph.node for name in n.output}
            names = [*(name for n in graph.node for name in reads(n)), *(info.name for info in graph.output)]
            around = [self._stored[name] for name in dict.fromkeys(names) if name in self._stored and name not in own]
            graph.initializer.extend(around)
            model = self._model([], [], [])
            model.graph.CopyFrom(graph)
            return _split(replace(self._source, proto=model), None, self._host)

        return ControlImport(node, part.nodes[:-1], inputs, self._types, reason, split).parts()

    def _compiled(self, part: Part, inputs: Sequence[TensorSpec]) -> ImportedModel:
        open_rank = next((spec.name for spec in inputs if spec.shape == ANY_SHAPE), None)
        if open_rank is not None:
            raise ModelError(f"{describe(part.nodes[0])} cannot be compiled: {OPEN_RANK} {open_rank!r} has.", FIX_SIZES)
        model = self._model(part.nodes, [value_info(spec) for spec in inputs], part.outputs)
        model.graph.initializer.extend(self._read_by(part.nodes, lambda tensor: tensor))
        return import_source(replace(self._source, proto=model))

    def _on_host(self, part: Part, inputs: Sequence[TensorSpec]) -> Segment:
        infos = [
            onnx.ValueInfoProto(name=spec.name) if spec.wrappers else value_info(spec)
            for spec in inputs
        ]  # fmt: skip
        model = self._model(part.nodes, infos, part.outputs)
        model.graph.initializer.extend(self._read_by(part.nodes, self._embedded))
        operators = tuple(
            HostOperator(host_word(node), node.name or node.output[0], self._reasons[id(node)])
            for node in part.nodes
            if node.op_type != "Constant"
        )
        outputs = tuple(self._spec(name) for name in part.outputs)
        try:
            return Segment(tuple(inputs), outputs, model.SerializeToString(deterministic=True), operators)
        except (EncodeError, ValueError, MemoryError):
            raise ModelError(
                f"{describe(part.nodes[-1])}: its weights are too large to be evaluated on the host."
            ) from None

    def _spec(self, name: str) -> TensorSpec:
        return spec_of(name, self._types.get(name, TypeProto()), "The result")

    def _read_by(self, nodes: Sequence[NodeProto], form: Callable[[TensorProto], TensorProto]) -> list[TensorProto]:
        """The initializers that `nodes` read."""
        names = dict.fromkeys(name for node in nodes for name in reads(node))
        return [form(self._stored[name]) for name in names if name in self._stored]

    def _model(
        self, nodes: Sequence[NodeProto], inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[str]
    ) -> onnx.ModelProto:
        """A model of some nodes, as yet without weights; with all of them where `nodes` are all there are."""
        graph = onnx.GraphProto(name=self._graph.name or "graph")
        graph.node.extend(nodes)
        graph.input.extend(inputs)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        if inputs is self._graph.input:
            graph.initializer.extend(self._stored.values())
            graph.value_info.extend(self._graph.value_info)
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self._source.opsets.items()]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=self._source.proto.ir_version)


def _initializers(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """The stored tensors by name; ModelError for names that come twice, and for sparse tensors."""
    stored: dict[str, TensorProto] = {}
    for tensor in graph.initializer:
        if stored.setdefault(tensor.name, tensor) is not tensor:
            raise ModelError(f"Two initializers are named {tensor.name!r}.")
    if graph.sparse_initializer:
        raise ModelError(f"Initializer {graph.sparse_initializer[0].values.name!r} is sparse, which is not supported.")
    return stored


def _has_rank(kind: TypeProto | None) -> bool:
    """Whether a value is a tensor of a known number of dimensions, or nothing that has one."""
    if kind is None or kind.WhichOneof("value") is None:
        return False
    return kind.WhichOneof("value") != "tensor_type" or kind.tensor_type.HasField("shape")
