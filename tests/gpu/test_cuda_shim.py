"""Kernels in CUDA C++ on the CPU: barriers, shuffles, memory, atomics, types, and what misbehaving kernels get told."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.cuda_shim import Array, BuildError, KernelError, Launch, Options, TranslationError, run_cuda_source
from gpu.shim_support import needs_shim, run, zeros

pytestmark = needs_shim

REVERSE = """
__shared__ float s[64];
s[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
{barrier}
y[blockIdx.x * 64 + threadIdx.x] = s[63 - threadIdx.x];
"""


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_shared_memory_and_barriers(rng, order):
    x = rng.standard_normal(256).astype("f4")
    y = run(REVERSE.format(barrier="__syncthreads();"), {"x": x, "y": zeros(256)}, 64, grid=4, order=order)["y"]
    np.testing.assert_array_equal(y.reshape(4, 64), x.reshape(4, 64)[:, ::-1])


def test_a_missing_barrier_shows_as_nan_in_every_order(rng):
    x = rng.standard_normal(64).astype("f4")
    for order in ("forward", "backward"):
        y = run(REVERSE.format(barrier=""), {"x": x, "y": zeros(64)}, 64, order=order)["y"]
        assert np.isnan(y).any()


def test_a_missing_barrier_is_a_race(rng):
    arrays = {"x": rng.standard_normal(64).astype("f4"), "y": zeros(64)}
    with pytest.raises(
        KernelError,
        match=r"race: a read and a write by thread 31 \(line 7\) and by thread 32 \(line 5\) at byte 128 of shared",
    ):
        run(REVERSE.format(barrier=""), arrays, 64, races=True)
    run(REVERSE.format(barrier="__syncthreads();"), arrays, 64, races=True)


def test_a_barrier_that_is_missing_between_two_uses_of_an_array_is_a_race():
    body = """
    __shared__ int s[64];
    for (int i = 0; i < 3; i++) {
        s[threadIdx.x] = i * 100 + threadIdx.x;
        __syncthreads();
        y[threadIdx.x] += s[(threadIdx.x + 1) & 63];
        %s
    }"""
    arrays = {"y": zeros(64, "int32")}
    with pytest.raises(KernelError, match="race: a read and a write"):
        run(body % "", arrays, 64, races=True)
    y = run(body % "__syncthreads();", arrays, 64, races=True)["y"]
    np.testing.assert_array_equal(y, 300 + 3 * ((np.arange(64) + 1) % 64))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("__shfl_xor_sync(0xffffffff, v, 5)", lambda i: i ^ 5),
        ("__shfl_down_sync(0xffffffff, v, 3)", lambda i: np.where(i + 3 < 32, i + 3, i)),
        ("__shfl_up_sync(0xffffffff, v, 3)", lambda i: np.where(i >= 3, i - 3, i)),
        ("__shfl_sync(0xffffffff, v, 7)", lambda i: 7 + 0 * i),
        ("__shfl_down_sync(0xffffffff, v, 3, 8)", lambda i: np.where(i % 8 + 3 < 8, i + 3, i)),
        ("__shfl_up_sync(0xffffffff, v, 3, 8)", lambda i: np.where(i % 8 >= 3, i - 3, i)),
        ("__shfl_sync(0xffffffff, v, 11, 8)", lambda i: i // 8 * 8 + 3),
        ("__shfl_xor_sync(0xffffffff, v, 12, 8)", lambda i: np.where(((i ^ 12) // 8) > i // 8, i, i ^ 12)),
    ],
)
def test_shuffles(call, expected):
    y = run(f"float v = threadIdx.x; y[threadIdx.x] = {call};", {"y": zeros(32)})["y"]
    np.testing.assert_array_equal(y, expected(np.arange(32)))


def test_shuffles_of_half_warps_that_diverge():
    body = """
    int v = threadIdx.x;
    if (threadIdx.x < 16) v = __shfl_xor_sync(0x0000ffff, v, 1);
    else v = __shfl_down_sync(0xffff0000, v, 2, 16);
    y[threadIdx.x] = v;"""
    i = np.arange(32)
    expected = np.where(i < 16, i ^ 1, np.where(i + 2 < 32, i + 2, i))
    np.testing.assert_array_equal(run(body, {"y": zeros(32, "int32")})["y"], expected)


def test_the_active_mask_is_that_of_the_branch():
    body = "if (threadIdx.x % 3 == 0) y[threadIdx.x] = __activemask();"
    y = run(body, {"y": zeros(32, "uint32")})["y"]
    assert set(y) == {0, sum(1 << i for i in range(0, 32, 3))}


def test_votes_and_block_votes():
    body = """
    y[threadIdx.x] = __ballot_sync(0xffffffff, threadIdx.x % 5 == 0);
    y[64 + threadIdx.x] = __any_sync(0xffffffff, threadIdx.x == 40) * 2 + __all_sync(0xffffffff, threadIdx.x < 32);
    y[128 + threadIdx.x] = __syncthreads_count(threadIdx.x < 20);"""
    y = run(body, {"y": zeros(192, "uint32")}, 64)["y"].reshape(3, 64)
    for warp in range(2):
        assert set(y[0, 32 * warp : 32 * warp + 32]) == {sum(1 << i for i in range(32) if (32 * warp + i) % 5 == 0)}
    assert set(y[1, :32]) == {1}
    assert set(y[1, 32:]) == {2}
    assert set(y[2]) == {20}


def test_dynamic_and_static_shared_memory_together():
    body = """
    extern __shared__ __align__(16) float dynamic[];
    __shared__ float fixed[2][32];
    dynamic[threadIdx.x] = threadIdx.x;
    fixed[1][threadIdx.x] = 2 * threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = dynamic[31 - threadIdx.x] + fixed[1][31 - threadIdx.x];"""
    y = run(body, {"y": zeros(32)}, dynamic_shared=128)["y"]
    np.testing.assert_array_equal(y, 3 * np.arange(32)[::-1])


def test_atomics_on_shared_and_global_memory():
    body = """
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, int(threadIdx.x));
    atomicMax(&y[1], int(threadIdx.x));
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(&y[0], count);"""
    y = run(body, {"y": zeros(2, "int32")}, 64, grid=3, races=True)["y"]
    assert list(y) == [3 * 64 * 63 // 2, 63]


def test_blocks_that_wait_for_each_other_run_together():
    body = """
    if (threadIdx.x == 0) {
        if (blockIdx.x == 0) while (atomicAdd(&y[0], 0) == 0) __nanosleep(20);
        else atomicExch(&y[0], 1);
        y[1 + blockIdx.x] = 1;
    }"""
    assert list(run(body, {"y": zeros(3, "int32")}, 32, grid=2)["y"]) == [1, 1, 1]


def test_every_half_and_bfloat16_to_float_and_back():
    bits = np.arange(65536, dtype="uint16")
    body = """
    int i = blockIdx.x * 256 + threadIdx.x;
    f[i] = __half2float(__ushort_as_half(u[i]));
    b[i] = __bfloat162float(__ushort_as_bfloat16(u[i]));
    half_bits[i] = __half_as_ushort(__float2half(f[i]));
    bfloat_bits[i] = __bfloat16_as_ushort(__float2bfloat16(b[i]));"""
    arrays = {"u": bits, "f": zeros(65536), "b": zeros(65536)}
    arrays |= {"half_bits": zeros(65536, "uint16"), "bfloat_bits": zeros(65536, "uint16")}
    found = run(body, arrays, 256, grid=256)
    np.testing.assert_array_equal(found["f"], bits.view("float16").astype("f4"))
    np.testing.assert_array_equal(found["b"].view("uint32") >> 16, bits)
    finite = ~np.isnan(found["f"])
    np.testing.assert_array_equal(found["half_bits"][finite], bits[finite])
    finite = ~np.isnan(found["b"])
    np.testing.assert_array_equal(found["bfloat_bits"][finite], bits[finite])


def test_rounding_to_half_and_bfloat16_and_their_arithmetic(rng):
    x = (rng.standard_normal(1024) * np.exp(rng.uniform(-12, 12, 1024))).astype("f4")
    body = """
    int i = threadIdx.x;
    h[i] = half(x[i]);
    b[i] = __bfloat16_as_ushort(__float2bfloat16(x[i]));
    p[i] = h[i] * half(0.3f) + half(1.5f);"""
    arrays = {"x": x, "h": zeros(1024, "float16"), "b": zeros(1024, "uint16"), "p": zeros(1024, "float16")}
    found = run(body, arrays, 1024)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found["h"], x.astype("float16"))
        expected = found["h"] * np.float16(0.3) + np.float16(1.5)
    np.testing.assert_array_equal(found["p"], expected)
    word = x.view("uint32").astype("uint64")
    np.testing.assert_array_equal(found["b"], (word + 0x7FFF + (word >> 16 & 1)) >> 16)


def test_vector_types_move_whole(rng):
    x = rng.standard_normal((32, 4)).astype("f4")
    body = "float4 v = ((float4*)x)[threadIdx.x]; ((float4*)y)[31 - threadIdx.x] = make_float4(v.w, v.z, v.y, v.x);"
    np.testing.assert_array_equal(run(body, {"x": x, "y": zeros((32, 4))})["y"], x[::-1, ::-1])


def test_wmma_multiplies(rng):
    a, b = (rng.standard_normal((16, 16)).astype("float16") for _ in range(2))
    body = """
    using namespace nvcuda;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> fc;
    wmma::fill_fragment(fc, 1.0f);
    wmma::load_matrix_sync(fa, a, 16);
    wmma::load_matrix_sync(fb, b, 16);
    wmma::mma_sync(fc, fa, fb, fc);
    for (int i = 0; i < fc.num_elements; i++) fc.x[i] *= 2;
    wmma::store_matrix_sync(c, fc, 16, wmma::mem_row_major);"""
    c = run(body, {"a": a, "b": b, "c": zeros((16, 16))}, head="#include <mma.h>\n")["c"]
    np.testing.assert_allclose(c, 2 * (a.astype("f8") @ b.astype("f8").T + 1), rtol=1e-6, atol=1e-6)


# --- misbehaviour --------------------------------------------------------------------------------------------------

WRONG = {
    "a barrier in a branch": (
        "if (threadIdx.x < 32) __syncthreads();",
        r"no thread can go on: 32 x ended, 32 x waits for __syncthreads \(line 3\)",
    ),
    "different barriers within a warp": (
        "if (threadIdx.x % 2) {\n __syncthreads();\n} else {\n __syncthreads(); }",
        "different barriers: lines",
    ),
    "lanes that do something else": (
        "if (threadIdx.x < 16) __shfl_xor_sync(0xffffffff, 1, 16); else while (true) __syncwarp(0xffff0000);",
        "__syncwarp while other lanes of its warp are at shfl.bfly",
    ),
    "a lane outside of its mask": ("__syncwarp(0xff);", "which lacks lane 8 itself"),
    "different collectives": (
        "if (threadIdx.x % 2) __syncwarp(); else __shfl_xor_sync(0xffffffff, 1, 1);",
        "is at .* while other lanes of its warp are at",
    ),
    "a write behind an array": ("y[64 + threadIdx.x * 100000] = 1;", "bytes behind the end of y .*may not be touched"),
    "a read in front of an array": ("y[0] = y[int(threadIdx.x) - 2000];", "bytes in front of y"),
    "a few bytes behind an array": ("if (threadIdx.x == 0) y[65] = 1;", "wrote 0 bytes behind the end of y"),
    "an integer division by zero": ("y[0] = 7 / (int)(threadIdx.x - threadIdx.x);", "division by zero"),
    "a misaligned vector": (
        "((float4*)(y + 1))[threadIdx.x % 2] = make_float4(1, 2, 3, 4);",
        "line 3: byte 4 of y is used as the address of something aligned to 16 bytes",
    ),
    "an index outside of a shared array": (
        "__shared__ float s[64]; s[threadIdx.x + 1] = 1; y[0] = s[0];",
        "line 3: index 64 is outside of the array",
    ),
    "an index outside of a local array": (
        "float r[4]; for (int i = 0; i < 5 + (int)y[0]; i++) r[i] = i; y[1] = r[2];",
        "line 3: index 4 is outside of the array",
    ),
    "a trap": ("if (threadIdx.x == 5) __trap();", r"thread \(5, 0, 0\).*trap"),
}


@pytest.mark.parametrize("name", WRONG)
def test_misbehaviour_is_told(name):
    body, message = WRONG[name]
    with pytest.raises(KernelError, match=message):
        run(body, {"y": zeros(65 if "few" in name else 64)}, 64)


def test_an_access_just_outside_of_an_array_is_found_with_races():
    with pytest.raises(KernelError, match=r"writes 4 bytes \(line 3\) at 0 bytes behind the end of y"):
        run("y[threadIdx.x + 1] = 1;", {"y": zeros(32)}, races=True)
    body = "__shared__ float s[32]; float* p = s; p[threadIdx.x + 1] = 1; __syncthreads(); y[threadIdx.x] = s[0];"
    with pytest.raises(KernelError, match="outside of all shared arrays"):
        run(body, {"y": zeros(32)}, races=True)


def test_two_blocks_that_write_the_same_place_are_a_race():
    with pytest.raises(KernelError, match="race: a write by another block and one by this one"):
        run("y[threadIdx.x] = blockIdx.x;", {"y": zeros(32)}, grid=2, races=True)


def test_a_launch_sees_what_the_one_before_it_wrote():
    source = """
    extern "C" __global__ void first(float* x, float* y) { x[blockIdx.x * 32 + threadIdx.x] = threadIdx.x; }
    extern "C" __global__ void second(float* x, float* y) {
        y[blockIdx.x * 32 + threadIdx.x] = x[threadIdx.x] + x[63 - threadIdx.x];
    }
    """
    arrays = [np.zeros(64, "f4"), np.zeros(64, "f4")]
    _, y = run_cuda_source(source, [Launch("first", 2, 32), Launch("second", 2, 32)], arrays, Options(races=True))
    assert set(y) == {31}


def test_launches_are_checked():
    source = 'extern "C" __global__ void __launch_bounds__(64) k(float* y, int n) { y[threadIdx.x] = n; }'
    y = np.zeros(64, "f4")
    assert run_cuda_source(source, [Launch("k", 1, 64, [Array(0), 7])], [y])[0][5] == 7
    for launch, message in [
        (Launch("k", 1, 128, [Array(0), 7]), "launch bounds are 64"),
        (Launch("k", 1, 64, [Array(0)]), "has 2 parameters, and 1 arguments"),
        (Launch("other", 1, 64, [Array(0), 7]), "no kernel named other"),
        (Launch("k", 1, 64, [3, 7]), "parameter 0 of the kernel is a pointer"),
    ]:
        with pytest.raises(KernelError, match=message):
            run_cuda_source(source, [launch], [y])


def test_too_much_shared_memory_is_told():
    with pytest.raises(KernelError, match="a block may have 49152"):
        run("__shared__ float s[20000]; s[0] = 1; y[0] = s[0];", {"y": zeros(1)}, shared_limit=49152)


def test_a_kernel_that_does_not_end_is_stopped():
    with pytest.raises(KernelError, match="did not end within"):
        run("volatile int* p = (volatile int*)y; while (p[0] == 0) {}", {"y": zeros(1, "int32")}, timeout=0.5)


def test_sources_that_cannot_be_run_are_told():
    with pytest.raises(TranslationError, match=r"line 3: the instruction is not known here: frobnicate\.b32"):
        run('asm volatile("frobnicate.b32 %0, 1;" : "=r"(y[0]));', {"y": zeros(1, "uint32")})
    with pytest.raises(BuildError, match=r"kernel\.cu:3"):
        run("y[0] = undeclared;", {"y": zeros(1)})
    with pytest.raises(TranslationError, match="no __global__ function"):
        run_cuda_source("int x;", [], [], Options())
