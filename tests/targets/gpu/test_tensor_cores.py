"""Kernels for NVIDIA's tensor cores against float64, by the CUDA shim: types, odd and open shapes, epilogues, races."""

from __future__ import annotations

import numpy as np
import pytest
from conv_cases import conv2d, reference
from tensor_core_cases import TILE, Typed, random_operands, run

from kompilo.compiler.schedule.op_spec import Step
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.templates.tensor_core_conv2d import TensorCoreConv2D, WarpgroupConv2D
from kompilo.targets.gpu.templates.tensor_core_matmul import TensorCoreMatmul, WarpgroupMatmul
from kompilo.targets.gpu.templates.tensor_core_tile import TensorTile
from kompilo.targets.gpu.templates.vectors import dtype_bytes
from kompilo.targets.rocm.target import RocmTarget

from gpu.shim_support import needs_shim
from gpu_support import matmul, relative_error

SIZES = {"b": 2, "m": 35, "k": 19, "n": 13}
BIAS_RELU = (Step("add", ("anchor", "i2"), "float32"), Step("nn.relu", ("s0",), "float32"))
PLAIN = matmul((64, 96), (96, 48), (64, 48), True)
OPEN = matmul((40, 100), (100, 36), (40, 36))


def product(a, b):
    return a @ b


def transposed(a, b):
    return a.T @ b


MATMULS = {
    "packed": (Typed(PLAIN), product),
    "odd": (Typed(matmul((33, 57), (57, 21), (33, 21), True), result="float16"), product),
    "epilogue": (
        Typed(matmul((70, 96), (96, 40), (70, 40), True, steps=BIAS_RELU, extra=((40,),)), result="float16"),
        lambda a, b, c: np.maximum(a @ b + c, 0),
    ),
    "both_from_outside": (Typed(OPEN), product),
    "both_odd": (Typed(matmul((35, 43), (43, 27), (35, 27))), product),
    "scores": (
        Typed(matmul((2, 50, 2, 32), (2, 50, 2, 32), (2, 2, 50, 50), lhs=(0, 2, 1, 3), rhs=(0, 2, 3, 1))),
        lambda a, b: a.transpose(0, 2, 1, 3) @ b.transpose(0, 2, 3, 1),
    ),
    "context": (
        Typed(
            matmul((2, 2, 50, 50), (2, 50, 2, 32), (2, 2, 50, 32), rhs=(0, 2, 1, 3), out=(0, 2, 1, 3)), result="float16"
        ),
        lambda a, b: (a @ b.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3),
    ),
    "transposed_left": (Typed(matmul((72, 48), (72, 20), (48, 20), lhs=(1, 0))), transposed),
    "open": (Typed(matmul(("b", 2, "m", "k"), ("b", 1, "k", "n"), ("b", 2, "m", "n"))), product),
    "open_rows": (Typed(matmul(("m", 72), (72, 24), ("m", 24), True), result="float16"), product),
    "bfloat16": (Typed(PLAIN, "bfloat16", result="bfloat16"), product),
    "int8": (Typed(PLAIN, "int8"), product),
    "int8_odd": (Typed(matmul((33, 75), (75, 21), (33, 21), True), "int8"), product),
    "int8_both_from_outside": (Typed(OPEN, "int8"), product),
    "uint8": (Typed(PLAIN, "uint8", "int8"), product),
    "tfloat32": (Typed(PLAIN, "float32"), product),
    "tfloat32_both_from_outside": (Typed(OPEN, "float32"), product),
}
CONVOLUTIONS = {
    "3x3": Typed(conv2d((1, 9, 9, 32), (24, 32, 3, 3), padding=(1, 1, 1, 1)), result="float16"),
    "rgb": Typed(conv2d((1, 15, 13, 3), (16, 3, 5, 5), strides=(2, 2), padding=(2, 2, 2, 2))),
    "odd": Typed(conv2d((2, 7, 6, 5), (7, 5, 3, 2), padding=(1, 0, 0, 1), epilogue=("bias", "residual"))),
    "dilated": Typed(
        conv2d((1, 9, 8, 8), (12, 8, 3, 3), dilation=(2, 3), padding=(2, 3, 2, 3), epilogue=("gate", "pixel"))
    ),
    "grouped": Typed(
        conv2d((1, 7, 7, 32), (48, 16, 3, 3), groups=2, padding=(1, 1, 1, 1), epilogue=("bias4", "hardswish")),
        result="float16",
    ),
    "open": Typed(conv2d(("n", "h", "w", 8), (12, 8, 3, 3), padding=(1, 1, 1, 1), out=("h", "w"))),
    "bfloat16": Typed(conv2d((1, 8, 7, 16), (16, 16, 1, 1)), "bfloat16"),
    "int8": Typed(conv2d((1, 7, 7, 16), (20, 16, 3, 3), padding=(1, 1, 1, 1), epilogue=()), "int8"),
    "tfloat32": Typed(conv2d((1, 7, 7, 8), (16, 8, 3, 3), padding=(1, 1, 1, 1)), "float32"),
}
OPEN_SIZES = {"n": 2, "h": 5, "w": 6}


