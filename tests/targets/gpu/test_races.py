"""Kernels with shared memory under oclgrind, which finds data races, stray accesses, and barriers that threads miss."""

from __future__ import annotations

import numpy as np
import pytest
from conv_cases import conv2d, random_inputs, reference
from tvm import topi

from kompilo.targets.gpu.templates.conv2d_implicit import ImplicitConv2D
from kompilo.targets.gpu.templates.gemm_costs import config_of
from kompilo.targets.gpu.templates.gemm_tile import GemmTile
from kompilo.targets.gpu.templates.matmul_simt import MatmulSimt

from gpu.opencl import missing
from gpu_support import compute, matmul, relative_error, run_rule, run_template, softmax

pytestmark = pytest.mark.skipif(missing("oclgrind") is not None, reason=str(missing("oclgrind")))

TILES = [GemmTile(32, 32, 8, 4, 4), GemmTile(16, 32, 16, 1, 8), GemmTile(64, 16, 8, 8, 4)]


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_matmul(tile):
    op = matmul((35, 50), (50, 33), (35, 33))
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(t.shape).astype("f4") for t in op.inputs)
    found = run_template(MatmulSimt(), op, [a, b], (35, 33), config_of(tile), platform="oclgrind")
    assert relative_error(found, a.astype("f8") @ b) < 3e-6


def test_convolution():
    op = conv2d((1, 6, 7, 8), (12, 8, 3, 3), padding=(1, 1, 1, 1))
    inputs = random_inputs(op)
    expected = reference(op, inputs)
    tile = config_of(TILES[0])
    found = run_template(ImplicitConv2D(), op, inputs, expected.shape, tile, platform="oclgrind")
    assert relative_error(found, expected) < 3e-6


RULES = {
    "transpose": (lambda x: topi.transpose(x, (1, 0)), (40, 33), lambda x: x.T),
    "softmax": (topi.nn.softmax, (3, 200), softmax),
    "short_softmax": (topi.nn.softmax, (9, 10), softmax),
    "columns": (lambda x: topi.nn.softmax(x, axis=0), (50, 9), lambda x: softmax(x.T).T),
    "rows": (lambda x: topi.sum(x, axis=1), (5, 300), lambda x: x.sum(1)),
    "pixels": (lambda x: topi.sum(x, axis=0), (77, 40), lambda x: x.sum(0)),
}


@pytest.mark.parametrize("name", RULES)
def test_rules(name):
    build, shape, plain = RULES[name]
    x = np.random.default_rng(0).standard_normal(shape).astype("f4")
    want = plain(x.astype("f8"))
    found, _ = run_rule(compute(build, shape), [x], np.full(want.shape, np.nan, "f4"), platform="oclgrind")
    assert relative_error(found, want) < 3e-6
