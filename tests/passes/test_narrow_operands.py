"""NarrowOperands: 16-bit operands reach anchors as they are where the target takes them, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from kompilo.compiler.passes.anchors import op_name
from kompilo.compiler.passes.fuse_anchors import GraphUses, find_group
from kompilo.compiler.passes.narrow_operands import NarrowOperands
from kompilo.compiler.schedule.selection import Selector
from kompilo.targets.cpu.target import CpuTarget
from kompilo.targets.cuda.target import CudaTarget

from support import apply, build, check, const, ops

op = relax.op
GPU = Selector(CudaTarget.from_preset("sm_80"))
NUMBERS = np.random.default_rng(0).standard_normal((32, 24)).astype("float16")


def wide(x):
    return op.astype(x, "float32")


def matmul(x, y=None, move=lambda v: v):
    right = wide(y) if y is not None else const(NUMBERS)
    return op.astype(op.matmul(move(wide(x)), right), "float16")


def half(*dims):
    return dims, "float16"


NARROWED = {
    "constant weight": build([half(16, 32)], lambda x: matmul(x)),
    "cast of a weight": build([half(16, 32)], lambda x: matmul(x, const(NUMBERS, "float16"))),
    "both from outside": build([half(16, 32), half(32, 24)], lambda x, y: matmul(x, y)),
    "behind a permutation": build([half(32, 16)], lambda x: matmul(x, move=lambda v: op.permute_dims(v, (1, 0)))),
    "behind a reshape": build([half(4, 4, 32)], lambda x: matmul(x, move=lambda v: op.reshape(v, (16, 32)))),
}


@pytest.mark.parametrize("name", NARROWED)
def test_narrowed(name):
    changed = check(NARROWED[name], NarrowOperands(GPU))
    (call,) = [b.value for b in GraphUses(changed["main"]).bindings if op_name(b.value) == "matmul"]
    assert [str(x.ty.dtype) for x in call.args] == ["float16", "float16"]
    assert str(call.ty.dtype) == "float32"
    assert ops(changed).count("astype") == 1


@pytest.mark.parametrize("weight", [const(np.zeros((8, 16, 3, 3))), wide(const(np.zeros((8, 16, 3, 3)), "float16"))])
def test_convolution(weight):
    layouts = {"data_layout": "NHWC", "kernel_layout": "OIHW", "out_layout": "NHWC"}
    mod = build([half(1, 6, 6, 16)], lambda x: op.astype(op.nn.conv2d(wide(x), weight, **layouts), "float16"))
    assert ops(apply(mod, NarrowOperands(GPU))) == ["nn.conv2d", "astype"]


KEPT = {
    "a target that multiplies float32": (NARROWED["constant weight"], Selector(CpuTarget.from_preset("znver4"))),
    "a weight that float16 cannot hold": (
        build([half(16, 32)], lambda x: op.astype(op.matmul(wide(x), const(np.full((32, 24), 0.1))), "float16")),
        GPU,
    ),
    "an operand of float32": (build([half(16, 32), ((32, 24), "float32")], lambda x, y: op.matmul(wide(x), y)), GPU),
    "types that the unit does not multiply": (
        build([((16, 32), "float64")], lambda x: op.matmul(wide(x), const(NUMBERS))),
        GPU,
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept(name):
    mod, selector = KEPT[name]
    assert NarrowOperands(selector).run(mod).same_as(mod)


def test_casts_of_sums_join_the_epilogue():
    bias = const(np.ones(24), "float16")
    mod = apply(build([half(16, 32)], lambda x: op.nn.relu(op.add(matmul(x), bias))), NarrowOperands(GPU))
    graph = GraphUses(mod["main"])
    (anchor,) = [b.var for b in graph.bindings if op_name(b.value) == "matmul"]
    group = find_group(graph, anchor, lambda spec: True)
    assert str(group.op) == (
        "matmul(float16[16,32], const float16[32,24], const float16[24]) {lhs_perm=0x1, out_perm=0x1, rhs_perm=0x1}"
        " -> float16[16,24] | astype(anchor,float16); add(s0,i2); nn.relu(s1)"
    )


def test_casts_of_other_anchors_stay_outside():
    mod = build([((16, 32), "float32")], lambda x: op.astype(op.matmul(x, const(NUMBERS)), "float16"))
    graph = GraphUses(mod["main"])
    group = find_group(graph, graph.bindings[0].var, lambda spec: True)
    assert group.op.epilogue == ()
