"""Hopper's kernels with copies of tiles and warps of different work, against float64 by the CUDA shim; their code."""

from __future__ import annotations

import numpy as np
import pytest
from conv_cases import conv2d, reference
from disassemble import count, sass_of
from tensor_core_cases import Typed, cubin, random_operands, run, small_gpu
from tvm import tirx

from kompilo.compiler.schedule.op_spec import Step
from kompilo.targets.cuda.compilers import find_compilers
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.resources import resources_of_cubin
from kompilo.targets.gpu.templates.tensor_core_conv2d import PipelineConv2D
from kompilo.targets.gpu.templates.tensor_core_matmul import PipelineMatmul
from kompilo.targets.gpu.templates.tensor_core_pipeline_tile import PipelineTile
from kompilo.targets.gpu.templates.tensor_core_tma import wait_barrier

from gpu.shim_support import needs_shim
from gpu_support import matmul, relative_error

needs_compiler = pytest.mark.skipif(not list(find_compilers()), reason="no CUDA compiler: pip install 'kompilo[cuda]'")
BIAS_RELU = (Step("add", ("anchor", "i2"), "float32"), Step("nn.relu", ("s0",), "float32"))
SMALL = PipelineTile(64, 64, 1, 3)
H200 = CudaTarget.from_preset("h200")
# Four SMs, so that blocks have several tiles.
FEW = small_gpu("h200", 4)


def product(a, b):
    return a @ b


def scores(a, b):
    return a.transpose(0, 2, 1, 3) @ b.transpose(0, 2, 3, 1)


