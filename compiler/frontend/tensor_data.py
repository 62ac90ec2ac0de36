"""Decodes the tensors stored in a model, inside the file or beside it ("external data")."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ..errors import ModelError
from .dtypes import dtype_name, numpy_dtype, onnx_type_text


def decode_tensor(tensor: TensorProto, folder: Path | None) -> np.ndarray:
    """The content of `tensor`; external data is looked up below `folder`.

    ModelError when the element type is not supported, when the data does not fill the shape, or when an external
    file is missing, too short, or outside the model's folder.
    """
    name = dtype_name(tensor.data_type)
    if name is None:
        raise ModelError(
            f"Tensor {tensor.name!r} has element type {onnx_type_text(tensor.data_type)}, which is not supported."
        )
    if any(d < 0 for d in tensor.dims):
        raise ModelError(f"Tensor {tensor.name!r} has a negative dimension: {list(tensor.dims)}.")
    if tensor.data_location == TensorProto.EXTERNAL:
        return _read_external(tensor, folder, numpy_dtype(name))
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"Tensor {tensor.name!r} is damaged: its data does not fill shape {list(tensor.dims)} of {name}."
        ) from error


def _read_external(tensor: TensorProto, folder: Path | None, dtype: np.dtype) -> np.ndarray:
    """Memory-map the part of the external file that holds `tensor`."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(
            f"Tensor {tensor.name!r} is stored in file {location!r}, but the model was not given as a file.",
            "give the path of the model instead",
        )
    path = _inside(folder, location, tensor.name)
    size = math.prod(tensor.dims) * dtype.itemsize
    offset, length = (_number(entries, key, tensor.name, default) for key, default in (("offset", 0), ("length", size)))
    if length != size:
        raise ModelError(
            f"Tensor {tensor.name!r} has {length} bytes in {location!r}, expected {size} for shape {list(tensor.dims)}."
        )
    try:
        available = path.stat().st_size - offset
    except OSError as error:
        raise ModelError(f"External data file {location!r} of tensor {tensor.name!r} is missing.") from error
    if available < size:
        raise ModelError(
            f"External data file {location!r} is truncated: tensor {tensor.name!r} needs {size} bytes "
            f"at offset {offset}, found {max(available, 0)}."
        )
    if size == 0:
        return np.zeros(tuple(tensor.dims), dtype)
    try:
        raw = np.memmap(path, np.uint8, "r", offset, (size,))
    except OSError as error:
        raise ModelError(
            f"External data file {location!r} of tensor {tensor.name!r} cannot be read: {error}."
        ) from error
    return raw.view(dtype.newbyteorder("<")).reshape(tuple(tensor.dims))


def _inside(folder: Path, location: str, name: str) -> Path:
    """The path of an external file; refused unless it lies, links resolved, below the model's folder."""
    base = folder.resolve()
    try:
        path = (base / location).resolve()
    except (OSError, ValueError) as error:
        raise ModelError(f"Tensor {name!r} names an impossible external data file {location!r}.") from error
    if not location or Path(location).is_absolute() or base not in path.parents:
        raise ModelError(
            f"Tensor {name!r} names external data file {location!r}, which is not inside the model's folder."
        )
    return path


def _number(entries: dict[str, str], key: str, name: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not text.isdecimal():
        raise ModelError(f"Tensor {name!r} has external data with {key} {text!r}, expected a number of bytes.")
    return int(text)


def tensor_type(value_info: onnx.ValueInfoProto, what: str) -> onnx.TypeProto.Tensor:
    """The tensor type of a graph input or output; ModelError for sequences, maps, and unknown element types."""
    kind = value_info.type.WhichOneof("value")
    if kind != "tensor_type":
        found = kind.removesuffix("_type").replace("_", " ") if kind else "nothing"
        raise ModelError(f"{what} {value_info.name!r} must be a tensor, found {found}.")
    tensor = value_info.type.tensor_type
    if dtype_name(tensor.elem_type) is None:
        raise ModelError(
            f"{what} {value_info.name!r} has element type {onnx_type_text(tensor.elem_type)}, which is not supported."
        )
    return tensor
