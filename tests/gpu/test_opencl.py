"""Scheduled TIR through TVM's OpenCL source on PoCL and oclgrind."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.opencl import OpenclError, OpenclUnsupportedError, missing, run_opencl, run_opencl_source
from gpu.tir_kernels import add_size, by_dlight, matmul, softmax, tiled_matmul

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"OpenCL: {missing()}")
needs_oclgrind = pytest.mark.skipif(missing("oclgrind") is not None, reason=f"oclgrind: {missing('oclgrind')}")


def matrices(rng, *shapes):
    return [rng.standard_normal(shape).astype("f4") for shape in shapes]


@pytest.mark.parametrize("size", [64, 48])
def test_a_matmul_scheduled_by_hand(rng, size):
    a, b = matrices(rng, (size, size), (size, size))
    found = run_opencl(tiled_matmul(size), [a, b, np.zeros_like(a)])
    np.testing.assert_allclose(found[2], a.astype("f8") @ b, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[0], a)


def test_a_matmul_of_odd_sizes_scheduled_by_dlight(rng):
    a, b = matrices(rng, (37, 29), (29, 51))
    found = run_opencl(by_dlight(matmul(37, 51, 29)), [a, b, np.zeros((37, 51), "f4")])
    np.testing.assert_allclose(found[2], a.astype("f8") @ b, rtol=1e-4, atol=1e-4)


def test_a_softmax_reduces_over_threads(rng):
    (x,) = matrices(rng, (5, 200))
    power = np.exp(x.astype("f8") - x.max(1, keepdims=True))
    found = run_opencl(by_dlight(softmax(5, 200)), [x, np.zeros_like(x)])
    np.testing.assert_allclose(found[1], power / power.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 70])
def test_sizes_that_are_open_come_from_the_arrays(rng, rows):
    (x,) = matrices(rng, (rows, 24))
    np.testing.assert_array_equal(run_opencl(by_dlight(add_size()), [x, np.zeros_like(x)])[1], x + np.float32(rows))


@needs_oclgrind
def test_oclgrind_finds_nothing_in_a_correct_kernel(rng):
    a, b = matrices(rng, (32, 32), (32, 32))
    found = run_opencl(tiled_matmul(32), [a, b, np.zeros_like(a)], platform="oclgrind")
    np.testing.assert_allclose(found[2], a.astype("f8") @ b, rtol=1e-4, atol=1e-4)


REVERSE = """
__kernel void reverse(__global float* x) {
    __local float s[64];
    int i = get_local_id(0);
    s[i] = x[i];
    BARRIER
    x[i] = s[63 - i + BEYOND];
}"""


def reverse(barrier: str, beyond: str = "0", **more):
    source = REVERSE.replace("BARRIER", barrier).replace("BEYOND", beyond)
    launch = {"kernel": "reverse", "arguments": [("array", 0)], "grid": (1, 1, 1), "block": (64, 1, 1)}
    return run_opencl_source(source, [launch], [np.arange(64, dtype="f4")], **more)[0]


@needs_oclgrind
def test_oclgrind_finds_races_and_accesses_outside_of_arrays():
    barrier = "barrier(CLK_LOCAL_MEM_FENCE);"
    np.testing.assert_array_equal(reverse(barrier, platform="oclgrind"), np.arange(64)[::-1])
    with pytest.raises(OpenclError, match="data race"):
        reverse("", platform="oclgrind")
    with pytest.raises(OpenclError, match=r"Invalid (read|memory)"):
        reverse(barrier, "64", platform="oclgrind")
    np.testing.assert_array_equal(reverse(barrier, platform="oclgrind"), np.arange(64)[::-1])


def test_what_cannot_be_run_is_told(rng):
    x = rng.standard_normal((64, 64)).astype("float16")
    with pytest.raises(OpenclUnsupportedError, match="has no cl_khr_fp16"):
        run_opencl(by_dlight(matmul(64, 64, 64, "float16")), [x, x, x])
    with pytest.raises(ValueError, match="found float16"):
        run_opencl(tiled_matmul(64), [x, x, x])
    with pytest.raises(OpenclError, match="error"):
        run_opencl_source("__kernel void k() { undeclared = 1; }", [], [x])
