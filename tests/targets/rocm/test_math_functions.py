"""libm's functions for AMD's GPUs: the same expressions on the CPU against float64, and that all of them compile."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tvm
from rocm_kernels import ROCM_ARCHS, needs_lld
from tvm import te, tirx

from kompilo.compiler.errors import KompiloError
from kompilo.targets.gpu.lowering import split
from kompilo.targets.gpu.resources import resources_of_code_object
from kompilo.targets.rocm.codegen import code_object, is_risky
from kompilo.targets.rocm.intrinsics import FUNCTIONS, lower_math
from kompilo.targets.rocm.target import RocmTarget

BINARY = ("pow", "fmod")
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, 2.0, -2.0, 1e-30, -1e-30, 1e30]


def everywhere(low: float, high: float) -> np.ndarray:
    """Values of both signs and all sizes within the range, evenly and by powers."""
    rng = np.random.default_rng(3)
    powers = 10.0 ** rng.uniform(-30, math.log10(max(abs(low), abs(high))), 2000) * rng.choice([-1.0, 1.0], 2000)
    values = np.concatenate([rng.uniform(low, high, 4000), powers])
    return values[(values >= low) & (values <= high)]


# Function -> where it is tested, relative error allowed in float64, the reference.
CASES = {
    "exp": (-700, 700, 1e-15, np.exp),
    "exp2": (-1000, 1000, 1e-15, np.exp2),
    "exp10": (-300, 300, 2e-13, lambda x: 10.0**x),
    "log": (0, 1e300, 1e-15, np.log),
    "log2": (0, 1e300, 2e-15, np.log2),
    "log10": (0, 1e300, 2e-15, np.log10),
    "log1p": (-1, 1e10, 3e-15, np.log1p),
    "sqrt": (0, 1e300, 3e-16, np.sqrt),
    "rsqrt": (0, 1e300, 5e-16, lambda x: 1 / np.sqrt(x)),
    "sigmoid": (-700, 700, 2e-15, lambda x: 1 / (1 + np.exp(-x))),
    "tanh": (-30, 30, 3e-15, np.tanh),
    "erf": (-7, 7, 2e-15, np.vectorize(math.erf)),
    "sin": (-1000, 1000, 1e-13, np.sin),
    "cos": (-1000, 1000, 1e-13, np.cos),
    "tan": (-1000, 1000, 2e-13, np.tan),
    "sinh": (-700, 700, 3e-15, np.sinh),
    "cosh": (-700, 700, 3e-15, np.cosh),
    "asin": (-1, 1, 2e-15, np.arcsin),
    "acos": (-1, 1, 2e-15, np.arccos),
    "atan": (-1e6, 1e6, 2e-15, np.arctan),
    "asinh": (-1e10, 1e10, 3e-15, np.arcsinh),
    "acosh": (1, 1e10, 3e-15, np.arccosh),
    "atanh": (-1, 1, 3e-15, np.arctanh),
}
# On a CPU the native ones are the C library's, so what is measured in float32 are our own.
OWN_IN_FLOAT32 = sorted(set(CASES) - {"exp", "exp2", "exp10", "log", "log2", "log10", "sqrt", "rsqrt", "sigmoid"})


@functools.cache
def on_cpu(name: str, dtype: str):
    """The function as AMD's GPUs compute it, compiled for this CPU."""
    size = te.var("n", "int64")
    inputs = [te.placeholder((size,), dtype, f"x{i}") for i in range(2 if name in BINARY else 1)]
    output = te.compute((size,), lambda i: getattr(tirx, name)(*(x[i] for x in inputs)))
    func = te.create_prim_func([*inputs, output]).with_attr("global_symbol", "main")
    compiled = tvm.compile(lower_math(tvm.IRModule({"main": func})), target="llvm")

    def call(*values: np.ndarray) -> np.ndarray:
        out = np.zeros_like(values[0], dtype=dtype)
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(v, dtype)) for v in (*values, out)]
        compiled["main"](*tensors)
        return tensors[-1].numpy()

    return call


@pytest.mark.parametrize("name", CASES)
def test_float64(name):
    low, high, allowed, reference = CASES[name]
    x = everywhere(low, high)
    expected = reference(x)
    np.testing.assert_allclose(on_cpu(name, "float64")(x), expected, rtol=allowed, atol=1e-300)


