"""Random numbers: their distributions, what they depend on, and Dropout in training."""

from __future__ import annotations

import numpy as np
import pytest
from host_models import BOOL, FLOAT, model, node, tensor

import kompilo
from kompilo.compiler.errors import InputError, ModelError
from kompilo.compiler.frontend.importer import import_model

from op_test import floats, i64

DOUBLE, FLOAT16 = 11, 10
SHAPE = [37, 500]
COUNT = 37 * 500


def drawn() -> dict[str, np.ndarray]:
    nodes = [
        node("RandomUniform", "", "uniform", shape=SHAPE),
        node("RandomUniform", "", "other", shape=SHAPE),
        node("RandomUniform", "", "seeded", shape=SHAPE, seed=5.0),
        node("RandomUniform", "", "again", shape=SHAPE, seed=5.0),
        node("RandomUniform", "", "double", shape=SHAPE, dtype=DOUBLE, low=-3.0, high=5.0),
        node("RandomNormal", "", "normal", shape=SHAPE, mean=2.0, scale=3.0, seed=0.0),
        node("RandomNormalLike", "x", "like", dtype=DOUBLE),
        node("RandomUniformLike", "x", "half", dtype=FLOAT16),
        node("Bernoulli", "x", "coin"),
        node("Multinomial", "logits", "classes", sample_size=COUNT, seed=1.0),
    ]
    outputs = [tensor(name, FLOAT, None) for one in nodes for name in one.output]
    proto = model(nodes, [tensor("x", FLOAT, ["n", 500]), tensor("logits", FLOAT, ["b", 3])], outputs)
    feeds = {"x": np.full(SHAPE, 0.3, np.float32), "logits": np.log(np.float32([[2, 3, 5], [6, 1, 3]]))}
    artifact = kompilo.compile(proto)
    once, twice = (kompilo.load(artifact, threads=threads).run(feeds) for threads in (1, 2))
    assert all(np.array_equal(once[name], twice[name]) for name in once)
    return once


def test_distributions():
    found = drawn()
    assert {name: str(array.dtype) for name, array in found.items() if array.dtype != np.float32} == {
        "double": "float64", "like": "float64", "half": "float16", "classes": "int32",
    }  # fmt: skip
    assert all(list(array.shape) == SHAPE for name, array in found.items() if name != "classes")
    for name, low, high in (("uniform", 0, 1), ("double", -3, 5), ("half", 0, 1)):
        spread = found[name].astype(np.float64)
        assert low <= spread.min() < low + (high - low) / 100, name
        assert high - (high - low) / 100 < spread.max() <= high, name
        counts = np.histogram(spread, 10, (low, high))[0]
        assert np.abs(counts - COUNT / 10).max() < 5 * np.sqrt(COUNT / 10), name
    for name, mean, scale in (("normal", 2, 3), ("like", 0, 1)):
        standard = (found[name].astype(np.float64) - mean) / scale
        assert abs(standard.mean()) < 4 / np.sqrt(COUNT), name
        assert abs(standard.std() - 1) < 4 / np.sqrt(2 * COUNT), name
        assert abs((np.abs(standard) < 1).mean() - 0.6827) < 0.02, name
    assert abs(found["coin"].mean() - 0.3) < 0.02
    assert set(np.unique(found["coin"])) == {0, 1}
    shares = [np.bincount(row, minlength=3) / COUNT for row in found["classes"]]
    np.testing.assert_allclose(shares, [[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]], atol=0.02)
    assert not np.array_equal(found["uniform"], found["other"])
    assert np.array_equal(found["seeded"], found["again"])
    assert len(np.unique(found["uniform"])) > 0.99 * COUNT
    flat = found["uniform"].reshape(-1)
    assert max(abs(np.corrcoef(flat[:-k], flat[k:])[0, 1]) for k in (1, 2, 500)) < 0.04


def test_dropout_in_training():
    """Ratio and flag are data: without training all is kept; in training what is kept, as the mask says, is scaled."""
    proto = model(
        [node("Dropout", "x ratio training", "y mask", seed=0)],
        [tensor("x", FLOAT, [40, "n"]), tensor("ratio", FLOAT, []), tensor("training", BOOL, [])],
        [tensor("y", FLOAT, None), tensor("mask", BOOL, None)],
    )
    module, x = kompilo.load(kompilo.compile(proto), threads=1), floats(40, 50)
    for ratio, training in ((0.25, True), (0.75, True), (0.0, True), (0.75, False)):
        y, mask = module(x, np.float32(ratio), np.array(training))
        kept = 1 - ratio * training
        assert abs(mask.mean() - kept) < 0.05
        np.testing.assert_allclose(y, np.where(mask, x / np.float32(kept), 0), rtol=1e-6)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (node("RandomUniform", "", "y", shape=[2], dtype=7), "expected an element type of floats, found int64"),
        (node("RandomUniform", "", "y", shape=[-2]), "sizes of at least 0"),
        (node("Multinomial", "x", "y", dtype=FLOAT), "dtype must be int32 or int64, found float32"),
    ],
)
def test_refused(one, message):
    with pytest.raises(ModelError, match=message):
        import_model(model([one], [tensor("x", FLOAT, [2, 3])], [tensor("y", FLOAT, None)]))


def affine(size: np.ndarray, align: int) -> np.ndarray:
    """A grid by the words of ONNX."""
    theta = floats(2, len(size) - 2, len(size) - 1)
    axes = [np.linspace(-1, 1, n) if align else (2 * np.arange(n) + 1) / n - 1 for n in size[2:]]
    points = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(size[2:])], -1)
    return points @ theta.transpose(0, 2, 1).reshape(2, *[1] * (len(size) - 3), len(size) - 1, len(size) - 2)


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("size", [i64(2, 3, 4, 7), i64(2, 1, 1, 3, 5)])
def test_affine_grid(size, align):
    """Of a size that is data, and of one that is known."""
    rank = len(size) - 2
    theta = floats(2, rank, rank + 1)
    one = node("AffineGrid", "theta size", "grid", align_corners=align)
    inputs = [tensor("theta", FLOAT, ["n", rank, rank + 1]), tensor("size", 7, [rank + 2])]
    module = kompilo.load(kompilo.compile(model([one], inputs, [tensor("grid", FLOAT, None)])), threads=1)
    found = module(theta, size)
    assert found.shape == (2, *size[2:], rank)
    np.testing.assert_allclose(found, affine(size, align), atol=1e-5)
    wrong = i64(3, *size[1:])
    with pytest.raises(InputError):
        module(theta, wrong)
    with pytest.raises(ModelError, match="the first size must be 2, found 3"):
        import_model(
            model(
                [one],
                [tensor("theta", FLOAT, [2, rank, rank + 1])],
                [tensor("grid", FLOAT, None)],
                size=i64(3, *size[1:]),
            )
        )
