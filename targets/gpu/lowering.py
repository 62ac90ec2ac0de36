"""From scheduled kernels to what the code generators take: host functions apart from device functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import prim
from tvm.tirx.build import split_host_device_mods

from ...compiler.device_code import TENSOR_MAP, Kernel
from ...compiler.schedule.rewrite import rewrite_functions

# TVM's StorageRewrite lets other values live in the register that a reduction over threads leaves its result in; then
# LowerThreadAllreduce moves that register into memory that threads share, and the others overwrite each other.
CONFIG = {"tirx.disable_storage_rewrite": True}

# Kernels have the barriers that they need: TVM adds one to each step of a double-buffered loop, whose two buffers it
# does not tell apart. And they allocate what they use: shrinking buffers to what is accessed changes nothing, and
# takes TVM most of its time (PP-OCR's angle classifier: 33 of 40 s).
DISABLED = ("s_tir.ThreadSync", "s_tir.CompactBufferAllocation")

# CUDA C++ keeps loops that are to be unrolled, with a pragma. Written out they give the same code (sizes within 1%),
# and NVRTC takes longer: 2.7 s rather than 1.7 s for six convolutions of Inception, 15 s rather than 12 s for PP-OCR's
# reader.
_CONFIG_OF: dict[str, dict[str, Any]] = {"cuda": {"tirx.UnrollLoop": {"explicit_unroll": False}}}

_LAUNCH = "tirx.kernel_launch_params"
_SYMBOL = "global_symbol"


@dataclass(frozen=True)
class Split:
    """Lowered functions: `host` prepares arguments and launches the kernels of `device` (None: there are none)."""

    host: tvm.ir.IRModule
    device: tvm.ir.IRModule | None

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The entry points of `device`."""
        return tuple(_kernel(f) for f in self.device.functions.values()) if self.device is not None else ()


def split(mod: tvm.ir.IRModule, target: tvm.target.Target, instruments: Sequence[Any] = ()) -> Split:
    """Lower the scheduled PrimFuncs of `mod` for `target` (with a host) and take host and device apart.

    `instruments` see every pass.
    """
    pipeline, finish_host, finish_device = tvm.tirx.get_default_tir_pipeline(target)
    with lowering_context(instruments, target.kind.name):
        lowered = pipeline(tirx.transform.BindTarget(target)(mod))
    host, devices = split_host_device_mods(lowered)
    functions = {g: f for device in devices.values() for g, f in finish_device()(device).functions.items()}
    return Split(finish_host()(host), tvm.IRModule(functions) if functions else None)


def lowering_context(instruments: Sequence[Any] = (), kind: str = "") -> tvm.transform.PassContext:
    """The current context with what lowering kernels needs besides, for targets of that kind of TVM's."""
    current = tvm.transform.PassContext.current()
    return tvm.transform.PassContext(
        opt_level=current.opt_level,
        required_pass=list(current.required_pass),
        disabled_pass=[*current.disabled_pass, *DISABLED],
        instruments=[*(current.instruments or []), *instruments],
        config={**dict(current.config.items()), **CONFIG, **_CONFIG_OF.get(kind, {})},
    )


def host_code(mod: tvm.ir.IRModule, host: tvm.target.Target) -> tvm.runtime.Module:
    """Machine code of the host functions, by LLVM."""
    return tvm.get_global_func("target.build.llvm")(mod, host)


def _kernel(func: tirx.PrimFunc) -> Kernel:
    arguments = tuple(map(_argument, func.params))
    return Kernel(str(func.attrs[_SYMBOL]), arguments, tuple(str(tag) for tag in func.attrs[_LAUNCH]))


def _argument(param: tirx.Var) -> str:
    if isinstance(param.ty, tvm.ir.PrimType):
        return str(param.ty.dtype)
    tiles = isinstance(param.ty, tvm.ir.PointerType) and isinstance(param.ty.element_type, tirx.type.TensorMapType)
    return TENSOR_MAP if tiles else "handle"


def nan_keeping_extremes(mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
    """Maxima and minima of data as comparisons, for languages whose `max` drops NaN.

    Before:  max(a, b)
    After:   let x = a, y = b in select(x > y, x, y)          # y where either is NaN, as LLVM has it
    """
    rules = [(prim.Max, _selection(tirx.GT)), (prim.Min, _selection(tirx.LT))]
    return rewrite_functions(mod, lambda func: func.with_body(tvm_ffi.structural_map(func.body, rules, order="post")))


def _selection(compare: type) -> object:
    def change(node: prim.Max | prim.Min) -> tirx.Expr:
        if not str(node.ty.dtype).startswith(("float", "bfloat")):
            return node
        bound: list[tuple[tirx.Var, tirx.Expr]] = []
        a, b = (_named(operand, bound) for operand in (node.a, node.b))
        value: tirx.Expr = tirx.Select(compare(a, b), a, b)
        for var, operand in reversed(bound):
            value = tirx.Let(var, operand, value)
        return value

    return change


def _named(operand: tirx.Expr, bound: list[tuple[tirx.Var, tirx.Expr]]) -> tirx.Expr:
    if isinstance(operand, (tirx.FloatImm, tirx.Var)):
        return operand
    var = tirx.Var("x", operand.ty.dtype)
    bound.append((var, operand))
    return var
