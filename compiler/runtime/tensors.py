"""Inputs as users hand them over, turned into memory that kernels can read.

Kernels read C-contiguous data in native byte order that starts at a multiple of 64 bytes: vector loads fault on less,
and numpy promises 16. Small inputs are therefore copied into a buffer that stays aligned, which takes less time than
wrapping them; large ones are used in place where they qualify.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np

from ..element_types import CARRIED, CARRIER, EXTENDED, array_dtype
from ..errors import InputError, KompiloError
from ..tensor_spec import TensorSpec
from .relabelled import BRAIN_FLOAT, UNSIGNED, Relabelled

ALIGNMENT = 64
SMALL = 16 * 1024  # bytes; copying this much takes about as long as a DLPack round trip


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A C-contiguous array of unset memory that starts at a multiple of 64 bytes."""
    size = prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    array = raw[start : start + size].view(dtype).reshape(shape)
    if size:
        return array
    # numpy counts an axis of length 0 as 1 in the strides of an empty array; kernels ask for the product of lengths.
    strides = [prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape))]
    return np.ndarray(shape, dtype, raw, start, strides)


def as_tensor(from_dlpack: Callable[[Any], Any], array: np.ndarray) -> Any:
    """`from_dlpack(array)`, with the element type that compiled code has for the array's.

    Raises:
        KompiloError: an element type that has no place in compiled code (complex numbers, objects, ...).
    """
    try:
        if array.dtype.name in CARRIED:
            return from_dlpack(array.view(CARRIER))
        if array.dtype.name == "bfloat16":
            return from_dlpack(Relabelled(array.view(np.uint16), BRAIN_FLOAT))
        return from_dlpack(array)
    except BufferError:
        raise KompiloError(
            f"numpy cannot hand arrays of {array.dtype} to compiled code.", "cast them to float32 in the model."
        ) from None


def exporter(dtype: str) -> Callable[[Any], np.ndarray]:
    """What turns a tensor of compiled code into an array of `dtype` over the same memory; see `to_numpy`."""
    from_dlpack = to_numpy()
    if dtype not in EXTENDED:
        return from_dlpack
    kind = array_dtype(dtype)
    if dtype in CARRIED:
        return lambda tensor: from_dlpack(tensor).view(kind)
    return lambda tensor: from_dlpack(Relabelled(tensor, UNSIGNED)).view(kind)


def to_array(value: Any, spec: TensorSpec, dtype: np.dtype) -> np.ndarray:
    """`value` as an array of the dtype of `spec`, in any byte order and layout, without a copy where it is one already.

    Arrays, and objects with `__dlpack__` or `__array__`, must have that dtype; Python lists and scalars are converted
    if that loses no kind of information (no float to int, no number out of range).

    Raises:
        InputError: none of these, or of another dtype.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"input {spec.name!r}: expected a plain array, found a masked one.", "fill it first.")
    if isinstance(value, np.ndarray):
        array = _named(np.asarray(value), dtype)
    elif hasattr(value, "__dlpack__"):
        take = _from_bfloat16 if spec.dtype == "bfloat16" else np.from_dlpack
        array = _converted(take, value, f"input {spec.name!r}: expected a CPU tensor that numpy can read")
    elif hasattr(value, "__array__") and not isinstance(value, np.generic):
        array = _converted(np.asarray, value, f"input {spec.name!r}: expected an array")
    else:
        return _from_python(value, spec, dtype)
    if array.dtype.newbyteorder("=") != dtype:
        wanted = f"ml_dtypes.{spec.dtype}" if spec.dtype in EXTENDED else repr(spec.dtype)
        hint = f"convert it: {spec.name}.astype({wanted})." if array.dtype.kind in "biufc" else None
        raise _mismatch(spec, array, hint)
    return array


def _named(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`array` of `dtype` where its file kept the size of the elements only (numpy's files know no bfloat16)."""
    nameless = array.dtype.type is np.void and array.dtype.names is None
    return array.view(dtype) if nameless and dtype.name in EXTENDED and array.itemsize == dtype.itemsize else array


def _from_bfloat16(value: Any) -> np.ndarray:
    array = np.from_dlpack(Relabelled(value, UNSIGNED)) if "bfloat16" in str(value.dtype) else np.from_dlpack(value)
    return array.view(array_dtype("bfloat16")) if array.dtype == np.uint16 else array


@cache
def to_numpy() -> Callable[[Any], np.ndarray]:
    """numpy.from_dlpack, or, where that gives read-only arrays (numpy before 2.1), a function that copies them."""
    from_dlpack = np.from_dlpack
    if from_dlpack(np.empty(1)).flags.writeable:
        return from_dlpack
    return lambda tensor: from_dlpack(tensor).copy()


