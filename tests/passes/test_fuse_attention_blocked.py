"""FuseAttention: what looks like attention and is none, or is used elsewhere, stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from test_fuse_attention import HIDDEN, NAME, Taking, attend, causal, emit, fuse, on_heads, op, scaled

from kompilo.compiler.passes.lower_precision import LARGEST

from support import const, ops

BLOCKED = {
    "scores are used": lambda q, k, v: [(s := scaled(q, k)), attend(s, v)],
    "weights are used": lambda q, k, v: [(w := emit(op.nn.softmax(scaled(q, k), -1))), emit(op.matmul(w, v))],
    "another axis": lambda q, k, v: emit(op.matmul(emit(op.nn.softmax(scaled(q, k), -2)), v)),
    "capped": lambda q, k, v: attend(emit(op.tanh(scaled(q, k))), v),
    "values are scaled": lambda q, k, v: attend(scaled(q, k), emit(op.multiply(v, const(2.0)))),
    "masked before it is scaled": lambda q, k, v: attend(
        emit(op.multiply(emit(op.add(emit(op.matmul(q, k)), const(np.ones((5, 7))))), const(0.5))), v
    ),
    "a factor for each key": lambda q, k, v: attend(emit(op.multiply(scaled(q, k), const(np.ones(7) * 2))), v),
    "no product": lambda q, k, v: attend(emit(op.nn.relu(q)), v),
    "limits of the model": lambda q, k, v: attend(limited(scaled(q, k), 7e4, 1e5), v),
    "float16's limits in a float32 model": lambda q, k, v: attend(limited(scaled(q, k), -LARGEST, LARGEST), v),
    "a number instead of what causality has hidden": lambda q, k, v: attend(
        emit(
            op.where(
                const(np.arange(7) > 1, "bool"),
                emit(op.add(scaled(q, k), const(causal(5, 7, 0, HIDDEN)))),
                const(-1e4),
            )
        ),
        v,
    ),
    "a guard of keys": lambda q, k, v: emit(
        op.matmul(
            emit(
                op.where(
                    const(np.arange(7) == 0, "bool"),
                    const(0.0),
                    emit(op.nn.softmax(emit(op.add(scaled(q, k), const(causal(7, 7, -1, HIDDEN)))), -1)),
                )
            ),
            v,
        )
    ),
}


def limited(scores, low, high):
    return emit(op.clip(scores, tvm.tirx.const(low, "float32"), tvm.tirx.const(high, "float32")))


@pytest.mark.parametrize("name", BLOCKED)
def test_blocked(name):
    keys = 4 if name == "no product" else 7
    rows = 7 if name == "a guard of keys" else 5
    assert NAME not in ops(fuse(on_heads(BLOCKED[name], rows=rows, keys=keys)))


def test_the_limits_that_lowering_sets_are_passed_over():
    mod = on_heads(lambda q, k, v: attend(limited(scaled(q, k), -LARGEST, LARGEST), v))
    assert NAME in ops(fuse(mod, Taking(precision="fp16")))
