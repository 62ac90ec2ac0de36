"""mma.sync, ldmatrix and stmatrix against numpy, with the fragment layouts as the PTX ISA writes them down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from gpu.cuda_shim import KernelError, TranslationError
from gpu.shim_support import needs_shim, run, zeros

pytestmark = needs_shim
LANE = np.arange(32)
GROUP, THREAD = LANE >> 2, LANE % 4

Place = Callable[[int], tuple[np.ndarray, np.ndarray]]  # element i of a lane's fragment -> its row and column, by lane


def at(row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return row, column


@dataclass(frozen=True)
class Layout:
    """A shape and where the elements of A, B and C are: "Matrix fragments for mma.*" of the PTX ISA."""

    m: int
    n: int
    k: int
    a: Place
    b: Place
    c: Place


def result(i: int) -> tuple[np.ndarray, np.ndarray]:
    return at(GROUP + (8 if i >= 2 else 0), THREAD * 2 + (i & 1))


LAYOUTS = {
    "m16n8k16 of 16 bits": Layout(
        *(16, 8, 16),
        lambda i: at(GROUP + (0 if i < 2 or 4 <= i < 6 else 8), THREAD * 2 + (i & 1) + (8 if i >= 4 else 0)),
        lambda i: at(THREAD * 2 + (i & 1) + (8 if i >= 2 else 0), GROUP),
        result,
    ),
    "m16n8k8 of 16 bits": Layout(
        *(16, 8, 8),
        lambda i: at(GROUP + (0 if i < 2 else 8), THREAD * 2 + (i & 1)),
        lambda i: at(THREAD * 2 + (i & 1), GROUP),
        result,
    ),
    "m16n8k8 of tf32": Layout(
        *(16, 8, 8),
        lambda i: at(GROUP + (0 if i in (0, 2) else 8), THREAD + (4 if i >= 2 else 0)),
        lambda i: at(THREAD + 4 * i, GROUP),
        result,
    ),
    "m16n8k4 of tf32": Layout(*(16, 8, 4), lambda i: at(GROUP + 8 * i, THREAD), lambda i: at(THREAD, GROUP), result),
    "m16n8k32 of 8 bits": Layout(
        *(16, 8, 32),
        lambda i: at(GROUP + (0 if i < 4 or 8 <= i < 12 else 8), THREAD * 4 + (i & 3) + (16 if i >= 8 else 0)),
        lambda i: at(THREAD * 4 + (i & 3) + (16 if i >= 4 else 0), GROUP),
        result,
    ),
    "m16n8k16 of 8 bits": Layout(
        *(16, 8, 16),
        lambda i: at(GROUP + (0 if i < 4 else 8), THREAD * 4 + (i & 3)),
        lambda i: at(THREAD * 4 + (i & 3), GROUP),
        result,
    ),
    "m8n8k16 of 8 bits": Layout(
        *(8, 8, 16),
        lambda i: at(GROUP, THREAD * 4 + i),
        lambda i: at(THREAD * 4 + i, GROUP),
        lambda i: at(GROUP, THREAD * 2 + i),
    ),
    "m8n8k4 of f64": Layout(
        *(8, 8, 4), lambda i: at(GROUP, THREAD), lambda i: at(THREAD, GROUP), lambda i: at(GROUP, THREAD * 2 + i)
    ),
}


def fragment(matrix: np.ndarray, place: Place) -> np.ndarray:
    """A lane's elements of a matrix as 32-bit registers (64-bit ones for float64), one row a lane."""
    elements = np.stack([matrix[place(i)] for i in range(matrix.size // 32)], axis=1)
    return elements if matrix.dtype == np.float64 else np.ascontiguousarray(elements).view("uint32")


def from_fragment(registers: np.ndarray, dtype: str, shape: tuple[int, int], place: Place) -> np.ndarray:
    """The matrix whose elements the lanes hold."""
    elements = np.ascontiguousarray(registers).view(dtype)
    matrix = np.zeros(shape, dtype)
    for i in range(elements.shape[1]):
        matrix[place(i)] = elements[:, i]
    return matrix


def mma_body(opcode: str, counts: tuple[int, int, int, int], letter: str) -> str:
    """A kernel that gives each lane its registers of a, b, c and stores those of d."""
    numbers = iter(range(sum(counts)))
    groups = ["{" + ", ".join(f"%{next(numbers)}" for _ in range(count)) + "}" for count in counts]
    d, a, b, c = counts
    outputs = ", ".join(f'"={letter}"(d[threadIdx.x * {d} + {i}])' for i in range(d))
    sources = (
        [("a", a, "r"), ("b", b, "r"), ("c", c, letter)]
        if letter != "d"
        else [("a", a, "d"), ("b", b, "d"), ("c", c, "d")]
    )
    inputs = ", ".join(f'"{kind}"({x}[threadIdx.x * {n} + {i}])' for x, n, kind in sources for i in range(n))
    return f'asm volatile("{opcode} {", ".join(groups)};\\n" : {outputs} : {inputs});'


def to_bfloat(x: np.ndarray) -> np.ndarray:
    """Nearest bfloat16 (ties to even), as float32."""
    word = np.ascontiguousarray(x, "f4").view("uint32").astype("uint64")
    return ((word + 0x7FFF + (word >> 16 & 1)) >> 16 << 16).astype("uint32").view("f4")


CASES = {
    "m16n8k16.row.col.f32.f16.f16.f32": ("m16n8k16 of 16 bits", "float16", "float32"),
    "m16n8k16.row.col.f16.f16.f16.f16": ("m16n8k16 of 16 bits", "float16", "float16"),
    "m16n8k8.row.col.f32.f16.f16.f32": ("m16n8k8 of 16 bits", "float16", "float32"),
    "m16n8k16.row.col.f32.bf16.bf16.f32": ("m16n8k16 of 16 bits", "bfloat16", "float32"),
    "m16n8k8.row.col.f32.bf16.bf16.f32": ("m16n8k8 of 16 bits", "bfloat16", "float32"),
    "m16n8k8.row.col.f32.tf32.tf32.f32": ("m16n8k8 of tf32", "tf32", "float32"),
    "m16n8k4.row.col.f32.tf32.tf32.f32": ("m16n8k4 of tf32", "tf32", "float32"),
    "m16n8k32.row.col.s32.s8.s8.s32": ("m16n8k32 of 8 bits", "int8", "int32"),
    "m16n8k32.row.col.s32.u8.u8.s32": ("m16n8k32 of 8 bits", "uint8", "int32"),
    "m16n8k16.row.col.s32.s8.s8.s32": ("m16n8k16 of 8 bits", "int8", "int32"),
    "m8n8k16.row.col.s32.s8.s8.s32": ("m8n8k16 of 8 bits", "int8", "int32"),
    "m8n8k4.row.col.f64.f64.f64.f64": ("m8n8k4 of f64", "float64", "float64"),
}


def operand(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Random numbers as float64 that the dtype holds exactly, and as the array whose bits the registers get."""
    if "int" in dtype:
        stored = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)
        return stored.astype("f8"), stored
    x = rng.standard_normal(shape)
    if dtype == "bfloat16":
        exact = to_bfloat(x.astype("f4"))
        return exact.astype("f8"), (exact.view("uint32") >> 16).astype("uint16")
    if dtype == "tf32":
        stored = x.astype("f4")
        return (stored.view("uint32") & 0xFFFFE000).view("f4").astype("f8"), stored
    return x.astype(dtype).astype("f8"), x.astype(dtype)


@pytest.mark.parametrize("opcode", CASES)
def test_mma(rng, opcode):
    name, dtype, accumulator = CASES[opcode]
    layout = LAYOUTS[name]
    (a, a_stored), (b, b_stored) = operand(rng, (layout.m, layout.k), dtype), operand(rng, (layout.k, layout.n), dtype)
    c = (rng.standard_normal((layout.m, layout.n)) * 100).astype(accumulator)
    arrays = {
        "a": fragment(a_stored, layout.a),
        "b": fragment(b_stored, layout.b),
        "c": fragment(c, layout.c),
    }
    arrays["d"] = np.zeros_like(arrays["c"])
    counts = tuple(arrays[x].shape[1] for x in "dabc")
    letter = "d" if dtype == "float64" else "r"
    d = run(mma_body(f"mma.sync.aligned.{opcode}", counts, letter), arrays)["d"]
    found = from_fragment(d, accumulator, c.shape, layout.c)
    expected = a @ b + c
    tolerance = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-14}.get(accumulator, 0)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 10)


def test_saturation_of_integers():
    layout = LAYOUTS["m8n8k16 of 8 bits"]
    a, b = np.full((8, 16), 127, "int8"), np.full((16, 8), 127, "int8")
    c = np.full((8, 8), 2**31 - 5, "int32")
    arrays = {"a": fragment(a, layout.a), "b": fragment(b, layout.b), "c": fragment(c, layout.c)}
    arrays["d"] = np.zeros_like(arrays["c"])
    for saturate, expected in ((".satfinite", 2**31 - 1), ("", 2**31 - 5 + 127 * 127 * 16 - 2**32)):
        opcode = f"mma.sync.aligned.m8n8k16.row.col{saturate}.s32.s8.s8.s32"
        d = run(mma_body(opcode, (2, 1, 1, 2), "r"), arrays)["d"]
        assert set(d.view("int32").ravel()) == {expected}


MATRICES = """
__shared__ __align__(16) unsigned short s[{count} * 64];
for (int i = threadIdx.x; i < {count} * 64; i += 32) s[i] = x[i];
__syncthreads();
unsigned address = __cvta_generic_to_shared(s + threadIdx.x % (8 * {count}) * 8);
unsigned r[{count}];
asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{targets}}}, [%{count}];"
    : {outputs} : "r"(address));
for (int i = 0; i < {count}; i++) y[threadIdx.x * {count} + i] = r[i];
"""


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count, trans):
    x = np.arange(count * 64, dtype="uint16").reshape(count, 8, 8)
    targets = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"=r"(r[{i}])' for i in range(count))
    body = MATRICES.format(count=count, trans=trans, targets=targets, outputs=outputs)
    y = run(body, {"x": x, "y": zeros((32, count), "uint32")})["y"]
    for i in range(count):
        matrix = x[i].T if trans else x[i]
        np.testing.assert_array_equal(y[:, i] & 0xFFFF, matrix[GROUP, THREAD * 2])
        np.testing.assert_array_equal(y[:, i] >> 16, matrix[GROUP, THREAD * 2 + 1])


def test_stmatrix_is_the_inverse_of_ldmatrix():
    body = """
    __shared__ __align__(16) unsigned short s[256], t[256];
    for (int i = threadIdx.x; i < 256; i += 32) s[i] = x[i];
    __syncthreads();
    unsigned from = __cvta_generic_to_shared(s + threadIdx.x * 8), to = __cvta_generic_to_shared(t + threadIdx.x * 8);
    unsigned a, b, c, d;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(from));
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
        :: "r"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += 32) y[i] = t[i];"""
    x = np.arange(256, dtype="uint16").reshape(4, 8, 8)
    y = run(body, {"x": x, "y": zeros((4, 8, 8), "uint16")})["y"]
    np.testing.assert_array_equal(y, x.transpose(0, 2, 1))


def test_misuse_is_told():
    body = """
    __shared__ __align__(16) unsigned short s[256];
    if (threadIdx.x % 32 < %COUNT%) {
        unsigned r, address = __cvta_generic_to_shared(s) + %OFFSET%;
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r) : "r"(address));
        y[threadIdx.x] = r;
    }"""
    arrays = {"y": zeros(32, "uint32")}
    for count, offset, message in (
        (32, 8, "is not aligned to 16 bytes"),
        (16, 0, "the thread ended while lanes of its warp wait for it at ldmatrix"),
        (32, 300000, "outside the block's shared memory"),
    ):
        with pytest.raises(KernelError, match=message):
            run(body.replace("%COUNT%", str(count)).replace("%OFFSET%", str(offset)), arrays)
    with pytest.raises(TranslationError, match="this mma is not known here"):
        run(
            mma_body("mma.sync.aligned.m16n8k12.row.col.f32.f16.f16.f32", (4, 4, 2, 4), "r"),
            dict.fromkeys("abcd", zeros(9, "uint32")),
        )
