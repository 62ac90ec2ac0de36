"""One execution of a program on a GPU: inputs go there, results come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .accelerator import Accelerator
from .call import Call, Program, runtime_error
from .tensors import check_shapes, to_array


class DeviceExecution:
    """A VM and the device memory of its inputs; not re-entrant, like Execution."""

    def __init__(self, program: Program, accelerator: Accelerator) -> None:
        self._program, self._accelerator = program, accelerator
        self._function = program.function()
        self._dtypes = [np.dtype(spec.dtype) for spec in program.inputs]
        self._staged: list[Any] = [None] * len(self._dtypes)
        self._shapes: list[tuple[int, ...] | None] = [None] * len(self._dtypes)

    def bind(self) -> Call:
        """A function from one value per input, in order, to the model's result in host memory."""
        return self._call

    def _call(self, values: Sequence[Any]) -> Any:
        program = self._program
        arrays = [to_array(x, s, d) for x, s, d in zip(values, program.inputs, self._dtypes, strict=True)]
        check_shapes(program.inputs, arrays)
        program.note_shapes(arrays)
        try:
            for index, array in enumerate(arrays):
                self._stage(index, array)
            result = self._function(*self._staged)
            if isinstance(result, program.tensor_type):
                return self._accelerator.download(result)
            return tuple(self._accelerator.download(tensor) for tensor in result)
        except Exception as error:  # tvm_ffi raises the type that the C++ side names
            failure = self._accelerator.failure(error)
            raise failure or runtime_error(error, program.inputs, values) from error

    def _stage(self, index: int, array: np.ndarray) -> None:
        """Copy an input into device memory that is kept for inputs of the same shape."""
        native = np.ascontiguousarray(array, self._dtypes[index])
        kept = self._staged[index] if self._shapes[index] == native.shape else None
        self._shapes[index] = None
        self._staged[index] = self._accelerator.upload(native, kept)
        self._shapes[index] = native.shape
