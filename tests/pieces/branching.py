"""A small model with branches, a residual, and an intermediate tensor that is an output as well; sizes are odd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from small_models import write_model

NODES = [
    helper.make_node("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1]),
    helper.make_node("Relu", ["c0"], ["r0"]),
    helper.make_node("Conv", ["r0", "w1"], ["c1"]),
    helper.make_node("Relu", ["c1"], ["left"]),
    helper.make_node("Conv", ["r0", "w2"], ["c2"], pads=[1, 1, 1, 1]),
    helper.make_node("Sigmoid", ["c2"], ["right"]),
    helper.make_node("Concat", ["left", "right"], ["joined"], axis=1),
    helper.make_node("Conv", ["joined", "w3"], ["c3"]),
    helper.make_node("Add", ["c3", "r0"], ["sum"]),
    helper.make_node("Relu", ["sum"], ["kept"]),
    helper.make_node("GlobalAveragePool", ["kept"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["flat"]),
    helper.make_node("MatMul", ["flat", "m"], ["product"]),
    helper.make_node("Softmax", ["product"], ["y"]),
]
SHAPES = {"w0": (7, 3, 3, 3), "w1": (5, 7, 1, 1), "w2": (9, 7, 3, 3), "w3": (7, 14, 1, 1), "m": (7, 11)}


def branching_model(path: Path, height: int | str = 13) -> Path:
    """ "x" (1, 3, height, 10) -> "y" (1, 11) and "kept" (1, 7, height, 10)."""
    rng = np.random.default_rng(3)
    constants = {name: 0.3 * rng.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}
    outputs = [("y", TensorProto.FLOAT, [1, 11]), ("kept", TensorProto.FLOAT, [1, 7, height, 10])]
    return write_model(path, NODES, [("x", TensorProto.FLOAT, [1, 3, height, 10])], outputs, constants)


def sample(seed: int = 0) -> np.ndarray:
    """A value for "x"."""
    return np.random.default_rng(seed).standard_normal((1, 3, 13, 10), dtype=np.float32)
