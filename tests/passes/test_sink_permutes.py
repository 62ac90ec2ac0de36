"""SinkPermutes: below scalars only."""

from tvm import relax

from kompilo.compiler.passes.sink_permutes import SinkPermutes

from support import apply, build, check, const, f32, ops, random

op = relax.op


def emit(value):
    return relax.BlockBuilder.current().emit(value)


def transposed(x):
    return emit(op.permute_dims(x, (0, 2, 1)))


def test_below_scalars_to_the_matmul():
    def body(x, y):
        q = emit(op.multiply(transposed(x), const([0.25])))
        return op.matmul(emit(op.clip(q, relax.prim_value(-1.0), relax.prim_value(0.5))), y)

    after = check(build([f32(2, 3, 4), f32(2, 3, 5)], body), SinkPermutes())
    assert ops(after) == ["multiply", "clip", "permute_dims", "matmul"]


def test_casts():
    after = check(build([f32(2, 3, 4)], lambda x: op.astype(transposed(x), "int32")), SinkPermutes())
    assert ops(after) == ["astype", "permute_dims"]


def test_vectors_and_second_uses_stop_it():
    def used_twice(x):
        y = transposed(x)
        return [op.nn.relu(y), op.exp(y)]

    for body in (lambda x: op.add(transposed(x), random(0, 3)), used_twice):
        mod = build([f32(2, 3, 4)], body)
        assert apply(mod, SinkPermutes()).same_as(mod)
