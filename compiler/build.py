"""From a scheduled module to machine code: Relax's virtual-machine lowering, LLVM, and what was planned on the way."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax import transform, vm_build

from .artifact.artifact import MemoryPlan, Operator
from .device_code import DeviceCode
from .object_files import write_object
from .passes.anchors import op_name
from .passes.capture_graphs import capture_graphs
from .schedule.target import Target
from .schedule.whole_design import KnownDesigns, WholeDesign, no_designs
from .scratch import scratch_folder

# LLVM eliminates common subexpressions better than TVM, whose analysis of the variables that it introduces takes more
# than half of the compile time of kernels with symbolic sizes (PP-OCR detection: 2.6 s a kernel, and 1.2 s without).
LOWERING = {"tirx.disable_cse_tir": True}


@dataclass(frozen=True)
class Built:
    """A linked library, the operators it runs in order of first use, its memory plan, and the device code it uses.

    A design of the whole model has no library, and weights of its own in the place of those that `build` was given.
    """

    library: bytes
    operators: tuple[Operator, ...]
    memory: MemoryPlan
    device: tuple[DeviceCode, ...] = ()
    weights: Sequence[np.ndarray] = ()


def vm_lowering(graphs: bool = False) -> list[tvm.ir.transform.Pass]:
    """Relax's passes from call_tir to virtual-machine instructions, memory planned statically where shapes allow.

    With `graphs` there is a second form of `main`, see `capture_graphs`.
    """
    return [
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
        transform.StaticPlanBlockMemory(),
        *([_capture_graphs()] if graphs else []),
        transform.LowerAllocTensor(),
        transform.KillAfterLastUse(),
    ]


def _capture_graphs() -> tvm.ir.transform.Pass:
    """The pass of that name among TVM's."""

    @tvm.ir.transform.module_pass(opt_level=0, name="CaptureGraphs")
    def run(mod: tvm.ir.IRModule, _: tvm.transform.PassContext) -> tvm.ir.IRModule:
        return capture_graphs(mod)

    return run


def vm_finalize() -> list[tvm.ir.transform.Pass]:
    """The last passes, after which memory operations are no longer visible as such."""
    return [
        transform.LowerRuntimeBuiltin(),
        transform.ComputePrimValue(),
        transform.VMShapeLower(),
        transform.AttachGlobalSymbol(),
    ]


def build(
    mod: tvm.ir.IRModule, target: Target, weights: Sequence[np.ndarray] = (), designs: KnownDesigns = no_designs
) -> Built:
    """Lower, compile and link `mod` (all PrimFuncs scheduled, weights already parameters, whose values are `weights`).

    `designs` tells targets that build hardware of whole models what records know of the model's.

    Raises TargetError if no linker is found or the target cannot have the model, KompiloError if the temporary folder
    has no room.
    """
    design = target.whole_design(mod, weights, designs)
    if design is not None:
        return _of_design(design)
    operators = describe_operators(mod)
    with target.tvm_target(), tvm.transform.PassContext(opt_level=3):
        planned = tvm.transform.Sequential(vm_lowering(target.captures_graphs))(mod)
        memory = describe_memory(planned)
        final = tvm.transform.Sequential(vm_finalize())(planned)
    with scratch_folder("build") as folder:
        path = folder / "lib.so"
        device = _compile_and_link(final, target, path)
        return Built(path.read_bytes(), operators, memory, device, weights)


def _of_design(design: WholeDesign) -> Built:
    operators = tuple(
        Operator(s.name, "stage", s.spec, "nest", s.config, design.source, 1, s.flops) for s in design.stages
    )
    return Built(b"", operators, MemoryPlan(design.buffers), (design.code,), design.weights)


def _compile_and_link(mod: tvm.ir.IRModule, target: Target, path: Path) -> tuple[DeviceCode, ...]:
    """Compile the kernels in as many parts as there are cores, all at once, and link them with the VM's program.

    LLVM takes most of the time of a compilation, and TVM runs it without Python's lock. Returns the parts' device code.
    """
    builder = relax.ExecBuilder()
    kernels = vm_build._filter_tir(vm_build._vmcodegen(builder, mod, "bytecode"))
    functions = list(kernels.functions_items()) if kernels is not None else []
    parts = max(1, min(len(os.sched_getaffinity(0)), len(functions) // 4))
    with ThreadPoolExecutor(parts) as pool:
        jobs = [
            pool.submit(_compile_object, functions[k::parts], target, path.with_name(f"part{k}.o"))
            for k in range(1, parts)
        ]
        library, device = _compile_kernels(functions[::parts], target) if functions else (None, ())
        executable = vm_build.VMExecutable(vm_build._ffi_api.VMLink(builder, target.tvm_target(), library, [], {}))
        target.export(executable, path, lambda: [job.result()[0] for job in jobs])
        return (*device, *(code for job in jobs for code in job.result()[1]))


Functions = list[tuple[tvm.ir.GlobalVar, tirx.PrimFunc]]


def _compile_object(functions: Functions, target: Target, path: Path) -> tuple[str, tuple[DeviceCode, ...]]:
    library, device = _compile_kernels(functions, target)
    write_object(library, path)
    return str(path), device


def _compile_kernels(functions: Functions, target: Target) -> tuple[tvm.runtime.Module, tuple[DeviceCode, ...]]:
    with tvm.transform.PassContext(opt_level=3, config=LOWERING):
        return target.compile_kernels(tvm.IRModule(dict(functions)))


def describe_operators(mod: tvm.ir.IRModule) -> tuple[Operator, ...]:
    """The kernels that `main` calls, with template, config and number of calls, in order of first use."""
    calls = Counter(
        b.value.args[0] for block in mod["main"].body.blocks for b in block.bindings if op_name(b.value) == "call_tir"
    )
    return tuple(_operator(gvar.name_hint, mod[gvar], count) for gvar, count in calls.items())


def _operator(name: str, func: tirx.PrimFunc, calls: int) -> Operator:
    def attr(key: str, default: Any = "") -> Any:
        return func.attrs.get(f"kompilo.{key}", default)

    shapes = ", ".join(f"{p.dtype}[{','.join(str(d) for d in p.shape)}]" for p in _buffers(func))
    return Operator(
        name=name,
        kind=str(attr("kind", "tir")),
        spec=str(attr("op") or f"{name}({shapes})"),
        template=str(attr("template", "none")),
        config=str(attr("config")),
        source=str(attr("source", "rule")),
        calls=calls,
        flops=int(attr("flops", 0)) or None,
    )


def _buffers(func: tirx.PrimFunc) -> list[tirx.Buffer]:
    return [p for p in func.params if isinstance(p.ty, tirx.BufferType)]


def describe_memory(mod: tvm.ir.IRModule) -> MemoryPlan:
    """Sizes of the buffers that one call allocates; buffers of symbolic size are only counted."""
    sizes = []
    dynamic = False
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if op_name(binding.value) in ("memory.alloc_storage", "vm.alloc_storage"):
                size = binding.value.args[0]
                if all(isinstance(v, tirx.IntImm) for v in size.values):
                    sizes.append(int(size.values[0]))
                else:
                    dynamic = True
    return MemoryPlan(buffers=tuple(sorted(sizes, reverse=True)), dynamic=dynamic)
