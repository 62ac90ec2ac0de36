"""A kernel of Hopper's instructions in TIR: C = A^T B of one tile, by TMA, an mbarrier and wgmma."""

# ruff: noqa: F821 (variables that TVMScript declares by annotations)
from __future__ import annotations

from typing import Any

import tvm
from tvm.backend.cuda.codegen.registry import CODEGEN_REGISTRY, register_codegen
from tvm.backend.cuda.cpp import asm  # noqa: F401 (registers what is replaced below)
from tvm.script import tirx as T

M, N, K = 64, 64, 16
RESULTS = M * N // 128
TMA = (M, K, M * 2, M, K, 1, 1, 0, 3, 0, 0)  # sizes, stride, box, steps, interleave, 128-byte swizzle, L2, fill
DESCRIPTOR = (1, 64, 3)  # offsets in units of 16 bytes, 128-byte swizzle
LOAD = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
MULTIPLY = f"wgmma.mma_async.sync.aligned.m{M}n{N}k{K}.f32.f16.f16"


@register_codegen("cuda_wgmma_noop_barrier")
def _noop_barrier(register: Any) -> Any:
    """TVM's own asks a load for the dtype attribute that loads no longer have."""
    made = CODEGEN_REGISTRY["tirx.cuda_wgmma_noop_barrier_float32"]([register])
    return made[0] if isinstance(made, tuple) else made


@T.prim_func
def tile(
    A: T.Buffer((K, M), dtype="float16", align=16),
    B: T.Buffer((K, N), dtype="float16", align=16),
    C: T.Buffer((M, N), dtype="float32", align=16),
):
    A_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
    T.call_packed("runtime.cuTensorMapEncodeTiled", A_map, "float16", 2, A.data, *TMA)
    B_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
    T.call_packed("runtime.cuTensorMapEncodeTiled", B_map, "float16", 2, B.data, *TMA)
    T.device_entry()
    _block = T.cta_id([1])
    thread = T.thread_id([128])
    A_shared = T.alloc_buffer((K, M), "float16", scope="shared", align=1024)
    B_shared = T.alloc_buffer((K, N), "float16", scope="shared", align=1024)
    barrier = T.shared_scalar("uint64")
    descriptor_a: T.uint64
    descriptor_b: T.uint64
    sums = T.alloc_buffer((RESULTS,), "float32", scope="local")
    if thread == 0:
        T.ptx.mbarrier.init.shared.b64(T.address_of(barrier), T.uint32(1))
    T.ptx.fence.proxy.async_.shared__cta()
    T.cuda.cta_sync()
    if thread == 0:
        T.ptx[LOAD](A_shared.data, T.address_of(A_map), 0, 0, T.address_of(barrier))
        T.ptx[LOAD](B_shared.data, T.address_of(B_map), 0, 0, T.address_of(barrier))
        T.ptx.mbarrier.arrive.expect_tx.shared.b64(T.address_of(barrier), T.uint32(4096))
    T.cuda.mbarrier_wait(T.address_of(barrier), 0)
    for i in T.serial(0, RESULTS):
        sums[i] = T.float32(0)
        T.cuda.wgmma.noop_barrier(sums[i])
    T.cuda.wgmma.encode_matrix_descriptor(T.address_of(descriptor_a), A_shared.data, *DESCRIPTOR)
    T.cuda.wgmma.encode_matrix_descriptor(T.address_of(descriptor_b), B_shared.data, *DESCRIPTOR)
    T.ptx.wgmma.fence.sync.aligned()
    T.ptx[MULTIPLY](*[sums[i] for i in range(RESULTS)], descriptor_a, descriptor_b, False, 1, 1, 1, 1)
    T.ptx.wgmma.commit_group.sync.aligned()
    T.ptx.wgmma.wait_group.sync.aligned(0)
    for i in T.serial(0, RESULTS // 4):
        row = T.meta_var((thread % 32) // 4 + (thread // 32) * 16)
        column = T.meta_var(i * 8 + thread % 4 * 2)
        C[row, column] = sums[i * 4]
        C[row, column + 1] = sums[i * 4 + 1]
        C[row + 8, column] = sums[i * 4 + 2]
        C[row + 8, column + 1] = sums[i * 4 + 3]


def module() -> tvm.IRModule:
    """The kernel, for run_cuda(..., pipeline="tirx")."""
    return tvm.IRModule({"main": tile})
