"""CommonSubexpressions: equal values are computed once, unequal ones never merged."""

import numpy as np
from tvm import relax

from kompilo.compiler.passes.common_subexpressions import CommonSubexpressions
from kompilo.compiler.passes.simplify import Simplify

from support import build, check, const, f32, ops, random

op = relax.op


def test_equal_calls_merge_through_whole_chains():
    def body(x):
        return op.subtract(op.exp(op.add(x, const(1.0))), op.sqrt(op.exp(op.add(x, const(1.0)))))

    assert ops(check(build([f32(2, 3)], body), CommonSubexpressions())) == ["add", "exp", "sqrt", "subtract"]


def test_other_attributes_constants_and_shapes_differ():
    def body(x):
        return [
            op.mean(x, [0]),
            op.mean(x, [1]),
            op.add(x, const(1.0)),
            op.add(x, const(2.0)),
            op.reshape(x, (6,)),
            op.reshape(x, (3, 2)),
            op.clip(x, relax.prim_value(0.0), relax.prim_value(1.0)),
            op.clip(x, relax.prim_value(0.0), relax.prim_value(2.0)),
            op.split(x, 3, 1)[0],
            op.split(x, 3, 1)[1],
            op.strided_slice(x, [1], [0], [1]),
            op.strided_slice(x, [1], [1], [2]),
        ]

    mod = build([f32(2, 3)], body)
    assert ops(mod).count("split") == 2
    after = check(mod, CommonSubexpressions(), Simplify())
    assert ops(after).count("split") == 1
    assert len(ops(after)) == len(ops(mod)) - 1


def test_large_weights_are_compared_by_identity():
    weight, copy = random(0, 64, 64), random(0, 64, 64)
    assert np.array_equal(weight.value.numpy(), copy.value.numpy())
    shared = build([f32(2, 64)], lambda x: [op.matmul(x, weight), op.matmul(x, weight)])
    apart = build([f32(2, 64)], lambda x: [op.matmul(x, weight), op.matmul(x, copy)])
    assert ops(check(shared, CommonSubexpressions())) == ["matmul"]
    assert ops(check(apart, CommonSubexpressions())) == ["matmul", "matmul"]
