"""One execution of a program on a GPU: inputs go there, results come back, unless both are there already.

Inputs that lie on the GPU (objects with `__dlpack__`, as torch and cupy have them) are used where they lie. If all
inputs do, so do the results. Host arrays travel through pinned memory: all copies and kernels of a call are queued,
then waited for once. Checked against a stand-in for the driver, not yet on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..element_types import CARRIED, array_dtype, carrier
from ..errors import InputError, KompiloError
from ..tensor_spec import TensorSpec
from .accelerator import Accelerator, Pinned
from .call import Call, Program, runtime_error
from .tensors import check_shapes, to_array

_ALIGNMENT = 64
# Sizes of results whose pinned memory is kept.
_KEPT = 64


class DeviceExecution:
    """A VM and the device memory of its inputs; not re-entrant, like Execution."""

    def __init__(self, program: Program, accelerator: Accelerator) -> None:
        accelerator.check_process()
        self._program, self._accelerator = program, accelerator
        with accelerator.turn:
            self._functions = program.functions()
        self._slots = [_Slot(spec, accelerator) for spec in program.inputs]
        self._landing: dict[tuple[int, tuple[int, ...], str], Pinned] = {}

    def bind(self) -> Call:
        """A function from one value per input, in order, to the model's result: arrays, or tensors on the GPU.

        With the handle of a stream as second argument it queues the work there and does not wait for it; inputs must
        then lie on the GPU.
        """
        return self._call

    def _call(self, values: Sequence[Any], stream: int | None = None) -> Any:
        program, accelerator = self._program, self._accelerator
        accelerator.check_process()
        given = [self._take(x, slot, stream) for x, slot in zip(values, self._slots, strict=True)]
        shaped: list[Any] = [g if isinstance(g, np.ndarray) else _Shaped(g) for g in given]
        check_shapes(program.inputs, shaped)
        stays = not any(isinstance(g, np.ndarray) for g in given) and (bool(given) or stream is not None)
        try:
            with accelerator.turn, accelerator.on(stream or 0):
                program.note_shapes(shaped)
                staged = zip(given, self._slots, strict=True)
                result = self._run([slot.stage(g) if isinstance(g, np.ndarray) else g for g, slot in staged])
                results = [result] if isinstance(result, program.tensor_type) else list(result)
                if not stays:
                    results = self._export(results)
                elif stream is None:
                    accelerator.synchronize()
        except KompiloError:
            raise
        except Exception as error:  # tvm_ffi raises the type that the C++ side names
            accelerator.check()
            failure = accelerator.failure(error)
            raise failure or runtime_error(error, program.inputs, values) from error
        return results[0] if isinstance(result, program.tensor_type) else tuple(results)

    def _take(self, value: Any, slot: _Slot, stream: int | None) -> Any:
        """`value` as a tensor of the GPU's where it lies there, else as an array; InputError if it is neither."""
        tensor = self._resident(value, slot, stream)
        if tensor is None and stream is not None:
            raise InputError(f"input {slot.spec.name!r}: expected a tensor on the GPU, found {type(value).__name__}.")
        return to_array(value, slot.spec, slot.dtype) if tensor is None else tensor

    def _run(self, tensors: Sequence[Any]) -> Any:
        """The program's result. If no graph can be captured, kernels are launched one by one from then on."""
        try:
            result = self._functions[0](*tensors)
            self._accelerator.check()
            return result
        except Exception as error:
            if len(self._functions) == 1 or "captur" not in str(error).lower():
                raise
            del self._functions[0]
            return self._functions[0](*tensors)

    def _resident(self, value: Any, slot: _Slot, stream: int | None) -> Any:
        """`value` as a tensor if it lies on this GPU, else None; InputError for one that cannot be used as it lies."""
        kind = self._accelerator.kind
        where = getattr(value, "__dlpack_device__", None)
        if where is None or isinstance(value, np.ndarray):
            return None
        device_type, number = (int(part) for part in where())
        if device_type != kind.device_type:
            return None
        if number != self._accelerator.number:
            place = f"{kind.name}:{number}, but the model is on {kind.name}:{self._accelerator.number}"
            raise InputError(f"input {slot.spec.name!r} lies on {place}.")
        tensor = _tensor_of(self._program, value, slot.spec, stream or kind.default_stream)
        if str(tensor.dtype) != carrier(slot.spec.dtype):
            raise InputError(f"input {slot.spec.name!r}: expected {slot.spec.dtype}, found {tensor.dtype}.")
        return tensor

    def _export(self, results: Sequence[Any]) -> list[np.ndarray]:
        """Arrays of the results: copies of all are queued before the first is waited for."""
        accelerator = self._accelerator
        landings = [self._land(k, tensor) for k, tensor in enumerate(results)]
        for tensor, landing in zip(results, landings, strict=True):
            if landing is not None:
                accelerator.copy(tensor, landing.tensor)
        accelerator.synchronize()
        arrays = [
            accelerator.download(tensor) if landing is None else landing.array.copy()
            for tensor, landing in zip(results, landings, strict=True)
        ]
        specs = self._program.outputs
        return [
            array.view(array_dtype(specs[k].dtype)) if specs and specs[k].dtype in CARRIED else array
            for k, array in enumerate(arrays)
        ]

    def _land(self, number: int, tensor: Any) -> Pinned | None:
        """Pinned memory for result `number`, kept for further results of that size."""
        key = number, tuple(tensor.shape), str(tensor.dtype)
        if key not in self._landing:
            pinned = self._accelerator.pinned(key[1], array_dtype(key[2]))
            if pinned is None:
                return None
            if len(self._landing) >= _KEPT:
                self._landing.clear()
            self._landing[key] = pinned
        return self._landing[key]


class _Slot:
    """The place of one input: memory on the GPU, and pinned memory to come from, for the shape seen last."""

    def __init__(self, spec: TensorSpec, accelerator: Accelerator) -> None:
        self.spec, self.dtype = spec, array_dtype(spec.dtype)
        self._accelerator = accelerator
        self._shape: tuple[int, ...] | None = None
        self._tensor: Any = None
        self._pinned: Pinned | None = None

    def stage(self, array: np.ndarray) -> Any:
        """`array` as a tensor on the GPU, valid until the next call."""
        accelerator = self._accelerator
        if self._shape != array.shape:
            self._shape = None
            self._tensor = accelerator.empty(array.shape, self.dtype)
            self._pinned = accelerator.pinned(array.shape, self.dtype)
            self._shape = array.shape
        if self._pinned is None:
            return accelerator.upload(np.ascontiguousarray(array, self.dtype), self._tensor)
        self._pinned.array[...] = array
        accelerator.copy(self._pinned.tensor, self._tensor)
        return self._tensor


class _Shaped:
    """What checks of shapes ask of a tensor on the GPU."""

    def __init__(self, tensor: Any) -> None:
        self.shape = tuple(int(d) for d in tensor.shape)
        self.ndim, self.dtype = len(self.shape), array_dtype(str(tensor.dtype))


def _tensor_of(program: Program, value: Any, spec: TensorSpec, stream: int) -> Any:
    """A tensor of the same memory as `value`, whose own work the work on `stream` then waits for."""
    if isinstance(value, program.tensor_type):
        return value
    try:
        capsule = value.__dlpack__(stream=stream)
        return program.from_dlpack(capsule, require_alignment=_ALIGNMENT, require_contiguous=True)
    except Exception as error:  # other libraries' objects raise what they like
        reason = (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
        raise InputError(
            f"input {spec.name!r}: the tensor on the GPU cannot be used as it lies ({reason}).",
            "make it contiguous, and aligned to 64 bytes.",
        ) from None
