"""Machine code of the tensor-core kernels: the instructions, no spills; a float16 model from end to end."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conv_cases import conv2d
from disassemble import count, sass_of
from onnx import TensorProto, helper, numpy_helper
from tensor_core_cases import Typed, cubin

import kompilo
from kompilo.targets.cuda.compilers import find_compilers
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.resources import resources_of_cubin
from kompilo.targets.gpu.templates.tensor_core_conv2d import TensorCoreConv2D, WarpgroupConv2D
from kompilo.targets.gpu.templates.tensor_core_matmul import TensorCoreMatmul, WarpgroupMatmul
from kompilo.targets.gpu.templates.tensor_core_tile import TensorTile

from gpu_support import matmul

pytestmark = pytest.mark.skipif(not list(find_compilers()), reason="no CUDA compiler: pip install 'kompilo[cuda]'")
LARGE = matmul((4096, 4096), (4096, 4096), (4096, 4096), True)
OPERATORS = {
    "float16": (TensorCoreMatmul(), Typed(LARGE, result="float16")),
    "bfloat16": (TensorCoreMatmul(), Typed(LARGE, "bfloat16", result="bfloat16")),
    "int8": (TensorCoreMatmul(), Typed(LARGE, "int8")),
    "tfloat32": (TensorCoreMatmul(), Typed(LARGE, "float32")),
    "odd": (TensorCoreMatmul(), Typed(matmul((333, 257), (257, 129), (333, 129)), result="float16")),
    "3x3": (
        TensorCoreConv2D(),
        Typed(conv2d((1, 56, 56, 64), (64, 64, 3, 3), padding=(1, 1, 1, 1)), result="float16"),
    ),
    "rgb": (
        TensorCoreConv2D(),
        Typed(conv2d((1, 224, 224, 3), (64, 3, 7, 7), strides=(2, 2), padding=(3, 3, 3, 3)), result="float16"),
    ),
}
ARCHS = [("sm_80", name) for name in OPERATORS] + [("sm_75", "float16")]
WARPGROUPS = {
    "float16": (WarpgroupMatmul(), OPERATORS["float16"][1], "HGMMA"),
    "from_outside": (WarpgroupMatmul(), Typed(matmul((1000, 1000), (1000, 520), (1000, 520))), "HGMMA"),
    "int8": (WarpgroupMatmul(), OPERATORS["int8"][1], "IGMMA"),
    "3x3": (WarpgroupConv2D(), OPERATORS["3x3"][1], "HGMMA"),
}


@pytest.mark.parametrize(("arch", "name"), ARCHS)
def test_default_configs(arch, name):
    """Multiply on tensor cores, copy asynchronously where the GPU can, and spill nothing."""
    template, typed = OPERATORS[name]
    spec, op = CudaTarget.from_preset(arch).spec, typed.spec
    code = cubin(template, op, None, arch)
    used, *rest = resources_of_cubin(code).values()
    text = sass_of(code)
    assert not any(kernel.spills_bytes for kernel in (used, *rest))
    assert count(text, "IMMA" if name == "int8" else "HMMA") > 0
    assert count(text, "LDSM") > 0
    assert (count(text, "LDGSTS") > 0) == (spec.async_copy and name != "odd")
    tile = TensorTile.of(template.match(op, spec).default)
    assert used.threads == tile.threads


@pytest.mark.parametrize("name", WARPGROUPS)
def test_default_configs_of_warpgroups(name):
    template, typed, instruction = WARPGROUPS[name]
    code = cubin(template, typed.spec, None, "sm_90")
    text = sass_of(code)
    assert not any(kernel.spills_bytes for kernel in resources_of_cubin(code).values())
    # Where the compiler had to wait for each multiplication, there is such an instruction for each.
    assert count(text, instruction) >= 4
    assert count(text, "WARPGROUP.DEPBAR") <= 2
    assert count(text, "LDGSTS") > 0


def test_warpgroups_come_first():
    h100 = CudaTarget.from_preset("sm_90")

    def first(op):
        return next(t for t in h100.templates if t.match(op, h100.spec) is not None).name

    assert first(OPERATORS["float16"][1].spec) == "matmul_pipeline"
    odd = Typed(matmul((333, 252), (252, 129), (333, 129), True))  # rows do not begin at multiples of 16 bytes
    assert first(odd.spec) == "matmul_warpgroup"
    small = Typed(matmul((16, 256), (256, 256), (16, 256), True)).spec
    assert WarpgroupMatmul().match(small, h100.spec) is None


def test_configs_fit_the_gpu():
    for arch in ("sm_75", "sm_80", "sm_86", "sm_90"):
        spec = CudaTarget.from_preset(arch).spec
        space = TensorCoreMatmul().match(Typed(LARGE).spec, spec)
        assert len(space.configs) > 16
        for config in space:
            assert TensorTile.of(config).shared_bytes(2) <= spec.shared_bytes
            assert TensorTile.of(config).threads <= spec.threads_per_block


def test_traits_are_columns():
    spec = CudaTarget.from_preset("sm_80").spec
    for template, typed in (OPERATORS["float16"], OPERATORS["3x3"]):
        configs = template.match(typed.spec, spec).configs
        columns = template.traits(typed.spec, spec, configs)
        assert all(len(column) == len(configs) and np.isfinite(column).all() for column in columns.values())


def half_model() -> bytes:
    """Convolution, activation, pooling and two fully connected layers in float16."""
    rng = np.random.default_rng(0)
    shapes = {"w": (16, 8, 3, 3), "b": (16,), "v": (16, 40), "c": (40,), "u": (40, 12)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype("f2") / 4, name) for name, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v", "c"], ["gemm"]),
        helper.make_node("MatMul", ["gemm", "u"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, (16, 8, 12, 12))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, (16, 12))
    graph = helper.make_graph(nodes, "half", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_a_float16_model():
    artifact = kompilo.compile(half_model(), target="cuda:sm_80")
    (target,) = artifact.targets
    chosen = sorted(o.template for o in target.operators if o.kind in ("matmul", "conv2d"))
    assert chosen == ["conv2d_tensor_core", "matmul_tensor_core", "matmul_tensor_core"]
    (code,) = target.device
    assert not [r.kernel for r in resources_of_cubin(code.code).values() if r.spills_bytes]
    assert count(sass_of(code.code), "HMMA") > 0
