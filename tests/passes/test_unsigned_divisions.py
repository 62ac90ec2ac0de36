"""UnsignedDivisions: which divisions truncate, and that numbers stay."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import tirx
from tvm.script import tirx as T

from kompilo.compiler.passes.unsigned_divisions import UnsignedDivisions, unsigned_divisions

from support import apply


@T.prim_func
def symbolic(x: T.handle, y: T.handle) -> None:
    n, m = T.int64(), T.int64()
    source = T.match_buffer(x, (n, m), "float32")
    target = T.match_buffer(y, (m, n), "float32")
    for k in T.serial(n * m):
        row: T.let[T.int64] = k // m
        target[k % m, row] = source[row, (k - 1) % m]


@T.prim_func
def threads(x: T.handle, y: T.handle) -> None:
    n, m = T.int64(), T.int64()
    source = T.match_buffer(x, (n, m), "float32")
    target = T.match_buffer(y, (n, m), "float32")
    with T.launch_thread("blockIdx.x", n * m) as block:
        lane = T.launch_thread("threadIdx.x", 32)
        target[(block * 32 + T.Cast("int64", lane)) // m % n, 0] = source[0, block % m]


@T.prim_func
def static(x: T.Buffer((T.int64(12),), "float32"), y: T.Buffer((T.int64(12),), "float32")) -> None:
    for k in T.serial(T.int64(12)):
        y[k] = x[k // T.int64(2)]


@T.prim_func
def vector(x: T.handle, y: T.handle) -> None:
    n = T.int64()
    source = T.match_buffer(x, (n,), "float32")
    target = T.match_buffer(y, (n * T.int64(8),), "float32")
    for k in T.serial(n):
        for lane in T.vectorized(T.int64(8)):
            target[k * T.int64(8) + lane] = source[(k * T.int64(8) + lane) // T.int64(8)]


def test_only_what_is_never_negative() -> None:
    text = str(unsigned_divisions(symbolic))
    assert "T.truncdiv(k, m)" in text or "T.Div(k, m)" in text
    assert "T.truncmod(k, m)" in text
    assert "(k - T.int64(1)) % m" in text


def test_static_functions_and_vectors_stay() -> None:
    assert unsigned_divisions(static) is static
    assert str(unsigned_divisions(vector)) == str(vector)


def test_numbers_stay() -> None:
    x = np.arange(12, dtype="float32").reshape(3, 4)
    mod = apply(tvm.IRModule({"main": symbolic}), UnsignedDivisions())
    y = tvm.runtime.tensor(np.zeros((4, 3), "float32"))
    tvm.compile(mod, "llvm")(tvm.runtime.tensor(x), y)
    np.testing.assert_array_equal(y.numpy(), np.roll(x, 1, axis=1).T)


def test_a_module_without_symbolic_functions_is_the_same_object() -> None:
    mod = tvm.IRModule({"main": static})
    assert UnsignedDivisions().run(mod) is mod
    assert isinstance(mod["main"], tirx.PrimFunc)


@T.prim_func
def between(x: T.handle, y: T.handle) -> None:
    n, m = T.int64(), T.int64()
    source = T.match_buffer(x, (n,), "float32")
    target = T.match_buffer(y, (m,), "float32")
    low: T.let[T.int64] = T.min(m, T.int64(2))
    high: T.let[T.int64] = T.max(T.min(m, T.int64(2)), n - T.int64(2))
    for k in T.serial((high - low) // T.int64(4)):
        target[k] = source[k]
    for k in T.serial((low - high) // T.int64(4)):
        target[k] = source[k]


def test_difference_of_bounds() -> None:
    text = str(unsigned_divisions(between))
    assert "T.Div(high - low, T.int64(4))" in text
    assert "(low - high) // T.int64(4)" in text


def test_threads_are_not_negative():
    text = unsigned_divisions(threads).script()
    body = text.split("launch_thread", 1)[1]
    assert "//" not in body
    assert "%" not in body