def check(template, typed, compute, config=TILE, preset="sm_80", **sizes):
    op = typed.spec
    operands = random_operands(op, **sizes)
    expected = compute(*operands)
    for found in run(template, op, operands, expected.shape, config, preset):
        assert relative_error(found, expected) <= typed.tolerance


@needs_shim
@pytest.mark.parametrize("name", MATMULS)
def test_matmul(name):
    check(TensorCoreMatmul(), *MATMULS[name], **SIZES)


@needs_shim
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name):
    typed = CONVOLUTIONS[name]
    check(TensorCoreConv2D(), typed, lambda *operands: reference(typed.op, operands), **OPEN_SIZES)


@needs_shim
@pytest.mark.parametrize(
    "tile",
    [
        TensorTile(16, 16, 16, 1, 1, 5),
        TensorTile(128, 32, 64, 4, 1, 2),
        TensorTile(64, 64, 64, 2, 2, 3),
        TensorTile(32, 128, 32, 1, 4, 4),
        TensorTile(64, 64, 32, 2, 4, 3),
    ],
    ids=str,
)
def test_tiles(tile):
    op = matmul((150, 136), (136, 56), (150, 56), True)
    check(TensorCoreMatmul(), Typed(op, result="float16"), product, tile.config())


@needs_shim
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_turing_copies_through_registers(dtype):
    check(TensorCoreMatmul(), Typed(PLAIN, dtype), product, preset="sm_75")


WARPGROUPS = {
    "packed": Typed(matmul((128, 200), (200, 72), (128, 72), True), result="float16"),
    "from_outside": Typed(matmul((100, 136), (136, 72), (100, 72))),
    "odd": Typed(matmul((67, 139), (139, 69), (67, 69), True), result="float16"),
    "bfloat16": Typed(matmul((64, 192), (192, 64), (64, 64), True), "bfloat16"),
    "int8": Typed(matmul((70, 272), (272, 72), (70, 72), True), "int8"),
    "uint8": Typed(matmul((64, 148), (148, 64), (64, 64), True), "uint8", "int8"),
}


@needs_shim
@pytest.mark.parametrize("name", WARPGROUPS)
def test_warpgroups(name):
    typed = WARPGROUPS[name]
    tile = TensorTile(64, 64, 64 // dtype_bytes(typed.a) * 2, 4, 1, 3)
    check(WarpgroupMatmul(), typed, product, tile.config(), "sm_90")


@needs_shim
def test_two_warpgroups_of_128_rows():
    op = matmul((136, 300), (136, 200), (300, 200), lhs=(1, 0))
    check(WarpgroupMatmul(), Typed(op), transposed, TensorTile(256, 128, 64, 8, 1, 4).config(), "sm_90")


@needs_shim
def test_convolution_by_warpgroups():
    typed = Typed(conv2d((1, 9, 9, 32), (48, 32, 3, 3), padding=(1, 1, 1, 1), epilogue=("bias", "residual")))
    tile = TensorTile(64, 64, 64, 4, 1, 3).config()
    check(WarpgroupConv2D(), typed, lambda *x: reference(typed.op, x), tile, "sm_90")


def test_who_is_refused():
    a100, turing = (CudaTarget.from_preset(name).spec for name in ("sm_80", "sm_75"))
    template = TensorCoreMatmul()
    assert template.match(Typed(PLAIN).spec, a100) is not None
    assert template.match(PLAIN, a100) is None  # float32 is not rounded unless the compile allows it
    assert template.match(Typed(PLAIN, "bfloat16").spec, turing) is None
    assert template.match(Typed(PLAIN, "float64").spec, a100) is None
    assert template.match(Typed(PLAIN).spec, RocmTarget.from_preset("gfx942").spec) is None
    assert WarpgroupMatmul().match(Typed(PLAIN).spec, a100) is None
    thin = matmul((1, 64), (64, 1000), (1, 1000), True)
    assert template.match(Typed(thin).spec, a100) is None