def context(a, b):
    return (a @ b.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


SCORES = matmul((2, 50, 2, 32), (2, 50, 2, 32), (2, 2, 50, 50), lhs=(0, 2, 1, 3), rhs=(0, 2, 3, 1))
CONTEXT = matmul((2, 2, 50, 56), (2, 56, 2, 64), (2, 2, 50, 64), rhs=(0, 2, 1, 3), out=(0, 2, 1, 3))
MATMULS = {
    "odd": (Typed(matmul((133, 136), (136, 69), (133, 69), True), result="float16"), product, SMALL),
    "epilogue": (
        Typed(matmul((70, 96), (96, 72), (70, 72), True, steps=BIAS_RELU, extra=((72,),)), result="float16"),
        lambda a, b, c: np.maximum(a @ b + c, 0),
        SMALL,
    ),
    "from_outside": (Typed(matmul((3, 100, 136), (1, 136, 72), (3, 100, 72)), "bfloat16"), product, SMALL),
    "transposed_left": (
        Typed(matmul((136, 152), (136, 200), (152, 200), lhs=(1, 0))),
        lambda a, b: a.T @ b,
        PipelineTile(256, 128, 2, 3),
    ),
    "scores": (Typed(SCORES), scores, SMALL),
    "context": (Typed(CONTEXT, result="float16"), context, SMALL),
    "open": (Typed(matmul(("b", 2, "m", 72), (72, 104), ("b", 2, "m", 104), True), result="float16"), product, SMALL),
    "int8": (Typed(matmul((70, 272), (272, 72), (70, 72), True), "int8"), product, SMALL),
    "cluster": (
        Typed(matmul((250, 200), (200, 136), (250, 136), True), result="float16"),
        product,
        PipelineTile(64, 64, 1, 3, cluster=2),
    ),
}


@needs_shim
@pytest.mark.parametrize("name", MATMULS)
def test_matmul(name):
    typed, compute, tile = MATMULS[name]
    operands = random_operands(typed.spec, b=2, m=70)
    expected = compute(*operands)
    for found in run(PipelineMatmul(), typed.spec, operands, expected.shape, tile.config(), FEW):
        assert relative_error(found, expected) <= typed.tolerance


@needs_shim
def test_convolution_of_one_pixel():
    typed = Typed(conv2d((2, 9, 7, 72), (80, 72, 1, 1), epilogue=("bias", "residual")), result="float16")
    operands = random_operands(typed.spec)
    expected = reference(typed.op, operands)
    for found in run(PipelineConv2D(), typed.spec, operands, expected.shape, SMALL.config(), FEW):
        assert relative_error(found, expected) <= typed.tolerance


def test_what_the_copy_engine_does_not_bring():
    def taken(op, template, a="float16", b=""):
        return template.match(Typed(op, a, b).spec, H200.spec) is not None

    plain = matmul((128, 256), (256, 128), (128, 128), True)
    assert taken(plain, PipelineMatmul())
    assert not taken(matmul((128, 252), (252, 128), (128, 128), True), PipelineMatmul())  # 504 bytes to the next row
    assert not taken(matmul((128, 256), (256, 128), (128, 128)), PipelineMatmul(), "int8")  # k does not run fastest
    assert not taken(plain, PipelineMatmul(), "float32")
    assert PipelineMatmul().match(Typed(plain).spec, CudaTarget.from_preset("a100").spec) is None
    window = conv2d((1, 16, 16, 64), (64, 64, 3, 3), padding=(1, 1, 1, 1))
    assert not taken(window, PipelineConv2D())
    assert taken(conv2d((1, 16, 16, 64), (64, 64, 1, 1)), PipelineConv2D())
    assert not taken(conv2d((1, 16, 16, 64), (64, 32, 1, 1), groups=2), PipelineConv2D())


LARGE = Typed(matmul((8192, 8192), (8192, 8192), (8192, 8192), True), result="float16")
CODES = {
    "large": (PipelineMatmul(), LARGE, None),
    "cluster": (PipelineMatmul(), LARGE, PipelineTile(128, 256, 2, 4, cluster=2)),
    "from_outside": (PipelineMatmul(), Typed(matmul((1000, 1000), (1000, 520), (1000, 520))), None),
    "int8": (PipelineMatmul(), Typed(matmul((4096, 4096), (4096, 4096), (4096, 4096), True), "int8"), None),
    "1x1": (PipelineConv2D(), Typed(conv2d((8, 28, 28, 512), (256, 512, 1, 1), epilogue=("bias", "relu"))), None),
}


@needs_compiler
@pytest.mark.parametrize("name", CODES)
def test_machine_code(name):
    """Copies of tiles, multiplications that are not waited for one by one, registers handed over; no spills."""
    template, typed, tile = CODES[name]
    config = tile.config() if tile else template.match(typed.spec, H200.spec).default
    code = cubin(template, typed.spec, config, "sm_90")
    text = sass_of(code)
    assert not any(kernel.spills_bytes for kernel in resources_of_cubin(code).values())
    assert count(text, "UTMALDG") >= 2
    assert count(text, "IGMMA" if typed.a == "int8" else "HGMMA") >= 4
    assert count(text, "WARPGROUP.DEPBAR") <= 2
    assert count(text, "USETMAXREG") == (2 if PipelineTile.of(config).groups > 1 else 0)
    assert count(text, "LDGSTS") == 0
    assert ("UTMALDG.2D.MULTICAST" in text) == (PipelineTile.of(config).cluster > 1)


def test_the_default_for_large_matrices():
    """128 x 256 results by two warpgroups, as open kernels that reach cuBLAS have it."""
    for size in (4096, 8192):
        op = Typed(matmul((size, size), (size, size), (size, size), True), result="float16").spec
        tile = PipelineTile.of(PipelineMatmul().match(op, H200.spec).default)
        assert (tile.bm * tile.bn, tile.groups, tile.split) == (128 * 256, 2, 1)
        assert tile.stages >= 4


def test_configs_fit_the_gpu():
    space = PipelineMatmul().match(LARGE.spec, H200.spec)
    assert len(space.configs) > 16
    for config in space:
        tile = PipelineTile.of(config)
        assert tile.shared_bytes <= H200.spec.shared_bytes
        assert tile.sums <= 128
    columns = PipelineMatmul().traits(LARGE.spec, H200.spec, space.configs)
    assert all(len(column) == len(space.configs) and np.isfinite(column).all() for column in columns.values())


def test_threads_leave_a_barrier_one_by_one():
    """`bra.uni` promises that all threads of a warp go the same way, and each looks at the barrier for itself."""
    text = str(wait_barrier(tirx.Var("barrier", "handle"), 0))
    assert "mbarrier.try_wait" in text
    assert ".uni" not in text
