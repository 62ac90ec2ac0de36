"""Kernels with shared memory under oclgrind, which finds data races, stray accesses, and barriers that threads miss."""

from __future__ import annotations

import numpy as np
import pytest
from attention_cases import Attention, operands
from conv_cases import conv2d, random_inputs, reference
from tvm import tirx, topi

from kompilo.compiler.schedule.masks import ADDED
from kompilo.compiler.schedule.template import Config
from kompilo.compiler.tune.reference import evaluate
from kompilo.targets.gpu.templates import attention_simt_nest, gemv_kernels
from kompilo.targets.gpu.templates.attention_simt import SimtAttention
from kompilo.targets.gpu.templates.conv2d_implicit import ImplicitConv2D
from kompilo.targets.gpu.templates.gemm_tile import GemmTile
from kompilo.targets.gpu.templates.gemv import Gemv
from kompilo.targets.gpu.templates.matmul_simt import MatmulSimt

from gpu.opencl import OpenclError, missing
from gpu_support import compute, matmul, relative_error, run_rule, run_template, softmax

pytestmark = pytest.mark.skipif(missing("oclgrind") is not None, reason=str(missing("oclgrind")))

TILES = [GemmTile(32, 32, 8, 4, 4), GemmTile(16, 32, 16, 1, 8), GemmTile(64, 16, 8, 8, 4)]


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_matmul(tile):
    op = matmul((35, 50), (50, 33), (35, 33))
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(t.shape).astype("f4") for t in op.inputs)
    found = run_template(MatmulSimt(), op, [a, b], (35, 33), tile.config(), platform="oclgrind")
    assert relative_error(found, a.astype("f8") @ b) < 3e-6


def test_convolution():
    op = conv2d((1, 6, 7, 8), (12, 8, 3, 3), padding=(1, 1, 1, 1))
    inputs = random_inputs(op)
    expected = reference(op, inputs)
    tile = TILES[0].config()
    found = run_template(ImplicitConv2D(), op, inputs, expected.shape, tile, platform="oclgrind")
    assert relative_error(found, expected) < 3e-6


# Lines along K, shared by warps or not, with weights and without; lines side by side, whose threads share out K.
GEMVS = {
    "row": (matmul((1, 83), (83, 9), (1, 9), True), Config.of(lines=1, split=8, ahead=1)),
    "rows": (matmul((3, 140), (140, 21), (3, 21), True), Config.of(lines=4, split=2, ahead=2)),
    "one_warp": (matmul((2, 64), (64, 5), (2, 5), True), Config.of(lines=2, split=1, ahead=1)),
    "across": (matmul((2, 37), (37, 24), (2, 24)), None),
    "columns": (matmul((45, 64), (64, 2), (45, 2), True), None),
}


@pytest.mark.parametrize("name", GEMVS)
def test_gemv(name):
    op, config = GEMVS[name]
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(t.shape).astype("f4") for t in op.inputs)
    found = run_template(Gemv(), op, [a, b], op.output.shape, config, platform="oclgrind")
    assert relative_error(found, a.astype("f8") @ b) < 3e-6


ATTENTIONS = {
    "odd": (Attention((1, 2, 9, 11, 12), dtype="float32"), attention_simt_nest.SimtTile(16, 16, 8, 8)),
    "causal": (
        Attention((2, 2, 19, 21, 16), own=1, dtype="float32", causal=True, offset=2),
        attention_simt_nest.SimtTile(16, 16, 8, 8),
    ),
    "masked": (
        Attention((1, 1, 18, 35, 8), columns=20, dtype="float32", masks=((ADDED, (1, 1, 18, 35), "float32"),)),
        None,
    ),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name):
    case, tile = ATTENTIONS[name]
    op = case.spec
    arrays = operands(op)
    stored = [x.astype(t.dtype) for x, t in zip(arrays, op.inputs, strict=True)]
    config = tile.config() if tile else None
    found = run_template(SimtAttention(), op, stored, op.output.shape, config, platform="oclgrind")
    assert relative_error(found, evaluate(op, arrays).values) < 1e-5


@pytest.mark.parametrize(
    ("module", "check", "name"),
    [(gemv_kernels, test_gemv, "across"), (attention_simt_nest, test_attention, "odd")],
    ids=["gemv", "attention"],
)
def test_without_its_barriers_a_kernel_races(module, check, name, monkeypatch):
    monkeypatch.setattr(module, "barrier", lambda: tirx.Evaluate(0))
    with pytest.raises(OpenclError, match="race"):
        check(name)


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