def check_shapes(specs: Sequence[TensorSpec], arrays: Sequence[np.ndarray]) -> None:
    """Raises InputError if an array's shape differs from its spec, or a named dimension has two sizes or none."""
    sizes: dict[str, tuple[int, str]] = {}
    for spec, array in zip(specs, arrays, strict=True):
        if len(spec.shape) != array.ndim:
            raise _mismatch(spec, array, None)
        for axis, (wanted, found) in enumerate(zip(spec.shape, array.shape, strict=True)):
            if not isinstance(wanted, str):
                if wanted != found:
                    raise _mismatch(spec, array, None)
                continue
            place = f"input {spec.name!r}: the dimension {wanted!r} (axis {axis})"
            if found == 0:  # kernels may read the first element of what is empty
                raise InputError(f"{place} must be at least 1, found 0.")
            size, owner = sizes.setdefault(wanted, (found, spec.name))
            if size != found:
                raise InputError(f"{place} is {found}, but {size} in {owner!r}.")


def _converted(convert: Callable[[Any], np.ndarray], value: Any, expected: str) -> np.ndarray:
    try:
        return convert(value)
    except Exception as error:  # other libraries' objects raise what they like
        reason = (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
        raise InputError(f"{expected}, found {type(value).__name__} ({reason}).") from None


def _from_python(value: Any, spec: TensorSpec, dtype: np.dtype) -> np.ndarray:
    array = _converted(np.asarray, value, f"input {spec.name!r}: expected an array")
    if array.dtype == dtype:
        return array
    integers = array.dtype.kind in "iu" and dtype.kind in "iu"
    if array.size and not integers and not _same_kind(array.dtype, dtype):
        raise _mismatch(spec, array, f"convert it: np.asarray({spec.name}, {spec.dtype!r}).")
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(dtype)
    if array.size and _overflows(array, result):
        raise InputError(f"input {spec.name!r}: a number lies outside the range of {spec.dtype}.")
    return result


def _same_kind(given: np.dtype, dtype: np.dtype) -> bool:
    """Whether numbers of `given` may become `dtype`; numpy's own answer, where it has one."""
    if dtype.name not in CARRIED:
        return np.can_cast(given, dtype, "same_kind")
    return given.kind in "iu" or (given.kind == "f" and dtype.name.startswith("float"))


def _overflows(array: np.ndarray, result: np.ndarray) -> bool:
    """Whether a number of `array` has no place in the dtype of its conversion `result`; infinity is no number."""
    if result.dtype.name in CARRIED:
        numbers = result.astype(np.float64)
        if not result.dtype.name.startswith("float"):
            return bool((numbers != array).any())
        return bool((np.abs(numbers) * 2 < np.abs(array)).any() or (~np.isfinite(numbers) & np.isfinite(array)).any())
    if result.dtype.kind in "iu":
        limits = np.iinfo(result.dtype)
        return not (limits.min <= int(array.min()) and int(array.max()) <= limits.max)
    return bool((np.isinf(result) & np.isfinite(array)).any())


def _mismatch(spec: TensorSpec, array: np.ndarray, hint: str | None) -> InputError:
    def describe(dtype: Any, shape: tuple[Any, ...]) -> str:
        return f"{dtype}[{', '.join(map(str, shape))}]"

    expected, found = describe(spec.dtype, spec.shape), describe(array.dtype.name, array.shape)
    return InputError(f"input {spec.name!r}: expected {expected}, found {found}.", hint)


class InputSlot:
    """The place of one input in one execution: the aligned buffer it is copied into, for the shape seen last.

    `shape` is None until a first input came, and while inputs are too large for being copied unless they must.
    """

    __slots__ = ("_from_dlpack", "buffer", "dtype", "shape", "spec", "tensor")

    def __init__(self, spec: TensorSpec, from_dlpack: Any) -> None:
        self.spec = spec
        self.dtype = array_dtype(spec.dtype)
        self.shape: tuple[int, ...] | None = None
        self.buffer = np.empty(0, self.dtype)
        self.tensor: Any = None
        self._from_dlpack = from_dlpack

    def accept(self, array: np.ndarray) -> Any:
        """A tensor of the checked `array`'s data, valid until the next call; a view of `array` if it is large."""
        if array.nbytes > SMALL and array.flags.c_contiguous and array.dtype.isnative and array.flags.writeable:
            tensor = as_tensor(self._from_dlpack, array)
            if tensor.data_ptr() % ALIGNMENT == 0:
                self.shape = None
                return tensor
        if self.tensor is None or self.buffer.shape != array.shape:
            self.buffer = aligned_empty(array.shape, self.dtype)
            self.tensor = as_tensor(self._from_dlpack, self.buffer)
        self.shape = array.shape if array.nbytes <= SMALL else None
        self.buffer[...] = array
        return self.tensor
