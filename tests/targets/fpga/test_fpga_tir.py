"""Scheduled TIR as FPGA kernels: against numpy, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import s_tir, te, tirx

from kompilo.compiler.errors import KompiloError
from kompilo.targets.fpga.kernel.from_tir import kernel_of_tir
from kompilo.targets.fpga.kernel.interpret import interpret
from kompilo.targets.fpga.kernel.ir import Kernel
from kompilo.targets.fpga.kernel.model import estimate
from kompilo.targets.fpga.sim.case import Case

from fpga_cases import check_c, check_rtl, random_inputs


def schedule(*tensors) -> s_tir.Schedule:
    return s_tir.Schedule(tvm.IRModule({"main": te.create_prim_func(list(tensors))}))


def gemm(m: int, n: int, k: int, lanes: int, terms: int):
    """int8; a predicate where lanes do not divide the sizes."""
    a, b = te.placeholder((m, k), "int8", "A"), te.placeholder((k, n), "int8", "B")
    axis = te.reduce_axis((0, k), "k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, axis].astype("int32") * b[axis, j].astype("int32"), axis=axis), "C")
    sch = schedule(a, b, c)
    i, j, kk = sch.get_loops(sch.get_sblock("C"))
    (jo, ji), (ko, ki) = sch.split(j, [None, lanes]), sch.split(kk, [None, terms])
    sch.reorder(i, jo, ko, ji, ki)
    sch.unroll(ji)
    sch.unroll(ki)
    return sch.mod["main"], lambda x: {"p_C": x["p_A"].astype(np.int32) @ x["p_B"].astype(np.int32)}


def gemm_float(m: int, n: int, k: int, between: int, lanes: int):
    """float32, with sums interleaved inside of the reduction."""
    a, b = te.placeholder((m, k), "float32", "A"), te.placeholder((k, n), "float32", "B")
    axis = te.reduce_axis((0, k), "k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, axis] * b[axis, j], axis=axis), "C")
    sch = schedule(a, b, c)
    i, j, kk = sch.get_loops(sch.get_sblock("C"))
    jo, ji, ju = sch.split(j, [None, between, lanes])
    sch.reorder(i, jo, kk, ji, ju)
    sch.vectorize(ju)

    def reference(x):
        total = np.zeros((m, n), np.float32)
        for q in range(k):
            total = total + x["p_A"][:, q : q + 1] * x["p_B"][q : q + 1]
        return {"p_C": total}

    return sch.mod["main"], reference


def conv(h: int, w: int, ci: int, co: int):
    """3x3 int8 on a padded picture, two reduction loops unrolled."""
    x, k = te.placeholder((h + 2, w + 2, ci), "int8", "X"), te.placeholder((3, 3, ci, co), "int8", "W")
    r, s, c = (te.reduce_axis((0, n)) for n in (3, 3, ci))
    y = te.compute(
        (h, w, co),
        lambda i, j, o: te.sum(x[i + r, j + s, c].astype("int32") * k[r, s, c, o].astype("int32"), axis=[r, s, c]),
        "Y",
    )
    sch = schedule(x, k, y)
    loops = sch.get_loops(sch.get_sblock("Y"))
    sch.unroll(loops[2])
    sch.unroll(loops[5])

    def reference(given):
        total = np.zeros((h, w, co), np.int32)
        for i in range(3):
            for j in range(3):
                piece = given["p_X"][i : i + h, j : j + w].astype(np.int32)
                total += piece @ given["p_W"][i, j].astype(np.int32)
        return {"p_Y": total}

    return sch.mod["main"], reference


def row_maxima():
    a = te.placeholder((5, 12), "int16", "A")
    k = te.reduce_axis((0, 12))
    y = te.compute((5,), lambda i: te.max(a[i, k], axis=k), "Y")
    sch = schedule(a, y)
    _, kk = sch.get_loops(sch.get_sblock("Y"))
    sch.unroll(sch.split(kk, [None, 3])[1])
    return sch.mod["main"], lambda x: {"p_Y": x["p_A"].max(1)}


def two_blocks():
    """A temporary between two nests, selects, comparisons of indices."""
    a = te.placeholder((20,), "int32", "A")
    t = te.compute((20,), lambda i: te.max(a[i] + 3, tirx.const(0, "int32")), "T")
    y = te.compute((20,), lambda i: tirx.Select(tirx.any(i < 4, i == 9), t[i] - a[19 - i], t[i] * 2), "Y")
    sch = schedule(a, y)
    sch.unroll(sch.split(sch.get_loops(sch.get_sblock("T"))[0], [None, 4])[1])

    def reference(x):
        rows = np.arange(20)
        first = np.maximum(x["p_A"] + 3, 0)
        return {"p_Y": np.where((rows < 4) | (rows == 9), first - x["p_A"][::-1], first * 2)}

    return sch.mod["main"], reference


MADE = {
    "gemm": gemm(4, 8, 8, 4, 2),
    "gemm_odd": gemm(3, 7, 5, 4, 2),
    "gemm_float": gemm_float(2, 24, 7, 6, 2),
    "gemm_waits": gemm_float(2, 4, 5, 2, 2),
    "conv": conv(4, 5, 3, 2),
    "row_maxima": row_maxima(),
    "two_blocks": two_blocks(),
}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = np.random.default_rng(5)
    made = []
    for name, (func, reference) in MADE.items():
        k = kernel_of_tir(func, name)
        inputs = random_inputs(k, rng)
        with np.errstate(over="ignore"):
            made.append(Case(k, inputs, reference(inputs)))
    return made


def test_against_numpy(cases, tmp_path):
    for case in cases:
        for name, found in interpret(case.kernel, case.inputs).items():
            np.testing.assert_array_equal(found, case.expected[name], err_msg=case.kernel.name)
    check_c(cases, tmp_path)


def test_rtl(cases, tmp_path):
    check_rtl(cases, tmp_path)


def made(name: str) -> Kernel:
    return kernel_of_tir(MADE[name][0], name)


def test_what_the_schedule_decides():
    assert estimate(made("gemm")).iis == (1,)
    assert {a.name: a.factors for a in made("gemm").arrays if a.role != "local"} == {
        "p_A": (1, 2), "p_B": (2, 4), "p_C": (1, 4),
    }  # fmt: skip
    assert estimate(made("gemm_float")).iis == (1,)
    assert estimate(made("gemm_waits")).iis == (3,)  # two sums for an adder of five cycles


def refused(change) -> tirx.PrimFunc:
    a = te.placeholder((8, 8), "float32", "A")
    k = te.reduce_axis((0, 8), "k")
    shapes = {
        "float64": lambda: te.compute((8, 8), lambda i, j: a[i, j].astype("float64"), "Y"),
        "exp": lambda: te.compute((8, 8), lambda i, j: te.exp(a[i, j]), "Y"),
        "square": lambda: te.compute((2, 2), lambda i, j: a[i * j, j], "Y"),
        "sum": lambda: te.compute((8,), lambda i: te.sum(a[i, k], axis=k), "Y"),
    }
    sch = schedule(a, shapes.get(change, shapes["sum"])())
    loops = sch.get_loops(sch.get_sblock("Y"))
    if change == "parallel":
        sch.parallel(loops[0])
    if change == "apart":
        ko, ki = sch.split(loops[1], [2, 4])
        sch.reorder(ko, loops[0], ki)
    return sch.mod["main"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("float64", "float16 or float32, found 'float64'"),
        ("exp", "exp"),
        ("square", "expected indices affine in the loops"),
        ("parallel", "expected serial, unrolled or vectorized loops, found PARALLEL"),
        ("apart", "expected the loops of a reduction to stand together"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(KompiloError, match=message):
        kernel_of_tir(refused(change))
