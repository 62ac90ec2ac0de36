"""ChooseLayout: which permute_dims remain, and equal numbers on random graphs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, te, tirx

from kompilo.compiler.passes.choose_layout import ChooseLayout
from kompilo.compiler.passes.conv1d_to_conv2d import Conv1dToConv2d
from kompilo.compiler.passes.graph import Graph
from kompilo.compiler.passes.simplify import Simplify

from support import apply, build, check, const, f32, inputs_for, ops, random, run

op = relax.op


def emit(value):
    return relax.BlockBuilder.current().emit(value)


def conv(x, channels=8, kernel=3, seed=0, **attrs):
    inputs = int(x.ty.shape[1]) // attrs.get("groups", 1)
    weight = random(seed, channels, inputs, kernel, kernel)
    return emit(op.nn.conv2d(x, weight, padding=kernel // 2, **attrs))


def layouts(mod):
    return {n.attrs.data_layout for n in Graph.of(mod).nodes if n.op in ("nn.conv2d", "nn.conv2d_transpose")}


def moves(body, *params, **options):
    """Axes of the permute_dims that remain after the pass; all convolutions must be channels-last then."""
    after = check(build(params or [f32(1, 3, 8, 8)], body), ChooseLayout(), Simplify(), **options)
    assert layouts(after) <= {"NHWC"}
    return [tuple(int(a) for a in n.attrs.axes) for n in Graph.of(after).nodes if n.op == "permute_dims"]


IN, OUT = (0, 2, 3, 1), (0, 3, 1, 2)


def add(x, y):
    return emit(op.add(x, y))


def se_block(x):
    """Squeeze and excitation: global mean, two 1x1 convolutions, gate."""
    y = conv(x)
    gate = conv(emit(op.nn.relu(conv(emit(op.mean(y, [2, 3], True)), 4, 1, seed=1))), 8, 1, seed=2)
    return op.mean(emit(op.multiply(y, emit(op.sigmoid(gate)))), [2, 3])


def shuffle(x):
    y = conv(x)
    y = emit(op.reshape(y, (1, 2, 4, 8, 8)))
    y = emit(op.permute_dims(y, (0, 2, 1, 3, 4)))
    return op.mean(conv(emit(op.reshape(y, (1, 8, 8, 8)))), [2, 3])


def tokens(x):
    """To (N, L, C) tokens for a matmul and back to an image, as in SVTR."""
    y = conv(x)
    t = emit(op.permute_dims(emit(op.reshape(y, (1, 8, 64))), (0, 2, 1)))
    t = emit(op.matmul(t, random(3, 8, 8)))
    back = emit(op.permute_dims(emit(op.reshape(t, (1, 8, 8, 8))), (0, 3, 1, 2)))
    return op.mean(conv(emit(op.concat([y, back], 1))), [2, 3])


def lrn_like(x):
    y = conv(x)

    def compute(a):
        def element(n, c, h, w):
            before = tirx.if_then_else(c > 0, a(n, c - 1, h, w), tirx.const(0, "float32"))
            return a(n, c, h, w) + before

        return te.compute(a.shape, element, name="neighbours")

    z = relax.BlockBuilder.current().emit_te(compute, y)
    return op.mean(conv(z), [2, 3])


ONLY_THE_INPUT = {
    "chain": lambda x: op.mean(conv(emit(op.nn.relu(add(conv(x), random(1, 8, 1, 1))))), [2, 3]),
    "residual": lambda x: op.mean(add(conv(x), conv(x, seed=1)), [2, 3]),
    "concat": lambda x: op.mean(emit(op.concat([conv(x), conv(x, 4, seed=1), random(9, 1, 2, 8, 8)], 1)), [2, 3]),
    "pools": lambda x: op.mean(
        emit(op.nn.avg_pool2d(emit(op.nn.max_pool2d(conv(x), 3, 2, 1)), 2, count_include_pad=True)), [2, 3]
    ),
    "adaptive pool": lambda x: op.reshape(emit(op.nn.adaptive_avg_pool2d(conv(x), 1)), (1, 8)),
    "resize": lambda x: op.mean(conv(emit(op.image.resize2d(conv(x), (16, 16), method="nearest_neighbor"))), [2, 3]),
    "pad": lambda x: op.mean(emit(op.nn.pad(conv(x), [0, 0, 1, 2, 3, 0, 0, 1], "constant", 0.5)), [2, 3]),
    "slice": lambda x: op.mean(emit(op.strided_slice(conv(x), [1, 3], [2, 0], [7, 8], [1, 2])), [2, 3]),
    "split": lambda x: op.mean(add(emit(op.split(emit(conv(x)), 2, 1))[0], emit(op.split(conv(x), 2, 1))[1]), [2, 3]),
    "softmax over channels": lambda x: op.mean(emit(op.nn.softmax(conv(x), 1)), [2, 3]),
    "argmax over channels": lambda x: op.argmax(conv(x), 1),
    "prelu": lambda x: op.mean(emit(op.nn.prelu(conv(x), random(5, 8), 1)), [2, 3]),
    "squeeze and excitation": se_block,
    "tokens and back": tokens,
    "PrimFunc": lrn_like,
    "transposed": lambda x: op.mean(
        emit(op.nn.conv2d_transpose(conv(x), random(1, 8, 4, 2, 2), strides=2, output_padding=0)), [2, 3]
    ),
    "where": lambda x: op.mean(emit(op.where(emit(op.greater(conv(x), const(0.0))), conv(x), const([2.0]))), [2, 3]),
    "row constants": lambda x: op.mean(emit(op.multiply(conv(x), random(4, 8, 8))), [2, 3]),
    "height squeezed": lambda x: op.max(emit(op.mean(conv(x), [2])), [2]),
}


@pytest.mark.parametrize("name", ONLY_THE_INPUT)
def test_only_the_input_is_transposed(name):
    assert moves(ONLY_THE_INPUT[name]) == [IN]


def test_channel_shuffle_swaps_the_innermost_axes():
    assert moves(shuffle) == [IN, (0, 1, 2, 4, 3)]


def test_an_output_image_is_transposed_back_after_its_epilogue():
    def body(x):
        return op.nn.relu(add(conv(x), random(1, 8, 1, 1)))

    after = check(build([f32(1, 3, 8, 8)], body), ChooseLayout())
    assert ops(after) == ["permute_dims", "nn.conv2d", "add", "nn.relu", "permute_dims"]


def test_one_channel_needs_no_transposition():
    assert moves(lambda x: op.sigmoid(conv(x, 1)), f32(2, 1, 6, 5)) == []


def test_channels_last_models_lose_their_transpositions():
    def body(x):
        y = conv(emit(op.permute_dims(x, OUT)))
        return op.nn.relu(emit(op.permute_dims(y, IN)))

    assert moves(body, f32(1, 8, 8, 3)) == []


def test_a_tensor_with_many_plain_users_is_transposed_once():
    def body(x):
        y = conv(x)
        return [op.cumsum(y, 1), op.cumsum(y, 2), op.reshape(y, (8, 64)), y]

    assert moves(body) == [IN, OUT]


def test_flatten_of_an_image_keeps_its_meaning():
    assert moves(lambda x: op.matmul(emit(op.reshape(conv(x), (1, 512))), random(1, 512, 3))) == [IN, OUT]


def test_reductions_that_mix_axes():
    for axes in ([1], [2], [3], [1, 3], [0, 2], [0, 1], [1, 2, 3], [0, 2, 3], [0, 3]):
        for keepdims in (False, True):
            body = lambda x, a=axes, k=keepdims: op.sum(conv(x), a, k)  # noqa: E731
            check(build([f32(2, 3, 4, 5)], body), ChooseLayout(), Simplify())


def test_symbolic_batch_and_size():
    n, h = tirx.Var("n", "int64"), tirx.Var("h", "int64")

    def body(x):
        y = emit(op.nn.max_pool2d(conv(x), 2, 2))
        return op.mean(conv(emit(op.concat([y, emit(op.nn.relu(y))], 1))), [2, 3])

    assert moves(body, f32(n, 3, h, 8), sizes={"n": 2, "h": 6}) == [IN]


def test_scale_tensors_that_are_inputs():
    def body(x, channel, row):
        y = emit(op.multiply(conv(x), channel))
        return op.mean(emit(op.multiply(y, row)), [2, 3])

    after = check(build([f32(1, 3, 8, 8), f32(8, 1, 1), f32(1, 8)], body), ChooseLayout(), Simplify())
    assert ops(after).count("permute_dims") <= 3


def test_computed_weights_are_read_as_they_are():
    """The reshaped weight has a free "last" storage, which the convolution must not see."""

    def body(x, w):
        y = emit(op.nn.conv1d(x, emit(op.exp(w)), groups=4))
        return op.nn.conv2d(emit(op.reshape(y, (1, 4, 1, 5))), emit(op.reshape(emit(op.nn.relu(w)), (4, 4, 1, 1))))

    after = check(build([f32(1, 4, 8), f32(4, 1, 4)], body), Conv1dToConv2d(), Simplify(), ChooseLayout(), Simplify())
    assert layouts(after) == {"NHWC"}


def test_matmul_models_are_untouched():
    mod = build([f32(2, 4, 8)], lambda x: op.matmul(emit(op.permute_dims(x, (0, 2, 1))), x))
    assert apply(mod, ChooseLayout()).same_as(mod)


UNARY = [
    op.nn.relu,
    op.sigmoid,
    lambda x: op.add(x, random(7, 8, 1, 1)),
    lambda x: op.multiply(x, random(8, 1, 8, 1, 1)),
]


@st.composite
def graphs(draw):
    """A random function of one (2, 8, 6, 6) image: each step takes earlier tensors and makes one of that shape
    again."""
    steps = []
    for count in range(1, draw(st.integers(2, 7)) + 1):
        kind = draw(
            st.sampled_from(("conv", "pool", "unary", "add", "concat", "shuffle", "gate", "cumsum", "te", "flat"))
        )
        steps.append((kind, draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1)), draw(st.integers(0, 3))))
    return steps, draw(st.lists(st.integers(0, len(steps)), min_size=1, max_size=3, unique=True))


def step(kind, a, b, k):
    if kind == "conv":
        return conv(a, seed=k)
    if kind == "pool":
        return op.nn.avg_pool2d(a, 3, padding=1, count_include_pad=bool(k % 2))
    if kind == "unary":
        return UNARY[k](a)
    if kind == "concat":
        return op.split(emit(op.concat([a, b], 1)), 2, 1)[k % 2]
    if kind == "shuffle":
        parts = emit(op.permute_dims(emit(op.reshape(a, (2, 2, 4, 6, 6))), (0, 2, 1, 3, 4)))
        return op.reshape(parts, (2, 8, 6, 6))
    if kind == "gate":
        return op.multiply(a, emit(op.mean(b, [2, 3], True)))
    if kind == "flat":
        flat = emit(op.permute_dims(emit(op.reshape(a, (2, 8, 36))), (0, 2, 1)))
        flat = emit(op.nn.softmax(flat, -1)) if k % 2 else flat
        return op.reshape(emit(op.permute_dims(flat, (0, 2, 1))), (2, 8, 6, 6))
    if kind == "te":
        return relax.BlockBuilder.current().call_te(
            lambda t: te.compute(t.shape, lambda n, c, h, w: t(n, c, 5 - h, w), name="flipped"), a
        )
    return op.add(a, b) if kind == "add" else op.cumsum(a, k)


@settings(max_examples=25, deadline=None)
@given(graphs())
def test_random_graphs(graph):
    steps, outputs = graph

    def body(x):
        values = [x]
        for kind, a, b, k in steps:
            values.append(emit(step(kind, values[a], values[b], k)))
        return [values[o] for o in outputs]

    mod = build([f32(2, 8, 6, 6)], body)
    after = apply(mod, Simplify(), ChooseLayout(), Simplify())
    assert layouts(after) <= {"NHWC"}
    arrays = inputs_for(mod)
    for expected, found in zip(run(mod, *arrays), run(after, *arrays), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * max(1, np.abs(expected).max()))


def test_vectors_have_one_storage_only():
    """What a reshape makes of a channels-last tensor, (W,), is read by matrices too."""
    w = tirx.Var("w", "int64")

    def body(x):
        y = emit(op.max(conv(x), [0, 1, 2], keepdims=True))
        v = emit(op.sigmoid(emit(op.reshape(y, (w,)))))
        return op.minimum(emit(op.reshape(v, (w, 1))), v)

    assert moves(body, f32(1, 3, 4, w), sizes={"w": 5}) == [IN]


def test_arithmetic_on_a_vector_and_a_scalar_beside_a_convolution():
    def body(x, vector, scalar):
        return op.mean(add(conv(x), emit(op.multiply(vector, scalar))), [2, 3])

    assert moves(body, f32(1, 3, 8, 8), f32(8), f32()) == [IN]
