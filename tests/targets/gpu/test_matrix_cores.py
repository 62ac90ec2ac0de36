"""AMD's matrix units: kernels by what AMD documents of their instructions, and those in the machine code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conv_cases import conv2d, random_inputs, reference
from disassemble import count, gcn_of
from matrix_core_runs import ROUNDING, compile_op, emulate, read, stored
from rocm_kernels import needs_lld

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.template import Config
from kompilo.targets.gpu.resources import resources_of_code_object
from kompilo.targets.gpu.templates.matrix_core_conv2d import MatrixCoreConv2D
from kompilo.targets.gpu.templates.matrix_core_matmul import MatrixCoreMatmul
from kompilo.targets.rocm.target import RocmTarget

from gpu.cuda_shim import Options
from gpu.shim_support import needs_shim
from gpu_support import matmul, relative_error

BIAS_RELU = (Step("add", ("anchor", "i2"), "float32"), Step("nn.relu", ("s0",), "float32"))


def typed(op: OpSpec, operands: str, result: str = "float32") -> OpSpec:
    """`op` on operands of one type, with sums and epilogue of another."""

    def of(tensor: TensorType, dtype: str) -> TensorType:
        return TensorType(tensor.shape, dtype)

    return replace(
        op,
        inputs=(*(of(t, operands) for t in op.inputs[:2]), *(of(t, result) for t in op.inputs[2:])),
        anchor_type=of(op.anchor_type, result),
        output=of(op.output, result),
        epilogue=tuple(replace(s, dtype=result) for s in op.epilogue),
    )


SIZES = {"m": 45, "k": 19, "n": 33, "b": 2, "h": 9, "w": 11}
MATMULS = {
    "whole": (matmul((64, 64), (64, 96), (64, 96)), lambda a, b: a @ b),
    "odd": (matmul((33, 17), (17, 65), (33, 65)), lambda a, b: a @ b),
    "packed": (
        matmul((50, 72), (72, 43), (50, 43), True, steps=BIAS_RELU, extra=((43,),)),
        lambda a, b, c: np.maximum(a @ b + c, 0),
    ),
    "scores": (
        matmul((2, 37, 2, 24), (2, 40, 2, 24), (2, 2, 37, 40), lhs=(0, 2, 1, 3), rhs=(0, 2, 3, 1)),
        lambda a, b: a.transpose(0, 2, 1, 3) @ b.transpose(0, 2, 3, 1),
    ),
    "context": (
        matmul((2, 2, 37, 40), (2, 40, 2, 24), (2, 2, 37, 24), rhs=(0, 2, 1, 3), out=(0, 2, 1, 3)),
        lambda a, b: (a @ b.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3),
    ),
    "transposed": (matmul((36, 48), (36, 20), (48, 20), lhs=(1, 0)), lambda a, b: a.T @ b),
    "symbolic": (matmul(("b", "m", "k"), ("b", "k", "n"), ("b", "m", "n")), lambda a, b: a @ b),
}
CONVS = {
    "3x3": conv2d((1, 9, 10, 16), (24, 16, 3, 3), padding=(1, 1, 1, 1)),
    "rgb": conv2d((1, 13, 15, 3), (18, 3, 5, 5), strides=(2, 2), padding=(2, 2, 2, 2)),
    "1x1": conv2d((2, 7, 5, 24), (40, 24, 1, 1), epilogue=("bias", "residual", "relu")),
    "grouped": conv2d((1, 8, 8, 24), (36, 6, 3, 3), groups=4, padding=(1, 1, 1, 1), epilogue=("bias4", "hardswish")),
    "symbolic": conv2d(("b", "h", "w", 8), (12, 8, 3, 3), dilation=(2, 1), padding=(2, 1, 2, 1), out=("h", "w")),
}
# Architecture, operands, side of the instruction.
KINDS = [
    ("gfx90a", "float16", 32),
    ("gfx942", "float16", 16),
    ("gfx90a", "float32", 32),
    ("gfx942", "float32", 16),
    ("gfx942", "bfloat16", 32),
    ("gfx90a", "bfloat16", 16),
    ("gfx1100", "float16", 16),
    ("gfx1100", "bfloat16", 16),
]


def small(side: int, wm: int = 1, wn: int = 2, split: int = 1, bk: int = 32) -> Config:
    """Two waves, or four, that each multiply two fragments by one, of `split` parts of K."""
    return Config.of(bm=2 * side * wm, bn=side * wn, bk=bk, wm=wm, wn=wn, side=side, split=split)


def check_matmul(name, arch, dtype, config=None, result="float32", options=None) -> None:
    op, compute = MATMULS[name]
    op = typed(op, dtype, result)
    rng = np.random.default_rng(0)
    shapes = [[SIZES[d] if isinstance(d, str) else d for d in t.shape] for t in op.inputs]
    inputs = [rng.standard_normal(s).astype("float32") for s in shapes]
    inputs = [read(stored(x, t.dtype), t.dtype).astype("float32") for x, t in zip(inputs, op.inputs, strict=True)]
    want = compute(*(x.astype("float64") for x in inputs))
    found = emulate(MatrixCoreMatmul(), op, inputs, want.shape, arch, config, options)
    assert relative_error(found, want) < (3e-6 if result == "float32" else ROUNDING[result])


@needs_shim
@pytest.mark.parametrize("name", MATMULS)
def test_matmul(name):
    check_matmul(name, "gfx90a", "float16", small(32))


@needs_shim
@pytest.mark.parametrize("arch", ["gfx942", "gfx1100"])
def test_parts_of_k_are_added_up(arch):
    check_matmul("packed", arch, "float16", small(16, split=2), result="float16", options=Options(races=True))


@needs_shim
@pytest.mark.parametrize(("arch", "dtype", "side"), KINDS)
def test_every_instruction(arch, dtype, side):
    check_matmul("odd", arch, dtype, small(side))
    check_matmul("packed", arch, dtype, small(side, 2, 2), options=Options(order="shuffled"))


@needs_shim
@pytest.mark.parametrize(("arch", "dtype"), [("gfx942", "float16"), ("gfx1100", "float16"), ("gfx1100", "bfloat16")])
def test_results_of_the_operands_type(arch, dtype):
    check_matmul("packed", arch, dtype, result=dtype)


@needs_shim
@pytest.mark.parametrize(("arch", "side"), [("gfx90a", 32), ("gfx1100", 16)])
def test_races(arch, side):
    check_matmul("context", arch, "float16", small(side), options=Options(races=True, order="backward"))


@needs_shim
@pytest.mark.parametrize(("arch", "side"), [("gfx942", 16), ("gfx1100", 16)])
@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name, arch, side):
    op = typed(CONVS[name], "float16")
    inputs = random_inputs(op, **SIZES)
    inputs = [x.astype(t.dtype).astype("float32") for x, t in zip(inputs, op.inputs, strict=True)]
    expected = reference(op, inputs)
    found = emulate(MatrixCoreConv2D(), op, inputs, expected.shape, arch, small(side))
    assert relative_error(found, expected) < 3e-6


# Architecture and side -> the instruction.
INT8_KINDS = {
    ("gfx90a", 32): "v_mfma_i32_32x32x8i8",
    ("gfx90a", 16): "v_mfma_i32_16x16x16i8",
    ("gfx942", 32): "v_mfma_i32_32x32x16_i8",
    ("gfx942", 16): "v_mfma_i32_16x16x32_i8",
    ("gfx1100", 16): "v_wmma_i32_16x16x16_iu8",
}


def check_int8(template, op, compute, arch, config=None, options=None) -> None:
    """The kernel against exact integers, operands of all 8-bit numbers."""
    op = typed(op, "int8", "int32")
    rng = np.random.default_rng(1)
    shapes = [[SIZES[d] if isinstance(d, str) else d for d in t.shape] for t in op.inputs]
    inputs = [rng.integers(-128, 128, s).astype(t.dtype) for s, t in zip(shapes, op.inputs, strict=True)]
    inputs[0].flat[::7] = -128
    want = compute(*(x.astype("int64") for x in inputs))
    found = emulate(template, op, inputs, want.shape, arch, config, options)
    assert found.dtype == "int32"
    np.testing.assert_array_equal(found, want)


@needs_shim
@pytest.mark.parametrize(("arch", "side"), INT8_KINDS)
def test_every_instruction_of_int8(arch, side):
    check_int8(MatrixCoreMatmul(), *MATMULS["odd"], arch, small(side, bk=64))
    check_int8(MatrixCoreMatmul(), *MATMULS["packed"], arch, small(side, 2, 2, bk=64), Options(order="shuffled"))


@needs_shim
@pytest.mark.parametrize("name", ["context", "transposed", "symbolic"])
def test_int8_of_other_layouts(name):
    check_int8(MatrixCoreMatmul(), *MATMULS[name], "gfx942", small(32), Options(races=True))


@needs_shim
@pytest.mark.parametrize("arch", ["gfx90a", "gfx1100"])
def test_parts_of_k_of_int8_are_added_up(arch):
    op = matmul((50, 139), (139, 36), (50, 36), True)
    check_int8(MatrixCoreMatmul(), op, lambda a, b: a @ b, arch, small(16, split=2, bk=64), Options(races=True))


INT8_CONVS = {
    "3x3": conv2d((1, 9, 10, 16), (24, 16, 3, 3), padding=(1, 1, 1, 1), epilogue=()),
    "rgb": conv2d((1, 13, 15, 3), (18, 3, 5, 5), strides=(2, 2), padding=(2, 2, 2, 2), epilogue=()),
    "grouped": conv2d((1, 8, 8, 24), (36, 6, 3, 3), groups=4, padding=(1, 1, 1, 1), epilogue=()),
}


@needs_shim
@pytest.mark.parametrize("arch", ["gfx942", "gfx1100"])
@pytest.mark.parametrize("name", INT8_CONVS)
def test_convolutions_of_int8(name, arch):
    op = INT8_CONVS[name]

    def exact(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.rint(reference(op, [x.astype("float64"), w.astype("float64")])).astype("int64")

    check_int8(MatrixCoreConv2D(), op, exact, arch, small(16, bk=64))


LARGE = {
    "matmul": typed(matmul((512, 512), (512, 1024), (512, 1024)), "float16"),
    "packed": typed(matmul((1000, 768), (768, 1000), (1000, 1000), True, steps=BIAS_RELU, extra=((1000,),)), "float16"),
    "3x3": typed(conv2d((8, 28, 28, 128), (128, 128, 3, 3), padding=(1, 1, 1, 1)), "float16"),
    "rgb": typed(conv2d((1, 224, 224, 3), (64, 3, 7, 7), strides=(2, 2), padding=(3, 3, 3, 3)), "float16"),
    "symbolic": typed(conv2d(("n", "h", "w", 64), (64, 64, 3, 3), padding=(1, 1, 1, 1), out=("h", "w")), "float16"),
    "float32": conv2d((1, 56, 56, 64), (64, 64, 3, 3), padding=(1, 1, 1, 1), epilogue=("bias", "residual", "relu")),
    "bfloat16": typed(matmul((256, 512), (512, 512), (256, 512), True), "bfloat16"),
    "int8": typed(matmul((1000, 768), (768, 1000), (1000, 1000), True), "int8", "int32"),
    "int8_3x3": typed(conv2d((8, 28, 28, 128), (128, 128, 3, 3), padding=(1, 1, 1, 1), epilogue=()), "int8", "int32"),
}


@needs_lld
@pytest.mark.parametrize("arch", ["gfx90a", "gfx942", "gfx1100"])
@pytest.mark.parametrize("name", LARGE)
def test_instructions_and_no_spills(name, arch):
    op = LARGE[name]
    if name == "float32" and arch == "gfx1100":
        pytest.skip("WMMA has no float32")
    template = MatrixCoreConv2D() if op.kind == "conv2d" else MatrixCoreMatmul()
    code = compile_op(template, op, arch)
    text = gcn_of(code)
    sums = op.anchor_type.dtype.replace("float", "f").replace("int", "i")
    assert count(text, f"v_wmma_{sums}_16x16x16" if arch == "gfx1100" else f"v_mfma_{sums}_") > 0
    assert not any(used.spills_bytes for used in resources_of_code_object(code).values())
    config = template.match(op, RocmTarget.from_preset(arch).spec).default
    assert count(text, "ds_read_b128" if arch != "gfx1100" else "ds_load_b128") > 0, config


@needs_lld
@pytest.mark.parametrize(("arch", "side"), INT8_KINDS)
def test_instructions_on_int8(arch, side):
    op = typed(matmul((128, 256), (256, 128), (128, 128), True), "int8", "int32")
    code = compile_op(MatrixCoreMatmul(), op, arch, small(side, bk=64))
    text = gcn_of(code)
    assert count(text, INT8_KINDS[arch, side]) > 0
    if arch == "gfx1100":
        assert text.count("neg_lo:[1,1,0]") == count(text, "v_wmma_")  # both operands are signed
        assert "clamp" not in text
    assert not any(used.spills_bytes for used in resources_of_code_object(code).values())


def test_what_matrix_units_do_not_multiply():
    spec = RocmTarget.from_preset("gfx1100").spec
    op = matmul((64, 64), (64, 64), (64, 64))
    assert MatrixCoreMatmul().match(op, spec) is None  # WMMA has no float32
    assert MatrixCoreMatmul().match(typed(op, "int8", "float32"), spec) is None  # sums are int32
    assert MatrixCoreMatmul().match(typed(op, "uint8", "int32"), spec) is None
    assert MatrixCoreMatmul().match(typed(matmul((1, 64), (64, 64), (1, 64)), "float16"), spec) is None
    assert MatrixCoreConv2D().match(typed(conv2d((1, 8, 8, 16), (16, 1, 3, 3), groups=16), "float16"), spec) is None
