"""Checks a node against its schema, so that converters meet only nodes that are made as ONNX asks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import onnx
from onnx import AttributeProto, NodeProto

from ..errors import ModelError
from .converters.registry import load_converters
from .converters.schemas import find_schema, is_registered
from .dtypes import dtype_name
from .graph_order import describe
from .values import Value

_VARIADIC = onnx.defs.OpSchema.FormalParameterOption.Variadic
_SINGLE = onnx.defs.OpSchema.FormalParameterOption.Single

# ONNX's names of element types in schemas -> numpy's, where there is one.
_NUMPY_NAMES = {
    name.lower(): dtype for name, code in onnx.TensorProto.DataType.items() if (dtype := dtype_name(code)) is not None
}


def check_node(node: NodeProto, values: Sequence[Value | None], opset: int) -> None:
    """ModelError where an input is missing, too many or of the wrong element type, or an attribute of the wrong kind.

    Operators without a schema are not checked. Those whose schema is written here may
    have no other attributes, and no more outputs, than it names.
    """
    load_converters()
    schema = find_schema(node.domain, node.op_type, opset)
    if schema is None:
        return
    if is_registered(schema):
        _check_names(node, schema)
    _check_attributes(node, schema)
    if len(values) > schema.max_input:
        raise ModelError(f"{describe(node)} has {len(values)} inputs, expected at most {schema.max_input}.")
    _check_inputs(node, values, schema.inputs)


def _check_names(node: NodeProto, schema: onnx.defs.OpSchema) -> None:
    unknown = next((a.name for a in node.attribute if a.name not in schema.attributes), None)
    if unknown is not None:
        listed = ", ".join(sorted(schema.attributes)) or "none"
        raise ModelError(f"{describe(node)} has an attribute {unknown!r}, expected one of these: {listed}.")
    if len(node.output) > schema.max_output:
        raise ModelError(f"{describe(node)} has {len(node.output)} outputs, expected at most {schema.max_output}.")


def _check_attributes(node: NodeProto, schema: onnx.defs.OpSchema) -> None:
    known = schema.attributes
    for attribute in node.attribute:
        if attribute.name in known and attribute.type != known[attribute.name].type.value:
            wanted, found = (
                AttributeProto.AttributeType.Name(kind) for kind in (known[attribute.name].type.value, attribute.type)
            )
            raise ModelError(f"{describe(node)}: attribute {attribute.name!r} must be {wanted}, found {found}.")


def _check_inputs(
    node: NodeProto, values: Sequence[Value | None], parameters: Sequence[onnx.defs.OpSchema.FormalParameter]
) -> None:
    agreed: dict[str, tuple[int, str]] = {}  # type variable -> the first input of that type, and its element type
    for index in range(max(len(values), len(parameters))):
        parameter = parameters[min(index, len(parameters) - 1)]
        value = values[index] if index < len(values) else None
        if value is None:
            if parameter.option == _SINGLE or (parameter.option == _VARIADIC and not index):
                raise ModelError(f"{describe(node)}: input {index} is required and was not found.")
            continue
        allowed = _element_types(frozenset(parameter.types))
        if value.dtype not in allowed:
            found, wanted = value.dtype, ", ".join(sorted(allowed))
            raise ModelError(f"{describe(node)}: input {index} has elements of {found}, expected one of {wanted}.")
        if parameter.option == _VARIADIC and not parameter.is_homogeneous:
            continue
        first, dtype = agreed.setdefault(parameter.type_str, (index, value.dtype))
        if dtype != value.dtype:
            raise ModelError(
                f"{describe(node)}: inputs {first} and {index} must have elements of one type, "
                f"found {dtype} and {value.dtype}."
            )


@cache
def _element_types(types: frozenset[str]) -> frozenset[str]:
    """ "tensor(float)", ... as names of dtypes; sequences, maps and optional tensors are left out."""
    names = (t.removeprefix("tensor(").removesuffix(")") for t in types if t.startswith("tensor("))
    return frozenset(_NUMPY_NAMES.get(name, name) for name in names)
