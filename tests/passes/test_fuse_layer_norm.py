"""FuseLayerNorm: the spellings that exporters use, and what only looks like one."""

import pytest
from tvm import relax

from kompilo.compiler.passes.common_subexpressions import CommonSubexpressions
from kompilo.compiler.passes.fuse_layer_norm import FuseLayerNorm
from kompilo.compiler.passes.simplify import Simplify

from support import build, check, const, f32, ops, random

op = relax.op


def emit(value):
    return relax.BlockBuilder.current().emit(value)


def parts(x, axes, keepdims=True):
    centred = emit(op.subtract(x, emit(op.mean(x, axes, keepdims))))
    variance = emit(op.mean(emit(op.power(centred, const(2.0))), axes, True))
    return centred, emit(op.add(variance, const(1e-3)))


def divided(x, axes):
    centred, variance = parts(x, axes)
    return emit(op.divide(centred, emit(op.sqrt(variance))))


def reciprocal(x, axes):
    centred, variance = parts(x, axes)
    return emit(op.multiply(centred, emit(op.divide(const(1.0), emit(op.sqrt(variance))))))


def inverse_power(x, axes):
    centred, variance = parts(x, axes)
    return emit(op.multiply(emit(op.power(variance, const(-0.5))), centred))


PIPELINE = (Simplify(), CommonSubexpressions(), FuseLayerNorm())


@pytest.mark.parametrize("spelling", [divided, reciprocal, inverse_power])
@pytest.mark.parametrize("axes", [[-1], [1, 2]])
def test_spellings(spelling, axes):
    dims = (4,) if axes == [-1] else (3, 4)

    def body(x):
        y = emit(op.multiply(spelling(x, axes), random(0, *dims)))
        return op.nn.relu(emit(op.add(y, random(1, 1, 1, 4))))

    assert ops(check(build([f32(2, 3, 4)], body), *PIPELINE, rtol=1e-4)) == ["nn.layer_norm", "nn.relu"]


def test_of_float16_with_means_of_float32():
    def mean(x):
        return emit(op.astype(emit(op.mean(emit(op.astype(x, "float32")), [-1], True)), "float16"))

    def body(x):
        centred = emit(op.subtract(x, mean(x)))
        variance = emit(op.add(mean(emit(op.multiply(centred, centred))), const(1e-3, "float16")))
        return op.divide(centred, emit(op.sqrt(variance)))

    mod = check(build([((3, 40), "float16")], body), *PIPELINE, rtol=4e-3, atol=4e-3)
    assert ops(mod) == ["nn.layer_norm"]


def test_factors_across_rows_stay_outside():
    mod = build([f32(2, 3, 4)], lambda x: op.multiply(divided(x, [-1]), random(0, 3, 1)))
    assert ops(check(mod, *PIPELINE, rtol=1e-4)) == ["nn.layer_norm", "multiply"]


@pytest.mark.parametrize("axes", [[0], [1], [0, 2]])
def test_leading_axes_are_no_layer_norm(axes):
    assert "nn.layer_norm" not in ops(check(build([f32(2, 3, 4)], lambda x: divided(x, axes)), *PIPELINE))


def test_another_mean_is_no_layer_norm():
    def body(x, y):
        centred = emit(op.subtract(x, emit(op.mean(y, [-1], True))))
        variance = emit(op.mean(emit(op.multiply(centred, centred)), [-1], True))
        return op.divide(centred, emit(op.sqrt(emit(op.add(variance, const(1e-3))))))

    assert "nn.layer_norm" not in ops(check(build([f32(2, 4), f32(2, 4)], body), *PIPELINE))
