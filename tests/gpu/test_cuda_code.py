"""CUDA C++ that TVM generates from scheduled TIR, run on the CPU: SIMT, WMMA and mma kernels, a Hopper kernel."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.cuda import run_cuda
from gpu.cuda_shim import Options
from gpu.shim_support import needs_shim
from gpu.tir_kernels import add_size, by_dlight, matmul, softmax, tiled_matmul, vectorised, wmma_matmul

pytestmark = needs_shim


@pytest.mark.parametrize("options", [Options(), Options(order="backward"), Options(races=True, order="shuffled")])
def test_a_matmul_scheduled_by_hand(rng, options):
    a, b = (rng.standard_normal((64, 64)).astype("f4") for _ in range(2))
    found = run_cuda(tiled_matmul(64), [a, b, np.zeros_like(a)], options=options)
    np.testing.assert_allclose(found[2], a.astype("f8") @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_matmul_of_odd_sizes_scheduled_by_dlight(rng, dtype):
    a, b = rng.standard_normal((37, 29)).astype(dtype), rng.standard_normal((29, 51)).astype(dtype)
    found = run_cuda(by_dlight(matmul(37, 51, 29, dtype)), [a, b, np.zeros((37, 51), dtype)])
    tolerance = 1e-4 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(found[2], a.astype("f8") @ b.astype("f8"), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", [Options(), Options(races=True, order="backward")])
def test_a_softmax_shuffles(rng, options):
    x = rng.standard_normal((5, 200)).astype("f4")
    power = np.exp(x.astype("f8") - x.max(1, keepdims=True))
    found = run_cuda(by_dlight(softmax(5, 200)), [x, np.zeros_like(x)], options=options)
    np.testing.assert_allclose(found[1], power / power.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 70])
def test_sizes_that_are_open_come_from_the_arrays(rng, rows):
    x = rng.standard_normal((rows, 24)).astype("f4")
    np.testing.assert_array_equal(run_cuda(by_dlight(add_size()), [x, np.zeros_like(x)])[1], x + np.float32(rows))


@pytest.mark.parametrize(
    ("dtype", "lanes"), [("float32", 4), ("float16", 8), ("bfloat16", 4), ("int8", 4), ("int64", 2)]
)
def test_vectors_of_every_type(rng, dtype, lanes):
    x, y = (rng.integers(0, 5, 1024).astype("f4") for _ in range(2))
    expected = np.maximum(x * y + x, 1)
    if dtype == "bfloat16":  # arrays of it are their bits
        a, b, c = ((z.view("uint32") >> 16).astype("uint16") for z in (x, y, 0 * x))
    else:
        a, b, c = (z.astype(dtype) for z in (x, y, 0 * x))
    found = run_cuda(vectorised(1024, dtype, lanes), [a, b, c])[2]
    if dtype == "bfloat16":
        found = (found.astype("uint32") << 16).view("f4")
    expected = np.tanh(expected) if "float" in dtype else expected
    np.testing.assert_allclose(found.astype("f8"), expected, rtol={"float32": 1e-6, "bfloat16": 4e-3}.get(dtype, 5e-4))


def test_a_wmma_matmul_by_dlight(rng):
    a, b = (rng.standard_normal((128, 128)).astype("float16") for _ in range(2))
    found = run_cuda(wmma_matmul(128), [a, b, np.zeros_like(a)])
    np.testing.assert_allclose(found[2], a.astype("f8") @ b.astype("f8").T, rtol=2e-2, atol=6e-2)


@pytest.mark.parametrize("options", [Options(), Options(races=True, order="backward")])
def test_a_hopper_kernel_in_tir(rng, options):
    from gpu import tir_hopper

    a, b = (rng.standard_normal((16, 64)).astype("float16") for _ in range(2))
    arrays = [a, b, np.zeros((64, 64), "f4")]
    found = run_cuda(tir_hopper.module(), arrays, arch="sm_90a", options=options, pipeline="tirx")
    np.testing.assert_allclose(found[2], a.astype("f8").T @ b.astype("f8"), rtol=1e-5, atol=1e-5)
