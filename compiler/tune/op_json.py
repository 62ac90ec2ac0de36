"""OpSpec as JSON and back, exactly; the text form (`str(op)`) is a key and cannot be read back."""

from __future__ import annotations

from typing import Any

from ..schedule.op_spec import AttrValue, OpSpec, Step, TensorType

# Sizes beyond are of no tensor.
_LARGEST = 1 << 48


def op_to_json(op: OpSpec) -> dict[str, Any]:
    """A JSON-serialisable form of `op`."""
    return {
        "kind": op.kind,
        "inputs": [_type_to_json(t) for t in op.inputs],
        "constant": list(op.constant),
        "attrs": [[name, list(v) if isinstance(v, tuple) else v] for name, v in op.attrs],
        "anchor": _type_to_json(op.anchor_type),
        "output": _type_to_json(op.output),
        "epilogue": [[s.op, list(s.args), s.dtype] for s in op.epilogue],
    }


def op_from_json(data: dict[str, Any]) -> OpSpec:
    """The OpSpec that `op_to_json` gave; KeyError, TypeError or ValueError if `data` is no such thing."""
    op = OpSpec(
        kind=str(data["kind"]),
        inputs=tuple(_type_from_json(t) for t in data["inputs"]),
        constant=tuple(bool(c) for c in data["constant"]),
        attrs=tuple((str(name), _attr_from_json(value)) for name, value in data["attrs"]),
        anchor_type=_type_from_json(data["anchor"]),
        output=_type_from_json(data["output"]),
        epilogue=tuple(Step(str(op), tuple(args), str(dtype)) for op, args, dtype in data["epilogue"]),
    )
    if not op.inputs or len(op.inputs) != len(op.constant):
        raise ValueError(f"{len(op.inputs)} operands, {len(op.constant)} marks of constants")
    hash(op)  # lists and objects where names and numbers belong
    return op


def _type_to_json(t: TensorType) -> list[Any]:
    return [t.dtype, *t.shape]


def _type_from_json(data: list[Any]) -> TensorType:
    dtype, *shape = data
    if not all(isinstance(d, str) or (isinstance(d, int) and 0 <= d < _LARGEST) for d in shape):
        raise TypeError(f"expected sizes or names of dimensions, found {shape}")
    return TensorType(tuple(shape), str(dtype))


def _attr_from_json(value: Any) -> AttrValue:
    return tuple(int(v) for v in value) if isinstance(value, list) else value
