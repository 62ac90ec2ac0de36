"""Generic kernels against numpy: maps, broadcasts, transposes, reductions, chains, and what no rule knows."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
import tvm
from onnx import helper
from tvm import te, tirx, topi
from tvm.script import tirx as T

from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.passes.pipeline import run_phases
from kompilo.compiler.schedule.selection import Selector
from kompilo.targets.gpu.generic.fallback import schedule_anything
from kompilo.targets.gpu.legalize import first_position
from kompilo.targets.gpu.lowering import lowering_context, split
from kompilo.targets.gpu.target import gpu_module

from gpu.cuda import run_cuda
from gpu.cuda_shim import Options
from gpu.opencl import run_opencl
from gpu.shim_support import needs_shim
from gpu_support import TARGET, compute, needs_opencl, relative_error, run_rule, softmax
from op_test import floats, i64, ints, make_model, reference_outputs

n = tirx.Var("n", "int64")


def mean_of_squares(axis):
    return lambda x: topi.sum(topi.multiply(x, x), axis=axis)


def sum_as_column(x):
    """Sums of rows, with an axis of length 1 in place of what is summed."""
    zero, one = (tirx.const(value, "int64") for value in (0, 1))
    k = te.reduce_axis((zero, x.shape[-1]), "k")
    return te.compute((*x.shape[:-1], one), lambda *at: te.sum(x[(*at[:-1], k)], axis=k))


# name: expression, shapes, the same in numpy, the rule that takes it
CASES = {
    "relu": (topi.nn.relu, [(64, 100)], lambda x: np.maximum(x, 0), "map"),
    "bias": (topi.add, [(64, 100), (100,)], np.add, "map"),
    "odd": (topi.add, [(7, 13), (13,)], np.add, "map"),
    "column": (topi.multiply, [(33, 24), (33, 1)], np.multiply, "map"),
    "scalar": (topi.add, [(), ()], np.add, "fallback"),
    "dynamic": (lambda x, y: topi.add(x, topi.exp(y)), [(n,), (n,)], lambda x, y: x + np.exp(y), "map"),
    "dynamic_rows": (topi.add, [(n, 100), (100,)], np.add, "map"),
    "tanh": (topi.tanh, [(1000,)], np.tanh, "map"),
    "erf": (topi.erf, [(100,)], None, "map"),
    "transpose": (lambda x: topi.transpose(x, (0, 2, 1)), [(3, 70, 50)], lambda x: x.transpose(0, 2, 1), "map"),
    "transpose_add": (
        lambda x, y: topi.add(topi.transpose(x, (1, 0)), y), [(70, 64), (64, 70)], lambda x, y: x.T + y, "map",
    ),
    "dynamic_transpose": (lambda x: topi.transpose(x, (1, 0)), [(n, 40)], lambda x: x.T, "map"),
    "heads": (lambda x: topi.transpose(x, (0, 2, 1, 3)), [(2, 9, 4, 32)], lambda x: x.transpose(0, 2, 1, 3), "map"),
    "concat": (
        lambda *x: topi.concatenate(x, axis=1), [(9, 100), (9, 28)], lambda *x: np.concatenate(x, 1), "map",
    ),
    "pad": (lambda x: topi.nn.pad(x, [0, 1], [2, 1]), [(6, 9)], lambda x: np.pad(x, ((0, 2), (1, 1))), "map"),
    "slice": (lambda x: topi.strided_slice(x, [1, 3], [8, 9], [2, 1]), [(9, 12)], lambda x: x[1:8:2, 3:9], "map"),
    "sum": (lambda x: topi.sum(x), [(1000,)], np.sum, "reduction"),
    "rows": (lambda x: topi.sum(x, axis=1), [(37, 384)], lambda x: x.sum(1), "reduction"),
    "short_rows": (lambda x: topi.sum(x, axis=1), [(300, 5)], lambda x: x.sum(1), "reduction"),
    "dynamic_sum": (lambda x: topi.sum(x, axis=1), [(n, 100)], lambda x: x.sum(1), "reduction"),
    "dynamic_length": (lambda x: topi.sum(x, axis=1), [(5, n)], lambda x: x.sum(1), "reduction"),
    "pixels": (mean_of_squares((1, 2)), [(2, 7, 7, 96)], lambda x: (x * x).sum((1, 2)), "reduction"),
    "means_as_columns": (
        lambda x: topi.subtract(x, topi.tanh(sum_as_column(x))), [(3, 1, 132)],
        lambda x: x - np.tanh(x.sum(2, keepdims=True)), "reduction",
    ),
    "columns": (lambda x: topi.sum(x, axis=0), [(77, 50)], lambda x: x.sum(0), "reduction"),
    "softmax": (topi.nn.softmax, [(19, 1000)], softmax, "chain"),
    "short_softmax": (topi.nn.softmax, [(50, 10)], softmax, "chain"),
    "long_softmax": (topi.nn.softmax, [(2, 40000)], softmax, "chain"),
    "dynamic_softmax": (topi.nn.softmax, [(3, n)], softmax, "chain"),
    "softmax_columns": (
        lambda x: topi.nn.softmax(x, axis=0), [(40, 33)], lambda x: softmax(x.T).T, "chain",
    ),
    "rows_of_vectors": (mean_of_squares((1,)), [(5, 4224)], lambda x: (x * x).sum(1), "reduction"),
    "rows_for_shared_memory": (topi.nn.softmax, [(3, 1028)], softmax, "chain"),
    "split_sum": (lambda x: topi.sum(x), [(300, 1000)], np.sum, "reduction"),
    "split_columns": (lambda x: topi.sum(x, axis=0), [(6000, 40)], lambda x: x.sum(0), "reduction"),
    "split_maximum": (lambda x: topi.max(x, axis=1), [(2, 131072)], lambda x: x.max(1), "reduction"),
    "split_softmax": (topi.nn.softmax, [(2, 131072)], softmax, "chain"),
    "argmax": (
        lambda x: first_position(x, 1, keepdims=False, largest=True).astype("float32"),
        [(7, 1000)], lambda x: x.argmax(1), "chain",
    ),
    "argmin_columns": (
        lambda x: first_position(x, 0, keepdims=True, largest=False).astype("float32"),
        [(40, 33)], lambda x: x.argmin(0)[None], "chain",
    ),
    "gemv": (topi.matmul, [(1, 300), (300, 70)], np.matmul, "reduction"),
}  # fmt: skip


@needs_opencl
@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    build, shapes, reference, rule = CASES[name]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal([37 if d is n else d for d in s]).astype("f4") for s in shapes]
    if reference is None:
        from math import erf

        reference = np.vectorize(erf)
    want = np.asarray(reference(*(x.astype("f8") for x in inputs)))
    found, applied = run_rule(compute(build, *shapes), inputs, np.full(want.shape, np.nan, "f4"))
    assert applied == rule
    assert relative_error(found, want) < 3e-6


@T.prim_func(private=True, s_tir=True)
def running_sum(x: T.Buffer((T.int64(4), T.int64(30)), "float32"), y: T.Buffer((T.int64(4), T.int64(30)), "float32")):
    with T.sblock("scan"):
        T.reads(x[0:4, 0:30])
        T.writes(y[0:4, 0:30])
        for i in T.parallel(T.int64(4)):
            y[i, 0] = x[i, 0]
            for j in T.serial(T.int64(29)):
                y[i, j + 1] = y[i, j] + x[i, j + 1]


@needs_opencl
def test_what_no_rule_knows_runs_in_one_thread():
    x = np.random.default_rng(0).standard_normal((4, 30)).astype("f4")
    found, rule = run_rule(running_sum, [x], np.full_like(x, np.nan))
    assert rule == "fallback"
    np.testing.assert_allclose(found, np.cumsum(x, 1), rtol=1e-5, atol=1e-6)


@needs_opencl
def test_layer_norm_keeps_a_row_in_registers():
    def build(x, gamma):
        mean = te.compute(x.shape[:1], lambda i: topi_sum(x, i) / 384.0, name="mean")
        centred = te.compute(x.shape, lambda i, j: x[i, j] - mean[i], name="centred")
        square = te.compute(x.shape, lambda i, j: tirx.exp(centred[i, j]) * centred[i, j], name="square")
        total = topi.sum(square, axis=1)
        return te.compute(x.shape, lambda i, j: square[i, j] / total[i] * gamma[j], name="out")

    def topi_sum(x, i):
        return topi.sum(x, axis=1)[i]

    rng = np.random.default_rng(0)
    x, gamma = rng.standard_normal((21, 384)).astype("f4"), rng.standard_normal(384).astype("f4")
    centred = x.astype("f8") - x.mean(1, keepdims=True, dtype="f8")
    square = np.exp(centred) * centred
    want = square / square.sum(1, keepdims=True) * gamma
    found, rule = run_rule(compute(build, (21, 384), (384,)), [x, gamma], np.full(want.shape, np.nan, "f4"))
    assert rule == "chain"
    assert relative_error(found, want) < 3e-6


def kernels(build, *shapes, dtype="float32"):
    """The CUDA C++ of what the rules make, and the number of kernels."""
    scheduled, _ = TARGET.schedule(compute(build, *shapes, dtype=dtype).with_attr("global_symbol", "main"))
    device = split(gpu_module(tvm.IRModule({"main": scheduled}), TARGET), TARGET.tvm_target()).device
    return TARGET.source(device).split('extern "C"', 1)[1], len(device.functions)


def half_softmax(x):
    return topi.cast(topi.nn.softmax(topi.cast(x, "float32")), "float16")


def test_a_row_is_read_once_by_vectors():
    """float16: 1024 elements, 32 threads, four vectors of eight each."""
    source, count = kernels(half_softmax, (4096, 1024), dtype="float16")
    assert count == 1
    assert source.count("*(uint4*)(kept_ptr") == 4
    assert source.count("*(uint4*)(x0_flat_ptr") == 4
    assert len(re.findall(r"\*\(uint4\*\)\(compute_flat_ptr", source)) == 4
    assert not re.search(r"\(float\)x0_flat_ptr\[", source)


def test_a_row_that_takes_all_registers_is_read_once():
    """1024 threads of 64 registers: exponentials take the place of the 32 numbers that they are of."""
    source, count = kernels(topi.nn.softmax, (1024, 32768))
    assert count == 1
    assert source.count("*(float4*)(x0_flat_ptr") == 8
    # Two rows are more than there is room for.
    source, _ = kernels(lambda x, y: topi.nn.softmax(topi.add(x, y)), (1024, 32768), (1024, 32768))
    assert [source.count(f"*(float4*)({x}_flat_ptr") for x in ("x0", "x1")] == [8, 16]


def half_centred(x):
    """Means as float16 models have them: of float32, kept as an axis of length 1."""
    means = topi.divide(sum_as_column(topi.cast(x, "float32")), 768.0)
    return topi.subtract(x, topi.cast(means, "float16"))


def test_what_is_kept_of_a_row_as_an_axis_of_length_one_stays_in_its_kernel():
    for shape in ((64, 768), (4, 1, 16, 768)):
        source, count = kernels(half_centred, shape, dtype="float16")
        assert count == 1
        assert source.count("*(uint4*)(x0_flat_ptr") == 1


def test_few_rows_are_split_over_the_gpu():
    source, count = kernels(lambda x: topi.sum(x), (4096, 4096))
    assert count == 2
    assert source.count("float4*)(x0_flat_ptr") == 4
    assert kernels(lambda x: topi.sum(x, axis=1), (4096, 4096))[1] == 1
    assert kernels(lambda x: topi.sum(x, axis=1), (2, 1000))[1] == 1
    assert kernels(lambda x: first_position(x, 1, keepdims=True, largest=True), (64, 1000))[1] == 1


@needs_shim
def test_float16_rows():
    rng = np.random.default_rng(0)
    for length in (8, 72, 1000, 2056):
        x = rng.standard_normal((5, length)).astype("f2")
        func = compute(half_softmax, x.shape, dtype="float16").with_attr("global_symbol", "main")
        mod = gpu_module(tvm.IRModule({"main": TARGET.schedule(func)[0]}), TARGET)
        with lowering_context():
            found = run_cuda(mod, [x, np.full_like(x, np.nan)], options=Options(races=True))[-1]
        assert relative_error(found, softmax(x.astype("f8"))) < 1e-3


FALLBACKS = {
    "CumSum": ([floats(5, 40), np.int64(1)], {}, (1,), 1),
    "TopK": ([floats(6, 30), i64(4)], {}, (1,), 2),
    "ScatterND": ([floats(5, 7), i64(3, 1).reshape(2, 1), floats(2, 7)], {}, (), 1),
    "ScatterElements": ([floats(5, 7), ints(2, 7, low=0, high=5), floats(2, 7)], {"reduction": "add"}, (), 1),
}
KERNELS = {"CumSum": 1, "TopK": 1, "ScatterND": 2, "ScatterElements": 2}


@needs_opencl
@pytest.mark.parametrize("name", FALLBACKS)
def test_rows_of_written_loops_are_shared_out(name):
    """What the frontend writes as loops, a thread for each row; several updates of one element in turn."""
    inputs, attrs, const, outputs = FALLBACKS[name]
    names = [f"x{k}" for k in range(len(inputs))]
    results = [f"y{k}" for k in range(outputs)]
    model = make_model(
        [helper.make_node(name, names, results, **attrs)],
        dict(zip(names, inputs, strict=True)),
        results,
        const=[names[k] for k in const],
    )
    done = run_phases(import_model(model, None).mod, TARGET, stop_after="legalize", selector=Selector(TARGET))
    (func,) = [f for f in done.functions.values() if isinstance(f, tirx.PrimFunc)]
    scheduled, rule = TARGET.schedule(func.with_attr("global_symbol", "main"))
    assert rule == "fallback"
    given = [x for k, x in enumerate(inputs) if k not in const]
    feeds = {n: x for k, (n, x) in enumerate(zip(names, inputs, strict=True)) if k not in const}
    wanted = reference_outputs(model, feeds)
    outs = [np.full_like(w, -7) for w in wanted]
    mod = gpu_module(tvm.IRModule({"main": scheduled}), TARGET)
    assert len(split(mod, TARGET.tvm_target()).device.functions) == KERNELS[name]
    with lowering_context():
        found = run_opencl(mod, [*given, *outs])
    for got, want in zip(found[len(given) :], wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_tiles_of_a_kernel_fit_static_shared_memory():
    """48 KiB, which is all that code may ask for by declaring it: 11 tiles of float32, or 5 of float64."""

    def sums(*x):
        return functools.reduce(topi.add, [topi.transpose(v, (1, 0)) for v in x])

    for dtype, most in (("float32", 11), ("float64", 5), ("float16", 23)):
        for inputs, tiles in ((most, most), (most + 1, 0)):
            source, count = kernels(sums, *[(64, 96)] * inputs, dtype=dtype)
            assert count == 1
            assert len(re.findall(r"__shared__ .*tile\d+\w*\[1056\]", source)) == tiles


def test_nothing_is_launched_for_tensors_of_no_elements():
    func = compute(topi.exp, (0, 30)).with_attr("global_symbol", "main")
    for scheduled in (TARGET.schedule(func)[0], schedule_anything(func, TARGET.spec)):
        parts = split(gpu_module(tvm.IRModule({"main": scheduled}), TARGET), TARGET.tvm_target())
        assert parts.kernels == ()
