"""cp.async, mbarriers and bulk copies: what arrives, and that it does not arrive before it is waited for."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.cuda_shim import Array, KernelError, Launch, Options, TensorMap, run_cuda_source
from gpu.shim_support import needs_shim, run, zeros

pytestmark = needs_shim

COPY = 'asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"({to}), "l"({source}));'
COMMIT = 'asm volatile("cp.async.commit_group;");'
WAIT = 'asm volatile("cp.async.wait_group {left};");'

GROUPS = f"""
__shared__ __align__(16) float s[3][128];
unsigned to = __cvta_generic_to_shared(&s[0][threadIdx.x * 4]);
for (int g = 0; g < 3; g++) {{
    {COPY.format(to="to + g * 512", source="x + g * 128 + threadIdx.x * 4")}
    {COMMIT}
}}
WAIT
for (int g = 0; g < 3; g++)
    for (int i = 0; i < 4; i++) y[g * 128 + threadIdx.x * 4 + i] = s[g][threadIdx.x * 4 + i];
asm volatile("cp.async.wait_all;");
"""


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_groups_arrive_when_they_are_waited_for(rng, left):
    x = rng.standard_normal((3, 128)).astype("f4")
    body = GROUPS.replace("WAIT", WAIT.format(left=left))
    y = run(body, {"x": x, "y": zeros((3, 128))})["y"]
    np.testing.assert_array_equal(y[: 3 - left], x[: 3 - left])
    assert np.isnan(y[3 - left :]).all()
    y = run(body, {"x": x, "y": zeros((3, 128))}, delivery="early")["y"]
    np.testing.assert_array_equal(y, x)


def test_bytes_that_are_not_read_are_zeros(rng):
    x = rng.standard_normal(128).astype("f4")
    body = """
    __shared__ __align__(16) float s[128];
    unsigned to = __cvta_generic_to_shared(s + threadIdx.x * 4);
    int bytes = threadIdx.x % 5 * 4;
    asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], 16, %2;"
        :: "r"(to), "l"(x + threadIdx.x * 4), "r"(bytes) : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    for (int i = 0; i < 4; i++) y[threadIdx.x * 4 + i] = s[threadIdx.x * 4 + i];"""
    y = run(body, {"x": x, "y": zeros((32, 4))})["y"]
    inside = np.arange(4)[None] < (np.arange(32) % 5)[:, None]
    np.testing.assert_array_equal(y, np.where(inside, x.reshape(32, 4), 0))


def test_copies_of_others_need_a_barrier_behind_the_wait(rng):
    body = f"""
    __shared__ __align__(16) float s[128];
    unsigned to = __cvta_generic_to_shared(s + threadIdx.x * 4);
    {COPY.format(to="to", source="x + threadIdx.x * 4")}
    {COMMIT}
    {WAIT.format(left=0)}
    BARRIER
    y[threadIdx.x] = s[127 - threadIdx.x];"""
    arrays = {"x": rng.standard_normal(128).astype("f4"), "y": zeros(32)}
    y = run(body.replace("BARRIER", "__syncthreads();"), arrays, races=True)["y"]
    np.testing.assert_array_equal(y, arrays["x"][:95:-1])
    with pytest.raises(KernelError, match="race: a read and a write by thread .* and by the cp.async of thread"):
        run(body.replace("BARRIER", ""), arrays, races=True)


def test_a_buffer_that_is_still_read_must_not_be_filled(rng):
    body = f"""
    __shared__ __align__(16) float s[128];
    unsigned to = __cvta_generic_to_shared(s + threadIdx.x * 4);
    for (int step = 0; step < 2; step++) {{
        {COPY.format(to="to", source="x + step * 128 + threadIdx.x * 4")}
        {WAIT.replace("wait_group {left}", "wait_all")}
        __syncthreads();
        y[step * 32 + threadIdx.x] = s[127 - threadIdx.x];
        BARRIER
    }}"""
    arrays = {"x": rng.standard_normal((2, 128)).astype("f4"), "y": zeros((2, 32))}
    y = run(body.replace("BARRIER", "__syncthreads();"), arrays, races=True)["y"]
    np.testing.assert_array_equal(y, arrays["x"][:, :95:-1])
    with pytest.raises(KernelError, match="race: .* by the cp.async of thread"):
        run(body.replace("BARRIER", ""), arrays, races=True)


def test_misaligned_copies_are_told():
    body = "__shared__ float s[64]; unsigned to = __cvta_generic_to_shared(s) + 4;" + COPY.format(to="to", source="x")
    with pytest.raises(KernelError, match="is not aligned to 16 bytes"):
        run(body, {"x": zeros(64)})
    body = "__shared__ float s[64]; unsigned to = __cvta_generic_to_shared(s);" + COPY.format(to="to", source="x + 1")
    with pytest.raises(KernelError, match="from an address that is not aligned"):
        run(body, {"x": zeros(64)})


# --- mbarriers -----------------------------------------------------------------------------------------------------

BARRIERS = """
__device__ void init(unsigned b, int n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(b), "r"(n)); }
__device__ void arrive(unsigned b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(b) : "memory"); }
__device__ void expect(unsigned b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(b), "r"(bytes) : "memory");
}
__device__ void wait(unsigned b, int parity) {
    asm volatile(
        "{\\n.reg .pred P1;\\nLAB_WAIT:\\n"
        "mbarrier.try_wait.parity.shared::cta.b64 P1, [%0], %1;\\n"
        "@P1 bra.uni DONE;\\nbra.uni LAB_WAIT;\\nDONE:\\n}\\n" :: "r"(b), "r"(parity) : "memory");
}
"""

PIPELINE = """
__shared__ unsigned long long full[2], empty[2];
__shared__ int stage[2][32];
unsigned f[2] = {unsigned(__cvta_generic_to_shared(&full[0])), unsigned(__cvta_generic_to_shared(&full[1]))};
unsigned e[2] = {unsigned(__cvta_generic_to_shared(&empty[0])), unsigned(__cvta_generic_to_shared(&empty[1]))};
if (threadIdx.x == 0) for (int i = 0; i < 2; i++) { init(f[i], 32); init(e[i], 32); }
__syncthreads();
int lane = threadIdx.x % 32;
if (threadIdx.x < 32) {
    for (int i = 0; i < 6; i++) {
        EMPTY
        stage[i % 2][lane] = x[i * 32 + lane];
        arrive(f[i % 2]);
    }
} else {
    for (int i = 0; i < 6; i++) {
        wait(f[i % 2], i / 2 % 2);
        y[i * 32 + lane] = stage[i % 2][31 - lane];
        arrive(e[i % 2]);
    }
}
"""


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
@pytest.mark.parametrize("races", [False, True])
def test_a_pipeline_of_two_warps(order, races):
    x = np.arange(192, dtype="int32").reshape(6, 32)
    body = PIPELINE.replace("EMPTY", "wait(e[i % 2], i / 2 % 2 ^ 1);")
    y = run(body, {"x": x, "y": zeros((6, 32), "int32")}, 64, head=BARRIERS, order=order, races=races)["y"]
    np.testing.assert_array_equal(y, x[:, ::-1])


def test_a_pipeline_that_does_not_wait_for_empty_stages_is_found_out():
    x = np.arange(192, dtype="int32").reshape(6, 32)
    with pytest.raises(KernelError, match="race|no thread can go on"):
        run(PIPELINE.replace("EMPTY", ""), {"x": x, "y": zeros((6, 32), "int32")}, 64, head=BARRIERS, races=True)


def test_misuse_of_mbarriers_is_told():
    start = "__shared__ unsigned long long m; unsigned b = __cvta_generic_to_shared(&m);"
    arrays = {"y": zeros(32)}
    with pytest.raises(KernelError, match="has not been initialised"):
        run(start + "arrive(b);", arrays, head=BARRIERS)
    with pytest.raises(KernelError, match="expects 1 arrivals in a phase and gets more|no thread can go on"):
        run(start + "if (threadIdx.x == 0) { init(b, 2); arrive(b); wait(b, 0); }", arrays, head=BARRIERS)
    with pytest.raises(KernelError, match="32 x waits for a phase of an mbarrier"):
        run(start + "if (threadIdx.x == 0) init(b, 33); __syncthreads(); arrive(b); wait(b, 0);", arrays, head=BARRIERS)


def test_cp_async_arrives_on_an_mbarrier(rng):
    body = f"""
    __shared__ __align__(16) float s[128];
    __shared__ unsigned long long m;
    unsigned b = __cvta_generic_to_shared(&m), to = __cvta_generic_to_shared(s + threadIdx.x * 4);
    if (threadIdx.x == 0) init(b, 32);
    __syncthreads();
    {COPY.format(to="to", source="x + threadIdx.x * 4")}
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(b) : "memory");
    y[threadIdx.x] = s[threadIdx.x * 4];
    wait(b, 0);
    y[32 + threadIdx.x] = s[127 - threadIdx.x];"""
    x = rng.standard_normal(128).astype("f4")
    y = run(body, {"x": x, "y": zeros(64)}, head=BARRIERS)["y"]
    assert np.isnan(y[:32]).all()
    np.testing.assert_array_equal(y[32:], x[:95:-1])
    with pytest.raises(KernelError, match="race"):
        run(body, {"x": x, "y": zeros(64)}, head=BARRIERS, races=True)


def test_bulk_copies_both_ways(rng):
    body = """
    __shared__ __align__(128) float s[256];
    __shared__ unsigned long long m;
    unsigned b = __cvta_generic_to_shared(&m), to = __cvta_generic_to_shared(s);
    if (threadIdx.x == 0) init(b, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        expect(b, 1024);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
            :: "r"(to), "l"(x), "r"(1024), "r"(b) : "memory");
    }
    wait(b, 0);
    for (int i = threadIdx.x; i < 256; i += 32) s[i] *= 2;
    FENCE
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" :: "l"(y), "r"(to), "r"(1024));
        asm volatile("cp.async.bulk.commit_group;");
        WAIT
    }"""
    x = rng.standard_normal(256).astype("f4")
    fence, wait = 'asm volatile("fence.proxy.async.shared::cta;");', 'asm volatile("cp.async.bulk.wait_group 0;");'
    arrays = {"x": x, "y": zeros(256)}
    for options in ({}, {"delivery": "early"}, {"races": True}):
        found = run(body.replace("FENCE", fence).replace("WAIT", wait), arrays, head=BARRIERS, **options)["y"]
        np.testing.assert_array_equal(found, 2 * x)
    with pytest.raises(KernelError, match="fence.proxy.async is missing behind the write"):
        run(body.replace("FENCE", "").replace("WAIT", wait), arrays, head=BARRIERS, races=True)
    with pytest.raises(KernelError, match="cp.async.bulk.wait_group is missing"):
        run(body.replace("FENCE", fence).replace("WAIT", ""), arrays, head=BARRIERS)


# --- tensor maps ---------------------------------------------------------------------------------------------------

TENSOR = """
extern "C" __global__ void test(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out,
                                unsigned short* image, int bytes, COORDINATES) {
    extern __shared__ __align__(1024) unsigned char s[];
    __shared__ unsigned long long m;
    unsigned b = __cvta_generic_to_shared(&m), to = __cvta_generic_to_shared(s);
    if (threadIdx.x == 0) { init(b, 1); }
    __syncthreads();
    if (threadIdx.x == 0) {
        expect(b, bytes);
        asm volatile("cp.async.bulk.tensor.RANKd.shared::cluster.global.mbarrier::complete_tx::bytes "
            "[%0], [%1, {NUMBERS}], [%2];" :: "r"(to), "l"(&in), "r"(b), OPERANDS : "memory");
    }
    wait(b, 0);
    for (int i = threadIdx.x; i < bytes / 2; i += 32) image[i] = ((unsigned short*)s)[i];
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.tensor.RANKd.global.shared::cta.bulk_group [%0, {NUMBERS}], [%1];"
            :: "l"(&out), "r"(to), "r"(0), OPERANDS : "memory");
        asm volatile("cp.async.bulk.commit_group;");
        asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    }
}"""


def move_box(x: np.ndarray, box: tuple[int, ...], at: tuple[int, ...], swizzle: str | None, **options):
    """A box of `x` (uint16) through shared memory: its image there, and an array like x that gets it from there."""
    sizes = x.shape[::-1]
    strides = tuple(s for s in x.strides[::-1][1:])
    maps = [TensorMap(array, "float16", sizes, strides, box, swizzle) for array in (0, 1)]
    names = [f"c{i}" for i in range(len(at))]
    source = BARRIERS + TENSOR.replace("RANK", str(len(at)))
    source = source.replace("COORDINATES", ", ".join(f"int {n}" for n in names))
    source = source.replace("NUMBERS", ", ".join(f"%{3 + i}" for i in range(len(at))))
    source = source.replace("OPERANDS", ", ".join(f'"r"({n})' for n in names))
    count = int(np.prod(box))
    arrays = [x, np.zeros_like(x), np.zeros(count, "uint16")]
    launch = Launch("test", 1, 32, [*maps, Array(2), count * 2, *at], dynamic_shared=count * 2)
    _, out, image = run_cuda_source(source, [launch], arrays, Options(**options))
    return image.reshape(box[::-1]), out


BOXES = {
    "one dimension": ((200,), (64,), (32,)),
    "two dimensions": ((40, 64), (32, 8), (16, 5)),
    "two dimensions, over the end": ((40, 64), (32, 8), (48, 36)),
    "two dimensions, in front of the start": ((40, 64), (32, 8), (-8, -3)),
    "three dimensions": ((6, 7, 32), (16, 3, 2), (8, 2, 1)),
    "five dimensions": ((3, 4, 5, 6, 16), (8, 2, 2, 2, 2), (8, 5, 4, 1, 2)),
}


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("delivery", ["late", "early", "shuffled"])
def test_boxes_of_tensors(name, delivery):
    shape, box, at = BOXES[name]
    x = np.arange(1, 1 + int(np.prod(shape)), dtype="uint16").reshape(shape)
    image, out = move_box(x, box, at, None, delivery=delivery)
    expected, back = np.zeros(box[::-1], "uint16"), np.zeros_like(x)
    for index in np.ndindex(*box[::-1]):
        place = tuple(i + a for i, a in zip(index, at[::-1], strict=True))
        if all(0 <= p < size for p, size in zip(place, shape, strict=True)):
            expected[index] = back[place] = x[place]
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(out, back)


@pytest.mark.parametrize(("swizzle", "width"), [("32B", 32), ("64B", 64), ("128B", 128)])
def test_swizzles_exchange_chunks_of_16_bytes(swizzle, width):
    """PTX ISA, "Swizzling modes": chunk c of line l (128 bytes) is at chunk c xor l, within 8, 4 or 2 lines."""
    x = np.arange(16 * width // 2, dtype="uint16").reshape(16, width // 2)
    image, out = move_box(x, (width // 2, 16), (0, 0), swizzle)
    chunks, found = x.reshape(-1, 8), image.reshape(-1, 8)
    for i in range(len(chunks)):
        line, chunk = divmod(i, 8)
        line %= {"32B": 2, "64B": 4, "128B": 8}[swizzle]
        np.testing.assert_array_equal(found[i // 8 * 8 + (chunk ^ line)], chunks[i])
    np.testing.assert_array_equal(out, x)


def test_tensor_maps_that_the_driver_refuses():
    good = {"array": 0, "dtype": "float16", "sizes": (64, 64), "strides": (128,), "box": (32, 8)}
    TensorMap(**good)
    for change, message in (
        ({"strides": (120,)}, "multiples of 16 bytes"),
        ({"box": (32, 300)}, "box sizes of 1 to 256"),
        ({"box": (72, 8), "swizzle": "128B"}, "swizzle's 128 bytes"),
        ({"box": (33, 8)}, "rows are multiples of 16 bytes"),
        ({"dtype": "float12"}, "unknown dtype"),
    ):
        with pytest.raises(ValueError, match=message):
            TensorMap(**{**good, **change})
