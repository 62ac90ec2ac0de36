"""Errors of the polynomial functions over a sample of all float32, and that they become vector instructions."""

import math

import numpy as np
import pytest
import tvm
from tvm import s_tir, te
from tvm.target.codegen import llvm_get_system_cpu

from kompilo.compiler.schedule import vector_math

TARGET = {"kind": "llvm", "mcpu": llvm_get_system_cpu()}
EDGES = np.array(
    [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        88.7,
        88.73,
        89.5,
        -86.9,
        -87.3,
        -88,
        -104,
        1e-45,
        3e38,
        -3e38,
    ],
    "f4",
)

_erf = np.vectorize(math.erf)
REFERENCE = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "erf": _erf,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x * math.sqrt(0.5))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
}
# Results under this are flushed to zero by `exp`.
FLUSH = 1.7e-38


def all_floats() -> np.ndarray:
    """Every 16411th bit pattern of float32 (normal, subnormal, NaN) and the edges, padded to whole vectors."""
    sample = np.arange(0, 2**32, 16411, dtype=np.uint64).astype(np.uint32).view("f4")
    values = np.concatenate([sample, EDGES])
    return np.pad(values, (0, -len(values) % 64))


def compile_elementwise(name: str, size: int, dtype: str = "float32") -> tvm.runtime.Executable:
    x = te.placeholder((size,), dtype, name="x")
    y = te.compute((size,), lambda i: getattr(vector_math, name)(x[i]), name="y")
    schedule = s_tir.Schedule(te.create_prim_func([x, y]))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    _, lanes = schedule.split(loop, [None, 16])
    schedule.vectorize(lanes)
    return tvm.compile(schedule.mod, TARGET)


def evaluate(name: str, x: np.ndarray) -> np.ndarray:
    y = tvm.runtime.tensor(np.zeros_like(x))
    compile_elementwise(name, len(x), str(x.dtype))(tvm.runtime.tensor(x), y)
    return y.numpy()


@pytest.mark.parametrize(("name", "limit"), [("exp", 2), ("log", 2), ("tanh", 5), ("erf", 4), ("sigmoid", 4)])
def test_error_in_ulp(name, limit):
    x = all_floats()
    got = evaluate(name, x)
    with np.errstate(all="ignore"):
        exact = REFERENCE[name](x.astype("f8"))
        rounded = exact.astype("f4")
    normal = np.isfinite(rounded) & (np.abs(rounded) > FLUSH)
    error = np.abs(got[normal] - exact[normal]) / np.spacing(np.abs(rounded[normal]))
    assert error.max() <= limit
    special = ~np.isfinite(rounded)
    small = ~normal & ~special
    np.testing.assert_array_equal(got[special], rounded[special])
    assert np.abs(got[small] - exact[small]).max(initial=0) <= FLUSH


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "softplus"])
def test_composed_functions_are_close(name):
    x = np.concatenate([np.linspace(-30, 30, 60000), np.geomspace(1e-20, 1e4, 4000)]).astype("f4")
    exact = REFERENCE[name](x.astype("f8"))
    error = np.abs(evaluate(name, x) - exact)
    assert (error <= 3e-7 * np.maximum(np.abs(x), 1)).all()


@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "sigmoid"])
def test_no_scalar_library_calls(name):
    assembly = compile_elementwise(name, 1024).mod.inspect_source("asm")
    for symbol in ("expf", "tanhf", "erff"):
        assert symbol not in assembly


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("float64", 1e-12)])
def test_other_dtypes(dtype, tolerance):
    x = np.linspace(-4, 4, 256).astype(dtype)
    np.testing.assert_allclose(evaluate("tanh", x), np.tanh(x.astype("f8")), rtol=tolerance, atol=tolerance)


def test_nesting_does_not_grow_exponentially():
    x = te.placeholder((64,), "float32", name="x")

    def nested(i):
        value = x[i]
        for _ in range(6):
            value = vector_math.sigmoid(value)
        return value

    func = te.create_prim_func([x, te.compute((64,), nested, name="y")])
    assert len(func.script()) < 20_000


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("name", "reference"), [("maximum", np.maximum), ("minimum", np.minimum)])
@pytest.mark.parametrize("constant", [None, 0, 1])
def test_extremes_keep_nan(name, reference, constant, dtype):
    values = np.array([np.nan, -np.inf, np.inf, -1, 1], dtype)
    arrays = [np.resize(v, 32).astype(dtype) for v in (values, np.repeat(values, 5))]
    tensors = [te.placeholder((32,), dtype) for _ in arrays]

    def element(i):
        operands = [t[i] for t in tensors]
        if constant is not None:
            operands[constant] = tvm.tirx.const(0, dtype)
        return getattr(vector_math, name)(*operands)

    out = tvm.runtime.tensor(np.zeros(32, dtype))
    function = tvm.compile(te.create_prim_func([*tensors, te.compute((32,), element)]), TARGET)
    function(*map(tvm.runtime.tensor, arrays), out)
    if constant is not None:
        arrays[constant] = np.zeros(32, dtype)
    np.testing.assert_array_equal(out.numpy(), reference(*arrays))
