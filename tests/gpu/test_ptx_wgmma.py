"""wgmma.mma_async against numpy: layouts in shared memory, fragments, results that come when waited for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from gpu.cuda_shim import Array, KernelError, Launch, Options, run_cuda_source
from gpu.shim_support import needs_shim
from gpu.test_ptx_mma import operand

pytestmark = needs_shim

SWIZZLE_CODES = {16: 0, 128: 1, 64: 2, 32: 3}  # bits 62 and 63 of a descriptor


@dataclass(frozen=True)
class Image:
    """An operand in shared memory: bytes, and the descriptor's offsets and code. `rows` are along m or n."""

    data: np.ndarray
    leading: int
    stride: int
    code: int


def put(data: np.ndarray, address: int, swizzle: int, element: bytes) -> None:
    """Writes an element where the swizzle moves it: bits 4 to 6 of the address are xored with bits 7 to 9."""
    mask = {16: 0, 32: 0x10, 64: 0x30, 128: 0x70}[swizzle]
    address ^= address >> 3 & mask
    data[address : address + len(element)] = np.frombuffer(element, "uint8")


def k_major(matrix: np.ndarray, swizzle: int) -> Image:
    """Canonical K-major layouts, in units of 16 bytes: none ((8,m),2):((1,SBO),LBO), else ((8,m),2):((W,SBO),1)."""
    rows, depth = matrix.shape
    size = matrix.itemsize
    width = swizzle if swizzle > 16 else 16
    blocks = depth * size // width  # beside each other along k
    group = 8 * width
    stride = group * (blocks if swizzle == 16 else 1)
    data = np.zeros(rows // 8 * group * blocks, "uint8")
    leading = group if swizzle == 16 else rows // 8 * group
    for row in range(rows):
        for k in range(depth):
            block, rest = divmod(k * size, width)
            address = block * leading + row // 8 * stride + row % 8 * width + rest
            put(data, address, swizzle, matrix[row, k].tobytes())
    return Image(data, leading, stride, SWIZZLE_CODES[swizzle])


def mn_major(matrix: np.ndarray, swizzle: int) -> Image:
    """Canonical MN-major layouts: none ((1,m),(8,k)):((X,SBO),(1,LBO)), else ((W,m),(8,k)):((1,LBO),(W,SBO))."""
    rows, depth = matrix.shape
    size = matrix.itemsize
    width = swizzle
    blocks = rows * size // width
    group = 8 * width  # eight k
    between_blocks, between_groups = group * (depth // 8), group
    data = np.zeros(rows * depth * size, "uint8")
    for row in range(rows):
        for k in range(depth):
            block, rest = divmod(row * size, width)
            address = block * between_blocks + k // 8 * between_groups + k % 8 * width + rest
            put(data, address, swizzle, matrix[row, k].tobytes())
    assert blocks * between_blocks == data.size
    if swizzle == 16:
        return Image(data, between_groups, between_blocks, 0)
    return Image(data, between_blocks, between_groups, SWIZZLE_CODES[swizzle])


def fragment_of_a(a: np.ndarray) -> np.ndarray:
    """A's registers, by thread of the warpgroup: as for mma.m16n8kK, warp w having rows 16 w and on."""
    per_register = 4 // a.itemsize
    thread = np.arange(128)
    warp, group, t = thread // 32, thread % 32 // 4, thread % 4
    columns = []
    for r in range(4):
        for i in range(per_register):
            row = 16 * warp + group + 8 * (r & 1)
            columns.append(a[row, (r >> 1) * 4 * per_register + t * per_register + i])
    return np.ascontiguousarray(np.stack(columns, 1)).view("uint32")


def from_accumulators(d: np.ndarray, n: int, dtype: str) -> np.ndarray:
    """The 64 x n matrix that the warpgroup's registers hold."""
    values = np.ascontiguousarray(d).view(dtype)
    matrix = np.zeros((64, n), dtype)
    thread = np.arange(128)
    for i in range(values.shape[1]):
        row = 16 * (thread // 32) + thread % 32 // 4 + 8 * (i >> 1 & 1)
        matrix[row, i // 4 * 8 + thread % 4 * 2 + (i & 1)] = values[:, i]
    return matrix


SOURCE = """
__device__ unsigned long long descriptor(unsigned address, int leading, int stride, int code) {
    return (unsigned long long)(address >> 4) | (unsigned long long)(leading >> 4) << 16
         | (unsigned long long)(stride >> 4) << 32 | (unsigned long long)code << 62;
}
extern "C" __global__ void test(unsigned char* a, int a_bytes, int a_leading, int a_stride, int a_code,
                                unsigned char* b, int b_bytes, int b_leading, int b_stride, int b_code, unsigned* d) {
    extern __shared__ __align__(1024) unsigned char s[];
    unsigned char* sb = s + (a_bytes + 1023) / 1024 * 1024;
    for (int i = threadIdx.x; i < a_bytes; i += 128) s[i] = a[i];
    for (int i = threadIdx.x; i < b_bytes; i += 128) sb[i] = b[i];
    FENCE_PROXY
    __syncthreads();
    unsigned long long da = descriptor(__cvta_generic_to_shared(s), a_leading, a_stride, a_code);
    unsigned long long db = descriptor(__cvta_generic_to_shared(sb), b_leading, b_stride, b_code);
    unsigned r[COUNT], ra[4];
    for (int i = 0; i < 4; i++) ra[i] = IN_REGISTERS ? ((unsigned*)a)[threadIdx.x * 4 + i] : 0;
    for (int i = 0; i < COUNT; i++) r[i] = d[threadIdx.x * COUNT + i];
    FENCE
    asm volatile("{\\n.reg .pred p;\\nsetp.ne.b32 p, %SCALE_D, 0;\\n"
        "wgmma.mma_async.sync.aligned.OPCODE {TARGETS}, A_TEXT, %DB, p TAIL;\\n}\\n" : OUTPUTS
        : "l"(da), "l"(db), "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "n"(ACCUMULATE));
    asm volatile("wgmma.commit_group.sync.aligned;");
    WAIT
    for (int i = 0; i < COUNT; i++) d[threadIdx.x * COUNT + i] = r[i];
    asm volatile("wgmma.wait_group.sync.aligned 0;");
}"""
FENCE, PROXY = 'asm volatile("wgmma.fence.sync.aligned;");', 'asm volatile("fence.proxy.async;" ::: "memory");'
WAIT = 'asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");'


def wgmma_source(opcode: str, count: int, tail: str, in_registers: bool, accumulate: bool) -> str:
    names = {
        "OPCODE": opcode,
        "TARGETS": ", ".join(f"%{i}" for i in range(count)),
        "OUTPUTS": ", ".join(f'"+r"(r[{i}])' for i in range(count)),
        "A_TEXT": "{" + ", ".join(f"%{count + 2 + i}" for i in range(4)) + "}" if in_registers else f"%{count}",
        "%DB": f"%{count + 1}",
        "%SCALE_D": f"%{count + 6}",
        "TAIL": tail,
        "COUNT": str(count),
        "IN_REGISTERS": str(int(in_registers)),
        "ACCUMULATE": str(int(accumulate)),
    }
    source = SOURCE
    for name, text in names.items():
        source = source.replace(name, text)
    return source


@dataclass(frozen=True)
class Case:
    """One wgmma: types, layouts, and what it does with what the accumulators hold."""

    dtype: str
    n: int = 16
    result: str = "float32"
    a: str = "k128"  # major and swizzle, or "registers"
    b: str = "k128"
    accumulate: bool = True
    scales: tuple[int, int] = (1, 1)

    @property
    def k(self) -> int:
        return {"float16": 16, "bfloat16": 16, "tf32": 8}.get(self.dtype, 32)


PTX_NAMES = {"float16": "f16", "bfloat16": "bf16", "int8": "s8", "uint8": "u8", "float32": "f32", "int32": "s32"}
IMAGES = {"k": k_major, "m": mn_major}


def image(matrix: np.ndarray, layout: str) -> Image:
    return IMAGES[layout[0]](matrix, int(layout[1:]))


def wide(matrix: np.ndarray, layout: str) -> np.ndarray:
    """With columns of zeros behind its own where a swizzled line is longer: the instruction reads the first ones."""
    depth = int(layout[1:]) // matrix.itemsize
    if layout[0] == "m" or depth <= matrix.shape[1]:
        return matrix
    return np.concatenate([matrix, np.zeros((len(matrix), depth - matrix.shape[1]), matrix.dtype)], 1)


def run_case(case: Case, rng: np.random.Generator, change=lambda source: source, **options):
    """Runs a case; returns what the instruction gave and what it should give."""
    (a, a_stored), (b, b_stored) = (operand(rng, (rows, case.k), case.dtype) for rows in (64, case.n))
    before = (rng.standard_normal((64, case.n)) * 10).astype(case.result)
    in_registers = case.a == "registers"
    if in_registers:
        image_a = Image(fragment_of_a(a_stored).view("uint8").ravel(), 0, 0, 0)
    else:
        image_a = image(wide(a_stored, case.a), case.a)
    image_b = image(wide(b_stored, case.b), case.b)
    types = [PTX_NAMES[case.result], *[PTX_NAMES.get(case.dtype, case.dtype)] * 2]
    opcode = ".".join([f"m64n{case.n}k{case.k}", *types])
    tail = "" if "int" in case.dtype else f", {case.scales[0]}, {case.scales[1]}"
    if case.k == 16:
        turned = [str(int(layout[0] == "m")) for layout in (case.a, case.b) if layout != "registers"]
        tail += ", " + ", ".join(turned)
    thread = np.arange(128)
    per_register = 2 if case.result == "float16" else 1
    places = [
        before[16 * (thread // 32) + thread % 32 // 4 + 8 * (i >> 1 & 1), i // 4 * 8 + thread % 4 * 2 + (i & 1)]
        for i in range(case.n // 2)
    ]
    d = np.ascontiguousarray(np.stack(places, 1)).view("uint32")
    source = wgmma_source(opcode, case.n // 2 // per_register, tail, in_registers, case.accumulate)
    source = change(source)
    for word, text in (("FENCE_PROXY", PROXY), ("FENCE", FENCE), ("WAIT", WAIT)):
        source = source.replace(word, text)
    numbers = [x for i in (image_a, image_b) for x in (i.data.size, i.leading, i.stride, i.code)]
    arguments = [Array(0), *numbers[:4], Array(1), *numbers[4:], Array(2)]
    shared = -(-image_a.data.size // 1024) * 1024 + image_b.data.size
    launch = Launch("test", 1, 128, arguments, dynamic_shared=shared)
    found = run_cuda_source(source, [launch], [image_a.data, image_b.data, d], Options(**options))[2]
    sign = case.scales[0] * case.scales[1]
    expected = sign * (a @ b.T) + (before if case.accumulate else 0)
    return from_accumulators(found, case.n, case.result), expected, before


CASES = [
    *(Case("float16", a=f"k{a}", b=f"k{b}") for a, b in ((128, 128), (64, 128), (32, 64), (16, 32), (16, 16))),
    *(Case("float16", n=64, a=a, b=b) for a, b in (("m128", "m128"), ("k128", "m128"), ("m128", "k128"))),
    *(Case("float16", n=64, a=f"m{width}", b=f"m{width}") for width in (64, 32, 16)),
    Case("float16", a="registers"),
    Case("bfloat16", n=8),
    Case("bfloat16", n=64, a="registers", b="m128"),
    Case("float16", n=256),
    Case("float16", n=24, result="float16"),
    Case("float16", accumulate=False),
    Case("float16", scales=(-1, 1)),
    Case("tf32", n=32),
    Case("tf32", n=8, a="registers", b="k32"),
    Case("int8", n=32, result="int32"),
    Case("uint8", n=16, result="int32", a="k64", b="k32"),
    Case("int8", n=16, result="int32", a="registers"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_wgmma(rng, case):
    found, expected, _ = run_case(case, rng)
    tolerance = {"float16": 2e-3, "float32": 1e-5}.get(case.result, 0)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 10)


def test_results_come_no_sooner_than_they_are_waited_for(rng):
    case = Case("float16")
    found, expected, before = run_case(case, rng, lambda source: source.replace("WAIT", ""))
    np.testing.assert_array_equal(found, before)
    found, expected, _ = run_case(case, rng, lambda source: source.replace("WAIT", ""), delivery="early")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_operands_must_stay_until_the_wait(rng):
    case = Case("float16")
    overwrite = "s[threadIdx.x] = 0; __syncthreads(); WAIT"
    found, expected, _ = run_case(case, rng, lambda source: source.replace("WAIT", overwrite))
    assert np.abs(found - expected).max() > 0.1
    with pytest.raises(KernelError, match=r"race: a read and a write by the wgmma of warp 0 and by thread"):
        run_case(case, rng, lambda source: source.replace("WAIT", overwrite), races=True)


def test_missing_fences_are_told(rng):
    case = Case("float16")
    run_case(case, rng, races=True)
    with pytest.raises(KernelError, match="used otherwise since the last wgmma.fence"):
        run_case(case, rng, lambda source: source.replace("    FENCE\n", ""))
    with pytest.raises(KernelError, match="fence.proxy.async is missing behind the write"):
        run_case(case, rng, lambda source: source.replace("FENCE_PROXY", ""), races=True)


def test_warps_that_differ_are_told(rng):
    with pytest.raises(KernelError, match="the four warps of a warpgroup did not issue the same"):
        run_case(
            Case("float16"), rng, lambda s: s.replace("    FENCE\n", "    FENCE\n if (threadIdx.x / 32 == 3) db ^= 2;")
        )
    with pytest.raises(KernelError, match="lanes of a warp have different descriptors"):
        run_case(Case("float16"), rng, lambda s: s.replace("    FENCE\n", "    FENCE\n if (threadIdx.x == 3) db ^= 2;"))
