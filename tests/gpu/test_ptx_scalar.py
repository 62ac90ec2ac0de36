"""Scalar PTX against numpy: arithmetic, conversions, memory, predicates, branches, shuffles; and clusters of blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpu.cuda_shim import KernelError, TranslationError
from gpu.shim_support import needs_shim, run, zeros

pytestmark = needs_shim


def three(opcode: str, count: int = 2) -> str:
    """A statement of `count` sources on x, y, z; the result is r."""
    names = ("x", "y", "z")[:count]
    operands = ", ".join(f"%{i + 1}" for i in range(count))
    inputs = ", ".join(f'"LETTER"({name}[i])' for name in names)
    return f'asm("{opcode} %0, {operands};" : "=LETTER"(r[i]) : {inputs});'


def by_lut(table: int) -> Callable[..., np.ndarray]:
    def apply(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        result = np.zeros_like(x)
        for i in range(8):
            if table >> i & 1:
                result |= (x if i & 4 else ~x) & (y if i & 2 else ~y) & (z if i & 1 else ~z)
        return result

    return apply


def signed(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda *args: function(*(a.view("int32") for a in args)).astype("int32").view("uint32")


INTEGERS: dict[str, Callable[..., np.ndarray]] = {
    three("add.u32"): lambda x, y, z: x + y,
    three("sub.s32"): lambda x, y, z: x - y,
    three("mul.lo.u32"): lambda x, y, z: x * y,
    three("mul.hi.u32"): lambda x, y, z: (x.astype("u8") * y >> 32).astype("u4"),
    three("mul.hi.s32"): signed(lambda x, y, z: x.astype("i8") * y >> 32),
    three("mad.lo.s32", 3): lambda x, y, z: x * y + z,
    three("min.s32"): signed(lambda x, y, z: np.minimum(x, y)),
    three("max.u32"): lambda x, y, z: np.maximum(x, y),
    three("and.b32"): lambda x, y, z: x & y,
    three("xor.b32"): lambda x, y, z: x ^ y,
    three("not.b32", 1): lambda x, y, z: ~x,
    three("shf.l.wrap.b32", 3): lambda x, y, z: ((y.astype("u8") << 32 | x) << (z & 31) >> 32).astype("u4"),
    three("popc.b32", 1): lambda x, y, z: np.array([bin(v).count("1") for v in x], "u4"),
    three("clz.b32", 1): lambda x, y, z: np.array([32 - int(v).bit_length() for v in x], "u4"),
    three("abs.s32", 1): signed(lambda x, y, z: np.abs(x)),
    three("dp4a.s32.s32", 3): signed(
        lambda x, y, z: (x.view("i1").reshape(-1, 4).astype("i4") * y.view("i1").reshape(-1, 4)).sum(1) + z
    ),
    'asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(r[i]) : "r"(x[i]), "r"(y[i]), "r"(z[i]));': by_lut(0x96),
    'asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(r[i]) : "r"(x[i]), "r"(y[i]), "r"(z[i]));': by_lut(0xCA),
    'asm("shl.b32 %0, %1, %2;" : "=r"(r[i]) : "r"(x[i]), "r"(z[i] % 40));': lambda x, y, z: np.where(
        z % 40 < 32, x << np.minimum(z % 40, 31), 0
    ).astype("u4"),
    'asm("shr.s32 %0, %1, 5;" : "=r"(r[i]) : "r"(x[i]));': signed(lambda x, y, z: x >> 5),
    'asm("bfe.u32 %0, %1, 7, 9;" : "=r"(r[i]) : "r"(x[i]));': lambda x, y, z: x >> 7 & 511,
    'asm("bfe.s32 %0, %1, 7, 9;" : "=r"(r[i]) : "r"(x[i]));': signed(lambda x, y, z: x << 16 >> 23),
    'asm("bfi.b32 %0, %1, %2, 8, 16;" : "=r"(r[i]) : "r"(x[i]), "r"(y[i]));': lambda x, y, z: (
        y & 0xFF0000FF | (x & 0xFFFF) << 8
    ),
    'asm("prmt.b32 %0, %1, %2, 0x5410;" : "=r"(r[i]) : "r"(x[i]), "r"(y[i]));': lambda x, y, z: x & 0xFFFF | y << 16,
    'asm("{.reg .pred p; setp.lt.s32 p, %1, %2; selp.b32 %0, %1, %2, p;}": "=r"(r[i]) : "r"(x[i]), "r"(y[i]));': signed(
        lambda x, y, z: np.minimum(x, y)
    ),
    'asm("{.reg .b16 lo, hi; mov.b32 {lo, hi}, %1; mov.b32 %0, {hi, lo};}" : "=r"(r[i]): "r"(x[i]));': lambda x, y, z: (
        x << 16 | x >> 16
    ),
    'asm("{.reg .u64 w; mul.wide.u32 w, %1, %2; {.reg .b32 lo; mov.b64 {lo, %0}, w;}}" : "=r"(r[i])'
    ' : "r"(x[i]), "r"(y[i]));': lambda x, y, z: (x.astype("u8") * y >> 32).astype("u4"),
    'r[i] = 7; asm("{.reg .pred p; setp.ne.b32 p, %1, 0; @!p mov.u32 %0, 9;}" : "+r"(r[i]) : "r"(x[i] & 1));': (
        lambda x, y, z: np.where(x & 1, 7, 9).astype("u4")
    ),
    'asm("{.reg .pred p; .reg .u32 n; mov.u32 n, 0; mov.u32 %0, %1; AGAIN: setp.gt.u32 p, %0, 9;'
    ' @!p bra DONE; shr.u32 %0, %0, 1; add.u32 n, n, 1; bra AGAIN; DONE: mov.u32 %0, n;}": "=&r"(r[i]): "r"(x[i]));': (
        lambda x, y, z: np.array(
            [max(0, int(v).bit_length() - 4 + (v >> max(0, int(v).bit_length() - 4) > 9)) for v in x]
        )
    ),
}
BODY = "int i = threadIdx.x;\n"


def run_all(statements: dict[str, Callable[..., np.ndarray]], letter: str, x: np.ndarray, y: np.ndarray, z: np.ndarray):
    """The results of all statements, which are one kernel: compiling takes longer than anything else."""
    parts = [f"{{ auto* r = results + {n} * 64; {s.replace('LETTER', letter)} }}" for n, s in enumerate(statements)]
    arrays = {"x": x, "y": y, "z": z, "results": np.zeros((len(statements), 64), x.dtype)}
    return dict(zip(statements, run(BODY + "\n".join(parts), arrays, 64)["results"], strict=True))


@pytest.fixture(scope="module")
def integers():
    """Three arrays, and what each statement makes of them."""
    arrays = [np.random.default_rng(i).integers(0, 1 << 32, 64, dtype="uint32") for i in range(3)]
    return arrays, run_all(INTEGERS, "r", *arrays)


@pytest.mark.parametrize("statement", INTEGERS)
def test_integers(integers, statement):
    arrays, found = integers
    with np.errstate(over="ignore"):
        expected = INTEGERS[statement](*arrays)
    np.testing.assert_array_equal(found[statement], expected.astype("uint32"))


REALS: dict[str, Callable[..., np.ndarray]] = {
    three("add.f32"): lambda x, y, z: x + y,
    three("mul.rn.ftz.f32"): lambda x, y, z: x * y,
    three("fma.rn.f32", 3): lambda x, y, z: x * y + z,
    three("max.f32"): lambda x, y, z: np.maximum(x, y),
    three("neg.f32", 1): lambda x, y, z: -x,
    three("ex2.approx.ftz.f32", 1): lambda x, y, z: np.exp2(x),
    three("tanh.approx.f32", 1): lambda x, y, z: np.tanh(x),
    three("rcp.approx.f32", 1): lambda x, y, z: 1 / x,
    'asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(((int*)r)[i]) : "f"(x[i])); r[i] = ((int*)r)[i];': lambda x, y, z: np.trunc(
        x
    ),
    'int n; asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(n) : "f"(x[i] * 100)); r[i] = n;': lambda x, y, z: np.clip(
        np.rint(x * 100), -128, 127
    ),
    'asm("cvt.rn.f32.s32 %0, %1;" : "=f"(r[i]) : "r"(int(x[i] * 1000)));': lambda x, y, z: np.trunc(
        x * np.float32(1000)
    ),
    'asm("{.reg .b16 h; cvt.rn.f16.f32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(r[i]) : "f"(x[i]));': lambda x, y, z: (
        x.astype("f2")
    ),
    'unsigned w; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(x[i]), "f"(y[i])); r[i] = __half2float('
    "__ushort_as_half(w >> 16)) - __half2float(__ushort_as_half(w & 0xffff));": lambda x, y, z: (
        x.astype("f2").astype("f4") - y.astype("f2").astype("f4")
    ),
    'asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(((unsigned*)r)[i]) : "f"(x[i]));': lambda x, y, z: (
        (x.view("u4") + 0x1000) & 0xFFFFE000
    ).view("f4"),
    'asm("mul.f32 %0, %1, 0f40000000;" : "=f"(r[i]) : "f"(x[i]));': lambda x, y, z: 2 * x,
    'unsigned u = __half_as_ushort(half(x[i])), v; u |= u << 16; asm("fma.rn.f16x2 %0, %1, %1, %1;" : "=r"(v): "r"(u));'
    "r[i] = __half2float(__ushort_as_half(v >> 16));": lambda x, y, z: (
        x.astype("f2").astype("f8") ** 2 + x.astype("f2").astype("f8")
    ).astype("f2"),
}


@pytest.fixture(scope="module")
def reals():
    """Three arrays, and what each statement makes of them."""
    arrays = [np.random.default_rng(i).standard_normal(64).astype("f4") for i in range(3)]
    return arrays, run_all(REALS, "f", *arrays)


@pytest.mark.parametrize("statement", REALS)
def test_reals(reals, statement):
    arrays, found = reals
    np.testing.assert_allclose(found[statement], REALS[statement](*arrays).astype("f4"), rtol=1e-6, atol=1e-7)


def test_memory():
    body = """
    __shared__ __align__(16) unsigned s[128];
    unsigned a, b, c, d, at = __cvta_generic_to_shared(s + threadIdx.x * 4);
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "l"(x + threadIdx.x * 4));
    asm volatile("st.shared.v4.b32 [%0], {%4, %3, %2, %1};" :: "r"(at), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
    asm volatile("bar.sync 0;" ::: "memory");
    asm volatile("ld.shared.u32 %0, [%1+4];" : "=r"(a) : "r"(at));
    unsigned long long generic;
    asm volatile("cvta.to.shared.u64 %0, %1;" : "=l"(generic) : "l"(s + 127 - threadIdx.x));
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(b) : "r"((unsigned)generic));
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" :: "l"(y + threadIdx.x * 2), "r"(a), "r"(b) : "memory");
    asm volatile("red.global.add.u32 [%0], %1;" :: "l"(y + 64), "r"(threadIdx.x) : "memory");
    asm volatile("atom.global.max.u32 %0, [%1], %2;" : "=r"(a) : "l"(y + 65), "r"(threadIdx.x) : "memory");"""
    x = np.arange(128, dtype="uint32")
    y = run(body, {"x": x, "y": zeros(66, "uint32")})["y"]
    turned = x.reshape(32, 4)[:, ::-1].ravel()
    np.testing.assert_array_equal(y[:64:2], turned.reshape(32, 4)[:, 1])
    np.testing.assert_array_equal(y[1:64:2], turned[::-1][:32])
    assert list(y[64:]) == [31 * 16, 31]


def test_warps_in_ptx():
    body = """
    unsigned a, p, lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    asm volatile("{.reg .pred q; shfl.sync.down.b32 %0|q, %2, 4, 0x181f, 0xffffffff; selp.u32 %1, 1, 0, q;}"
        : "=r"(a), "=r"(p) : "r"(lane * 10));
    y[threadIdx.x] = a + p * 1000;
    asm volatile("{.reg .pred q; elect.sync _|q, 0xffffffff; selp.u32 %0, 1, 0, q;}" : "=r"(p));
    y[32 + threadIdx.x] = p;
    asm volatile("redux.sync.max.s32 %0, %1, 0xffffffff;" : "=r"(a) : "r"(int(lane) - 40));
    y[64 + threadIdx.x] = a;
    asm volatile("{.reg .pred q; setp.lt.u32 q, %1, 5; vote.sync.ballot.b32 %0, q, 0xffffffff;}" : "=r"(a) : "r"(lane));
    y[96 + threadIdx.x] = a;"""
    y = run(body, {"y": zeros(128, "int32")})["y"].reshape(4, 32)
    i = np.arange(32)
    inside = i % 8 + 4 < 8
    np.testing.assert_array_equal(y[0], np.where(inside, (i + 4) * 10 + 1000, i * 10))
    np.testing.assert_array_equal(y[1], i == 0)
    assert set(y[2]) == {-9}
    assert set(y[3]) == {31}


def test_named_barriers_join_parts_of_a_block():
    body = """
    __shared__ int s[64];
    int half = threadIdx.x / 64, i = threadIdx.x % 64;
    if (half == 0) {
        s[i] = i;
        asm volatile("bar.arrive 3, 128;" ::: "memory");
    } else {
        asm volatile("bar.sync %0, %1;" :: "r"(3), "n"(128) : "memory");
        y[i] = s[63 - i];
    }"""
    for order in ("forward", "backward"):
        y = run(body, {"y": zeros(64, "int32")}, 128, order=order, races=True)["y"]
        np.testing.assert_array_equal(y, np.arange(64)[::-1])
    with pytest.raises(KernelError, match="64 x waits for a named barrier"):
        run(body.replace('asm volatile("bar.arrive 3, 128;" ::: "memory");', ""), {"y": zeros(64, "int32")}, 128)


CLUSTER = """
__shared__ int s[32];
unsigned rank, far, value;
asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
s[threadIdx.x] = blockIdx.x * 100 + threadIdx.x;
asm volatile("barrier.cluster.arrive.aligned;barrier.cluster.wait.aligned;" ::: "memory");
unsigned here = __cvta_generic_to_shared(s + threadIdx.x);
asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(far) : "r"(here), "r"(rank ^ 1));
asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(far) : "memory");
y[blockIdx.x * 32 + threadIdx.x] = value;
asm volatile("barrier.cluster.arrive.aligned;barrier.cluster.wait.aligned;" ::: "memory");
"""


def test_blocks_of_a_cluster_read_each_other():
    y = run(CLUSTER, {"y": zeros((4, 32), "int32")}, grid=4, cluster=2)["y"]
    np.testing.assert_array_equal(y, np.array([1, 0, 3, 2])[:, None] * 100 + np.arange(32))


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ('asm("add.rz.f32 %0, %0, %0;" : "+f"(r[0]));', "'.rz' is not known here"),
        ('asm("setp.nan.f32 p, %0, %0;" : "+f"(r[0]));', "the operand 'p' is not known"),
        ('asm("bra ELSEWHERE;");', "a branch to a label that the statement does not have"),
        ('asm("mov.u32 %0, %3;" : "=r"(r[0]));', "operand %3 of 1"),
        ('asm("tcgen05.alloc.b32 [%0], 32;" :: "r"(0));', "not known here: tcgen05.alloc"),
    ],
)
def test_what_is_not_known_is_told(statement, message):
    with pytest.raises(TranslationError, match=message):
        run(statement, {"r": zeros(1)})
