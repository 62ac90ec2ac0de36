"""SinkReshapes: epilogues keep their anchor's shape; other reshapes stay where they are."""

from tvm import relax, tirx

from kompilo.compiler.passes.simplify import Simplify
from kompilo.compiler.passes.sink_reshapes import SinkReshapes

from support import apply, build, check, const, f32, ops, random

op = relax.op


def emit(value):
    return relax.BlockBuilder.current().emit(value)


def matmul(x):
    return emit(op.matmul(x, random(0, 8, 6)))


def gelu(x):
    """Uses its argument twice."""
    return emit(op.multiply(x, emit(op.sigmoid(emit(op.multiply(x, const(1.7)))))))


def test_a_whole_epilogue_moves():
    def body(x):
        y = emit(op.reshape(matmul(x), (4, 3, 6)))
        return op.sum(gelu(emit(op.add(y, random(1, 1, 1, 6)))), [1])

    after = check(build([f32(2, 2, 3, 8)], body), SinkReshapes(), Simplify())
    assert ops(after) == ["matmul", "add", "multiply", "sigmoid", "multiply", "reshape", "sum"]


def test_residuals_are_viewed_in_the_anchors_shape():
    def body(x, y):
        return op.nn.relu(emit(op.add(emit(op.reshape(matmul(x), (6, 6))), y)))

    after = check(build([f32(2, 3, 8), f32(6, 6)], body), SinkReshapes(), Simplify())
    assert sorted(ops(after)) == ["add", "matmul", "nn.relu", "reshape", "reshape"]
    assert ops(after)[-1] == "reshape"


def test_operators_between_two_anchors_stay_with_the_one_that_needs_no_reshape():
    def body(x, y):
        return op.nn.relu(emit(op.add(emit(op.reshape(matmul(x), (6, 6))), matmul(y))))

    mod = build([f32(2, 3, 8), f32(6, 8)], body)
    assert apply(mod, SinkReshapes()).same_as(mod)


def test_constants_of_regrouped_axes_stop_it():
    mod = build([f32(6, 8)], lambda x: op.add(emit(op.reshape(matmul(x), (6, 2, 3))), random(1, 2, 3)))
    assert apply(mod, SinkReshapes()).same_as(mod)


def test_growing_broadcasts_stop_it():
    mod = build([f32(6, 8)], lambda x: op.add(emit(op.reshape(matmul(x), (1, 6, 6))), random(1, 2, 6, 6)))
    assert apply(mod, SinkReshapes()).same_as(mod)


def test_permutes_sink_below_scalars():
    def body(x, y):
        q = emit(op.multiply(emit(op.permute_dims(x, (0, 2, 1))), const([0.25])))
        return op.matmul(emit(op.clip(q, relax.prim_value(-1.0), relax.prim_value(0.5))), y)

    after = check(build([f32(2, 3, 4), f32(2, 3, 5)], body), SinkReshapes())
    assert ops(after) == ["multiply", "clip", "permute_dims", "matmul"]


def test_without_an_anchor_nothing_moves():
    mod = build([f32(6, 8)], lambda x: op.nn.relu(emit(op.reshape(x, (48,)))))
    assert apply(mod, SinkReshapes()).same_as(mod)


def test_symbolic_batch():
    n = tirx.Var("n", "int64")
    mod = build([f32(n, 3, 8)], lambda x: op.nn.relu(emit(op.reshape(matmul(x), (n, 1, 3, 6)))))
    assert ops(check(mod, SinkReshapes(), sizes={"n": 2})) == ["matmul", "nn.relu", "reshape"]
