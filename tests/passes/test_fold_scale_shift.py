"""FoldScaleShift: every linear operator, every place of the constants, and what must not be folded."""

import numpy as np
import pytest
from tvm import relax

from kompilo.compiler.passes.fold_scale_shift import FoldScaleShift
from kompilo.compiler.passes.simplify import Simplify

from support import apply, build, check, const, f32, ops, random

op = relax.op


def per_channel(seed: int, channels: int, spatial: int) -> relax.Expr:
    return random(seed, channels, *(1,) * spatial, low=0.5, high=2.0)


# kind -> (input shape, anchor, output channels, spatial rank)
ANCHORS = {
    "conv1d": ((1, 4, 9), lambda x: op.nn.conv1d(x, random(0, 6, 4, 3), padding=1), 6, 1),
    "conv2d": ((1, 4, 7, 7), lambda x: op.nn.conv2d(x, random(0, 6, 4, 3, 3), padding=1), 6, 2),
    "conv2d grouped": ((1, 4, 7, 7), lambda x: op.nn.conv2d(x, random(0, 6, 2, 3, 3), groups=2), 6, 2),
    "conv2d depthwise": ((1, 4, 7, 7), lambda x: op.nn.conv2d(x, random(0, 8, 1, 3, 3), groups=4), 8, 2),
    "conv3d": ((1, 2, 4, 4, 4), lambda x: op.nn.conv3d(x, random(0, 3, 2, 2, 2, 2)), 3, 3),
    "conv2d_transpose": ((1, 4, 5, 5), lambda x: op.nn.conv2d_transpose(x, random(0, 4, 3, 2, 2), strides=2), 3, 2),
    "conv2d_transpose grouped": (
        (1, 4, 5, 5),
        lambda x: op.nn.conv2d_transpose(x, random(0, 4, 3, 2, 2), groups=2),
        6,
        2,
    ),
    "matmul": ((2, 3, 5), lambda x: op.matmul(x, random(0, 5, 6)), 6, 0),
    "batched weights": ((2, 3, 5), lambda x: op.matmul(x, random(0, 2, 5, 6)), 6, 0),
}


@pytest.mark.parametrize("kind", ANCHORS)
def test_batch_norm_behind_a_biased_anchor(kind):
    dims, anchor, channels, spatial = ANCHORS[kind]

    def body(x):
        biased = op.add(anchor(x), per_channel(1, channels, spatial))
        return op.nn.relu(
            op.add(op.multiply(biased, per_channel(2, channels, spatial)), per_channel(3, channels, spatial))
        )

    after = check(build([f32(*dims)], body), FoldScaleShift())
    assert ops(after) == [ops(build([f32(*dims)], anchor))[0], "add", "nn.relu"]


@pytest.mark.parametrize("kind", ANCHORS)
def test_scale_before(kind):
    dims, anchor, _, spatial = ANCHORS[kind]
    channels = dims[-1 - spatial]
    after = check(
        build([f32(*dims)], lambda x: anchor(op.multiply(x, per_channel(1, channels, spatial)))), FoldScaleShift()
    )
    assert "multiply" not in ops(after)


@pytest.mark.parametrize("kind", ["conv2d grouped", "conv3d", "matmul"])
@pytest.mark.parametrize("scalar", [False, True])
def test_shift_before_without_padding(kind, scalar):
    dims, anchor, _, spatial = ANCHORS[kind]
    shift = const(0.5) if scalar else per_channel(1, dims[-1 - spatial], spatial)
    after = check(build([f32(*dims)], lambda x: anchor(op.add(x, shift))), FoldScaleShift())
    assert ops(after) == [ops(build([f32(*dims)], anchor))[0], "add"]


@pytest.mark.parametrize("kind", ["conv2d", "conv2d_transpose", "batched weights"])
def test_shift_before_padding_stays(kind):
    dims, anchor, *_ = ANCHORS[kind]
    mod = build([f32(*dims)], lambda x: anchor(op.add(x, const(0.5))))
    assert apply(mod, FoldScaleShift()).same_as(mod)


def test_scalar_scale_on_both_sides():
    mod = build(
        [f32(1, 4, 7, 7)], lambda x: op.multiply(ANCHORS["conv2d"][1](op.multiply(x, const(0.25))), const([[3.0]]))
    )
    assert ops(check(mod, FoldScaleShift())) == ["nn.conv2d"]


def test_hard_swish_division_moves_into_the_next_convolution():
    def body(x):
        gate = op.clip(op.add(x, const(3.0)), relax.prim_value(0.0), relax.prim_value(6.0))
        return ANCHORS["conv2d"][1](op.divide(op.multiply(x, gate), const(6.0)))

    after = check(build([f32(1, 4, 7, 7)], body), Simplify(), FoldScaleShift())
    assert ops(after) == ["add", "clip", "multiply", "nn.conv2d"]


def test_a_value_used_twice_keeps_its_weights():
    def body(x):
        y = relax.BlockBuilder.current().emit(ANCHORS["conv2d"][1](x))
        return [op.multiply(y, const(2.0)), op.nn.relu(y)]

    mod = build([f32(1, 4, 7, 7)], body)
    assert apply(mod, FoldScaleShift()).same_as(mod)


@pytest.mark.parametrize("factor", [random(1, 7), random(1, 7, 1), random(1, 6, 7, 7), random(1, 2, 1, 1, 1)])
def test_factors_that_vary_over_space_or_batch_stay(factor):
    mod = build([f32(1, 4, 7, 7)], lambda x: op.multiply(ANCHORS["conv2d"][1](x), factor))
    assert apply(mod, FoldScaleShift()).same_as(mod)


def test_overflow_stays():
    mod = build([f32(3, 5)], lambda x: op.multiply(op.matmul(x, const(np.full((5, 2), 1e30))), const(1e20)))
    assert apply(mod, FoldScaleShift()).same_as(mod)


def test_weights_are_rounded_once():
    weight, scale = np.float32(1.1), np.float32(0.3)
    mod = build([f32(1, 1)], lambda x: op.multiply(op.matmul(x, const([[weight]])), const(scale)))
    folded = apply(mod, FoldScaleShift())["main"].body.blocks[0].bindings[0].value.args[1].value.numpy()
    assert folded[0, 0] == np.float32(np.float64(weight) * np.float64(scale))
