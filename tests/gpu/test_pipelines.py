"""Matmuls for tensor cores as they are written: cp.async, ldmatrix, mma; TMA, mbarriers, wgmma; and broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpu.cuda_shim import Array, KernelError, Launch, Options, TensorMap, run_cuda_source
from gpu.shim_support import needs_shim

pytestmark = needs_shim
SOURCES = Path(__file__).parent / "sources"
EVERY_WAY = [
    Options(),
    Options(delivery="early", order="backward"),
    Options(delivery="shuffled", order="shuffled", seed=3),
    Options(races=True),
]


def matrices(rng, m, n, k):
    a, b = rng.standard_normal((m, k)).astype("float16"), rng.standard_normal((k, n)).astype("float16")
    return a, b, np.full((m, n), np.nan, "f4"), a.astype("f8") @ b.astype("f8")


def ampere(a, b, c, source=None, options=None):
    source = source or (SOURCES / "ampere_matmul.cu").read_text()
    (m, k), n = a.shape, b.shape[1]
    grid = (-(-n // 64), -(-m // 64))
    launch = Launch("matmul", grid, 128, [Array(0), Array(1), Array(2), m, n, k], dynamic_shared=3 * 2 * 64 * 32 * 2)
    return run_cuda_source(source, [launch], [a, b, c], options, names=["A", "B", "C"])[2]


def hopper(a, b, c, source=None, options=None):
    source = source or (SOURCES / "hopper_matmul.cu").read_text()
    (m, k), n = a.shape, b.shape[1]
    turned = np.ascontiguousarray(b.T)
    maps = [TensorMap(i, "float16", (k, rows), (2 * k,), (64, 64), "128B") for i, rows in ((0, m), (1, n))]
    grid = (-(-n // 64), -(-m // 64))
    launch = Launch("matmul", grid, 160, [*maps, Array(2), m, n, k], dynamic_shared=2 * 2 * 64 * 64 * 2)
    return run_cuda_source(source, [launch], [a, turned, c], options, names=["A", "B", "C"])[2]


@pytest.mark.parametrize("options", EVERY_WAY, ids=str)
@pytest.mark.parametrize("kernel", [ampere, hopper])
def test_a_matmul(rng, kernel, options):
    a, b, c, expected = matrices(rng, 128, 64, 160)
    np.testing.assert_allclose(kernel(a, b, c, options=options), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", [ampere, hopper])
def test_a_matmul_of_odd_sizes(rng, kernel):
    a, b, c, expected = matrices(rng, 70, 72, 72)
    np.testing.assert_allclose(kernel(a, b, c), expected, rtol=1e-3, atol=1e-3)


BROKEN = [
    (ampere, "ampere_matmul.cu", '"n"(STAGES - 2)', '"n"(STAGES - 1)', "wrong"),
    (ampere, "ampere_matmul.cu", "__syncthreads();  // BARRIER", "", "race"),
    (ampere, "ampere_matmul.cu", "fetch(step + STAGES - 1);\n", "fetch(step + STAGES);\n", "wrong"),
    (ampere, "ampere_matmul.cu", "kk / 8 + lane / 16", "kk / 8 + lane / 8 % 2", "wrong"),
    (hopper, "hopper_matmul.cu", "wait(&full[stage], step / STAGES % 2);  // WAIT FULL", "", "race|mbarrier"),
    (hopper, "hopper_matmul.cu", "wait(&empty[stage], step / STAGES % 2 ^ 1);  // WAIT EMPTY", "", "race|mbarrier"),
    (hopper, "hopper_matmul.cu", '"n"(0) : "memory");  // WAIT WGMMA', '"n"(1) : "memory");', "race"),
    (hopper, "hopper_matmul.cu", "2 * TILE_BYTES);\n", "TILE_BYTES);\n", "race|mbarrier"),
    (hopper, "hopper_matmul.cu", "uint64_t(1) << 62", "uint64_t(2) << 62", "wrong"),
]


@pytest.mark.parametrize(("kernel", "file", "text", "other", "outcome"), BROKEN)
def test_a_mistake_shows(rng, kernel, file, text, other, outcome):
    """As a wrong result by default, or with `races` as a message."""
    source = (SOURCES / file).read_text()
    assert text in source
    a, b, c, expected = matrices(rng, 64, 64, 320)
    changed = source.replace(text, other)
    if outcome != "wrong":
        with pytest.raises(KernelError, match=outcome):
            kernel(a, b, c, changed, Options(races=True))
        return
    found = kernel(a, b, c, changed)
    assert not np.allclose(found, expected, rtol=1e-2, atol=1e-2)
