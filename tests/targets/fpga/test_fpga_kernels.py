"""The loop-kernel IR: schedules, both emitters and the interpreter on kernels made to be awkward; errors."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from kompilo.compiler.errors import KompiloError, TargetError
from kompilo.targets.fpga.kernel.affine import var
from kompilo.targets.fpga.kernel.builder import (
    NestBuilder,
    array,
    at_least,
    below,
    both,
    const,
    equals,
    kernel,
    load,
    lookup,
    op,
    reduce,
)
from kompilo.targets.fpga.kernel.interpret import interpret
from kompilo.targets.fpga.kernel.ir import Const, Expr, Kernel, Loop, Stream
from kompilo.targets.fpga.kernel.model import bram18_of, estimate, product_dsps
from kompilo.targets.fpga.kernel.ops import OPS, evaluate
from kompilo.targets.fpga.kernel.types import BOOL, FLOAT32, INT32, bits_float, float_bits, scalar
from kompilo.targets.fpga.presets import DSP48E2, DSP58
from kompilo.targets.fpga.sim.case import Case, check_arrays
from kompilo.targets.fpga.sim.csim import CSimulator
from kompilo.targets.fpga.sim.rtl import RtlSimulator

from fpga_cases import check_c, check_rtl, need, need_headers, random_array, random_inputs

SIZE = 24


def one_bank() -> Kernel:
    """Two loads and two stores of one bank each iteration: II 2."""
    a, y = array("A", (SIZE,), "int8", role="in"), array("Y", (SIZE,), "int8", role="out")
    nest = NestBuilder("swap")
    i = nest.serial("i", SIZE // 2)
    nest.store(y, [2 * i], load(a, 2 * i + 1))
    nest.store(y, [2 * i + 1], load(a, 2 * i))
    return kernel("one_bank", [a, y], [nest.nest()])


def prefix_sums(memory: str) -> Kernel:
    """Each iteration reads what the one before has stored."""
    a, y = array("A", (SIZE,), "int16", role="in"), array("Y", (SIZE,), "int16", role="out")
    sums = array("S", (SIZE + 1,), "int16", memory)
    nest = NestBuilder("sums")
    i = nest.serial("i", SIZE)
    total = nest.let("total", op("add", load(sums, i), load(a, i)))
    nest.store(sums, [i + 1], total[()])
    nest.store(y, [i], total[()])
    return kernel(f"prefix_{memory}", [a, y, sums], [nest.nest()])


def two_nests() -> Kernel:
    """One nest transposes into a local array, the next reads that."""
    a, y = array("A", (6, 4), "uint8", role="in"), array("Y", (4, 6), "uint8", role="out")
    t = array("T", (4, 6), "uint8", "uram", (2, 1))
    first, second = NestBuilder("turn"), NestBuilder("invert", ii=3)
    r, c = first.serial("r", 6), first.serial("c", 2)
    first.store(t, [2 * c + 1, r], load(a, r, 2 * c + 1))
    first.store(t, [2 * c, r], load(a, r, 2 * c))
    c, r = second.serial("c", 4 // 2), second.serial("r", 6)
    lane = Loop("lane", 2)
    inverted = op("sub", const(255, scalar("uint8")), load(t, 2 * c + var("lane"), r))
    second.store(y, [2 * c + var("lane"), r], inverted, [lane])
    return kernel("two_nests", [a, y, t], [first.nest(), second.nest()])


def pushed_back(depth: int) -> Kernel:
    """A quick nest fills a FIFO that a slow one empties now and then."""
    a, y = array("A", (SIZE,), "int8", role="in"), array("Y", (SIZE // 2,), "int16", role="out")
    s = Stream("fifo", (1,), scalar("int8"), depth)
    fill, empty = NestBuilder("fill"), NestBuilder("drain", ii=2)
    i = fill.serial("i", SIZE)
    fill.push(s, load(a, i), [Loop("one", 1)], guard=op("not", equals(i, 0)))
    i, k = empty.serial("i", SIZE // 2), empty.serial("k", 3)
    token = empty.pop("token", s, guard=both(below(k, 2), at_least(2 * i + k, 1)))
    sums = array("sums", (1,), "int16", "register")
    total = empty.accumulate("total", sums, [0], token[0], equals(k, 0))
    empty.store(y, [i], total[()], guard=equals(k, 2))
    return kernel(f"pushed_back_{depth}", [a, y, sums], [fill.nest(), empty.nest()], [s])


def largest(dtype: str, lanes: int) -> Kernel:
    """Running maxima over the rows of a table, floats too; and the tree over a row."""
    a = array("A", (8, lanes), dtype, factors=(1, lanes), role="in")
    y, z = array("Y", (lanes,), dtype, factors=(lanes,), role="out"), array("Z", (8,), dtype, role="out")
    best = array("best", (lanes,), dtype, "register")
    nest = NestBuilder("best_of")
    i = nest.serial("i", 8)
    lane = [Loop("j", lanes)]
    value = nest.accumulate("value", best, [var("j")], load(a, i, var("j")), equals(i, 0), lane, "max")
    nest.store(y, [var("j")], value[var("j")], lane, guard=equals(i, 7))
    nest.store(z, [i], reduce("min", lane, load(a, i, var("j"))))
    return kernel(f"largest_{dtype}", [a, y, z, best], [nest.nest()])


AMOUNTS = ("uint1", "uint3", "uint6")
NARROW = ("int5", "uint3", "int16", "uint9", "int1", "uint1", "int33", "uint64")


def random_kernel(seed: int) -> Kernel:
    """A random expression of integers of odd widths."""
    rng = np.random.default_rng(seed)

    def pick(of):
        return of[int(rng.integers(len(of)))]

    inputs = [array(n, (SIZE,), pick(NARROW), role="in") for n in "ABC"]
    nest = NestBuilder("map")
    i = nest.serial("i", SIZE)
    pool: list[Expr] = [load(a, i) for a in inputs]
    pool.append(const(int(rng.integers(-9, 9)), scalar("int8")))
    flags: list[Expr] = [equals(i, 5), at_least(i, 9)]
    for _ in range(9):
        name = pick(["add", "sub", "mul", "max", "min", "lt", "le", "eq", "select", "cast", "shr", "and", "or", "not",
                     "shrv", "dot3", "lookup"])  # fmt: skip
        dtype = scalar(pick(NARROW))
        if name == "lookup":
            entries = random_array(8, dtype, rng).tolist()
            pool.append(lookup(entries, op("cast", pick(pool), dtype=scalar("uint3")), dtype))
            continue
        info = OPS[name]
        if name in ("and", "or", "not"):
            flags.append(op(name, *(pick(flags) for _ in range(info.arity))))
        elif info.compares:
            flags.append(op(name, pick(pool), pick(pool)))
        elif name == "select":
            pool.append(op(name, pick(flags), pick(pool), pick(pool), dtype=dtype))
        elif name == "shrv":
            pool.append(op(name, pick(pool), op("cast", pick(pool), dtype=scalar(pick(AMOUNTS))), dtype=dtype))
        elif name == "shr":
            pool.append(op(name, pick(pool), Const(int(rng.integers(4)), scalar("uint2")), dtype=dtype))
        else:
            pool.append(op(name, *(pick(pool) for _ in range(info.arity)), dtype=dtype))
    results = [*pool[-3:], flags[-1]]
    outputs = [array(f"Y{k}", (SIZE,), str(r.dtype), role="out") for k, r in enumerate(results)]
    for y, result in zip(outputs, results, strict=True):
        nest.store(y, [i], result)
    return kernel(f"random_{seed}", [*inputs, *outputs], [nest.nest()])


AWKWARD = [
    one_bank(), prefix_sums("lutram"), prefix_sums("bram"), prefix_sums("uram"), two_nests(), pushed_back(1),
    pushed_back(5), largest("int8", 3), largest("uint8", 4), largest("float32", 3), largest("float16", 2),
    *(random_kernel(seed) for seed in range(16)),
]  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = np.random.default_rng(7)
    made = []
    for k in AWKWARD:
        inputs = random_inputs(k, rng)
        made.append(Case(k, inputs, interpret(k, inputs)))
    return made


def test_c_simulation_agrees_with_the_interpreter(cases, tmp_path):
    check_c(cases, tmp_path)


def test_rtl_simulation_agrees_with_the_interpreter(cases, tmp_path):
    check_rtl(cases, tmp_path)


def test_the_interpreter_agrees_with_numpy(cases):
    by_name = {c.kernel.name: c for c in cases}
    prefix = by_name["prefix_bram"]
    assert (prefix.expected["Y"] == np.cumsum(prefix.inputs["A"], dtype=np.int16)).all()
    turned = by_name["two_nests"]
    assert (turned.expected["Y"] == 255 - turned.inputs["A"].T).all()
    pushed = by_name["pushed_back_1"]
    pairs = np.where(np.arange(SIZE) == 0, 0, pushed.inputs["A"].astype(np.int16)).reshape(-1, 2)
    assert (pushed.expected["Y"] == pairs.sum(1)).all()


@pytest.mark.parametrize(
    ("made", "iis"),
    [
        (one_bank(), (2,)),
        (prefix_sums("lutram"), (3,)),  # read 1, add 1, and 1 to store
        (prefix_sums("bram"), (4,)),
        (prefix_sums("uram"), (5,)),
        (two_nests(), (2, 3)),
        (pushed_back(1), (1, 2)),
    ],
)
def test_initiation_intervals(made, iis):
    assert estimate(made).iis == iis


def float_patterns(bits: int) -> np.ndarray:
    """Bit patterns: zeros, subnormals, the edges of normals, infinities, NaN, halfway cases, random ones."""
    rng = np.random.default_rng(bits)
    exponent, fraction = {16: (5, 10), 32: (8, 23)}[bits]
    top = (1 << exponent) - 1
    special = [0, 1, (1 << fraction) - 1, 1 << fraction, (1 << fraction) + 1, (top << fraction) - 1, top << fraction]
    special += [(top << fraction) + 1, ((top >> 1) << fraction), ((top >> 1) << fraction) + 1, (top >> 1) + fraction]
    signed = [s | sign << (bits - 1) for s in special for sign in (0, 1)]
    near = rng.integers((top // 2 - 3) << fraction, (top // 2 + 3) << fraction, 200)
    anything = rng.integers(0, 1 << bits, 200)
    return np.array([*signed, *near, *anything], f"uint{bits}").view(f"float{bits}")


def float_kernel(bits: int, size: int) -> Kernel:
    """All operations of floats on two arrays."""
    dtype = f"float{bits}"
    a, b = (array(n, (size,), dtype, role="in") for n in "AB")
    nest = NestBuilder("map")
    i = nest.serial("i", size)
    names = ["add", "sub", "mul", "max", "min", "lt", "le", "eq"]
    results = [op(n, load(a, i), load(b, i), dtype=BOOL if OPS[n].compares else None) for n in names]
    outputs = [array(f"Y_{n}", (size,), str(r.dtype), role="out") for n, r in zip(names, results, strict=True)]
    for y, r in zip(outputs, results, strict=True):
        nest.store(y, [i], r)
    return kernel(f"floats{bits}", [a, b, *outputs], [nest.nest()])


def test_floating_point_units(tmp_path):
    need("verilator", "g++")
    cases = []
    for bits in (16, 32):
        values = float_patterns(bits)
        rng = np.random.default_rng(0)
        left = np.concatenate([np.repeat(values[:22], 22), *(values for _ in range(3))])
        right = np.concatenate([np.tile(values[:22], 22), *(rng.permutation(values) for _ in range(2)), -values])
        k = float_kernel(bits, len(left))
        expected = {}
        for y in k.role("out"):
            name = y.name.removeprefix("Y_")
            pairs = zip(left.tolist(), right.tolist(), strict=True)
            with np.errstate(invalid="ignore"):
                expected[y.name] = np.array([evaluate(name, [a, b], y.dtype) for a, b in pairs]).astype(y.dtype.numpy())
        cases.append(Case(k, {"A": left, "B": right}, expected))
    run = RtlSimulator([c.kernel for c in cases], tmp_path, "-O0").run(cases)
    for case, outcome in zip(cases, run.outcomes, strict=True):
        for name, expected in case.expected.items():
            np.testing.assert_array_equal(outcome.outputs[name], expected, err_msg=name)
            zeros = (expected == 0) & (expected.dtype.kind == "f")  # which assert_array_equal takes to be equal
            assert (np.signbit(outcome.outputs[name])[zeros] == np.signbit(expected)[zeros]).all(), name


def test_ordinary_sums_and_products_are_those_of_ieee():
    rng = np.random.default_rng(3)
    for dtype in (np.float32, np.float16):
        a, b = rng.standard_normal((2, 500)).astype(dtype)
        t = scalar(np.dtype(dtype).name)
        for name, exact in (("add", a + b), ("mul", a * b), ("sub", a - b)):
            found = [evaluate(name, [x, y], t) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
            ordinary = np.abs(exact) >= np.finfo(dtype).tiny
            assert (np.array(found, dtype)[ordinary] == exact[ordinary]).all()


def test_the_same_bits_as_a_number_of_the_other_kind():
    values = float_patterns(32)
    values = values[~np.isnan(values)]
    assert [float_bits(v) for v in values.tolist()] == values.view(np.int32).tolist()
    assert [bits_float(b) for b in values.view(np.int32).tolist()] == values.tolist()
    assert evaluate("float_bits", [1.0], INT32) == 127 << 23
    assert evaluate("bits_float", [-(1 << 31)], FLOAT32) == 0.0


@pytest.mark.parametrize("simulator", [CSimulator, RtlSimulator])
def test_simulators_fail_on_any_number_of_mismatches(simulator, tmp_path):
    need("verilator", "g++")
    need_headers()
    a, y = array("A", (300,), "int8", role="in"), array("Y", (300,), "int8", factors=(2,), role="out")
    nest = NestBuilder("copy")
    i = nest.serial("i", 150)
    nest.store(y, [2 * i], load(a, 2 * i))
    nest.store(y, [2 * i + 1], load(a, 2 * i + 1))
    k = kernel("copy_all", [a, y], [nest.nest()])
    data = np.arange(300).astype(np.int8)
    made = simulator([k], tmp_path, "-O0")
    for planted in (0, 1, 255, 256, 300):
        wrong = np.where(np.arange(300) < planted, data + 1, data).astype(np.int8)
        run = made.run([Case(k, {"A": data}, {"Y": wrong})])
        program = "csim" if simulator is CSimulator else "simulator"
        status = subprocess.run([tmp_path / program, tmp_path], capture_output=True).returncode
        assert (run.outcomes[0].mismatches, run.failed, status) == (planted, planted != 0, int(planted != 0))
        assert (run.outcomes[0].outputs["Y"] == data).all()


def test_a_bug_planted_in_the_verilog_is_found(tmp_path, monkeypatch):
    need("verilator", "g++")
    from kompilo.targets.fpga.sim import rtl

    k = prefix_sums("lutram")
    emit = rtl.emit_verilog
    monkeypatch.setattr(rtl, "emit_verilog", lambda *a: replace(d := emit(*a), text=d.text.replace(" + n", " - n", 1)))
    inputs = random_inputs(k, np.random.default_rng(0))
    run = RtlSimulator([k], tmp_path, "-O0").run([Case(k, inputs, interpret(k, inputs))])
    assert run.failed
    assert run.outcomes[0].mismatches > 0


def test_a_kernel_that_hangs_is_told_of(tmp_path):
    need("verilator", "g++")
    a, y = array("A", (4,), "int8", role="in"), array("Y", (4,), "int8", role="out")
    s = Stream("s", (1,), scalar("int8"), 2)
    fill, drain = NestBuilder("fill"), NestBuilder("drain")
    i = fill.serial("i", 4)
    fill.push(s, load(a, i), [Loop("one", 1)], guard=below(i, 3))  # one token too few
    i = drain.serial("i", 4)
    drain.store(y, [i], drain.pop("token", s)[0])
    k = kernel("starved", [a, y], [fill.nest(), drain.nest()], [s])
    with pytest.raises(KompiloError, match=r"expected nests that finish, found \['drain'\] waiting"):
        estimate(k)


def test_resource_rules():
    assert [bram18_of(*x) for x in ((8, 2048), (8, 2049), (32, 512), (36, 513), (1, 16384), (72, 512))] == [
        1, 2, 1, 2, 1, 2,
    ]  # fmt: skip
    widths = ((8, 8), (4, 4), (25, 25), (27, 18), (28, 18), (32, 32))
    assert [product_dsps(*w, DSP48E2) for w in widths] == [1, 0, 2, 1, 2, 4]
    assert product_dsps(27, 24, DSP58) == 1


def store_of(value_dtype="int8", **changes) -> Kernel:
    a, y = array("A", (4,), "int8", role="in"), array("Y", (4,), value_dtype, role="out")
    nest = NestBuilder("copy")
    i = nest.serial("i", changes.get("extent", 4))
    nest.store(y, [i], changes["value"](a, i) if "value" in changes else load(a, i))
    return kernel(changes.get("name", "k"), [a, y], [nest.nest()])


def look(entries):
    return lambda a, i: lookup(entries, op("cast", load(a, i), dtype=scalar("uint3")), a.dtype)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: store_of(extent=5), r"copy, statement 0 \(Store\): expected indices of A in 0..3, found i in 0..4"),
        (lambda: store_of("int16"), "expected int16, found int8"),
        (lambda: store_of(name="reg"), "expected a plain name, found 'reg'"),
        (lambda: store_of(value=lambda a, i: op("add", load(a, i), const(1.0, scalar("float32")))), "one kind for add"),
        (lambda: store_of(value=lambda a, i: load(a, i + var("q"))), r"variables of loops around, found \['q'\]"),
        (lambda: store_of("bfloat16"), "expected int1 to int64, uint1 to uint64, float16 or float32, found 'bfloat16'"),
        (lambda: store_of(value=lambda a, i: op("shrv", load(a, i), load(a, i))), "by uint1 to uint6, found int8"),
        (lambda: store_of(value=look([0] * 7)), "a table of 8 entries, found 7"),
        (lambda: store_of(value=look([128] * 8)), "a table of int8, found 128..128"),
        (lambda: store_of(value=lambda a, i: op("bits_float", load(a, i), dtype=FLOAT32)), "from int32 to float32"),
        (lambda: kernel("k", [array("A", (4,), "int8", "flash")], []), "memory of register, lutram, bram, uram"),
        (lambda: kernel("k", [array("A", (4,), "int8", "register", (2,))], []), "a bank for each register"),
        (lambda: kernel("k", [], []), "expected at least one nest"),
    ],
)  # fmt: skip
def test_errors_name_what_is_wrong(make, message):
    with pytest.raises(KompiloError, match=message):
        make()


def test_unsound_accesses_are_refused():
    a, y = array("A", (8,), "int8", factors=(2,), role="in"), array("Y", (8,), "int8", role="out")
    nest = NestBuilder("n")
    i = nest.serial("i", 8)
    nest.store(y, [i], load(a, i))
    with pytest.raises(KompiloError, match=r"one bank of A by factors \(2,\), found A\[i\] in several"):
        kernel("k", [a, y], [nest.nest()])
    nest = NestBuilder("n")
    i = nest.serial("i", 8)
    nest.store(y, [i], const(1, scalar("int8")))
    nest.store(y, [i], nest.let("old", load(y, i))[()])
    with pytest.raises(KompiloError, match="expected loads of Y before the stores to it"):
        kernel("k", [y], [nest.nest()])
    sums = array("sums", (4,), "int32", "register")
    nest = NestBuilder("n")
    j, k = nest.serial("j", 4), nest.serial("k", 8)
    total = nest.accumulate("total", sums, [j], load(y, k), equals(k, 0))
    nest.store(y, [j], op("cast", total[()], dtype=scalar("int8")))
    with pytest.raises(KompiloError, match=r"accumulator sums: expected its loops inside .*, found \['j'\] outside"):
        kernel("k", [y, sums], [nest.nest()])


def test_inputs_that_do_not_fit():
    k = store_of()
    with pytest.raises(KompiloError, match=r"kernel k, input A: expected int8\[4\], found int16\[4\]"):
        interpret(k, {"A": np.zeros(4, np.int16)})
    with pytest.raises(KompiloError, match=r"kernel k, array A: expected int8\[4\], found nothing"):
        check_arrays(Case(k, {}))


def test_a_missing_tool_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="fpga: verilator is not installed. Hint: install .* package verilator"):
        RtlSimulator([store_of()], tmp_path)