@pytest.mark.parametrize("name", OWN_IN_FLOAT32)
def test_float32(name):
    low, high, _, reference = CASES[name]
    x = everywhere(max(low, -80) if name in ("sinh", "cosh") else low, min(high, 80) if name == "sinh" else high)
    x = x.astype("float32")
    with np.errstate(over="ignore"):
        expected = reference(x.astype("float64"))
    inside = np.abs(expected) < 3e38
    ulps = np.abs(on_cpu(name, "float32")(x)[inside] - expected[inside]) / np.spacing(
        np.abs(expected[inside]).astype("float32")
    )
    # The polynomials of float32 are within 5 units of the last digit; what goes through float64 is rounded once.
    assert np.nanmax(ulps) < (6 if name in ("tanh", "erf") else 0.51)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_special_values(name, dtype):
    x = np.array(SPECIAL, dtype)
    with np.errstate(all="ignore"):
        expected = CASES[name][3](x.astype("float64")).astype(dtype)
    found = on_cpu(name, dtype)(x)
    skipped = np.abs(x) > 1e5 if name in ("sin", "cos", "tan") else np.zeros(x.shape, bool)
    skipped &= np.isfinite(x)
    np.testing.assert_allclose(
        found[~skipped], expected[~skipped], rtol=1e-6 if dtype == "float32" else 1e-13, atol=1e-37
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_power(dtype):
    rng = np.random.default_rng(5)
    ones = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, np.inf, -np.inf, np.nan]
    x, y = (a.ravel() for a in np.meshgrid(ones, ones))
    x = np.concatenate([x, rng.uniform(0, 100, 4000), rng.uniform(-9, 9, 1000)]).astype(dtype)
    y = np.concatenate([y, rng.uniform(-8, 8, 4000), rng.integers(-9, 9, 1000)]).astype(dtype)
    with np.errstate(all="ignore"):
        expected = np.power(x.astype("float64"), y.astype("float64")).astype(dtype)
    np.testing.assert_allclose(on_cpu("pow", dtype)(x, y), expected, rtol=2e-7 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_remainder(dtype):
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.uniform(-100, 100, 4000), [5.5, -5.5, 6.0, -6.0, 1.0, 7.0, np.inf, np.nan]]).astype(dtype)
    y = np.concatenate([rng.uniform(-3, 3, 4000), [np.inf, -np.inf, 3.0, 3.0, 0.0, -7.0, 2.0, 1.0]]).astype(dtype)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(on_cpu("fmod", dtype)(x, y), np.fmod(x, y))


def test_float16_is_computed_in_float32():
    x = np.linspace(-4, 4, 999).astype("float16")
    np.testing.assert_array_equal(on_cpu("tanh", "float16")(x), np.tanh(x.astype("float64")).astype("float16"))


def kernel(expression, arch: str, dtype: str, inputs: int = 1, lanes: int = 1):
    """Lowered device functions that compute `expression` for each element, `lanes` at once."""
    places = [te.placeholder((1024,), dtype, f"x{i}") for i in range(inputs)]
    output = te.compute((1024,), lambda i: expression(*(x[i] for x in places)), "y")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([*places, output]))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    outer, thread, vector = schedule.split(loop, [None, 64, lanes])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(thread, "threadIdx.x")
    if lanes > 1:
        schedule.vectorize(vector)
    target = RocmTarget.from_preset(arch).tvm_target()
    func = schedule.mod["main"].with_attr("global_symbol", "main")
    return split(lower_math(tvm.IRModule({"main": func})), target).device, target


@needs_lld
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_everything_compiles_without_amds_library(name, dtype, monkeypatch):
    monkeypatch.setattr("kompilo.targets.rocm.toolchain.bitcode", lambda arch: [])
    mod, target = kernel(getattr(tirx, name), "gfx942", dtype, 2 if name in BINARY else 1)
    assert not is_risky(mod)
    (used,) = resources_of_code_object(code_object(mod, target)).values()
    assert used.spills_bytes == 0


@needs_lld
@pytest.mark.parametrize("arch", ROCM_ARCHS)
@pytest.mark.parametrize(
    "expression",
    [
        lambda x: tirx.tanh(tirx.log(tirx.exp(x) + tirx.const(1, "float32"))) * x,  # mish
        lambda x: tirx.erf(tirx.tanh(tirx.sin(x))),
        lambda x: tirx.pow(tirx.atan(tirx.cosh(x)), tirx.log1p(tirx.abs(x))),
        lambda x: tirx.tanh(tirx.if_then_else(x > 0.0, tirx.erf(x), tirx.const(0, "float32"))),
    ],
)
@pytest.mark.parametrize("lanes", [1, 4])
def test_functions_of_functions_compile(expression, arch, lanes):
    (used,) = resources_of_code_object(code_object(*kernel(expression, arch, "float32", lanes=lanes))).values()
    assert used.code_bytes > 0
    assert used.spills_bytes == 0


@needs_lld
def test_a_function_that_only_amds_library_has(monkeypatch):
    monkeypatch.setattr("kompilo.targets.rocm.toolchain.bitcode", lambda arch: [])
    with pytest.raises(
        KompiloError, match="ROCm code for gfx942: expected functions of Kompilo's own, found nextafterf"
    ):
        code_object(*kernel(tirx.nextafter, "gfx942", "float32", 2))
