"""Operators defined by other operators: functions of the model, and function bodies in ONNX's own schemas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto

from .converters.registry import canonical_domain
from .dtypes import dtype_code
from .values import Value


@dataclass(frozen=True)
class Body:
    """The nodes a call expands to, its attributes already bound; `inputs` and `outputs` are names inside."""

    inputs: list[str]
    outputs: list[str]
    nodes: list[NodeProto]
    opsets: dict[str, int]


class LocalFunctions:
    """The functions that a model brings along."""

    def __init__(self, model: onnx.ModelProto):
        self._functions = {_key(f.domain, f.name, f.overload): f for f in model.functions}

    def find(self, node: NodeProto) -> FunctionProto | None:
        return self._functions.get(_key(node.domain, node.op_type, node.overload))


def _key(domain: str, name: str, overload: str) -> tuple[str, str, str]:
    return canonical_domain(domain), name, overload


def schema_function(node: NodeProto, values: Sequence[Value | None], opset: int) -> FunctionProto | None:
    """The function body that ONNX's schema gives for `node` with these inputs, or None."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        body = onnx.FunctionProto()
        body.CopyFrom(schema.function_body)
    elif schema.has_context_dependent_function:
        body = _context_dependent(schema, node, values)
        if body is None:
            return None
    else:
        return None
    given = {a.name for a in body.attribute_proto}
    defaults = [a.default_value for a in schema.attributes.values() if a.default_value.type != AttributeProto.UNDEFINED]
    body.attribute_proto.extend(d for d in defaults if d.name not in given)
    return body


def _context_dependent(
    schema: onnx.defs.OpSchema, node: NodeProto, values: Sequence[Value | None]
) -> FunctionProto | None:
    versions = schema.context_dependent_function_opset_versions
    types = [_type_proto(v).SerializeToString() for v in values]
    data = schema.get_context_dependent_function_with_opset_version(max(versions), node.SerializeToString(), types)
    if not data:
        return None
    body = FunctionProto()
    body.ParseFromString(data)
    return body


def _type_proto(value: Value | None) -> onnx.TypeProto:
    result = onnx.TypeProto()
    if value is not None:
        result.tensor_type.elem_type = dtype_code(value.dtype)
        for dim in value.shape or ():
            entry = result.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                entry.dim_value = dim
    return result


def bind(function: FunctionProto, call: NodeProto, opsets: Mapping[str, int]) -> Body:
    """The body of `function` for one call: attribute references replaced by the call's values or the defaults."""
    attributes = {a.name: a for a in function.attribute_proto} | {a.name: a for a in call.attribute}
    nodes = []
    for index, node in enumerate(function.node):
        bound = _bind_node(node, attributes)
        bound.name = f"{call.name or call.op_type}/{node.name or f'{node.op_type}_{index}'}"
        nodes.append(bound)
    own = {canonical_domain(e.domain): e.version for e in function.opset_import}
    return Body(list(function.input), list(function.output), nodes, {**opsets, **own})


def _bind_node(node: NodeProto, attributes: Mapping[str, AttributeProto]) -> NodeProto:
    bound = NodeProto()
    bound.CopyFrom(node)
    del bound.attribute[:]
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            source = attributes.get(attribute.ref_attr_name)
            if source is None:
                continue
            copy = bound.attribute.add()
            copy.CopyFrom(source)
            copy.name = attribute.name
        else:
            copy = bound.attribute.add()
            copy.CopyFrom(attribute)
            for graph in [copy.g] if copy.HasField("g") else []:
                inner = [_bind_node(n, attributes) for n in graph.node]
                del graph.node[:]
                graph.node.extend(inner)
    return bound
