"""Inputs whose values are fixed when the model is compiled: they become constants, and branches on them are decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ..errors import UsageError
from .dtypes import dtype_name, is_float, is_integer, numpy_dtype

if TYPE_CHECKING:
    from .model_reader import ModelSource  # which imports TVM; `kompilo verify` does not need it

# Input -> a number, a (nested) list of numbers, or an array.
Values = Mapping[str, Any]

# Elements of a value that an artifact's provenance repeats.
_MOST_TOLD = 16


def fix_values(source: ModelSource, values: Values) -> ModelSource:
    """A copy of the model whose inputs named in `values` are initializers.

    Raises:
        UsageError: the model has no such input, or the value is of another kind or shape than the input.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    told = fix_inputs(proto.graph, values)
    return replace(source, proto=proto, provenance={**source.provenance, "values": told})


def fix_inputs(graph: onnx.GraphProto, values: Values) -> dict[str, Any]:
    """Make initializers of the inputs named in `values`, in place.

    Returns what an artifact's provenance says of them: numbers, or type and shape as text where they are many.
    Raises UsageError as `fix_values`.
    """
    infos = {info.name: info for info in graph.input}
    for name in values:
        if name not in infos or any(tensor.name == name for tensor in graph.initializer):
            listed = ", ".join(repr(n) for n in infos) or "no inputs"
            raise UsageError(f"A value is given for input {name!r}, which the model does not have; it has {listed}.")
    arrays = {name: _array(infos[name], value) for name, value in values.items()}
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    kept = [info for info in graph.input if info.name not in arrays]
    del graph.input[:]
    graph.input.extend(kept)
    return {
        name: array.tolist() if array.size <= _MOST_TOLD else f"{array.dtype} {array.shape}"
        for name, array in arrays.items()
    }


def _array(info: onnx.ValueInfoProto, value: Any) -> np.ndarray:
    """`value` in the input's type and shape."""
    declared = info.type.tensor_type
    dtype = dtype_name(declared.elem_type) if info.type.WhichOneof("value") == "tensor_type" else None
    if dtype is None or not (is_float(dtype) or is_integer(dtype) or dtype == "bool"):
        raise UsageError(f"The value of input {info.name!r} cannot be fixed: expected an input that is numbers.")
    try:
        given = np.asarray(value)
    except ValueError:
        given = np.asarray(None)
    if given.dtype.kind not in ("biuf" if is_float(dtype) else "biu") or (dtype == "bool") != (given.dtype.kind == "b"):
        raise UsageError(f"The value given for input {info.name!r} is {value!r}, expected {dtype}.")
    array = given.astype(numpy_dtype(dtype))
    if is_integer(dtype) and not np.array_equal(array, given):
        raise UsageError(f"The value given for input {info.name!r} is {value!r}, which is no {dtype}.")
    if declared.HasField("shape") and not _fits(array.shape, declared.shape.dim):
        dims = [d.dim_param or d.dim_value for d in declared.shape.dim]
        raise UsageError(f"The value of input {info.name!r} has the shape {list(array.shape)}, expected {dims}.")
    return array


def _fits(shape: Sequence[int], dims: Sequence[onnx.TensorShapeProto.Dimension]) -> bool:
    return len(shape) == len(dims) and all(
        dim.WhichOneof("value") != "dim_value" or dim.dim_value == size for size, dim in zip(shape, dims, strict=True)
    )
