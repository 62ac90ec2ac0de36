"""From lowered TIR to a code object of AMD's GPUs, through the LLVM inside of TVM.

LLVM ends the process when it meets what it cannot compile: an intrinsic that the architecture lacks, a function of
libm that no library has. So modules that ask for anything by LLVM's names are compiled in a process of their own
(it takes 2 s, most of them for loading TVM); all others have nothing in them but what every architecture has.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
from typing import Any

import tvm
import tvm.support.rocm  # registers the functions that are replaced below
import tvm_ffi
from tvm import tirx
from tvm.target import codegen

from ...compiler.errors import KompiloError
from ...compiler.object_files import write_object
from ...compiler.scratch import no_room, scratch_folder
from ..gpu.programs import run
from . import intrinsics, llvm_ir, toolchain

_BY_NAME = ("tirx.call_llvm_intrin", "tirx.call_llvm_pure_intrin")
_FATAL = re.compile(r"^(LLVM ERROR|error):|: error:")
_LIBRARY_CALL = re.compile(r"^declare .*@__ocml_", re.MULTILINE)
# TVM finds the generator of code for LLVM's target "amdgcn" by this name; it has registered it for "rocm" only.
_GENERATOR, _KNOWN_AS = "tvm.codegen.llvm.target_amdgcn", "tvm.codegen.llvm.target_rocm"
_LINKED = "tvm_callback_rocm_link"
_LIBRARY = "tvm_callback_rocm_bitcode_path"
_one_at_a_time = threading.Lock()  # the functions of these names are those of the whole process


def device_target(arch: str, warp: int, threads_per_block: int, shared_bytes: int) -> dict[str, Any]:
    """TVM's ROCm target, without a host; threads, and bytes of shared memory, are the most that a block may have."""
    return {
        "kind": "rocm",
        "mcpu": arch,
        "mtriple": "amdgcn-amd-amdhsa-hcc",
        "max_threads_per_block": threads_per_block,
        "max_shared_memory_per_block": shared_bytes,
        "thread_warp_size": warp,
    }


def code_object(mod: tvm.ir.IRModule, target: tvm.target.Target, isolate: bool | None = None) -> bytes:
    """The code object with all kernels of `mod`, whose functions are lowered for the device.

    Args:
        mod: device functions.
        target: of `device_target`, with or without a host.
        isolate: compile in a process of its own; None lets the module's contents decide.

    Raises TargetError if the linker is missing, or a function that only AMD's device library has; KompiloError if LLVM
    gives up in its own process.
    """
    arch = str(target.attrs["mcpu"])
    toolchain.find_lld()  # before time is spent
    if isolate is None:
        isolate = is_risky(mod, arch)
    obj = _in_own_process(mod, target, arch) if isolate else compile_object(mod, target, arch)
    return toolchain.link_code_object(obj, arch)


def is_risky(mod: tvm.ir.IRModule, arch: str = "") -> bool:
    """Whether a function asks LLVM for an intrinsic that is not known to compile for `arch` ("": everywhere)."""
    known = intrinsics.known_intrinsics(arch)
    found: list[bool] = []

    def visit(call: tvm.ir.Call) -> None:
        if getattr(call.op, "name", "") in _BY_NAME:
            found.append(codegen.llvm_get_intrinsic_name(int(call.args[0])) not in known)

    for func in mod.functions.values():
        if isinstance(func, tirx.PrimFunc):
            tvm_ffi.structural_walk(func.body, (tvm.ir.Call, visit), order="pre")
    return any(found)


def compile_object(mod: tvm.ir.IRModule, target: tvm.target.Target, arch: str) -> bytes:
    """LLVM's object file of `mod`, in this process, which ends if LLVM aborts. KompiloError if files have no room."""
    marked = marked_barriers(mod)
    ir = _generated(marked, arch)
    if _LIBRARY_CALL.search(ir) and toolchain.bitcode(arch):
        ir = _with_library(marked, target, arch)
    ir = llvm_ir.finished(ir, arch, _block_sizes(mod))
    with scratch_folder("rocm") as folder:
        text = folder / "kernels.ll"
        try:
            text.write_text(ir)
        except OSError as error:
            raise no_room(error) from None
        write_object(tvm.runtime.load_module(str(text)), folder / "kernels.o")
        return (folder / "kernels.o").read_bytes()


