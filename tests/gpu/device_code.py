"""Scheduled TIR as TVM makes device code of it: the source, and the launches that its host function would do.

TVM's wheel has no OpenCL runtime and its CUDA runtime needs a driver, so host functions are not compiled here: they are
read right after TVM split them off, and walked in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx.build import codegen_build, split_host_device_mods

from kompilo.targets.gpu.host_arithmetic import BINARY, CALLS, EXTENTS


@dataclass(frozen=True)
class Pointer:
    """Address of array `index` of a run, `offset` bytes behind its start."""

    index: int
    offset: int = 0


@dataclass
class MapSlot:
    """A tensor map on the host's stack: the arguments of cuTensorMapEncodeTiled once it was called."""

    encoded: tuple[Any, ...] = ()


@dataclass(frozen=True)
class DeviceLaunch:
    """One launch as the host function does it; extents are x, y, z."""

    kernel: str
    arguments: tuple[Any, ...]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    cluster: tuple[int, int, int]
    dynamic_shared: int


@dataclass(frozen=True)
class DeviceProgram:
    """Device source, the host function, and for each kernel the dtypes of its parameters (None: a pointer)."""

    source: str
    host: tirx.PrimFunc
    parameters: dict[str, tuple[str | None, ...]]


def lower(
    mod: tvm.IRModule | tirx.PrimFunc,
    target: tvm.target.Target,
    function: str | None = None,
    pipeline: str | None = None,
) -> DeviceProgram:
    """Source and host function of `mod` (scheduled PrimFuncs with thread bindings) for an OpenCL or CUDA target.

    `function` names the entry where the module has several; the target's host is llvm where it has none. `pipeline`:
    of TVM's lowering ("tirx" for kernels in that dialect), the target's own by default.
    """
    if isinstance(mod, tirx.PrimFunc):
        mod = tvm.IRModule({str(mod.attrs.get("global_symbol", "main")) if mod.attrs else "main": mod})
    target = target if target.host is not None else target.with_host(tvm.target.Target("llvm"))
    entry = function or _only_function(mod)
    # Functions may come with the target they were scheduled for, which need not be this one.
    functions = {
        var: f.without_attr("target") if f.attrs and "target" in f.attrs else f for var, f in mod.functions.items()
    }
    mod = tvm.IRModule(
        {**functions, mod.get_global_var(entry): functions[mod.get_global_var(entry)].with_attr("global_symbol", entry)}
    )
    capture = _Capture()
    named = tirx.get_tir_pipeline(pipeline) if pipeline else tirx.get_default_tir_pipeline(target)
    passes, _, finalize_device = named
    with _with_instrument(capture):
        lowered = passes(tirx.transform.BindTarget(target)(mod))
    _, devices = split_host_device_mods(lowered)
    if len(devices) != 1:
        raise ValueError(f"device code for one target expected, found {len(devices)}: are the thread axes bound?")
    device_target, device = next(iter(devices.items()))
    device = finalize_device()(device)
    module = codegen_build(device, device_target)
    source = module.inspect_source("cuda") if device_target.kind.name == "cuda" else module.inspect_source()
    parameters = {var.name_hint: tuple(map(_parameter_dtype, f.params)) for var, f in device.functions.items()}
    return DeviceProgram(source, capture.host(entry), parameters)


def _only_function(mod: tvm.IRModule) -> str:
    names = [var.name_hint for var, function in mod.functions.items() if isinstance(function, tirx.PrimFunc)]
    if len(names) != 1:
        raise ValueError(f"function=... must name one of {names}")
    return names[0]


def _parameter_dtype(param: tvm.ir.Expr) -> str | None:
    return None if isinstance(param.ty, tvm.ir.PointerType) else str(param.ty.dtype)


@tvm.ir.instrument.pass_instrument
class _Capture:
    """Keeps the module as it is right behind the pass that splits host from device."""

    def __init__(self) -> None:
        self.split: tvm.IRModule | None = None

    def run_after_pass(self, mod: tvm.IRModule, info: Any) -> None:
        if info.name == "tirx.SplitHostDevice":
            self.split = mod

    def host(self, entry: str) -> tirx.PrimFunc:
        assert self.split is not None
        return self.split[entry]


def _with_instrument(instrument: _Capture) -> tvm.transform.PassContext:
    current = tvm.transform.PassContext.current()
    return tvm.transform.PassContext(
        opt_level=current.opt_level,
        required_pass=list(current.required_pass),
        disabled_pass=list(current.disabled_pass),
        instruments=[*(current.instruments or []), instrument],
        config=dict(current.config.items()),
    )


# --- the host function ---------------------------------------------------------------------------------------------


