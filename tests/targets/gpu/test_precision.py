"""Models of float32 in float16 and tfloat32: operands of mixed types, and the kernels that a compile chooses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conv_cases import conv2d, reference
from disassemble import count, sass_of
from tensor_core_cases import random_operands, run

import kompilo
from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.targets.cuda.compilers import find_compilers
from kompilo.targets.gpu.resources import resources_of_cubin
from kompilo.targets.gpu.templates.conv2d_depthwise import DepthwiseConv2D
from kompilo.targets.gpu.templates.tensor_core_conv2d import TensorCoreConv2D
from kompilo.targets.gpu.templates.tensor_core_matmul import TensorCoreMatmul
from kompilo.targets.rocm.target import RocmTarget

from gpu.cuda_shim import Options
from gpu.shim_support import needs_shim
from gpu_support import matmul, relative_error

needs_compiler = pytest.mark.skipif(not list(find_compilers()), reason="no CUDA compiler: pip install 'kompilo[cuda]'")
ONCE = (Options(races=True),)


def halved(op: OpSpec, *operands: int) -> OpSpec:
    """`op` with these operands and its result in float16; sums, epilogue and other operands stay float32."""
    inputs = tuple(replace(t, dtype="float16") if k in operands else t for k, t in enumerate(op.inputs))
    last = f"s{len(op.epilogue) - 1}" if op.epilogue else "anchor"
    steps = (*op.epilogue, Step("astype", (last,), "float16"))
    return replace(op, inputs=inputs, epilogue=steps, output=TensorType(op.output.shape, "float16"))


CONVOLUTIONS = {
    "depthwise": (DepthwiseConv2D(), conv2d((1, 9, 8, 16), (16, 1, 3, 3), groups=16, padding=(1, 1, 1, 1))),
    "depthwise_odd": (DepthwiseConv2D(), conv2d((2, 7, 6, 6), (6, 1, 5, 2), groups=6, epilogue=("residual",))),
    "depthwise_wide": (DepthwiseConv2D(), conv2d((1, 6, 19, 8), (8, 1, 5, 17), groups=8, epilogue=())),
    "residual": (
        TensorCoreConv2D(), conv2d((1, 6, 6, 32), (16, 32, 1, 1), epilogue=("bias", "residual", "relu")),
    ),
}  # fmt: skip


@needs_shim
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    template, op = CONVOLUTIONS[name]
    residual = [k for k, t in enumerate(op.inputs) if k > 1 and len(t.shape) == 4]
    half = halved(op, 0, 1, *residual)
    operands = random_operands(half)
    want = reference(op, operands)
    for found in run(template, half, operands, want.shape, None, options=ONCE):
        assert relative_error(found, want) < 1e-3


@needs_shim
def test_a_residual_of_float16_in_an_epilogue_of_float32():
    steps = (Step("add", ("anchor", "i2"), "float32"), Step("add", ("s0", "i3"), "float32"))
    op = halved(matmul((33, 32), (32, 24), (33, 24), True, steps=steps, extra=((24,), (33, 24))), 0, 1, 3)
    operands = random_operands(op)
    a, b, bias, residual = operands
    want = a @ b + bias + residual
    for found in run(TensorCoreMatmul(), op, operands, want.shape, options=ONCE):
        assert relative_error(found, want) < 1e-3


@needs_compiler
@pytest.mark.parametrize(
    ("target", "precision", "instruction", "templates"),
    [
        ("cuda:sm_80", "fp16", "HMMA.16816", {"conv2d_tensor_core", "matmul_tensor_core", "pool2d"}),
        ("cuda:sm_80", "tf32", "HMMA.1688.F32.TF32", {"conv2d_tensor_core", "matmul_tensor_core", "pool2d"}),
    ],
)
def test_a_model(target, precision, instruction, templates):
    artifact = kompilo.compile("zoo:mnist", target=target, precision=precision, inputs={"image": (32, 1, 28, 28)})
    codes = [c.code for c in artifact.targets[0].device]
    assert {o.template for o in artifact.targets[0].operators if o.kind} >= templates
    assert any(count(sass_of(code), instruction) for code in codes)
    assert not [name for code in codes for name, used in resources_of_cubin(code).items() if used.spills_bytes]
    assert artifact.provenance["precision"] == precision
    assert [str(s.dtype) for s in (*artifact.inputs, *artifact.outputs)] == ["float32", "float32"]


def test_halves_on_other_targets():
    """Where matrix units multiply float16, whatever the maker."""
    op = halved(matmul((64, 64), (64, 64), (64, 64), True), 0, 1)
    for preset in ("gfx90a", "gfx942", "gfx1100"):
        target = RocmTarget.from_preset(preset)
        assert "fp16" in target.precisions
        assert any(t.match(op, target.spec) for t in target.templates)


@needs_shim
def test_products_of_integers_with_a_zero_point():
    """What dynamic quantisation makes: sums less the zero point's part, scaled to float32."""
    a, b, n = (33, 48), (48, 24), 24
    types = [TensorType(a, "uint8"), TensorType(b, "int8"), TensorType((n,), "int32"), TensorType((), "float32")]
    steps = (
        Step("subtract", ("anchor", "i2"), "int32"),
        Step("astype", ("s0",), "float32"),
        Step("multiply", ("s1", "i3"), "float32"),
    )
    plain = matmul(a, b, (33, n), True)
    op = replace(
        plain,
        inputs=tuple(types),
        constant=(False, True, True, False),
        anchor_type=TensorType((33, n), "int32"),
        output=TensorType((33, n), "float32"),
        epilogue=steps,
    )
    left, right, _, scale = random_operands(op)
    part = 3 * right.sum(0)
    want = (left @ right - part) * scale
    for found in run(TensorCoreMatmul(), op, [left, right, part, scale], want.shape, options=ONCE):
        assert relative_error(found, want) < 1e-6
