"""`kompilo.load`: an artifact as a callable, without the compiler."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..artifact.artifact import Artifact, read_artifact
from ..artifact.records import TargetCode
from ..errors import ArtifactError, InputError, UsageError
from ..tensor_spec import TensorSpec
from .accelerator import Accelerator, Forked, attach
from .call import Call, Execution, Program
from .choice import choose_target, is_design, way_out
from .core_sets import parse_core_set
from .device_call import DeviceExecution
from .devices import is_forked
from .library import clear_memory, ensure_runtime, load_executable
from .tensors import ALIGNMENT, aligned_empty
from .threads import current, resolve_threads, use_threads


class Module:
    """A loaded model.

    Calls may come from many threads at once: each call takes an idle execution (a virtual machine with its buffers) or
    makes one, so there are as many as there were calls at the same time; code and weights are shared. TVM keeps a pool
    of workers for every thread that calls, so a server with many threads should load with `threads=1`. In a forked
    child the thread that forked runs kernels without a pool; its other threads run as usual. Such a child, if its
    parent had called with several threads before the fork, must leave through os._exit, as multiprocessing's do: TVM
    joins the pool's workers at exit, and those did not survive the fork.
    """

    def __init__(
        self,
        artifact: Artifact,
        target: TargetCode,
        program: Program,
        threads: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.inputs: tuple[TensorSpec, ...] = tuple(artifact.inputs)
        self.outputs: tuple[TensorSpec, ...] = tuple(artifact.outputs)
        self.artifact = artifact
        self.target: TargetCode | None = target
        self.threads = threads
        self._program = program
        self._accelerator = accelerator
        idle: list[Call] = [self._execution()]  # a list's pop and append are atomic
        self._take_idle, self._make_idle = idle.pop, idle.append
        self._count = len(self.inputs)
        self._output_names = [spec.name for spec in self.outputs]
        self._names = {spec.name: index for index, spec in enumerate(self.inputs)}

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Runs the model on one value per input, by position or by name.

        A value is a numpy array of the input's dtype (any strides, alignment and byte order), any CPU object with
        `__dlpack__`, or a Python list or scalar. The result is an array, or a tuple of them for several outputs; it
        belongs to the caller: no later call writes to it, and it shares no memory with an input or a weight.

        On a GPU values may also be tensors that lie there, which are used without a copy. If all are, so is the result:
        an object for `torch.from_dlpack` and the like.

        Raises:
            InputError: a missing or unknown input, a wrong dtype, shape or size, or too large a size for the memory.
            KompiloError: the model cannot run on these inputs.
        """
        if named or len(values) != self._count:
            values = self._arrange(values, named)
        if current.count != self.threads:
            use_threads(self.threads)
        try:
            call = self._take_idle()
        except IndexError:
            call = None
        if call is None:
            call = self._execution()
        try:
            result = call(values)
        except (InputError, Forked):
            self._make_idle(call)  # after any other error the virtual machine is not used again
            raise
        self._make_idle(call)
        return result

    def enqueue(self, *values: Any, stream: int = 0, **named: Any) -> Any:
        """Queues the model on a GPU's stream and returns without waiting for it.

        Args:
            values, named: as for a call, all of them tensors that lie on the GPU, where they must stay meanwhile.
            stream: handle of a CUDA stream, such as torch.cuda.current_stream().cuda_stream; 0 for the default one.
                It may be ended once its work is queued.

        Returns:
            The result, or a tuple of them: tensors on the GPU, which hold their values once the stream has got there.
            Where calls before were on another stream, this one first waits for their end.

        Raises:
            UsageError: the model is on the CPU.
            InputError: a missing or unknown input, one that is not on the GPU, a wrong dtype or shape.
            KompiloError: the model cannot run on these inputs, or something before it on the GPU failed.
        """
        if self._accelerator is None:
            raise UsageError("enqueue: expected a model that is loaded on a GPU, found one on the CPU.")
        ordered = self._arrange(values, named)
        try:
            call = self._take_idle()
        except IndexError:
            call = self._execution()
        try:
            result = call(ordered, stream)
        except (InputError, Forked):
            self._make_idle(call)
            raise
        self._make_idle(call)
        return result

    def _execution(self) -> Call:
        """A new execution on the device that the module runs on."""
        if self._accelerator is None:
            return Execution(self._program).bind()
        return DeviceExecution(self._program, self._accelerator).bind()

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs by name for `inputs` by name; values, results and errors as for a call."""
        if not isinstance(inputs, dict | Mapping):
            raise InputError(f"run: expected a mapping of input names to arrays, found {type(inputs).__name__}.")
        result = self(*self._arrange((), inputs))
        results = result if isinstance(result, tuple) else (result,)
        if len(results) != len(self._output_names):
            named = ", ".join(self._output_names)
            raise ArtifactError(f"the artifact's code gives {len(results)} results, expected {named}.")
        return dict(zip(self._output_names, results, strict=True))

    def _arrange(self, values: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
        """One value per input, in the model's order."""
        return arrange(values, named, self._names)

    @property
    def runs_on(self) -> str:
        """The key of the target whose code runs; "host" where nothing is compiled."""
        return self.target.key if self.target else "host"

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return f"<Module ({inputs}) -> ({outputs}) on {self.runs_on}, threads={self.threads}>"


