"""One execution of a program: a Relax VM with its input buffers.

A VM is not re-entrant; Module says how calls share executions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from ..errors import ArtifactError, InputError, KompiloError
from ..tensor_spec import TensorSpec
from .accelerator import Accelerator
from .library import clear_memory
from .tensors import InputSlot, as_tensor, check_shapes, exporter, to_array, to_numpy

Call = Callable[..., Any]  # takes the values of the inputs; see the executions' `bind`

_CPU, _DEVICE, _POOLED = 1, 0, 2  # kDLCPU, its number, and TVM's allocator that keeps freed buffers for the next call
_BOUND = "kompilo.bound."
# Behind an entry's name: the same program, whose kernels are captured as a graph in the first run (CUDA).
CAPTURED = "_captured"
_SHAPES_POOLED = 16
# What the virtual machine says of a size that the model's operators fix, though its signature leaves it open.
_FIXED_SIZE = re.compile(r"Check failed: .*\((\d+) vs\. (\d+)\).*match_cast error,\s+shape\[(\d+)\] mismatch")

_QUOTED = re.compile(r"`([^`]*)`")


class Program:
    """The loaded code of a model and its weights, shared by all executions.

    Args:
        executable: the tvm_ffi.Module of the artifact's library.
        entry: name of its function.
        weights: C-contiguous arrays that start at multiples of 64 bytes and lie in one block of memory.
        accelerator: the GPU to run on, which the weights are copied to; None for the CPU.
        outputs: what the entry gives; arrays of results have their types (none given: those of numpy's own).
    """

    def __init__(
        self,
        tvm_ffi: Any,
        executable: Any,
        entry: str,
        inputs: Sequence[TensorSpec],
        weights: Sequence[np.ndarray],
        accelerator: Accelerator | None = None,
        outputs: Sequence[TensorSpec] = (),
    ) -> None:
        self.from_dlpack = tvm_ffi.from_dlpack
        self.tensor_type = tvm_ffi.Tensor
        self.array_item = tvm_ffi.get_global_func("ffi.ArrayGetItem")
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.devices = (_CPU, _DEVICE, _POOLED) if accelerator is None else accelerator.devices
        if accelerator is None:
            self.weights = [as_tensor(tvm_ffi.from_dlpack, weight) for weight in weights]
        else:
            self.weights = accelerator.upload_weights(weights)
        addresses = [(w.ctypes.data, w.nbytes) for w in weights if w.nbytes]
        self.low = min((start for start, _ in addresses), default=0)
        self.high = max((start + size for start, size in addresses), default=0)
        self._executable, self._entry = executable, entry
        self._captures = accelerator is not None and accelerator.captures
        self._clear_pool = partial(clear_memory, tvm_ffi)
        self._shapes: set[tuple[tuple[int, ...], ...]] | None = set() if is_dynamic(inputs) else None

    def function(self) -> Any:
        """A new VM's entry function with the weights bound: it takes the inputs only.

        Raises:
            ArtifactError: the library holds no VM executable, or no such function.
        """
        return self.functions()[-1]

    def functions(self) -> list[Any]:
        """The same for each form of the entry that is there: the one whose kernels are captured as a graph first.

        Errors as for `function`.
        """
        try:
            create = self._executable["vm_load_executable"]
        except AttributeError:
            raise ArtifactError("the artifact's code is no executable of Kompilo's.") from None
        vm = create()
        vm["vm_initialization"](*self.devices)
        try:
            _ = vm[self._entry]
        except Exception:  # tvm_ffi raises the type that the C++ side names
            raise ArtifactError(f"the artifact's code has no function {self._entry!r}.") from None
        entries = [self._entry]
        if self._captures:
            with suppress(Exception):  # artifacts may have no such form
                _ = vm[self._entry + CAPTURED]
                entries.insert(0, self._entry + CAPTURED)
        return [self._bound(vm, entry) for entry in entries]

    def _bound(self, vm: Any, entry: str) -> Any:
        if not self.weights:
            return vm[entry]
        # Arguments bound by the VM are not converted again at each call: 10 us less for ResNet-50's hundred weights.
        vm["save_function"](entry, _BOUND + entry, True, *self.weights)
        return vm[_BOUND + entry]

    def note_shapes(self, arrays: Sequence[np.ndarray]) -> None:
        """Keeps TVM's pool of freed buffers, which never shrinks by itself, from growing with every new size."""
        if self._shapes is None:
            return
        self._shapes.add(tuple(array.shape for array in arrays))
        if len(self._shapes) > _SHAPES_POOLED:
            self._shapes = set()
            self._clear_pool()


class Execution:
    """A VM and the memory of its inputs; `bind` gives the function that makes a call."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._function = program.function()
        self._slots = [InputSlot(spec, program.from_dlpack) for spec in program.inputs]
        self._staged: list[Any] = [None] * len(self._slots)  # the tensor of each slot's buffer
        # Addresses that results must keep away from: the weights', then those that each input of this call has.
        self._ranges = [(program.low, program.high)] + [(0, 0)] * len(self._slots)
        # What makes an array of each result.
        self._exporters = [exporter(spec.dtype) for spec in program.outputs]

    def bind(self) -> Call:
        """A function from one value per input, in order, to the model's result; see Module for both.

        It serves one call at a time. It is a closure over local names, and loops rather than calls, because the way
        of a small input through it costs as much as the model: 4.1 us here, 5.0 with attributes and methods.
        """
        slots, staged, ranges, function, accept = self._slots, self._staged, self._ranges, self._function, self._accept
        tensor_type, array_type = self._program.tensor_type, np.ndarray
        from_dlpack = self._exporters[0] if self._exporters else to_numpy()
        failure = self._failure

        def call(values: Sequence[Any]) -> Any:
            tensors = staged
            for slot, x in zip(slots, values):  # noqa: B905 (Module counted them, and strict takes time)
                # Shapes that all equal those of one call that was checked need no check of their own.
                if type(x) is not array_type or x.dtype is not slot.dtype or x.shape != slot.shape:
                    tensors = accept(values)
                    break
                slot.buffer[...] = x
            try:
                result = function(*tensors)
            except Exception as error:  # tvm_ffi raises the type that the C++ side names
                raise failure(error, values) from error
            if not isinstance(result, tensor_type):  # `import tvm` puts its own subclass in the place of the type
                return self._export_all(result)
            address = result.data_ptr()
            for low, high in ranges:
                if low <= address < high:
                    return from_dlpack(result).copy()
            return from_dlpack(result)

        return call

    def _accept(self, values: Sequence[Any]) -> list[Any]:
        """Checks all inputs, and readies a tensor of each; what the buffers hold is remembered for later calls."""
        slots = self._slots
        arrays = [to_array(x, slot.spec, slot.dtype) for slot, x in zip(slots, values, strict=True)]
        check_shapes(self._program.inputs, arrays)
        self._program.note_shapes(arrays)
        try:
            tensors = [slot.accept(array) for slot, array in zip(slots, arrays, strict=True)]
        except MemoryError:
            for slot in slots:
                slot.shape = None  # some have new buffers by now: the next call must come through here
            raise InputError("there is not enough memory for inputs of these sizes.") from None
        for index, slot in enumerate(slots):
            self._staged[index] = slot.tensor
            address = tensors[index].data_ptr()
            self._ranges[index + 1] = (address, address + arrays[index].nbytes)
        return tensors

    def _failure(self, error: Exception, values: Sequence[Any]) -> KompiloError:
        """What to raise for `error`, which a call with `values` ended in."""
        return runtime_error(error, self._program.inputs, values)

    def _export_all(self, result: Any) -> tuple[np.ndarray, ...]:
        """Arrays of several outputs' memory; a copy of what is not the user's alone.

        Loops and the C function behind `result[index]`, for the time of small models: 4 us less for three outputs.
        """
        arrays: list[np.ndarray] = []
        addresses: list[int] = []
        item, ranges = self._program.array_item, self._ranges
        exporters = self._exporters or [to_numpy()] * len(result)
        if len(result) != len(exporters):
            raise ArtifactError(f"the artifact's code gives {len(result)} results, expected {len(exporters)}.")
        for index, from_dlpack in enumerate(exporters):
            tensor = item(result, index)
            address = tensor.data_ptr()
            array = from_dlpack(tensor)
            for low, high in ranges:
                if low <= address < high:
                    array = array.copy()
                    break
            else:
                if address in addresses:
                    array = array.copy()
            addresses.append(address)
            arrays.append(array)
        return tuple(arrays)


def is_dynamic(specs: Sequence[TensorSpec]) -> bool:
    """Whether any dimension is named rather than fixed."""
    return any(isinstance(dim, str) for spec in specs for dim in spec.shape)


def runtime_error(error: Exception, specs: Sequence[TensorSpec], values: Sequence[Any]) -> KompiloError:
    """What to raise for `error`, which a call with `values` for the inputs `specs` ended in."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, MemoryError) or "bad_alloc" in lines[0]:
        return InputError("there is not enough memory for inputs of these sizes.")
    if lines[0].startswith("`"):  # what the compiled check of sizes says
        found = _sizes_in(lines[0], specs, values)
        return InputError(f"the sizes of the inputs do not fit the model: {lines[0]}{found}.")
    fixed = _FIXED_SIZE.search(" ".join(lines))
    if fixed is not None:
        found, expected, axis = fixed.groups()
        message = f"expected {expected} on axis {axis} of a tensor, found {found}"
        return InputError(f"the sizes of the inputs do not fit the model: {message}.")
    return KompiloError(f"the model cannot run on these inputs: {lines[0].rstrip('.')}.")


def _sizes_in(text: str, specs: Sequence[TensorSpec], values: Sequence[Any]) -> str:
    """The sizes in this call of the dimensions that `text` names between backquotes, and the inputs they are of."""
    names = dict.fromkeys(re.findall(r"[^\W\d]\w*", " ".join(_QUOTED.findall(text))))
    found = []
    for name in names:
        place = next(((i, s.shape.index(name)) for i, s in enumerate(specs) if name in s.shape), None)
        if place is not None:
            size = np.shape(values[place[0]])[place[1]]
            found.append(f"{name} = {size} (axis {place[1]} of input {specs[place[0]].name!r})")
    return f", found {' and '.join(found)}" if found else ""
