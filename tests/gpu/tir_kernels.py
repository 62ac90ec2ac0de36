"""Small operators in TIR, scheduled by dlight or by hand, for the tests of the GPU checks themselves."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.s_tir import dlight as dl


@functools.cache
def cuda_target(arch: str = "sm_80") -> tvm.target.Target:
    """A CUDA target for schedules that ask for limits."""
    limits = {"max_threads_per_block": 1024, "max_shared_memory_per_block": 49152, "thread_warp_size": 32}
    return tvm.target.Target({"kind": "cuda", "arch": arch, **limits}, host="llvm")


def matmul(m: int, n: int, k: int, dtype: str = "float32", accumulator: str = "float32", turned: bool = False) -> Any:
    """C = A B, or A B^T where `turned`; the result has `dtype`."""
    a = te.placeholder((m, k), dtype, name="A")
    b = te.placeholder((n, k) if turned else (k, n), dtype, name="B")
    r = te.reduce_axis((0, k), name="r")

    def product(i: Any, j: Any) -> Any:
        right = b[j, r] if turned else b[r, j]
        return te.sum(a[i, r].astype(accumulator) * right.astype(accumulator), axis=r)

    c = te.compute((m, n), product, name="C")
    if accumulator == dtype:
        return te.create_prim_func([a, b, c])
    d = te.compute((m, n), lambda i, j: c[i, j].astype(dtype), name="D")
    return te.create_prim_func([a, b, d])


def softmax(rows: int, columns: int) -> Any:
    """Softmax over the last axis, float32."""
    a = te.placeholder((rows, columns), "float32", name="A")
    k, r = te.reduce_axis((0, columns), name="k"), te.reduce_axis((0, columns), name="r")
    most = te.compute((rows,), lambda i: te.max(a[i, k], axis=k), name="most")
    power = te.compute((rows, columns), lambda i, j: te.exp(a[i, j] - most[i]), name="power")
    total = te.compute((rows,), lambda i: te.sum(power[i, r], axis=r), name="total")
    o = te.compute((rows, columns), lambda i, j: power[i, j] / total[i], name="o")
    return te.create_prim_func([a, o])


def add_size() -> Any:
    """B[i, j] = A[i, j] + n of an open number n of rows."""
    n = tirx.Var("n", "int64")
    a = te.placeholder((n, 24), "float32", name="A")
    return te.create_prim_func([a, te.compute((n, 24), lambda i, j: a[i, j] + n.astype("float32"), name="B")])


def vectorised(size: int, dtype: str, lanes: int) -> tvm.IRModule:
    """C = max(A B + A, 1), `lanes` elements a thread as vectors, 32 threads a block; float types take tanh besides."""
    a, b = (te.placeholder((size,), dtype, name=name) for name in "AB")

    def formula(i: Any) -> Any:
        value = tirx.max(a[i] * b[i] + a[i], tirx.const(1, dtype))
        return tirx.tanh(value) if "float" in dtype else value

    function = te.create_prim_func([a, b, te.compute((size,), formula, name="C")])
    schedule = Schedule(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))
    (loop,) = schedule.get_loops(schedule.get_sblock("C"))
    block, thread, vector = schedule.split(loop, [None, 32, lanes])
    schedule.bind(block, "blockIdx.x")
    schedule.bind(thread, "threadIdx.x")
    schedule.vectorize(vector)
    return schedule.mod


def by_dlight(function: Any, *rules: Any) -> tvm.IRModule:
    """Scheduled by dlight's rules for GPUs (all of them by default)."""
    rules = rules or (dl.gpu.Matmul(), dl.gpu.GEMV(), dl.gpu.Reduction(), dl.gpu.GeneralReduction(), dl.gpu.Fallback())
    with cuda_target():
        return dl.ApplyDefaultSchedule(*rules)(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))


def wmma_matmul(size: int) -> tvm.IRModule:
    """C = A B^T in float16 by dlight's schedule for tensor cores.

    TVM's intrinsics ask inspect for their module thousands of times, which takes a minute unless the answers are kept.
    """
    original = inspect.getmodule
    by_file: dict[str, Any] = {}

    def kept(thing: Any, _filename: str | None = None) -> Any:
        name = _filename or (thing.f_code.co_filename if inspect.isframe(thing) else None)
        if name is None:
            return original(thing)
        if name not in by_file:
            by_file[name] = original(thing, _filename)
        return by_file[name]

    inspect.getmodule = kept
    try:
        from tvm.s_tir.dlight.gpu.matmul import MatmulTensorization

        return by_dlight(matmul(size, size, size, "float16", "float16", turned=True), MatmulTensorization())
    finally:
        inspect.getmodule = original


def tiled_matmul(size: int, tile: int = 16) -> tvm.IRModule:
    """By hand: a block computes a tile of C; tiles of A and B are brought to shared memory by all its threads."""
    schedule = Schedule(tvm.IRModule({"main": matmul(size, size, size).with_attr("global_symbol", "main")}))
    block = schedule.get_sblock("C")
    i, j, k = schedule.get_loops(block)
    (i0, i1), (j0, j1) = (schedule.split(loop, [None, tile]) for loop in (i, j))
    k0, k1 = schedule.split(k, [None, tile])
    schedule.reorder(i0, j0, i1, j1, k0, k1)
    for loop, axis in ((i0, "blockIdx.y"), (j0, "blockIdx.x"), (i1, "threadIdx.y"), (j1, "threadIdx.x")):
        schedule.bind(loop, axis)
    for operand in range(2):
        copy = schedule.cache_read(block, operand, "shared")
        schedule.compute_at(copy, k0)
        ty, tx = schedule.get_loops(copy)[-2:]
        schedule.bind(ty, "threadIdx.y")
        schedule.bind(tx, "threadIdx.x")
    return schedule.mod
