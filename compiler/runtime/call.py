"""One execution of a program: a Relax VM with its input buffers.

A VM is not re-entrant; Module says how calls share executions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError, KompiloError
from ..tensor_spec import TensorSpec
from .tensors import InputSlot, check_shapes, to_array

_CPU, _DEVICE, _POOLED = 1, 0, 2  # kDLCPU, its number, and TVM's allocator that keeps freed buffers for the next call
_BOUND = "kompilo.bound"
_SHAPES_POOLED = 16


class Program:
    """The loaded code of a model and its weights, shared by all executions.

    Args:
        executable: the tvm_ffi.Module of the artifact's library.
        entry: name of its function.
        weights: C-contiguous arrays that start at multiples of 64 bytes and lie in one block of memory.
    """

    def __init__(
        self, tvm_ffi: Any, executable: Any, entry: str, inputs: Sequence[TensorSpec], weights: Sequence[np.ndarray]
    ) -> None:
        self.from_dlpack = tvm_ffi.from_dlpack
        self.tensor_type = tvm_ffi.Tensor
        self.inputs = tuple(inputs)
        self.weights = [tvm_ffi.from_dlpack(weight) for weight in weights]
        addresses = [(w.ctypes.data, w.nbytes) for w in weights if w.nbytes]
        self.low = min((start for start, _ in addresses), default=0)
        self.high = max((start + size for start, size in addresses), default=0)
        self._executable, self._entry = executable, entry
        self._clear_pool = tvm_ffi.get_global_func("vm.builtin.memory_manager.clear")
        self._shapes: set[tuple[tuple[int, ...], ...]] | None = set() if is_dynamic(inputs) else None

    def function(self) -> Any:
        """A new VM's entry function with the weights bound: it takes the inputs only."""
        vm = self._executable["vm_load_executable"]()
        vm["vm_initialization"](_CPU, _DEVICE, _POOLED)
        if not self.weights:
            return vm[self._entry]
        # Arguments bound by the VM are not converted again at each call: 10 us less for ResNet-50's hundred weights.
        vm["save_function"](self._entry, _BOUND, True, *self.weights)
        return vm[_BOUND]

    def note_shapes(self, arrays: Sequence[np.ndarray]) -> None:
        """Keeps TVM's pool of freed buffers, which never shrinks by itself, from growing with every new size."""
        if self._shapes is None:
            return
        self._shapes.add(tuple(array.shape for array in arrays))
        if len(self._shapes) > _SHAPES_POOLED:
            self._shapes = set()
            self._clear_pool()


class Execution:
    """A VM and the buffers of its inputs: serves one call at a time."""

    __slots__ = ("_from_dlpack", "_function", "_high", "_low", "_program", "_slots", "_tensor_type")

    def __init__(self, program: Program) -> None:
        self._function = program.function()
        self._from_dlpack = np.from_dlpack
        self._tensor_type = program.tensor_type
        self._program = program
        self._slots = [InputSlot(spec, program.from_dlpack) for spec in program.inputs]
        self._low, self._high = program.low, program.high

    def __call__(self, values: Sequence[Any]) -> np.ndarray | tuple[np.ndarray, ...]:
        """The model's result for one value per input, in order; see Module."""
        tensors = []
        for slot, x in zip(self._slots, values):  # noqa: B905 (the caller has counted; strict costs time)
            # Shapes that all equal those of a call that was checked need no check of their own.
            if type(x) is np.ndarray and x.dtype is slot.dtype and x.shape == slot.shape:
                slot.buffer[...] = x
                tensors.append(slot.tensor)
            else:
                tensors = self._accept(values)
                break
        try:
            result = self._function(*tensors)
        except Exception as error:  # tvm_ffi raises the type that the C++ side names
            raise _runtime_error(error) from error
        if type(result) is self._tensor_type:
            return self._export(result)
        return self._export_all(result)

    def _accept(self, values: Sequence[Any]) -> list[Any]:
        slots = self._slots
        arrays = [to_array(x, slot.spec, slot.dtype) for slot, x in zip(slots, values, strict=True)]
        check_shapes(self._program.inputs, arrays)
        self._program.note_shapes(arrays)
        return [slot.accept(array) for slot, array in zip(slots, arrays, strict=True)]

    def _export(self, tensor: Any) -> np.ndarray:
        """The tensor's memory as an array that only the user refers to."""
        address = tensor.data_ptr()
        shared = self._low <= address < self._high
        for slot in self._slots:
            if slot.low <= address < slot.high:
                shared = True
        array = self._from_dlpack(tensor)
        if shared or not array.flags.writeable:  # numpy before version 2.1 exports read-only arrays
            return array.copy()
        return array

    def _export_all(self, result: Any) -> tuple[np.ndarray, ...]:
        arrays: list[np.ndarray] = []
        seen = set()
        for tensor in result:
            address = tensor.data_ptr()
            array = self._export(tensor)
            arrays.append(array.copy() if address in seen else array)
            seen.add(address)
        return tuple(arrays)


def is_dynamic(specs: Sequence[TensorSpec]) -> bool:
    """Whether any dimension is named rather than fixed."""
    return any(isinstance(dim, str) for spec in specs for dim in spec.shape)


def _runtime_error(error: Exception) -> KompiloError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, MemoryError) or "bad_alloc" in lines[0]:
        return InputError("there is not enough memory for inputs of these sizes.")
    return KompiloError(f"the model cannot run on these inputs: {lines[0].rstrip('.')}.")
