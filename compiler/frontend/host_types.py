"""What kinds of values a model holds: tensors of numbers, which are compiled, and what only the host can hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, TypeProto, helper

from ..errors import ModelError
from ..tensor_spec import ANY_SHAPE, OPTIONAL, SEQUENCE, STRING, TensorSpec, dim_name
from .converters.registry import canonical_domain
from .dtypes import dtype_code, dtype_name, onnx_type_text
from .graph_order import reads
from .signature import Shapes, input_signature, used_names

# Operators that take or give strings, sequences or optionals, or that no target has.
_NAMES = """
ImageDecoder TfIdfVectorizer StringNormalizer StringConcat StringSplit RegexFullMatch
SequenceEmpty SequenceConstruct SequenceInsert SequenceErase SequenceAt SequenceLength SequenceMap SplitToSequence
ConcatFromSequence Optional OptionalHasElement OptionalGetElement
"""
_OF_THE_HOST = frozenset(_NAMES.split())
_BRACKETS = {"tensor_type": "tensor", "sequence_type": "seq", "optional_type": "optional"}
# Of tensors above this many elements ONNX's inference is told the types only.
_MOST_ELEMENTS = 1024


def may_need_host(proto: onnx.ModelProto) -> bool:
    """Whether anything in the model hints at values that no target holds. False for most, in next to no time."""
    graph = proto.graph
    used = used_names(graph)
    if any(_is_special(info.type) and info.name in used for info in (*graph.input, *graph.output)):
        return True
    if any(tensor.data_type == TensorProto.STRING for tensor in graph.initializer):
        return True
    nodes = [*graph.node, *(node for function in proto.functions for node in function.node)]
    return any(map(hints_at_host, nodes))


def hints_at_host(node: NodeProto) -> bool:
    """Whether a node, or one in its subgraphs, is of the host's operators or mentions strings."""
    domain = canonical_domain(node.domain)
    if not domain and node.op_type in _OF_THE_HOST:
        return True
    for attribute in node.attribute:
        if not domain and node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.STRING:
            return True
        if _mentions_strings(attribute, domain) or any(any(map(hints_at_host, g.node)) for g in _graphs(attribute)):
            return True
    return False


def _mentions_strings(attribute: AttributeProto, domain: str) -> bool:
    if attribute.type == AttributeProto.TENSOR:
        return bool(attribute.t.data_type == TensorProto.STRING)
    if attribute.type == AttributeProto.STRINGS:
        return domain == "ai.onnx.ml" or attribute.name == "value_strings"
    return bool(attribute.type == AttributeProto.STRING and attribute.name == "value_string")


