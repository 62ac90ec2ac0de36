"""Schemas of operators that the onnx package has none for: what inputs they take, of which types, and what attributes.

A schema is written beside its converter, as text:

    @typed_converter(
        "QLinearAdd",
        "A:T A_scale:float32 A_zero_point:T? B:T B_scale:float32 B_zero_point:T? C_scale:float32 C_zero_point:T?",
        T="uint8 int8",
    )

An input is `name:type`, or `name:type?` where it may be left out, and `name:type*` for any number of them, which stands
last. A type is the name of a dtype or of a variable, whose inputs all have elements of one type. The importer checks a
node against its schema before it is converted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from onnx import defs
from onnx.defs import OpSchema

from .registry import canonical_domain, converter

MICROSOFT = "com.microsoft"

_Function = TypeVar("_Function", bound=Callable)
_Option = OpSchema.FormalParameterOption
_OPTIONS = {"?": _Option.Optional, "*": _Option.Variadic}
_KINDS = {
    "int": OpSchema.AttrType.INT,
    "float": OpSchema.AttrType.FLOAT,
    "string": OpSchema.AttrType.STRING,
    "ints": OpSchema.AttrType.INTS,
    "floats": OpSchema.AttrType.FLOATS,
    "strings": OpSchema.AttrType.STRINGS,
}
_ONNX_NAMES = {"float32": "float", "float64": "double", "float4_e2m1fn": "float4e2m1"}

_SCHEMAS: dict[tuple[str, str], OpSchema] = {}


def typed_converter(
    op_type: str, inputs: str, *, attributes: str = "", outputs: int = 1, domain: str = MICROSOFT, **types: str
) -> Callable[[_Function], _Function]:
    """Register the decorated converter of `op_type`, and the schema that its nodes are checked against.

    Args:
        inputs: as above.
        attributes: "name:kind" for each; a kind is int, float, string, or one of these with an s for a list.
        outputs: the largest number of outputs.
        types: for each variable the dtypes that it stands for.
    """
    _SCHEMAS[domain, op_type] = OpSchema(
        op_type,
        domain,
        1,
        inputs=[_parameter(text, types) for text in inputs.split()],
        # Only how many there are is looked at.
        outputs=[_parameter(f"output{i}:float32?", {}) for i in range(outputs)],
        type_constraints=[(name, [_tensor(t) for t in allowed.split()], "") for name, allowed in types.items()],
        attributes=[_attribute(text) for text in attributes.split()],
    )
    return converter(op_type, domain=domain)


def _tensor(dtype: str) -> str:
    """A dtype as schemas of ONNX write it."""
    return f"tensor({_ONNX_NAMES.get(dtype, dtype.replace('8_e', '8e'))})"


def _parameter(text: str, variables: dict[str, str]) -> OpSchema.FormalParameter:
    name, _, kind = text.partition(":")
    option = _OPTIONS.get(kind[-1], _Option.Single)
    kind = kind.rstrip("?*")
    several = option == _Option.Variadic
    return OpSchema.FormalParameter(
        name, kind if kind in variables else _tensor(kind), param_option=option, is_homogeneous=not several
    )


def _attribute(text: str) -> OpSchema.Attribute:
    name, _, kind = text.partition(":")
    return OpSchema.Attribute(name, _KINDS[kind], "", required=False)


def find_schema(domain: str, op_type: str, opset: int) -> OpSchema | None:
    """The schema of an operator: that of the onnx package, else the one registered here; None where there is none."""
    try:
        return defs.get_schema(op_type, opset, canonical_domain(domain))
    except defs.SchemaError:
        return _SCHEMAS.get((canonical_domain(domain), op_type))


def is_registered(schema: OpSchema) -> bool:
    """Whether the schema is one of this table rather than the onnx package's."""
    return _SCHEMAS.get((schema.domain, schema.name)) is schema
