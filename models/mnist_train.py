"""A small convolutional classifier of digits, trained with numpy in seconds.

Layers: Conv 5x5 (8) - ReLU - MaxPool 2 - Conv 5x5 (16) - ReLU - MaxPool 2 - Gemm (256 -> 10) - Softmax.
Trained by Adam on cross entropy. The seed fixes the order and the start; the last bits of the result still depend on
how the machine's BLAS adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

Params = dict[str, np.ndarray]
_EPOCHS, _BATCH, _LEARNING_RATE = 10, 50, 3e-3
_SHIFT = 2  # pixels; moving the digits about makes up for having few of them
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def train(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> Params:
    """Parameters after training on float32 (N, 1, 28, 28) in [0, 1] with int labels (N,)."""
    rng = np.random.default_rng(seed)
    params = _start(rng)
    first = {k: np.zeros_like(v) for k, v in params.items()}
    second = {k: np.zeros_like(v) for k, v in params.items()}
    step = 0
    for epoch in range(_EPOCHS):
        rate = _LEARNING_RATE * (1 - epoch / _EPOCHS)
        order = rng.permutation(len(images))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            shift = tuple(int(s) for s in rng.integers(-_SHIFT, _SHIFT + 1, 2))
            gradients = _gradients(params, np.roll(images[rows], shift, axis=(2, 3)), labels[rows])
            step += 1
            for name, gradient in gradients.items():
                first[name] += (1 - _BETA1) * (gradient - first[name])
                second[name] += (1 - _BETA2) * (gradient**2 - second[name])
                mean = first[name] / (1 - _BETA1**step)
                square = second[name] / (1 - _BETA2**step)
                params[name] -= (rate * mean / (np.sqrt(square) + _EPSILON)).astype(np.float32)
    return params


def predict(params: Params, images: np.ndarray) -> np.ndarray:
    """The most likely digit of each image: int64 (N,)."""
    return _forward(params, images).logits.argmax(axis=1)


def to_onnx(params: Params) -> onnx.ModelProto:
    """The ONNX model: `image` float32 (batch, 1, 28, 28) in [0, 1] -> `probability` float32 (batch, 10)."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], kernel_shape=[5, 5]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], kernel_shape=[5, 5]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p2"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probability"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "mnist",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in params.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _start(rng: np.random.Generator) -> Params:
    shapes = {"w1": (8, 1, 5, 5), "w2": (16, 8, 5, 5), "w3": (256, 10)}
    fan_in = {"w1": 25, "w2": 200, "w3": 256}
    weights = {k: (rng.standard_normal(s) * np.sqrt(2 / fan_in[k])).astype(np.float32) for k, s in shapes.items()}
    return weights | {b: np.zeros(n, np.float32) for b, n in (("b1", 8), ("b2", 16), ("b3", 10))}


@dataclass(frozen=True)
class _Activations:
    """What the backward pass needs of the forward pass."""

    columns1: np.ndarray
    relu1: np.ndarray
    pool1: np.ndarray
    columns2: np.ndarray
    relu2: np.ndarray
    pool2: np.ndarray
    logits: np.ndarray


def _forward(p: Params, x: np.ndarray) -> _Activations:
    columns1 = _columns(x)
    relu1 = np.maximum(_convolve(columns1, p["w1"], p["b1"]), 0)
    pool1 = _pool(relu1)
    columns2 = _columns(pool1)
    relu2 = np.maximum(_convolve(columns2, p["w2"], p["b2"]), 0)
    pool2 = _pool(relu2)
    logits = pool2.reshape(len(x), -1) @ p["w3"] + p["b3"]
    return _Activations(columns1, relu1, pool1, columns2, relu2, pool2, logits)


def _gradients(p: Params, x: np.ndarray, labels: np.ndarray) -> Params:
    """Gradients of the mean cross entropy."""
    a = _forward(p, x)
    count = len(x)
    exponent = np.exp(a.logits - a.logits.max(axis=1, keepdims=True))
    error = exponent / exponent.sum(axis=1, keepdims=True)
    error[np.arange(count), labels] -= 1
    error /= count
    flat = a.pool2.reshape(count, -1)
    back2 = _unpool(a.relu2, a.pool2, (error @ p["w3"].T).reshape(a.pool2.shape))
    w2 = p["w2"].reshape(16, -1)
    back1 = _unpool(a.relu1, a.pool1, _scatter(np.einsum("ok,nop->nkp", w2, back2, optimize=True), a.pool1.shape))
    return {
        "w1": np.einsum("nop,nkp->ok", back1, a.columns1, optimize=True).reshape(p["w1"].shape),
        "b1": back1.sum(axis=(0, 2)),
        "w2": np.einsum("nop,nkp->ok", back2, a.columns2, optimize=True).reshape(p["w2"].shape),
        "b2": back2.sum(axis=(0, 2)),
        "w3": flat.T @ error,
        "b3": error.sum(axis=0),
    }


def _columns(x: np.ndarray) -> np.ndarray:
    """5x5 patches of (N, C, H, W): (N, C * 25, (H - 4) * (W - 4))."""
    patches = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
    n, c, h, w = patches.shape[:4]
    return np.ascontiguousarray(patches.transpose(0, 1, 4, 5, 2, 3)).reshape(n, c * 25, h * w)


def _scatter(columns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The adjoint of `_columns`: adds every patch back to its place in an array of `shape`."""
    n, c, height, width = shape
    h, w = height - 4, width - 4
    patches = columns.reshape(n, c, 5, 5, h, w)
    out = np.zeros(shape, columns.dtype)
    for y in range(5):
        for x in range(5):
            out[:, :, y : y + h, x : x + w] += patches[:, :, y, x]
    return out


def _convolve(columns: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(N, O, H, W) from square feature maps given as columns."""
    outputs = len(weight)
    result = weight.reshape(outputs, -1) @ columns + bias[:, None]
    side = int(np.sqrt(columns.shape[2]))
    return result.reshape(len(columns), outputs, side, side)


def _pool(x: np.ndarray) -> np.ndarray:
    top, bottom = x[:, :, ::2], x[:, :, 1::2]
    rows = np.maximum(top, bottom)
    return np.maximum(rows[..., ::2], rows[..., 1::2])


def _unpool(relu: np.ndarray, pooled: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Gradient behind MaxPool and ReLU, as (N, C, H * W): it goes where the maximum stood and was positive."""
    n, c, h, w = relu.shape
    spread = np.repeat(np.repeat(gradient, 2, axis=2), 2, axis=3)
    peak = np.repeat(np.repeat(pooled, 2, axis=2), 2, axis=3)
    return np.where((relu == peak) & (relu > 0), spread, 0).reshape(n, c, h * w)
