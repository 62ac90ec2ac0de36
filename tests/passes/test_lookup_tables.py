"""One-hot matmuls as look-ups: equal inside and outside the range, dynamic batch, and what must not match."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax, tirx

from kompilo.compiler.passes.lookup_tables import LookupTables
from kompilo.compiler.passes.simplify import Simplify

from support import apply, build, const, f32, ops, random, run

OP = relax.op
IDS = ((2, 5), "int32")


def one_hot(x, classes=6):
    numbers = const(np.arange(classes).reshape(1, 1, classes), "int32")
    return OP.astype(OP.equal(OP.expand_dims(x, -1), numbers), "float32")


def embed(x):
    y = OP.add(OP.matmul(one_hot(x), random(0, 6, 4)), random(1, 1, 1, 4))
    return OP.multiply(y, OP.tanh(OP.multiply(OP.multiply(y, y), const(0.5))))


def test_equal_for_known_and_unknown_classes() -> None:
    mod = build([IDS], embed)
    after = apply(mod, Simplify(), LookupTables())
    assert not {"matmul", "tanh"} & set(ops(after))
    x = np.array([[0, 5, 6, -1, 3], [2, 2, 100, -7, 1]], "int32")
    np.testing.assert_allclose(run(after, x)[0], run(mod, x)[0], rtol=1e-5, atol=1e-6)


def test_dynamic_batch() -> None:
    batch = tirx.Var("batch", "int64")
    mod = build([((batch, 5), "int32")], embed)
    after = apply(mod, Simplify(), LookupTables())
    assert "matmul" not in ops(after)
    x = np.array([[0, 5, 9, 1, 3]], "int32")
    np.testing.assert_allclose(run(after, x)[0], run(mod, x)[0], rtol=1e-5, atol=1e-6)


def test_large_tables_are_not_recomputed() -> None:
    mod = build([IDS], lambda x: OP.exp(OP.take(random(0, 70000, 2), x, axis=0)))
    assert ops(apply(mod, LookupTables())) == ["take", "exp"]


@pytest.mark.parametrize(
    "body",
    [
        lambda x: OP.matmul(
            OP.astype(OP.equal(OP.expand_dims(x, -1), const([[[0, 2, 1]]], "int32")), "float32"), random(0, 3, 4)
        ),
        lambda x: OP.matmul(OP.astype(OP.expand_dims(x, -1), "float32"), random(0, 1, 4)),
    ],
    ids=["not counting", "no comparison"],
)
def test_other_products_stay(body) -> None:
    assert "matmul" in ops(apply(build([IDS], body), LookupTables()))


def test_rows_with_other_tensors_stay() -> None:
    mod = build([IDS, f32(2, 5, 4)], lambda x, r: OP.add(OP.take(random(0, 6, 4), x, axis=0), r))
    assert ops(apply(mod, LookupTables())) == ["take", "add"]
