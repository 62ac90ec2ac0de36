"""Reshapes that drop or add unit axes move below elementwise operators; others stay."""

from __future__ import annotations

import pytest
from tvm import relax, tirx

from kompilo.compiler.passes.sink_reshapes import SinkReshapes

from support import build, check, const, f32, ops, random

OP = relax.op


def gelu(x):
    s = OP.squeeze(x, [2])
    y = OP.add(s, random(0, 8, 1))
    return OP.multiply(y, OP.tanh(OP.multiply(OP.multiply(y, y), const(0.5))))


def test_diamond_behind_a_squeeze() -> None:
    after = check(build([f32(2, 8, 1, 16)], gelu), SinkReshapes())
    assert ops(after)[-1] == "reshape"
    assert "squeeze" not in ops(after)


def test_unsqueeze_with_a_full_constant() -> None:
    mod = build([f32(8, 16)], lambda x: OP.add(OP.expand_dims(x, 0), random(1, 1, 8, 16)))
    assert ops(check(mod, SinkReshapes())) == ["add", "reshape"]


def test_symbolic_batch() -> None:
    batch = tirx.Var("batch", "int64")
    mod = build([((batch, 8, 1, 16), "float32")], gelu)
    assert ops(check(mod, SinkReshapes(), sizes={"batch": 3}))[-1] == "reshape"


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        ((2, 8), lambda x: OP.nn.relu(OP.reshape(x, (4, 4)))),
        ((2, 8, 1), lambda x: OP.add(OP.squeeze(x, [2]), OP.squeeze(OP.exp(OP.mean(x, [0], keepdims=True)), [2]))),
    ],
    ids=["real reshape", "broadcast operand"],
)
def test_others_stay(shape, body) -> None:
    mod = build([f32(*shape)], body)
    assert ops(check(mod, SinkReshapes())) == ops(mod)