def _generated(mod: tvm.ir.IRModule, arch: str) -> str:
    """Optimised LLVM IR of `mod`.

    By TVM's way for CPUs with the generator for AMD's GPUs: its way for these GPUs makes machine code and assembly
    besides, which takes twice as long as all the rest.
    """
    with _one_at_a_time:
        if tvm_ffi.get_global_func(_GENERATOR, allow_missing=True) is None:
            tvm_ffi.register_global_func(_GENERATOR, tvm.get_global_func(_KNOWN_AS))
    target = tvm.target.Target({"kind": "llvm", "mtriple": llvm_ir.TRIPLE, "mcpu": arch})
    return str(tvm.get_global_func("target.build.llvm")(mod, target).inspect_source("ll"))


def _with_library(mod: tvm.ir.IRModule, target: tvm.target.Target, arch: str) -> str:
    """As `_generated`, with the functions of AMD's device library that `mod` calls."""
    with _one_at_a_time:
        # TVM would have these link, and find AMD's library, with what it knows of the machine.
        tvm_ffi.register_global_func(_LINKED, lambda obj: bytearray(), override=True)
        tvm_ffi.register_global_func(_LIBRARY, lambda: tvm.runtime.convert(toolchain.bitcode(arch)), override=True)
        return str(tvm.get_global_func("target.build.rocm")(mod, target).inspect_source("llvm"))


def marked_barriers(mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
    """Barriers between calls that `llvm_ir` makes fences of.

    Before:  tvm_storage_sync("shared")                  # waves meet, but their stores may still be under way
    After:   release(); tvm_storage_sync("shared"); acquire()

    LLVM takes a barrier for something that touches no memory, and GPUs from gfx90a on wait for no stores at one. Calls
    of functions that it does not know keep loads and stores on their sides while TVM has LLVM optimise.
    """

    def fenced(statement: tirx.Evaluate) -> tirx.Stmt:
        call = statement.value
        if getattr(getattr(call, "op", None), "name", "") != "tirx.tvm_storage_sync" or call.args[0].value != "shared":
            return statement
        marks = [tirx.Evaluate(tirx.call_extern("void", name)) for name in (llvm_ir.RELEASE, llvm_ir.ACQUIRE)]
        return tirx.SeqStmt([marks[0], statement, marks[1]])

    changed = {}
    for gvar, func in mod.functions_items():
        changed[gvar] = func.with_body(tvm_ffi.structural_map(func.body, (tirx.Evaluate, fenced), order="post"))
    return tvm.IRModule(changed, attrs=mod.attrs, global_infos=mod.global_infos)


def _block_sizes(mod: tvm.ir.IRModule) -> dict[str, int]:
    """Kernel name -> threads of its blocks, where that is known."""
    sizes = {}
    for func in mod.functions.values():
        extents: dict[str, Any] = {}

        def visit(node: tirx.AttrStmt, extents: dict[str, Any] = extents) -> None:
            if node.attr_key == "thread_extent" and str(node.node.thread_tag).startswith("threadIdx."):
                extents[str(node.node.thread_tag)] = node.value

        tvm_ffi.structural_walk(func.body, (tirx.AttrStmt, visit), order="pre")
        if all(isinstance(extent, tirx.IntImm) for extent in extents.values()):
            sizes[str(func.attrs["global_symbol"])] = math.prod(int(extent) for extent in extents.values())
    return sizes


def _in_own_process(mod: tvm.ir.IRModule, target: tvm.target.Target, arch: str) -> bytes:
    request = {"module": tvm.ir.save_json(mod), "target": tvm.ir.save_json(target), "arch": arch}
    # -P: a file of the user's in this folder must not be taken for a module of the same name.
    command = [sys.executable, "-P", "-m", "kompilo.targets.rocm.codegen_child"]
    answer = run(command, f"LLVM for {arch}", json.dumps(request).encode())
    if answer.status == 0:
        return answer.output
    said = [line.strip() for line in answer.errors.splitlines() if line.strip()]
    reason = next((line for line in said if _FATAL.search(line)), said[-1] if said else f"status {answer.status}")
    ended = f"died of {answer.died_of}" if answer.died_of else "gave up"
    raise KompiloError(f"ROCm code for {arch}: LLVM {ended}: {reason.rstrip('.')}.")
