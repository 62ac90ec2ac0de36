"""Which operators join an anchor's group: chains, diamonds, residuals, permutes; and what must stay outside."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from kompilo.compiler.passes.fuse_anchors import GraphUses, Group, find_group
from kompilo.compiler.passes.select_templates import SelectTemplates
from kompilo.compiler.schedule.selection import Selector
from kompilo.compiler.schedule.target import find_target

from support import apply, build, const, f32, inputs_for, ops, random, run

OP = relax.op
X = f32(4, 8)


def first_group(mod: tvm.IRModule) -> Group | None:
    graph = GraphUses(mod["main"])
    anchor = next(b.var for b in graph.bindings if str(getattr(b.value, "op", "")).find("matmul") >= 0)
    return find_group(graph, anchor, lambda op: True)


def steps(mod: tvm.IRModule) -> list[str]:
    group = first_group(mod)
    assert group is not None
    return [str(s) for s in group.op.epilogue]


def weight() -> relax.Expr:
    return random(1, 8, 8)


def test_bias_and_relu() -> None:
    mod = build([X], lambda x: OP.nn.relu(OP.add(OP.matmul(x, weight()), random(2, 8))))
    assert steps(mod) == ["add(anchor,i2)", "nn.relu(s0)"]


def test_diamond_of_silu() -> None:
    def body(x):
        y = OP.matmul(x, weight())
        return OP.multiply(y, OP.sigmoid(y))

    assert steps(build([X], body)) == ["sigmoid(anchor)", "multiply(anchor,s0)"]


def test_hardswish_with_literals() -> None:
    def body(x):
        y = OP.matmul(x, weight())
        return OP.multiply(OP.multiply(y, OP.clip(OP.add(y, const(3.0)), 0, 6)), const(1 / 8))

    assert steps(build([X], body)) == [
        "add(anchor,3.0)",
        "clip(s0,0.0,6.0)",
        "multiply(anchor,s1)",
        "multiply(s2,0.125)",
    ]


def test_residual_from_another_branch() -> None:
    mod = build([X, X], lambda x, r: OP.add(OP.matmul(x, weight()), OP.exp(r)))
    assert steps(mod) == ["add(anchor,i2)"]


def test_value_used_elsewhere_ends_the_group() -> None:
    def body(x):
        y = OP.add(OP.matmul(x, weight()), random(2, 8))
        return [OP.nn.relu(y), OP.sum(y)]

    assert steps(build([X], body)) == ["add(anchor,i2)"]


def test_operand_that_depends_on_the_anchor_stays_outside() -> None:
    def body(x):
        y = OP.matmul(x, weight())
        return OP.add(y, OP.sum(y, axis=[1], keepdims=True))

    assert steps(build([X], body)) == []


def test_output_ends_the_group() -> None:
    def body(x):
        y = OP.matmul(x, weight())
        return [y, OP.nn.relu(y)]

    assert steps(build([X], body)) == []


def test_broadcast_that_grows_the_result_stays_outside() -> None:
    mod = build([f32(1, 8), X], lambda x, r: OP.add(OP.matmul(x, weight()), r))
    assert steps(mod) == []


def test_permutes_around_a_matmul_are_taken_in() -> None:
    def body(q, k):
        scores = OP.matmul(OP.permute_dims(q, (0, 2, 1, 3)), OP.permute_dims(k, (0, 2, 3, 1)))
        return OP.permute_dims(scores, (0, 2, 1, 3))

    group = first_group(build([f32(1, 3, 2, 4), f32(1, 5, 2, 4)], body))
    assert group is not None
    assert dict(group.op.attrs) == {"lhs_perm": (0, 2, 1, 3), "rhs_perm": (0, 2, 3, 1), "out_perm": (0, 2, 1, 3)}
    assert group.op.output.shape == (1, 3, 2, 5)


def gelu_mlp(x):
    y = OP.add(OP.matmul(x, weight()), random(2, 8))
    half = OP.multiply(y, OP.add(OP.erf(OP.multiply(y, const(0.70710678))), const(1.0)))
    return OP.add(OP.matmul(OP.multiply(half, const(0.5)), random(3, 8, 8)), x)


def attention(x):
    heads = [OP.reshape(OP.matmul(x, random(k, 8, 8)), (1, 4, 2, 4)) for k in range(3)]
    q, k, v = (OP.permute_dims(h, (0, 2, 1, 3)) for h in heads)
    scores = OP.multiply(OP.matmul(q, OP.permute_dims(k, (0, 1, 3, 2))), const(0.5))
    return OP.reshape(OP.permute_dims(OP.matmul(OP.nn.softmax(scores, -1), v), (0, 2, 1, 3)), (4, 8))


def two_convolution_branches(x):
    left, right = OP.matmul(x, weight()), OP.matmul(x, random(5, 8, 8))
    return OP.nn.relu(OP.add(left, right))


@pytest.mark.parametrize("body", [gelu_mlp, attention, two_convolution_branches], ids=lambda f: f.__name__)
def test_selected_kernels_compute_the_same(body) -> None:
    mod = build([X], body)
    selected = apply(mod, SelectTemplates(Selector(find_target("cpu"))))
    assert "matmul" not in ops(selected)
    x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    for a, b in zip(run(mod, x), run(selected, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [False, True])
def test_a_permute_between_two_matmuls_is_taken_in_once(first: bool) -> None:
    def body(x, other):
        keys = OP.permute_dims(OP.matmul(x, weight()), (1, 0))
        return OP.matmul(keys, other) if first else OP.matmul(other, keys)

    mod = build([f32(4, 8), f32(4, 3) if first else f32(3, 8)], body)
    selected = apply(mod, SelectTemplates(Selector(find_target("cpu"))))
    assert ops(selected) == ["call_tir", "call_tir"]
    arrays = inputs_for(mod)
    for a, b in zip(run(mod, *arrays), run(selected, *arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_equal_operators_share_one_kernel() -> None:
    mod = build([X], lambda x: OP.matmul(OP.matmul(x, weight()), random(7, 8, 8)))
    selected = apply(mod, SelectTemplates(Selector(find_target("cpu"))))
    assert sum("matmul" in g.name_hint for g in selected.get_global_vars()) == 1
