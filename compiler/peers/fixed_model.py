"""Gives a reference runtime the same knowledge of shapes that the compiler had."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from ..errors import InputError, ModelError
from ..frontend.fixed_values import fix_inputs
from ..frontend.signature import used_names

# Protobuf cannot write more; larger models keep their weights in external files, which saving must split off again.
_LARGEST_FILE = 2**31 - 1


def fix_model_shapes(
    model: Path, shapes: Mapping[str, Sequence[int | str]], target: Path, values: Mapping[str, Any] | None = None
) -> Path:
    """Write `model` with the input shapes `shapes` to `target`; returns `target`, or `model` if nothing changes.

    Inputs in `values` become initializers of these values, as `fix_values` makes them for the compiler. Inputs that
    have no shape in `shapes`, because nothing uses them, are dropped: nobody would feed them.
    Raises ModelError if there is no readable model, InputError for an unknown input, UsageError for a value that does
    not fit.
    """
    proto = load_model(model)
    told = fix_inputs(proto.graph, values or {})
    dropped = _drop_unused_inputs(proto.graph, shapes)
    if not set_input_shapes(proto, shapes) and not dropped and not told:
        return model
    onnx.save(proto, target, save_as_external_data=proto.ByteSize() > _LARGEST_FILE)
    return target


def _drop_unused_inputs(graph: onnx.GraphProto, fed: Collection[str]) -> bool:
    """Drops inputs that are neither `fed` nor used nor stored in the model; returns whether there were any."""
    candidates = [info for info in graph.input if info.name not in fed]
    kept = used_names(graph) if candidates else set()
    stored = {tensor.name for tensor in graph.initializer}
    unused = [info for info in candidates if info.name not in kept and info.name not in stored]
    for info in unused:
        graph.input.remove(info)
    return bool(unused)


def load_model(path: Path, external_data: bool = True) -> onnx.ModelProto:
    """The model at `path` as the `onnx` package reads it (the frontend's reader would import TVM), or ModelError."""
    try:
        return onnx.load(path, load_external_data=external_data)
    except Exception as error:  # protobuf's, the checker's, or an OSError
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ModelError(f"model file {path.name!r} or its external data cannot be read: {reason}.") from error


def set_input_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int | str]]) -> bool:
    """Fix open dimensions of the inputs of `proto`, in place, at the ints in `shapes`; returns whether any was.

    Stated shapes of results are dropped where dimensions change: they may no longer hold. Raises InputError for an
    unknown input or a wrong rank.
    """
    by_name = {i.name: i for i in proto.graph.input}
    changed = False
    for name, shape in shapes.items():
        if name not in by_name:
            raise InputError(f"the model has no input {name!r}: expected one of {', '.join(by_name)}.")
        changed |= _set_dims(by_name[name], shape)
    if changed:
        proto.graph.ClearField("value_info")
        for output in proto.graph.output:
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.ClearField("shape")
    return changed


def _set_dims(value: onnx.ValueInfoProto, shape: Sequence[int | str]) -> bool:
    dims = value.type.tensor_type.shape.dim
    if not len(dims):
        for _ in shape:
            dims.add()
    if len(dims) != len(shape):
        raise InputError(f"input {value.name!r} has {len(dims)} dimensions, found a shape of {len(shape)}.")
    changed = False
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(size, int) and not dim.HasField("dim_value"):
            dim.dim_value = size
            changed = True
    return changed
