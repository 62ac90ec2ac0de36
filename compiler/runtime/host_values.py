"""Values that only the host holds: strings, sequences and optionals, as users give them and as they get them.

A tensor of strings is an object array of Python strings, a sequence a list, an optional its value or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..element_types import array_dtype
from ..errors import InputError
from ..tensor_spec import ANY_SHAPE, OPTIONAL, STRING, TensorSpec
from .tensors import to_array


def accept(value: Any, spec: TensorSpec) -> Any:
    """`value` as the host's operators take the input `spec`.

    Raises:
        InputError: of another kind, dtype or shape.
    """
    if spec.wrappers:
        if spec.wrappers[0] == OPTIONAL:
            return None if value is None else accept(value, _inner(spec))
        if not isinstance(value, list | tuple):
            raise InputError(f"input {spec.name!r}: expected a list of arrays ({spec}), found {type(value).__name__}.")
        return [accept(item, _inner(spec)) for item in value]
    array = _strings(value, spec) if spec.dtype == STRING else to_array(value, spec, array_dtype(spec.dtype))
    if not fits(array, spec):
        raise InputError(f"input {spec.name!r}: expected {spec}, found the shape {list(array.shape)}.")
    return array


def _inner(spec: TensorSpec) -> TensorSpec:
    return replace(spec, dtype=spec.dtype[len(spec.wrappers[0]) + 1 : -1])


def _strings(value: Any, spec: TensorSpec) -> np.ndarray:
    """Strings, arrays of them, or nested lists, as an object array of Python strings."""
    try:
        array = np.array(value, dtype=object)
    except (ValueError, TypeError):
        raise InputError(f"input {spec.name!r}: expected strings, found lists of several lengths.") from None
    result = np.empty(array.shape, object)
    for place, item in enumerate(array.reshape(-1).tolist()):
        if not isinstance(item, str):
            raise InputError(f"input {spec.name!r}: expected strings, found {type(item).__name__}.")
        result.reshape(-1)[place] = str(item)
    return result


def fits(array: np.ndarray, spec: TensorSpec) -> bool:
    """Whether the array has the dimensions of `spec`, as far as that fixes them."""
    if spec.shape == ANY_SHAPE:
        return True
    sizes = zip(spec.shape, array.shape, strict=False)
    return len(spec.shape) == array.ndim and all(isinstance(d, str) or d == n for d, n in sizes)


def check_names(specs: Sequence[TensorSpec], values: Sequence[Any]) -> None:
    """InputError where a named dimension has two sizes in the tensors among `values`."""
    sizes: dict[str, tuple[int, str]] = {}
    for spec, value in zip(specs, values, strict=True):
        if not isinstance(value, np.ndarray) or spec.shape == ANY_SHAPE:
            continue
        for axis, (dim, found) in enumerate(zip(spec.shape, value.shape, strict=True)):
            size, owner = sizes.setdefault(dim, (found, spec.name)) if isinstance(dim, str) else (found, "")
            if size != found:
                place = f"input {spec.name!r}: the dimension {dim!r} (axis {axis})"
                raise InputError(f"{place} is {found}, but {size} in {owner!r}.")


def conform(value: Any, spec: TensorSpec) -> Any:
    """A result of the evaluator in the form that `spec` promises: strings in object arrays, numbers in arrays.

    Raises:
        ValueError: it is of another kind, dtype or number of dimensions; the text says which was expected.
    """
    if spec.wrappers:
        if spec.wrappers[0] == OPTIONAL:
            return None if value is None else conform(value, _inner(spec))
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a sequence for {spec.name!r}, found {type(value).__name__}")
        # What models say of the shapes of elements is not reliable, and nothing is compiled for it.
        return [conform(item, replace(_inner(spec), shape=ANY_SHAPE)) for item in value]
    if value is None or isinstance(value, list | tuple | dict):
        raise ValueError(f"expected a tensor for {spec.name!r}, found {type(value).__name__}")
    array = np.asarray(value)
    if spec.dtype == STRING and array.dtype.kind in "OUT":
        try:
            array = _strings(array, spec)
        except InputError:
            raise ValueError(f"expected strings in {spec.name!r}, found something else") from None
    elif spec.dtype == STRING or array.dtype != array_dtype(spec.dtype):
        raise ValueError(f"expected {spec.dtype} for {spec.name!r}, found {array.dtype}")
    if spec.shape != ANY_SHAPE and len(spec.shape) != array.ndim:
        raise ValueError(f"expected {len(spec.shape)} dimensions for {spec.name!r}, found {array.ndim}")
    return array


def owned(value: Any) -> Any:
    """A copy that shares no memory with anything."""
    if isinstance(value, list):
        return [owned(item) for item in value]
    return value.copy() if isinstance(value, np.ndarray) else value
