"""Small kernels for AMD's GPUs, compiled as the compiler does it."""

from __future__ import annotations

import functools

import pytest
import tvm
from tvm.script import tirx as T

from kompilo.compiler.errors import KompiloError
from kompilo.targets.gpu.lowering import split
from kompilo.targets.rocm.codegen import code_object
from kompilo.targets.rocm.target import RocmTarget
from kompilo.targets.rocm.toolchain import find_lld

ROCM_ARCHS = ("gfx90a", "gfx942", "gfx1100")


def missing_linker() -> str | None:
    """Why nothing can be linked here; None where it can."""
    try:
        find_lld()
    except KompiloError as error:
        return str(error)
    return None


needs_lld = pytest.mark.skipif(missing_linker() is not None, reason=str(missing_linker()))


@T.prim_func(s_tir=True)
def scale(A: T.Buffer((640,), "float32"), C: T.Buffer((640,), "float32")):
    T.func_attr({"global_symbol": "scale", "tirx.noalias": True})
    block = T.launch_thread("blockIdx.x", 10)
    thread = T.launch_thread("threadIdx.x", 64)
    C[block * 64 + thread] = A[block * 64 + thread] * T.float32(2)


@T.prim_func(s_tir=True)
def reverse(A: T.Buffer((256,), "float32"), C: T.Buffer((256,), "float32")):
    T.func_attr({"global_symbol": "reverse", "tirx.noalias": True})
    T.launch_thread("blockIdx.x", 1)
    thread = T.launch_thread("threadIdx.x", 256)
    kept = T.alloc_buffer((256,), "float32", scope="shared")
    kept[thread] = A[thread]
    T.evaluate(T.tvm_storage_sync("shared"))
    C[thread] = kept[255 - thread]


KERNELS = {"scale": scale, "reverse": reverse}


def device_module(func: tvm.tirx.PrimFunc, arch: str) -> tuple[tvm.ir.IRModule, tvm.target.Target]:
    """The lowered device functions of `func`, and what they are lowered for."""
    target = RocmTarget.from_preset(arch).tvm_target()
    return split(tvm.IRModule({"main": func}), target).device, target


@functools.cache
def code_object_of(kernel: str, arch: str) -> bytes:
    """The code object of one of KERNELS."""
    return code_object(*device_module(KERNELS[kernel], arch))