def _graphs(attribute: AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.type == AttributeProto.GRAPH:
        yield attribute.g
    yield from attribute.graphs


def _is_special(kind: TypeProto) -> bool:
    return kind.WhichOneof("value") not in (None, "tensor_type") or kind.tensor_type.elem_type == TensorProto.STRING


def why_on_host(kind: TypeProto | None) -> str | None:
    """What no target can hold of a value of this type, in words; None where one can, or the type is not known."""
    if kind is None or not _is_special(kind):
        return None
    which = kind.WhichOneof("value")
    names = {"tensor_type": "strings", "sequence_type": "a sequence", "optional_type": "an optional value"}
    return names.get(which, f"a {which.removesuffix('_type').replace('_', ' ')}")


def type_text(kind: TypeProto | None) -> str | None:
    """The type as ONNX's schemas write it, "seq(tensor(float))" for example; None where it is not known."""
    which = kind.WhichOneof("value") if kind is not None else None
    if kind is None or which not in _BRACKETS:
        return None
    if which == "tensor_type":
        code = kind.tensor_type.elem_type
        return f"tensor({onnx_type_text(code).lower()})" if code else None
    inner = type_text(getattr(kind, which).elem_type)
    return None if inner is None else f"{_BRACKETS[which]}({inner})"


def spec_of(name: str, kind: TypeProto, what: str = "Value") -> TensorSpec:
    """The spec of a value of type `kind`; ModelError for maps, sparse tensors, and types that nobody stated."""
    wrappers, inner = [], kind
    while inner.WhichOneof("value") in ("sequence_type", "optional_type"):
        which = inner.WhichOneof("value")
        wrappers.append(SEQUENCE if which == "sequence_type" else OPTIONAL)
        inner = getattr(inner, which).elem_type
    which = inner.WhichOneof("value")
    if which != "tensor_type":
        if which is None:
            raise ModelError(f"{what} {name!r} has a type that neither the model nor ONNX's inference tells.")
        found = which.removesuffix("_type").replace("_", " ")
        raise ModelError(f"{what} {name!r} is a {found}, which is not supported.")
    code = inner.tensor_type.elem_type
    element = STRING if code == TensorProto.STRING else dtype_name(code)
    if element is None:
        raise ModelError(f"{what} {name!r} has element type {onnx_type_text(code)}, which is not supported.")
    dtype = "".join(f"{w}(" for w in wrappers) + element + ")" * len(wrappers)
    return TensorSpec(name, _dims(name, inner.tensor_type), dtype)


def _dims(name: str, kind: TypeProto.Tensor) -> tuple[int | str, ...]:
    if not kind.HasField("shape"):
        return ANY_SHAPE
    return tuple(_dim(d, f"{name}_dim{axis}") for axis, d in enumerate(kind.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension, default: str) -> int | str:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return dim_name(dim.dim_param if re.search(r"[^\W\d]", dim.dim_param) else default)


def value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    """A tensor of numbers, or of strings, as a graph's input."""
    code = TensorProto.STRING if spec.element == STRING else dtype_code(spec.element)
    shape = None if spec.shape == ANY_SHAPE else list(spec.shape)
    return helper.make_tensor_value_info(spec.name, code, shape)


def host_signature(graph: onnx.GraphProto, shapes: Shapes | None) -> list[TensorSpec]:
    """Like `input_signature`, for models whose inputs may also be strings, sequences and optionals.

    Dimensions of tensors of strings take part as those of other tensors do: bytes stand in for them. Errors are those
    of `input_signature`, and ModelError for maps and sparse tensors.
    """
    stand_in = onnx.GraphProto()
    special: dict[str, TensorSpec] = {}
    used = used_names(graph)
    constants = {t.name for t in graph.initializer}
    order = [i.name for i in graph.input if i.name not in constants and (i.name in used or not _is_special(i.type))]
    for info in graph.input:
        if info.name not in order or not _is_special(info.type):
            stand_in.input.add().CopyFrom(info)
            continue
        special[info.name] = spec_of(info.name, info.type, "Input")
        if info.type.HasField("tensor_type"):
            entry = stand_in.input.add()
            entry.CopyFrom(info)
            entry.type.tensor_type.elem_type = TensorProto.UINT8
    for field in ("node", "output", "initializer", "sparse_initializer"):
        getattr(stand_in, field).extend(getattr(graph, field))
    plain = {spec.name: spec for spec in input_signature(stand_in, shapes)}
    for name, spec in special.items():
        if name in plain:
            plain[name] = TensorSpec(name, plain[name].shape, spec.dtype)
    return [plain.get(name) or special[name] for name in order if name in plain or name in special]


def infer_types(
    proto: onnx.ModelProto,
    nodes: Sequence[NodeProto],
    stored: Mapping[str, TensorProto],
    specs: Sequence[TensorSpec],
    opsets: Mapping[str, int],
) -> Mapping[str, TypeProto]:
    """The types of the values that `nodes`, which are in order, work on, as far as ONNX's inference finds them.

    It is asked node by node, and only where all types that a node reads are known: some of its rules end the process
    otherwise. What the model itself says of values between its nodes counts only where the inference finds nothing:
    exporters leave stale sizes there.
    """
    stated = {i.name: i.type for i in (*proto.graph.value_info, *proto.graph.output) if _is_told(i.type)}
    types: dict[str, TypeProto] = {i.name: i.type for i in proto.graph.input if _is_told(i.type)}
    types |= {s.name: value_info(s).type for s in specs if not s.wrappers}
    types |= {name: helper.make_tensor_type_proto(t.data_type, list(t.dims)) for name, t in stored.items()}
    data = {name: t for name, t in stored.items() if _is_small(t)}
    for node in nodes:
        value = next((a.t for a in node.attribute if a.name == "value" and node.op_type == "Constant"), None)
        if value is not None and _is_small(value):
            data[node.output[0]] = value
        found = _infer(node, types, data, opsets, proto.ir_version)
        for name in filter(None, node.output):
            kind = found.get(name, TypeProto())
            if not _is_told(kind) or _says_less(kind, stated.get(name)):
                kind = stated.get(name, kind)
            if _is_told(kind):
                types[name] = kind
    return types


def _infer(
    node: NodeProto,
    types: Mapping[str, TypeProto],
    data: Mapping[str, TensorProto],
    opsets: Mapping[str, int],
    ir_version: int,
) -> Mapping[str, TypeProto]:
    """The types of a node's outputs; none where the inference cannot be asked, or finds a fault."""
    domain = canonical_domain(node.domain)
    names = list(reads(node))
    if any(name not in types for name in names):
        return {}
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
        imports = [helper.make_opsetid(d, v) for d, v in opsets.items()]
        known = {name: types[name] for name in names}
        given = {name: data[name] for name in names if name in data}
        return onnx.shape_inference.infer_node_outputs(schema, node, known, given, None, imports, ir_version)
    except Exception:  # its C++ raises what it likes; whoever converts or checks the node says what is wrong
        return {}


def _is_told(kind: TypeProto) -> bool:
    which = kind.WhichOneof("value")
    return which is not None and (which != "tensor_type" or kind.tensor_type.elem_type != TensorProto.UNDEFINED)


def _says_less(kind: TypeProto, known: TypeProto | None) -> bool:
    """Whether `kind` is a tensor without a shape where `known` has one."""
    if known is None or kind.WhichOneof("value") != "tensor_type" or known.WhichOneof("value") != "tensor_type":
        return False
    return known.tensor_type.HasField("shape") and not kind.tensor_type.HasField("shape")


def _is_small(tensor: TensorProto) -> bool:
    """Whether the inference may look at what the tensor holds."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count <= _MOST_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL
