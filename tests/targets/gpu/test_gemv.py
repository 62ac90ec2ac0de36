"""Products with a few rows or columns against float64, by the CUDA shim; what is chosen; what becomes of it."""

from __future__ import annotations

import numpy as np
import pytest
from disassemble import count, sass_of
from rocm_kernels import needs_lld
from tensor_core_cases import Typed, cubin, module, random_operands, run

from kompilo.compiler.schedule.op_spec import Step
from kompilo.compiler.schedule.template import Config
from kompilo.targets.cuda.compilers import find_compilers
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.lowering import split
from kompilo.targets.gpu.resources import resources_of_code_object, resources_of_cubin
from kompilo.targets.gpu.templates.gemv import Gemv
from kompilo.targets.rocm.target import RocmTarget

from gpu.cuda_shim import Options
from gpu.shim_support import needs_shim
from gpu_support import matmul, relative_error

SIZES = {"b": 2, "m": 35, "k": 83, "n": 13}
BIAS_RELU = (Step("add", ("anchor", "i2"), "float32"), Step("nn.relu", ("s0",), "float32"))
WAYS = (Options(races=True, order="shuffled", seed=3),)


def product(a, b):
    return a @ b


def plain(m, k, n, constant=True, **more):
    return matmul((m, k), (k, n), (m, n), constant, **more)


CASES = {
    "row": (Typed(plain(1, 600, 70), result="float16"), product),
    "float32": (plain(2, 300, 70), product),
    "bfloat16": (Typed(plain(4, 256, 20), "bfloat16", result="bfloat16"), product),
    "epilogue": (
        Typed(plain(5, 96, 40, steps=BIAS_RELU, extra=((40,),)), result="float16"),
        lambda a, b, c: np.maximum(a @ b + c, 0),
    ),
    "across": (Typed(plain(2, 75, 72, constant=False)), product),
    "across_odd": (Typed(plain(8, 75, 37, constant=False), result="float16"), product),
    "across_float32": (plain(3, 75, 300, constant=False), product),
    "columns": (Typed(matmul((90, 64), (64, 3), (90, 3), True)), product),
    "scores": (
        Typed(matmul((2, 1, 3, 32), (2, 50, 3, 32), (2, 3, 1, 50), lhs=(0, 2, 1, 3), rhs=(0, 2, 3, 1))),
        lambda a, b: a.transpose(0, 2, 1, 3) @ b.transpose(0, 2, 3, 1),
    ),
    "context": (
        Typed(matmul((2, 3, 1, 50), (2, 50, 3, 32), (2, 3, 1, 32), rhs=(0, 2, 1, 3), out=(0, 2, 1, 3))),
        lambda a, b: (a @ b.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3),
    ),
    "open": (Typed(matmul(("b", 2, 1, "k"), ("b", 1, "k", "n"), ("b", 2, 1, "n"))), product),
}


def check(case, config=None, **options):
    op, compute = case
    tolerance = op.tolerance if isinstance(op, Typed) else 3e-6
    op = op.spec if isinstance(op, Typed) else op
    operands = random_operands(op, **SIZES)
    want = compute(*operands)
    for found in run(Gemv(), op, operands, want.shape, config, **options):
        assert relative_error(found, want) <= tolerance


@needs_shim
@pytest.mark.parametrize("name", CASES)
def test_gemv(name):
    check(CASES[name], options=WAYS)


@needs_shim
@pytest.mark.parametrize("knobs", [(1, 8, 1), (4, 2, 2)], ids=str)
def test_configs(knobs):
    config = Config.of(lines=knobs[0], split=knobs[1], ahead=knobs[2])
    check((Typed(plain(2, 4104, 21)), product), config, options=WAYS)


def test_it_comes_first_where_it_pays():
    for target in (CudaTarget.from_preset("sm_90"), CudaTarget.from_preset("t4"), RocmTarget.from_preset("gfx942")):
        for rows, expected in ((1, True), (8, True), (9, False)):
            op = Typed(plain(rows, 1024, 4096), result="float16").spec
            first = next(t for t in target.templates if t.match(op, target.spec) is not None)
            assert (first.name == "gemv") is expected, (target.spec.key, rows)


def test_what_it_leaves_to_others():
    spec = CudaTarget.from_preset("sm_90").spec
    assert Gemv().match(plain("m", 64, 64), spec) is None
    assert Gemv().match(Typed(plain(1, 64, 64), "int8").spec, spec) is None
    assert Gemv().match(plain(1, 0, 64), spec) is None


def test_few_lines_are_shared_by_warps():
    spec = CudaTarget.from_preset("sm_90").spec
    many, few = (Gemv().match(Typed(plain(1, 4096, n)).spec, spec).default for n in (50000, 128))
    assert many.int("split") == 1
    assert many.int("lines") > 1
    assert few.int("split") == 8
    assert few.int("lines") == 1


@pytest.mark.skipif(not list(find_compilers()), reason="no CUDA compiler: pip install 'kompilo[cuda]'")
@pytest.mark.parametrize(
    "op",
    [Typed(plain(1, 4096, 4096)), Typed(plain(8, 4096, 4096)), Typed(plain(1, 4096, 4096, constant=False)),
     Typed(plain(8, 512, 512, constant=False))],
)  # fmt: skip
def test_code(op):
    """Weights by 16 bytes, no spills."""
    code = cubin(Gemv(), op.spec, None, "sm_90")
    (used,) = resources_of_cubin(code).values()
    assert used.spills_bytes == 0
    text = sass_of(code)
    assert count(text, "LDG.E.128") > 0
    assert count(text, "LDL") == 0


@needs_lld
@pytest.mark.parametrize("arch", ["gfx942", "gfx1100"])
def test_code_for_amd(arch):
    """Whatever the warp's size."""
    target = RocmTarget.from_preset(arch)
    mod, _ = module(Gemv(), Typed(plain(8, 1024, 1024)).spec, None, target)
    (used,) = resources_of_code_object(target.device_code(split(mod, target.tvm_target()).device)[1]).values()
    assert used.spills_bytes == 0
    assert used.threads == 256
