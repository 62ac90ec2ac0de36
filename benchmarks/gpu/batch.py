"""Another batch for a network whose file fixes it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy of `model` that takes `batch` samples along the first dimension of its inputs, where that is fixed at 1.

    What the samples are reshaped to counts them too: a constant target of a Reshape that begins with 1 begins with
    `batch` instead. Weights that are reshaped stay as they are, and so do inputs whose first dimension is open.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    stored = {tensor.name for tensor in graph.initializer}
    samples = set()
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in stored and dims and dims[0].dim_value == 1:
            dims[0].dim_value = batch
            samples.add(value.name)
    if not samples or batch == 1:
        return made
    _reshape_samples(graph, samples, batch)
    graph.ClearField("value_info")
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return made


def _reshape_samples(graph: onnx.GraphProto, samples: set[str], batch: int) -> None:
    """Give each Reshape of what depends on `samples` a target of its own."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants |= {name: a.t for name in node.output for a in node.attribute if a.name == "value"}
        if samples.isdisjoint(node.input):
            continue
        samples.update(node.output)
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = numpy_helper.to_array(constants[node.input[1]])
        if target.size and target[0] == 1:
            name = f"{node.output[0]} of {batch}"
            graph.initializer.append(numpy_helper.from_array(np.array([batch, *target[1:]], np.int64), name))
            node.input[1] = name