def arrange(values: Sequence[Any], named: Mapping[str, Any], names: Mapping[str, int]) -> tuple[Any, ...]:
    """One value for each of the inputs `names`, in their order, of some by position and some by name.

    Raises:
        InputError: one too many, missing, unknown or given twice.
    """
    if not values and len(named) == len(names):
        try:
            return tuple([named[name] for name in names])
        except KeyError:
            pass  # explained below
    expected = f"expected {', '.join(names) or 'none'}"
    if len(values) > len(names):
        raise InputError(f"the model takes {len(names)} inputs ({expected}), found {len(values)}.")
    ordered = dict(zip(names, values, strict=False))
    for name, value in named.items():
        if name not in names:
            raise InputError(f"the model has no input {name!r} ({expected}).")
        if name in ordered:
            raise InputError(f"the input {name!r} is given twice, by position and by name.")
        ordered[name] = value
    missing = [repr(name) for name in names if name not in ordered]
    if missing:
        raise InputError(f"the input {', '.join(missing)} is missing ({expected}).")
    return tuple(ordered[name] for name in names)


def load(source: str | os.PathLike[str] | bytes | Artifact, device: str = "auto", threads: int | None = None) -> Module:
    """Loads an artifact for running. Loading runs code from the artifact: load only what you would execute.

    Args:
        source: the path of a .kpo file, its bytes, or an Artifact.
        device: "auto" for the best of the artifact's targets that this machine can run, or a kind, name or key of one;
            "cuda:1" is the second GPU, "fpga:sim" the simulation of an FPGA's design; "cpu:0" and "cpu:0-1" are cores
            that calls are bound to, "cpu:1=cpu:avx2" a core that runs the code of one of several targets.
        threads: CPU threads per call, or None for $KOMPILO_THREADS, else the physical cores this process may use; for
            a device that is a set of cores, as many as it has.

    Raises:
        ArtifactError: the artifact is missing, damaged, of a newer format, or not for this machine.
        UsageError: an impossible `device` or `threads`.
        KompiloError: TVM's runtime library is missing.
    """
    cores = parse_core_set(device)
    if cores is not None:
        from .pinned import PinnedModule

        return PinnedModule(load(source, cores.target or "cpu", threads or len(cores.cpus)), cores)
    count = resolve_threads(threads)
    if isinstance(source, Artifact):
        artifact, check = source, None
    elif isinstance(source, str | bytes | os.PathLike):
        artifact, check = read_artifact(source)
    else:
        raise UsageError(f"load: expected a path, bytes or an Artifact, found {type(source).__name__}.")
    if artifact.segments:
        from .host_module import HostedModule

        if check:
            check()
        return HostedModule(artifact, device, count)
    # Reading the weights once for their checksum (0.03 to 0.07 s for 100 MB) goes on while code is loaded.
    checking = _InThread(check) if check else None
    try:
        target, number = choose_target(artifact, device)
        if is_design(target):
            return _simulated(artifact, target, count, checking)
        tvm_ffi = ensure_runtime()
        if not is_forked():  # a child has no use of what its parent left on the GPU, and cannot give it back
            with Accelerator.turn:  # for the CPU's code too: memory of all devices is given back
                clear_memory(tvm_ffi)  # what models unloaded since have left
        executable = load_executable(target.library)
        accelerator = attach(executable, target, number, way_out(artifact))
    finally:
        if checking:
            checking.join()
    if checking and checking.error:
        raise checking.error
    weights = _weights(artifact, target)
    program = Program(tvm_ffi, executable, target.entry, artifact.inputs, weights, accelerator, artifact.outputs)
    return Module(artifact, target, program, count, accelerator)


def _simulated(artifact: Artifact, target: TargetCode, threads: int, checking: _InThread | None) -> Module:
    """The model in its target's simulator, once its weights are checked."""
    from .simulated import SimulatedModule

    if checking:
        checking.join()
        if checking.error:
            raise checking.error
    return SimulatedModule(artifact, target, _weights(artifact, target), threads)


def _weights(artifact: Artifact, target: TargetCode) -> list[np.ndarray]:
    """The weights that the target takes, aligned: those of a mapped file as they lie there, others in one new block."""
    chosen = artifact.weights if target.weights is None else [artifact.weights[i] for i in target.weights]
    if artifact.is_mapped:
        return chosen
    offsets, size = [], 0
    for array in chosen:
        offsets.append(size)
        size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    block = aligned_empty((size,), np.dtype(np.uint8))
    copies = []
    for array, offset in zip(chosen, offsets, strict=True):
        dtype = array.dtype.newbyteorder("=")
        copy = block[offset : offset + array.nbytes].view(dtype).reshape(array.shape)
        copy[...] = array
        copies.append(copy)
    return copies


class _InThread(threading.Thread):
    """Runs `work` in the background; `error` is the exception it raised, after `join`."""

    def __init__(self, work: Any) -> None:
        super().__init__(name="kompilo-check", daemon=True)
        self.error: BaseException | None = None
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error
