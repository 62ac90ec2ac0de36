"""Simplify: structure before and after, and equal numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, tirx

from kompilo.compiler.passes.simplify import Simplify

from support import apply, build, check, const, f32, ops, run

op = relax.op


def channel(*values: float) -> relax.Expr:
    return const(np.reshape(values, (-1, 1, 1)))


CASES = {
    "identity reshape": (lambda x: op.nn.relu(op.reshape(x, (1, 3, 4, 4))), ["nn.relu"]),
    "reshape of reshape": (lambda x: op.reshape(op.reshape(x, (3, 16)), (48,)), ["reshape"]),
    "expand then squeeze": (lambda x: op.nn.relu(op.squeeze(op.expand_dims(x, 0), 0)), ["nn.relu"]),
    "expand_dims": (lambda x: op.expand_dims(x, 2), ["reshape"]),
    "permute of permute": (
        lambda x: op.nn.relu(op.permute_dims(op.permute_dims(x, (0, 2, 3, 1)), (0, 3, 1, 2))),
        ["nn.relu"],
    ),
    "permutes compose": (lambda x: op.permute_dims(op.permute_dims(x, (1, 2, 3, 0)), (1, 0, 2, 3)), ["permute_dims"]),
    "permute of size one": (lambda x: op.permute_dims(op.mean(x, [2, 3], True), (0, 2, 3, 1)), ["mean", "reshape"]),
    "x + 0": (lambda x: op.nn.relu(op.add(x, channel(0, 0, 0))), ["nn.relu"]),
    "0 + x": (lambda x: op.nn.relu(op.add(const(0.0), x)), ["nn.relu"]),
    "x * 1": (lambda x: op.nn.relu(op.multiply(x, const([1.0]))), ["nn.relu"]),
    "x / const": (lambda x: op.divide(x, const(6.0)), ["multiply"]),
    "x / tiny stays": (lambda x: op.divide(op.abs(x), const(1e-40)), ["abs", "divide"]),
    "x - const": (lambda x: op.subtract(x, channel(1, 2, 3)), ["add"]),
    "multiply chain": (lambda x: op.multiply(op.multiply(x, channel(1, 2, 3)), const(0.5)), ["multiply"]),
    "add chain": (lambda x: op.add(op.add(x, channel(1, 2, 3)), const(0.5)), ["add"]),
    "cancelling add chain stays": (lambda x: op.add(op.add(x, const(1e8)), const(-1e8)), ["add", "add"]),
    "overflowing add chain stays": (lambda x: op.add(op.add(x, const(3e38)), const(3e38)), ["add", "add"]),
    "x ** 2": (lambda x: op.power(x, const(2.0)), ["multiply"]),
    "x ** 3": (lambda x: op.power(x, const(3.0)), ["multiply", "multiply"]),
    "x ** 0.5": (lambda x: op.power(op.abs(x), const(0.5)), ["abs", "sqrt"]),
    "relu of relu": (lambda x: op.nn.relu(op.nn.relu(x)), ["nn.relu"]),
    "maximum 0": (lambda x: op.maximum(x, const(0.0)), ["nn.relu"]),
    "min of max": (lambda x: op.minimum(op.maximum(x, const(-0.5)), const(0.25)), ["clip"]),
    "clip of clip": (
        lambda x: op.clip(
            op.clip(x, relax.prim_value(-0.5), relax.prim_value(0.5)), relax.prim_value(0.0), relax.prim_value(6.0)
        ),
        ["clip"],
    ),
    "clip of relu": (lambda x: op.clip(op.nn.relu(x), relax.prim_value(-1.0), relax.prim_value(0.5)), ["clip"]),
    "concat of one": (lambda x: op.nn.relu(op.concat([x], 1)), ["nn.relu"]),
    "concat of concat": (lambda x: op.concat([op.concat([x, x], 1), x], 1), ["concat"]),
    "full slice": (lambda x: op.nn.relu(op.strided_slice(x, [1], [0], [3])), ["nn.relu"]),
    "part slice stays": (lambda x: op.strided_slice(x, [1], [0], [2]), ["strided_slice"]),
    "slice of permute": (
        lambda x: op.reshape(op.strided_slice(op.permute_dims(x, (1, 3, 0, 2)), [0], [1], [2]), (4, 1, 4)),
        ["strided_slice", "reshape", "permute_dims"],
    ),
    "split of one": (lambda x: op.nn.relu(op.split(x, 1, 1)), ["nn.relu"]),
    "same cast": (lambda x: op.nn.relu(op.astype(x, "float32")), ["nn.relu"]),
    "real cast stays": (lambda x: op.astype(x, "int32"), ["astype"]),
    "no pad": (lambda x: op.nn.relu(op.nn.pad(x, [0] * 8)), ["nn.relu"]),
    "broadcast operand": (lambda x: op.add(x, op.broadcast_to(op.mean(x, [1], True), (1, 3, 4, 4))), ["mean", "add"]),
    "trivial pool": (lambda x: op.nn.relu(op.nn.max_pool2d(x, (1, 1))), ["nn.relu"]),
    "mean of ones": (lambda x: op.mean(op.mean(x, [2, 3], True), [2, 3]), ["mean", "reshape"]),
    "negative of negative": (lambda x: op.nn.relu(op.negative(op.negative(x))), ["nn.relu"]),
    "constants": (lambda x: op.multiply(x, op.reshape(op.exp(op.sqrt(const([4.0, 1, 9]))), (3, 1, 1))), ["multiply"]),
    "dead code": (lambda x: [op.nn.relu(x), op.split(op.exp(x), 3, 1)[1]][:1], ["nn.relu"]),
}


@pytest.mark.parametrize("name", CASES)
def test_rewrite(name):
    body, expected = CASES[name]
    after = check(build([f32(1, 3, 4, 4)], body), Simplify())
    assert ops(after) == expected


def test_division_by_a_literal_zero_compiles():
    after = apply(build([f32(4)], lambda x: op.divide(x, const(0.0))), Simplify())
    found = run(after, np.array([1, -2, 0, np.inf], "float32"))[0]
    np.testing.assert_array_equal(found, np.array([np.inf, -np.inf, np.nan, np.inf], "float32"))


def test_symbolic_shapes():
    n = tirx.Var("n", "int64")
    mod = build([f32(n, 3, 4)], lambda x: op.nn.relu(op.reshape(op.reshape(x, (n, 12)), (n, 3, 4))))
    assert ops(check(mod, Simplify(), sizes={"n": 2})) == ["nn.relu"]


def test_unchanged_module_is_returned_as_it_is():
    mod = build([f32(2, 3)], op.nn.relu)
    assert apply(mod, Simplify()).same_as(mod)


def test_integer_division_keeps_its_meaning():
    mod = build([((6,), "int32")], lambda x: op.floor_divide(x, const(2, "int32")))
    assert ops(check(mod, Simplify())) == ["floor_divide"]


def test_int64_constants_stay_int64():
    mod = build([((6,), "int64")], lambda x: op.add(x, op.multiply(const([2], "int64"), const([3], "int64"))))
    assert ops(check(mod, Simplify())) == ["add"]


def test_output_that_is_an_input():
    mod = build([f32(2, 3)], lambda x: op.add(x, const(0.0)))
    assert ops(check(mod, Simplify())) == []


def test_large_broadcasts_are_not_folded():
    mod = build([f32(512, 512)], lambda x: op.nn.relu(op.concat([x, op.broadcast_to(const([[1.0]]), (512, 512))])))
    assert "broadcast_to" in ops(apply(mod, Simplify()))


SCALARS = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0])
STEPS = {
    "add": lambda x, c, d: op.add(x, const(c)),
    "flipped add": lambda x, c, d: op.add(channel(c, d, 1), x),
    "subtract": lambda x, c, d: op.subtract(x, channel(c, d, 0)),
    "multiply": lambda x, c, d: op.multiply(x, channel(c, d, 1)),
    "divide": lambda x, c, d: op.divide(x, const(c or 7.0)),
    "maximum": lambda x, c, d: op.maximum(x, const(c)),
    "minimum": lambda x, c, d: op.minimum(const(d), x),
    "clip": lambda x, c, d: op.clip(x, relax.prim_value(min(c, d)), relax.prim_value(max(c, d))),
    "relu": lambda x, c, d: op.nn.relu(x),
    "negative": lambda x, c, d: op.negative(x),
    "square": lambda x, c, d: op.power(x, const(2.0)),
}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), SCALARS, SCALARS), min_size=2, max_size=7))
def test_random_chains_keep_their_value(steps):
    def body(x):
        for name, c, d in steps:
            x = relax.BlockBuilder.current().emit(STEPS[name](x, c, d))
        return x

    check(build([f32(1, 3, 4, 4)], body), Simplify(), rtol=1e-4, atol=1e-4)
