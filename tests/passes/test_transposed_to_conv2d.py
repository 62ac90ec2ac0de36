"""TransposedToConv2d: strides, paddings, dilation, groups, open sizes; and what stays."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, tirx

from kompilo.compiler.passes.pipeline import run_phases
from kompilo.compiler.passes.transposed_to_conv2d import TransposedToConv2d
from kompilo.compiler.schedule.selection import Selector
from kompilo.targets.cpu.target import CpuTarget
from kompilo.targets.cuda.target import CudaTarget

from support import apply, build, check, f32, ops, random

op = relax.op
GPU = TransposedToConv2d(Selector(CudaTarget.from_preset("sm_80")))
n = tirx.Var("n", "int64")

CASES = {
    "twice": ((4, 6, 4, 4), {"strides": 2, "padding": 1}),
    "without overlap": ((4, 6, 2, 2), {"strides": 2}),
    "odd": ((4, 5, 3, 3), {"strides": 2, "padding": (1, 0, 0, 1), "output_padding": 1}),
    "stride 1": ((4, 6, 3, 3), {"padding": 1}),
    "two strides": ((4, 6, 5, 2), {"strides": (3, 1)}),
    "kernel below the stride": ((4, 3, 1, 2), {"strides": (2, 3)}),
    "dilated": ((4, 6, 3, 2), {"strides": 2, "dilation": (2, 3), "padding": (2, 1, 1, 0)}),
    "grouped": ((4, 3, 4, 3), {"strides": 2, "groups": 2, "padding": 1}),
    "depthwise": ((4, 1, 4, 4), {"strides": 2, "groups": 4, "padding": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_rewritten(name):
    shape, options = CASES[name]
    mod = build([f32(2, 4, 5, 6)], lambda x: op.nn.conv2d_transpose(x, random(0, *shape), **options))
    found = ops(check(mod, GPU))
    assert found[:4] == ["nn.conv2d", "reshape", "permute_dims", "reshape"]


def test_open_sizes():
    mod = build([f32(n, 4, n, 6)], lambda x: op.nn.conv2d_transpose(x, random(0, 4, 6, 2, 2), strides=2))
    assert "nn.conv2d" in ops(check(mod, GPU, sizes={"n": 3}))
    mod = build([f32(n, 4, n, 6)], lambda x: op.nn.conv2d_transpose(x, random(0, 4, 6, 4, 4), strides=2, padding=1))
    assert ops(apply(mod, GPU)) == ["nn.conv2d_transpose"], "slices of open sizes are no good"
    mod = build([f32(n, 4, 5, 6)], lambda x: op.nn.conv2d_transpose(x, random(0, 4, 6, 4, 4), strides=2, padding=1))
    assert "nn.conv2d" in ops(check(mod, GPU, sizes={"n": 3}))


KEPT = {
    "weights from outside": build([f32(1, 4, 5, 5), f32(4, 6, 2, 2)], op.nn.conv2d_transpose),
    "cropped by more than the kernel": build(
        [f32(1, 4, 5, 5)], lambda x: op.nn.conv2d_transpose(x, random(0, 4, 6, 2, 2), strides=2, padding=2)
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept(name):
    assert ops(apply(KEPT[name], GPU)) == ["nn.conv2d_transpose"]


def test_a_target_with_a_template_keeps_them():
    mod = build([f32(1, 4, 5, 5)], lambda x: op.nn.conv2d_transpose(x, random(0, 4, 6, 4, 4), strides=2))
    assert ops(apply(mod, TransposedToConv2d(Selector(CpuTarget.from_preset("znver4"))))) == ["nn.conv2d_transpose"]


def test_gpus_run_it_as_a_matrix_product():
    mod = build(
        [f32(1, 32, 14, 14)], lambda x: op.nn.relu(op.nn.conv2d_transpose(x, random(0, 32, 16, 4, 4), strides=2))
    )
    target = CudaTarget.from_preset("sm_80")
    done = run_phases(mod, target, stop_after="legalize", selector=Selector(target, precision="fp16"))
    names = [f.attrs.get("kompilo.template") for f in done.functions.values() if isinstance(f, tirx.PrimFunc)]
    assert [str(x) for x in names if x is not None] == ["conv2d_tensor_core"]


pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=8, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    strides=pair,
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*(st.integers(0, 2) for _ in range(4))),
    more=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_any(kernel, strides, dilation, padding, more):
    more = tuple(min(m, s - 1) for m, s in zip(more, strides, strict=True))
    sizes = [
        (4 - 1) * s - padding[a] - padding[a + 2] + d * (k - 1) + m + 1
        for a, (k, s, d, m) in enumerate(zip(kernel, strides, dilation, more, strict=True))
    ]
    if min(sizes) < 1:
        return
    options = {"strides": strides, "dilation": dilation, "padding": padding, "output_padding": more}
    weight = random(0, 2, 3, *kernel)
    mod = build([f32(1, 2, 4, 4)], lambda x: op.nn.conv2d_transpose(x, weight, **options))
    check(mod, GPU)