class HostWalk:
    """Walks a host function for given arrays and collects its launches; `scratch`: bytes of buffers it allocates."""

    def __init__(self, host: tirx.PrimFunc, arrays: Sequence[np.ndarray]) -> None:
        self.values: dict[Any, Any] = {}
        self.launches: list[DeviceLaunch] = []
        self.scratch: list[int] = []
        self.arrays = len(arrays)
        self._bind_parameters(host.params, arrays)
        self.walk(host.body)

    def _bind_parameters(self, params: Sequence[Any], arrays: Sequence[np.ndarray]) -> None:
        if len(params) != len(arrays):
            raise ValueError(f"the function has {len(params)} parameters, and {len(arrays)} arrays were given")
        for index, (param, array) in enumerate(zip(params, arrays, strict=True)):
            self.values[param] = Pointer(index)
            self._bind_shape(param, array)

    def _bind_shape(self, param: Any, array: np.ndarray) -> None:
        shape, dtype = list(param.ty.shape), str(param.ty.dtype)
        if len(shape) != array.ndim or str(array.dtype) not in (dtype, _CARRIERS.get(dtype)):
            raise ValueError(f"{param} is a {dtype} tensor of shape {shape}; found {array.dtype} {array.shape}")
        for expected, found in zip(shape, array.shape, strict=True):
            if isinstance(expected, tirx.Var) and expected not in self.values:
                self.values[expected] = int(found)
        if isinstance(param.ty.elem_offset, tirx.Var):
            self.values[param.ty.elem_offset] = 0  # arrays begin at their first element
        for expected, found in zip(shape, array.shape, strict=True):
            if self.evaluate(expected) != found:
                raise ValueError(f"{param} has shape {shape}; found {array.shape}")

    def walk(self, stmt: Any) -> None:
        """One statement of the host function, and those in it."""
        kind = type(stmt).__name__
        if kind not in _STATEMENTS:
            raise ValueError(f"a host function with a {kind} is not known here: {stmt}")
        _STATEMENTS[kind](self, stmt)

    def evaluate(self, expr: Any) -> Any:
        """The value of an expression: a number, a Pointer, a MapSlot, or a string."""
        kind = type(expr).__name__
        if kind in ("IntImm", "FloatImm", "StringImm"):
            return expr.value
        if kind in BINARY:
            return BINARY[kind](self.evaluate(expr.a), self.evaluate(expr.b))
        if kind == "Var":
            return self.values[expr]
        if kind == "Cast":
            value = self.evaluate(expr.value)
            return int(value) if "int" in str(expr.ty.dtype) else float(value)
        if kind == "Select":
            return self.evaluate(expr.true_value if self.evaluate(expr.condition) else expr.false_value)
        if kind == "Not":
            return not self.evaluate(expr.a)
        if kind == "Call":
            return self._call(expr)
        raise ValueError(f"a {kind} in a host function is not known here: {expr}")

    def _call(self, call: Any) -> Any:
        name = str(call.op.name)
        if name == "tirx.tvm_stack_alloca":
            return MapSlot()
        if name in CALLS:
            return CALLS[name](*map(self.evaluate, call.args))
        if name == "tirx.call_ffi_kernel":
            return self._launch(call)
        if name == "tirx.tvm_call_packed" and self.evaluate(call.args[0]) == "runtime.cuTensorMapEncodeTiled":
            slot, *rest = map(self.evaluate, call.args[1:])
            slot.encoded = tuple(rest)
            return 0
        raise ValueError(f"a call of {name} in a host function is not known here: {call}")

    def _launch(self, call: Any) -> int:
        names = list(call.attrs.launch_params)
        kernel, *values = map(self.evaluate, call.args)
        arguments, extents = values[: len(values) - len(names)], values[len(values) - len(names) :]
        sizes = {"block": [1, 1, 1], "thread": [1, 1, 1], "cluster": [1, 1, 1]}
        dynamic = 0
        for name, extent in zip(names, extents, strict=True):
            if name in EXTENTS:
                kind, axis = EXTENTS[name]
                sizes[kind][axis] = int(extent)
            elif name == "tirx.use_dyn_shared_memory":
                dynamic = int(extent)
            elif name != "tirx.use_programtic_dependent_launch" and name != "tirx.use_cooperative_launch":
                raise ValueError(f"the launch parameter {name} is not known here")
        grid, block, cluster = (tuple(sizes[kind]) for kind in ("block", "thread", "cluster"))
        self.launches.append(DeviceLaunch(str(kernel), tuple(arguments), grid, block, cluster, dynamic))
        return 0

    def bind(self, stmt: Any) -> None:
        self.values[stmt.var] = self.evaluate(stmt.value)

    def declare(self, stmt: Any) -> None:
        self.values[stmt.buffer] = self.evaluate(stmt.data)

    def allocate(self, stmt: Any) -> None:
        size = int(np.prod([self.evaluate(extent) for extent in stmt.buffer.shape]))
        bits = tvm.DataType(str(stmt.buffer.dtype)).bits
        self.values[stmt.buffer] = Pointer(self.arrays + len(self.scratch))
        self.scratch.append(max(16, size * bits // 8))

    def loop(self, stmt: Any) -> None:
        start = self.evaluate(stmt.min)
        for i in range(start, start + self.evaluate(stmt.extent)):
            self.values[stmt.loop_var] = i
            self.walk(stmt.body)

    def branch(self, stmt: Any) -> None:
        if self.evaluate(stmt.condition):
            self.walk(stmt.then_case)
        elif stmt.else_case is not None:
            self.walk(stmt.else_case)


# Types that numpy lacks, and those whose arrays carry their bits.
_CARRIERS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8", "bool": "uint8"}


def _walk_all(walk: HostWalk, stmt: Any) -> None:
    for part in stmt.seq:
        walk.walk(part)


_STATEMENTS: dict[str, Callable[[HostWalk, Any], Any]] = {
    "SeqStmt": _walk_all,
    "Evaluate": lambda walk, stmt: walk.evaluate(stmt.value),
    "AttrStmt": lambda walk, stmt: walk.walk(stmt.body),
    "Bind": HostWalk.bind,
    "DeclBuffer": HostWalk.declare,
    "AllocBuffer": HostWalk.allocate,
    "For": HostWalk.loop,
    "IfThenElse": HostWalk.branch,
}
