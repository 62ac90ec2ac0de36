"""Models small enough to compile in a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_model(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple],
    outputs: Sequence[tuple],
    constants: Mapping[str, np.ndarray] | None = None,
    **save: Any,
) -> Path:
    """Save a model whose `inputs` and `outputs` are (name, ONNX type, shape)."""
    values = [[helper.make_tensor_value_info(*v) for v in side] for side in (inputs, outputs)]
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "small", *values, tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(d, 17) for d in {"", *(n.domain for n in nodes)}], ir_version=8
    )
    onnx.save(model, path, **save)
    return path


def small_model(path: Path, batch: int | str = 1, **save: Any) -> Path:
    """conv 3x3 -> relu -> global average -> matmul: "x" (batch, 3, 8, 8) -> "y" (batch, 5), and its softmax "p"."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["y"]),
        helper.make_node("Softmax", ["y"], ["p"]),
    ]
    shapes = {"w": (16, 3, 3, 3), "b": (16,), "m": (16, 5)}
    constants = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    inputs = [("x", TensorProto.FLOAT, [batch, 3, 8, 8])]
    outputs = [("y", TensorProto.FLOAT, [batch, 5]), ("p", TensorProto.FLOAT, [batch, 5])]
    return write_model(path, nodes, inputs, outputs, constants, **save)
