"""The numpy training code: gradients against finite differences, and the exported model against the forward pass."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from kompilo.models import mnist_train


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    params = {k: v.astype(np.float64) for k, v in mnist_train._start(rng).items()}
    return params, rng.random((3, 1, 28, 28)), rng.integers(0, 10, 3), rng


def loss(params, images, labels) -> float:
    logits = mnist_train._forward(params, images).logits
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]))


@pytest.mark.parametrize("name", ["w1", "b1", "w2", "b2", "w3", "b3"])
def test_gradients(problem, name):
    params, images, labels, rng = problem
    direction = rng.standard_normal(params[name].shape)
    step = 1e-6
    ahead = loss({**params, name: params[name] + step * direction}, images, labels)
    behind = loss({**params, name: params[name] - step * direction}, images, labels)
    slope = (mnist_train._gradients(params, images, labels)[name] * direction).sum()
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=1e-4)


def test_exported_model_computes_the_same(problem):
    _, images, _, rng = problem
    params = mnist_train._start(rng)
    x = images.astype(np.float32)
    session = onnxruntime.InferenceSession(mnist_train.to_onnx(params).SerializeToString())
    probability = session.run(None, {"image": x})[0]
    logits = mnist_train._forward(params, x).logits
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probability, expected / expected.sum(axis=1, keepdims=True), rtol=1e-4)
